package job

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/host/process"
)

// lastResort ends a test that would hang.
const lastResort = time.Minute

// runningJob starts a job and returns when its command runs.
func runningJob(t *testing.T, shell string, timeout time.Duration) (dir string, st State) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), rand.Text())
	here := dir + ".here"
	job := Job{ID: filepath.Base(dir), Shell: "touch " + here + "; " + shell, Dir: "/", Timeout: timeout}
	if err := SelfLauncher().Start(dir, job); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastResort)
		defer cancel()
		End(ctx, dir)
	})
	hosttest.Until(t, "the command", func() bool {
		var ok bool
		st, ok = StateOf(dir)
		_, err := os.Stat(here)
		return ok && st.Child > 0 && err == nil
	})
	return dir, st
}

// TestSEC5EndJob: whatever a command does to its supervisor and to the files
// of its job, End finds all of its processes and kills them.
func TestSEC5EndJob(t *testing.T) {
	replace := func(name string) func(t *testing.T, dir string, st State) {
		return func(t *testing.T, dir string, _ State) {
			if err := errors.Join(os.Remove(filepath.Join(dir, name)), unix.Mkfifo(filepath.Join(dir, name), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill := func(sig unix.Signal) func(t *testing.T, dir string, st State) {
		return func(t *testing.T, _ string, st State) {
			if err := unix.Kill(st.PID, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name  string
		shell string
		trick func(t *testing.T, dir string, st State)
		state string // of the supervisor
	}{
		{"nothing", "sleep 600", nil, "did not respond"},
		{"stopped", "sleep 600", kill(unix.SIGSTOP), "was stopped by a signal"},
		{"killed", "sleep 600", kill(unix.SIGKILL), "was killed"},
		{"frozen, version 1", "sleep 600", func(t *testing.T, _ string, st State) { hosttest.Freeze(t, "freezer", st.PID, st.Child) }, "was frozen by the cgroup "},
		{"frozen, version 2", "sleep 600", func(t *testing.T, _ string, st State) { hosttest.Freeze(t, "", st.PID, st.Child) }, "was frozen by the cgroup "},
		{"only the command is frozen", "sleep 600", func(t *testing.T, _ string, st State) { hosttest.Freeze(t, "freezer", st.Child) }, "did not respond"},
		{"traced", "sleep 600", func(t *testing.T, _ string, st State) {
			// The tracer lives as long as its thread.
			traced, over := make(chan error), make(chan struct{})
			go func() {
				runtime.LockOSThread()
				err := unix.PtraceSeize(st.PID)
				if err == nil {
					err = unix.PtraceInterrupt(st.PID)
				}
				traced <- err
				<-over
			}()
			t.Cleanup(func() { close(over) })
			if err := <-traced; err != nil {
				t.Skipf("nothing can be traced here: %v", err)
			}
			hosttest.Until(t, "the stop", func() bool { p, _ := process.Look("/", st.PID); return p.State == "t" })
		}, "was stopped by a debugger"},
		{"a FIFO for the state", "sleep 600", replace(stateFile), "did not respond"},
		{"a FIFO for the lock", "sleep 600", replace(lockFile), "did not respond"},
		{"a FIFO for the log, and killed", "sleep 600", func(t *testing.T, dir string, st State) {
			replace("supervisor.log")(t, dir, st)
			kill(unix.SIGKILL)(t, dir, st)
		}, "was killed"},
		{"the directory is renamed", "sleep 600", func(t *testing.T, dir string, _ State) {
			if err := os.Rename(dir, dir+".old"); err != nil {
				t.Fatal(err)
			}
		}, "did not respond"},
		{"other sessions and environments", "setsid sleep 600 & env -i /bin/sleep 600 & env -i /usr/bin/setsid /bin/sleep 600 & wait", nil, "did not respond"},
		{"signals are ignored", "trap '' TERM INT HUP CONT; while :; do sleep 600; done", kill(unix.SIGSTOP), "was stopped by a signal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir, st := runningJob(t, tc.shell, time.Hour)
			stranger := exec.Command("sleep", "600")
			if err := stranger.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
			if tc.trick != nil {
				tc.trick(t, dir, st)
			}
			// A signal takes a moment to reach all threads.
			hosttest.Until(t, "the supervisor to be as it is to be", func() bool { return strings.HasPrefix(SupervisorState(dir), tc.state) })
			// Wait with a limit is not held up by what the command left there.
			impatient, stop := context.WithCancelCause(t.Context())
			late := errors.New("enough")
			stop(late)
			if res, err := Wait(impatient, dir); !errors.Is(err, late) {
				t.Errorf("a job that runs has ended: %+v, %v", res, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), lastResort)
			defer cancel()
			end := End(ctx, dir)
			if len(end.Left) > 0 || end.Killed == 0 || !strings.HasPrefix(end.Supervisor, tc.state) {
				t.Errorf("end %+v", end)
			}
			if sup, rest := processes(dir); sup.PID != 0 || len(rest) > 0 {
				t.Errorf("alive: supervisor %+v, rest %+v", sup, rest)
			}
			if process.Alive(st.PID, st.Ticks) || process.Alive(st.Child, st.ChildTicks) {
				t.Error("the supervisor or the command is still running")
			}
			if p, ok := process.Look("/", stranger.Process.Pid); !ok || p.Ended {
				t.Error("a process of another program was killed")
			}
		})
	}
}

// TestSEC5StateNamesForeignProcesses: a command writes process ids of other
// programs into the files of its job. They are neither waited for nor killed.
func TestSEC5StateNamesForeignProcesses(t *testing.T) {
	dir, st := runningJob(t, "sleep 600", time.Hour)
	stranger := exec.Command("sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
	for _, pid := range []int{1, os.Getpid(), stranger.Process.Pid} {
		forged := st
		forged.PID, forged.Ticks, forged.Child, forged.ChildTicks = pid, process.StartTicks(pid), pid, process.StartTicks(pid)
		if err := writeJSON(dir, stateFile, forged); err != nil {
			t.Fatal(err)
		}
		if got := supervisorOf(dir); got != st.PID {
			t.Errorf("the supervisor is %d, want %d", got, st.PID)
		}
		if got, _ := orphanOf(dir, forged); got != st.Child {
			t.Errorf("the command is %d, want %d", got, st.Child)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), lastResort)
	defer cancel()
	End(ctx, dir)
	if p, ok := process.Look("/", stranger.Process.Pid); !ok || p.Ended {
		t.Error("a process of another program was killed")
	}
	if got, _ := orphanOf(dir, State{Child: stranger.Process.Pid}); got != 0 {
		t.Errorf("process %d is mistaken for the command", got)
	}
}

// TestSEC5LockHeld: another process holds the lock of a job that is over; the
// wait ends with its context.
func TestSEC5LockHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(dir+"/"+lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, enough)
	defer cancel()
	if res, err := Wait(ctx, dir); !errors.Is(err, enough) {
		t.Errorf("got %+v, %v", res, err)
	}
}

// TestERR8OrphanAfterClockChange: the wall clock was set after the supervisor
// wrote its state. The orphaned command still gets exactly its time limit.
func TestERR8OrphanAfterClockChange(t *testing.T) {
	const tenYears = 10 * 365 * 24 * time.Hour
	for _, jump := range []time.Duration{-tenYears, 0, tenYears} {
		for _, over := range []bool{false, true} {
			t.Run(fmt.Sprint(jump, over), func(t *testing.T) {
				t.Parallel()
				dir, st := runningJob(t, "sleep 600", time.Hour)
				if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				st.Started, st.Deadline = st.Started.Add(jump), st.Deadline.Add(jump)
				if over {
					st.Began.At -= time.Hour
				}
				if err := writeJSON(dir, stateFile, st); err != nil {
					t.Fatal(err)
				}
				hosttest.Until(t, "the supervisor's end", func() bool { return !process.Alive(st.PID, st.Ticks) })
				ctx, cancel := context.WithCancel(t.Context())
				if over {
					ctx, cancel = context.WithTimeout(t.Context(), lastResort)
				} else {
					cancel()
				}
				defer cancel()
				res, err := Wait(ctx, dir)
				if alive := process.Alive(st.Child, st.ChildTicks); alive == over {
					t.Errorf("the command lives: %v", alive)
				}
				if over != (err == nil && res.Class == Timeout) {
					t.Errorf("result %+v, %v", res, err)
				}
			})
		}
	}
}
