package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDetach(t *testing.T) {
	dir := t.TempDir()
	pidFile, log := filepath.Join(dir, "pid"), filepath.Join(dir, "log")
	err := Detach(t.Context(), Daemon{
		Path: "/bin/sh", Args: []string{"-c", `echo $$ >"$P"; echo hello; printf x >&3; exec sleep 600`},
		Env: []string{"P=" + pidFile, "PATH=" + os.Getenv("PATH")}, Log: log, Ready: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	ticks := StartTicks(pid)
	if !Alive(pid, ticks) {
		t.Error("not alive")
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d (%v), want its own", sid, err)
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "hello\n" {
		t.Errorf("log %q %v", b, err)
	}
	// Another process with that id must not be killed.
	if err := Kill(t.Context(), pid, ticks+1); err != nil || !Alive(pid, ticks) {
		t.Errorf("killed by number alone (%v)", err)
	}
	if err := Kill(t.Context(), pid, ticks); err != nil || Alive(pid, ticks) {
		t.Errorf("still alive (%v)", err)
	}
	if err := Kill(t.Context(), pid, ticks); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestDetachNotReady(t *testing.T) {
	if err := Detach(t.Context(), Daemon{Path: "/bin/false", Ready: true}); err == nil {
		t.Error("no error for a process that ended at once")
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("too slow"))
	defer cancel()
	if err := Detach(ctx, Daemon{Path: "/bin/sh", Args: []string{"-c", "exec sleep 600"}, Ready: true}); err == nil || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("a process that says nothing: %v", err)
	}
	if err := Detach(t.Context(), Daemon{Path: "/no/such/program"}); err == nil {
		t.Error("a program that does not exist was started")
	}
}

// halfDead makes this test's program a process whose first thread has ended:
// /proc calls it a zombie, and it still holds a lock.
const halfDead = "AZGUEST_TEST_HALF_DEAD"

func init() { //nolint:gochecknoinits // only init is sure to run on the first thread
	name := os.Getenv(halfDead)
	if name == "" {
		return
	}
	runtime.LockOSThread()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		panic(err)
	}
	go func() {
		_, _ = os.Stdout.WriteString("x")
		for {
			time.Sleep(time.Hour)
		}
	}()
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0) // ends one thread, not the process
}

// TestKillWaitsForEveryThread: Kill returns only when the process holds no
// more files and locks. Threads end one after the other, and the main thread
// may be the first.
func TestKillWaitsForEveryThread(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), halfDead+"="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for f := statFields(strconv.Itoa(pid)); len(f) > 0 && !ended(f); f = statFields(strconv.Itoa(pid)) {
		select {
		case <-ctx.Done():
			t.Skip("this kernel does not show that a first thread has ended")
		case <-time.After(time.Millisecond):
		}
	}
	if !Alive(pid, StartTicks(pid)) {
		t.Error("Alive() = false although a thread still runs")
	}
	if err := Kill(ctx, pid, StartTicks(pid)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("its lock after Kill: %v", err)
	}
}

// TestAdoptChildren simulates an exec: there is a child that nothing waits
// for.
func TestAdoptChildren(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	AdoptChildren()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the child was not reaped")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
