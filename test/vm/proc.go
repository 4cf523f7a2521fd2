package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/azguest/azguest/test/machine"
)

// run runs a command to its end and returns its output on both streams.
func run(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &out
	own(cmd)
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return out.String(), err
}

// own keeps Ctrl-C of the terminal from the child, so that it is stopped in
// order, and makes it end if this program is killed.
func own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
}

// A process is a child that runs until it is stopped.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // file with its output
	done chan struct{}
	once sync.Once
}

func start(log, name string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{name: name, cmd: exec.Command(name, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	own(p.cmd)
	p.cmd.Cancel = nil
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // see ProcessState
		close(p.done)
	}()
	return p, nil
}

// died returns an error if the process has ended unexpectedly.
func (p *process) died() error {
	select {
	case <-p.done:
		out, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended: %s\n%s", p.name, p.cmd.ProcessState, tail(string(out), 10))
	default:
		return nil
	}
}

// stop ends the process with a signal, and kills it if that does not help.
func (p *process) stop(sig syscall.Signal) {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(sig)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	})
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// until is machine.Until with a short interval, for cheap conditions.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	return machine.Until(ctx, 50*time.Millisecond, what, holds)
}
