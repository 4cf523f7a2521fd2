package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host/process"
)

// DefaultPath is the PATH a command gets: handlers and account tools live in
// sbin directories that a bare service environment does not name.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Cmd describes a process. It is a plain value: build it, log it, compare
// it. Secrets go to Stdin, never to Args or Env.
type Cmd struct {
	Name    string
	Args    []string
	Env     []string // added to Environ
	Dir     string
	Stdin   []byte // never logged
	Timeout time.Duration
	As      *Person // whose process it is; nil: the agent's own user
}

// A Person is a user as whom a command runs, with the rights that a log-in
// would have.
type Person struct {
	Name     string
	UID, GID int
	Groups   []int // supplementary
	Home     string
}

func (p *Person) credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.GID)}
	for _, g := range p.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

func (p *Person) env() []string {
	return []string{"HOME=" + p.Home, "USER=" + p.Name, "LOGNAME=" + p.Name}
}

// String is the command line for a log; Stdin is not part of it.
func (c Cmd) String() string {
	return strings.Join(append([]string{c.Name}, c.Args...), " ")
}

// Result is the outcome of a process. Stdout and Stderr are cut at 1 MiB each.
type Result struct {
	Stdout, Stderr []byte
	Code           int
}

// A Runner runs a command to its end.
type Runner interface {
	// Run returns *ExitError if the command ran and failed, and an error
	// that wraps exec.ErrNotFound (see NotFound) if it is not installed.
	Run(ctx context.Context, c Cmd) (Result, error)
}

// ExitError says that a command ran and failed.
type ExitError struct {
	Cmd    string
	Code   int // -1 when killed by a signal
	Stderr string
}

func (e *ExitError) Error() string {
	msg := strings.TrimSpace(e.Stderr)
	// The last line of mount(8) is a hint, the one before it the reason.
	if i := strings.LastIndexByte(msg, '\n'); i >= 0 && strings.HasPrefix(strings.TrimSpace(msg[i:]), "dmesg(1) may have more information") {
		msg = strings.TrimSpace(msg[:i])
	}
	if i := strings.LastIndexByte(msg, '\n'); i >= 0 {
		msg = msg[i+1:]
	}
	if msg == "" {
		return fmt.Sprintf("%s: exit %d", e.Cmd, e.Code)
	}
	return fmt.Sprintf("%s: exit %d: %s", e.Cmd, e.Code, msg)
}

// NotFound reports whether the error means that the program is not there.
func NotFound(err error) bool { return errors.Is(err, exec.ErrNotFound) }

// Exec runs real processes. Only agent/cmd/azguest (and tests inside a
// sandbox) may name it.
type Exec struct{}

// outputLimit is how many bytes of each output are kept in memory.
const outputLimit = 1 << 20

// Run implements Runner. The child gets its own process group, which is
// killed when the context ends or the time is up.
func (Exec) Run(ctx context.Context, c Cmd) (Result, error) {
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("%s: timeout after %v: %w", c.Name, c.Timeout, context.DeadlineExceeded))
	defer cancel()
	path, err := lookPath(c.Name)
	if err != nil {
		return Result{Code: -1}, err
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = Environ(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.As != nil {
		cmd.Env = append(cmd.Env, c.As.env()...)
		cmd.Dir = cmp.Or(c.Dir, "/")
		cmd.SysProcAttr.Credential = c.As.credential()
	}
	cmd.Stdin = bytes.NewReader(c.Stdin)
	var out, errw capped // bounded, and read while a process that is given up may still write
	cmd.Stdout, cmd.Stderr = &out, &errw
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild that keeps the pipe must not hold us up (handlers do that).
	cmd.WaitDelay = pipeTime
	res := Result{Code: -1}
	if err = process.Start(cmd); err == nil {
		res.Code, err = end(ctx, cmd)
	}
	res.Stdout, res.Stderr = out.bytes(), errw.bytes()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		if errors.Is(err, errUnkillable) {
			cause = fmt.Errorf("%w; %w", cause, err)
		}
		return res, fmt.Errorf("run %s: %w", c.Name, cause)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return res, &ExitError{Cmd: c.Name, Code: res.Code, Stderr: string(res.Stderr)}
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return res, fmt.Errorf("run %s: %w", c.Name, err)
	}
	return res, nil
}

const (
	// pipeTime is how long output may come in after the end of a process.
	pipeTime = 2 * time.Second
	// killTime is how long a process may take to die, and its pipes with it.
	killTime = 5 * time.Second
)

var errUnkillable = errors.New("process does not exit after SIGKILL")

// end waits for the end of a process and, once the context has ended, at most
// killTime more: a process that hangs in the kernel, or is frozen, outlives
// SIGKILL. It is reaped when it ends.
func end(ctx context.Context, cmd *exec.Cmd) (code int, err error) {
	done := make(chan error, 1)
	go func() {
		defer crash.Guard()
		// wait: a goroutine of its own, which ends with the process
		done <- cmd.Wait()
	}()
	select {
	case err = <-done:
		return cmd.ProcessState.ExitCode(), err
	case <-ctx.Done():
	}
	// wait: killTime is its bound
	select {
	case err = <-done:
		return cmd.ProcessState.ExitCode(), err
	case <-time.After(killTime):
		return -1, errUnkillable
	}
}

// lookPath searches DefaultPath, not the agent's own PATH: a service manager
// may have given us none.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(DefaultPath, ":") {
		p := dir + "/" + name
		if fi, err := os.Stat(p); err == nil && !fi.IsDir() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("run %s: %w", name, exec.ErrNotFound)
}

// capped keeps the first outputLimit bytes and drops the rest.
type capped struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (w *capped) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if room := outputLimit - len(w.b); room > 0 {
		w.b = append(w.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (w *capped) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clip(w.b)
}
