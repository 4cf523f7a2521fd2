package job

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestSEC10OnlyRootsProcessesCount: a user who runs a program under the name
// of a handler is not taken for the handler.
func TestSEC10OnlyRootsProcessesCount(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root to run processes as another user")
	}
	dir := filepath.Join(t.TempDir(), "Contoso.App-1.0")
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		_ = os.Mkdir(d, 0o755)
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T, uid int, c *exec.Cmd) int {
		t.Helper()
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		return c.Process.Pid
	}
	for name, c := range map[string]func() *exec.Cmd{
		"command line": func() *exec.Cmd { return &exec.Cmd{Path: sleep, Args: []string{dir + "/x", "1000"}} },
		"argument": func() *exec.Cmd {
			return &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000; :", dir + "/x"}}
		},
		"directory": func() *exec.Cmd { return &exec.Cmd{Path: sleep, Args: []string{"sleep", "1000"}, Dir: dir} },
	} {
		t.Run(name, func(t *testing.T) {
			roots, users := start(t, 0, c()), start(t, 1234, c())
			got := Processes(nil, dir)
			if !slices.Contains(got, roots) {
				t.Errorf("root's process %d does not count: %v", roots, got)
			}
			if slices.Contains(got, users) {
				t.Errorf("the user's process %d counts: %v", users, got)
			}
		})
	}
	// A handler may run its service as another user. It has the marker, which
	// is random and which other users can't read.
	c := &exec.Cmd{Path: sleep, Args: []string{"sleep", "1000"}, Env: []string{Marker + "=0123456789abcdef"}}
	if pid := start(t, 1234, c); !slices.Equal(Processes(map[string]bool{"0123456789abcdef": true}, dir), []int{pid}) {
		t.Error("the process of a job does not count")
	}
}
