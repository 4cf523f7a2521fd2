package host

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
		t.Skip("needs root, to be another user")
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
	// A handler may run its service as somebody else. It has the marker, which
	// is random and not for others to read.
	c := &exec.Cmd{Path: sleep, Args: []string{"sleep", "1000"}, Env: []string{JobMarker + "=0123456789abcdef"}}
	if pid := start(t, 1234, c); !slices.Equal(Processes(map[string]bool{"0123456789abcdef": true}, dir), []int{pid}) {
		t.Error("the process of a job does not count")
	}
}

// TestSEC10WhoRunsAProcess: who has started a program counts too, as one with
// the set-user-ID bit runs as root with a command line of its user's.
func TestSEC10WhoRunsAProcess(t *testing.T) {
	t.Parallel()
	const stat = "77 (a) b) S 1 77 77 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 18446744073709551615 0\n"
	const unset, system = "4294967295", "0::/system.slice/x.service"
	for name, tc := range map[string]struct {
		uid, login, cgroup string
		want               bool
	}{
		"root's service":                  {"0 0 0 0", unset, system, true},
		"no audit, no systemd":            {"0 0 0 0", "", "", true},
		"a user's":                        {"1234 1234 1234 1234", unset, system, false},
		"set-user-ID":                     {"1234 0 0 0", unset, system, false},
		"set-user-ID, dropped for a time": {"0 1234 0 1234", unset, system, false},
		"all of root's ids, by sudo":      {"0 0 0 0", "1234", system, false},
		"sudo without audit":              {"0 0 0 0", "", "0::/user.slice/user-1234.slice/session-3.scope", false},
		"sudo, hybrid hierarchy":          {"0 0 0 0", "", "4:cpu:/\n1:name=systemd:/user.slice/user-1234.slice/session-3.scope\n0::/", false},
		"a slice of that name below":      {"0 0 0 0", unset, "0::/system.slice/user.slice/user-1234.slice", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Root(t.TempDir())
			write := func(file, text string) {
				t.Helper()
				if text == "" {
					return
				}
				if err := r.MkdirAll("/proc/77", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := r.WriteFile("/proc/77/"+file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("stat", stat)
			write("status", "Name:\tUid:\nUid:\t"+strings.ReplaceAll(tc.uid, " ", "\t")+"\nGid:\t0\t0\t0\t0\n")
			write("loginuid", tc.login)
			write("cgroup", tc.cgroup)
			if got := r.Believed(77); got != tc.want {
				p, ok := r.Process(77)
				t.Errorf("believed: %v, want %v: %+v %v", got, tc.want, p, ok)
			}
		})
	}
	if !Root(t.TempDir()).Believed(77) {
		t.Error("a process that is gone")
	}
}
