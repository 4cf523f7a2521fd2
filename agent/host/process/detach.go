package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
)

// ReadyFD is the descriptor of a pipe in a process started by Detach, which
// writes one byte to it when it is ready; see Announce.
const ReadyFD = 3

// A Daemon describes a process that outlives its parent.
type Daemon struct {
	Path string
	Args []string // after the name
	Env  []string // the whole environment
	Log  string   // file that gets its output; "" for none
	// Ready: wait for Announce, and fail without it.
	Ready bool
}

// Detach starts a process in a session of its own and does not wait for its
// end. Its exit status is discarded.
func Detach(ctx context.Context, d Daemon) error {
	cmd := exec.Command(d.Path, d.Args...) //nolint:noctx // the process outlives this program on purpose
	cmd.Dir, cmd.Env = "/", d.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if d.Log != "" {
		log, err := os.OpenFile(d.Log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("start %s: %w", d.Path, err)
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
	}
	var r, w *os.File
	if d.Ready {
		var err error
		if r, w, err = os.Pipe(); err != nil {
			return fmt.Errorf("start %s: %w", d.Path, err)
		}
		defer r.Close()
		cmd.ExtraFiles = []*os.File{w} // becomes ReadyFD
	}
	err := Start(cmd)
	if w != nil {
		_ = w.Close() // the child has its own
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", d.Path, err)
	}
	go func() {
		defer crash.Guard()
		// wait: a goroutine of its own; it ends with the process
		_ = cmd.Wait()
	}()
	if r == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		_ = cmd.Process.Kill()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("start %s: it did not become ready: %w", d.Path, err)
	}
	return nil
}

// Announce tells the parent of a process started by Detach with Ready that it
// is ready.
func Announce() error {
	f := os.NewFile(ReadyFD, "ready")
	if f == nil {
		return errors.New("announce: no pipe")
	}
	_, err := f.Write([]byte{1})
	return errors.Join(err, f.Close())
}

// AdoptChildren reaps, when they end, the children that this process had
// before its program was replaced by exec: the new program does not know of
// them otherwise. Call it before anything is started.
func AdoptChildren() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	me := strconv.Itoa(os.Getpid())
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := statFields(e.Name()); len(f) < 2 || f[1] != me {
			continue
		}
		go func() {
			defer crash.Guard()
			for {
				if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
					return
				}
			}
		}()
	}
}
