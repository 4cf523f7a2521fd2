package host_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/host/process"
)

// TestSEC5RunUnkillable: Run returns even if SIGKILL does not end a tool,
// because it is frozen or hangs in the kernel.
func TestSEC5RunUnkillable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() {
		_, err := host.Exec{}.Run(ctx, host.Cmd{Name: "sh", Args: []string{"-c", "echo $$ >" + file + ".new && mv " + file + ".new " + file + "; exec sleep 600"}, Timeout: time.Hour})
		ended <- err
	}()
	pid := 0
	hosttest.Until(t, "the tool", func() bool {
		b, err := os.ReadFile(file)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return err == nil
	})
	hosttest.Freeze(t, "freezer", pid)
	p, ok := process.Look("/", pid)
	if !ok {
		t.Fatal("the frozen tool is not running")
	}
	enough := errors.New("enough")
	cancel(enough)
	select {
	case err := <-ended:
		if !errors.Is(err, enough) || !errors.Is(err, host.ErrUnkillable) {
			t.Errorf("error %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("Run did not return")
	}
	if err := cgroup.Thaw([]process.Info{p}); err != nil {
		t.Fatal(err)
	}
	hosttest.Until(t, "its end", func() bool { return !process.Alive(p.PID, p.Ticks) })
}

// TestSEC5RunGrandchild: a child that a tool leaves behind keeps its output
// open; Run does not wait for that.
func TestSEC5RunGrandchild(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	res, err := host.Exec{}.Run(t.Context(), host.Cmd{Name: "sh", Args: []string{"-c", "trap '' TERM; setsid sleep 600 & echo $! >" + file + "; echo done"}, Timeout: time.Hour})
	if err != nil || string(res.Stdout) != "done\n" {
		t.Errorf("got %+v, %v", res, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(t.Context(), pid, process.StartTicks(pid)); err != nil {
		t.Error(err)
	}
}

// TestExitError: what is shown of a tool's output is its last line, unless that
// is a hint.
func TestExitError(t *testing.T) {
	t.Parallel()
	for stderr, want := range map[string]string{
		"":       "mount: exit 32",
		"a\nb\n": "mount: exit 32: b",
		"mount: /x: no such share.\n       dmesg(1) may have more information after failed mount system call.\n": "mount: exit 32: mount: /x: no such share.",
		"dmesg(1) may have more information\n": "mount: exit 32: dmesg(1) may have more information",
	} {
		if got := (&host.ExitError{Cmd: "mount", Code: 32, Stderr: stderr}).Error(); got != want {
			t.Errorf("%q: %q, want %q", stderr, got, want)
		}
	}
}
