package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Path is the PATH of every process of the sandbox.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Cmd is a process to start.
type Cmd struct {
	Args   []string // name and arguments
	Env    []string // added to PATH, HOME, LANG and TERM
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// A Process is a started process.
type Process struct {
	PID  int // in this program's namespace, so /proc/PID works
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Result is the output and exit code of a process that has ended.
type Result struct {
	Stdout, Stderr string
	Code           int // -1 when killed by a signal
}

// Start starts a process inside the sandboxed machine.
func (s *Sandbox) Start(c Cmd) (*Process, error) { return s.launch(c, true) }

// Beside starts a process that sees this machine's own files but runs in the
// sandbox's network and ends with the sandbox, such as the emulator.
func (s *Sandbox) Beside(c Cmd) (*Process, error) { return s.launch(c, false) }

// Run runs a command inside the machine and waits for its end. A non-zero exit
// code is an error that quotes the output.
func (s *Sandbox) Run(ctx context.Context, args ...string) (Result, error) {
	return s.RunCmd(ctx, Cmd{Args: args})
}

// RunCmd is Run with all options of Cmd; Stdout and Stderr are collected and,
// if set, also copied.
func (s *Sandbox) RunCmd(ctx context.Context, c Cmd) (Result, error) {
	return run(ctx, c, s.Start)
}

// RunBeside is RunCmd for a process that Beside starts.
func (s *Sandbox) RunBeside(ctx context.Context, c Cmd) (Result, error) {
	return run(ctx, c, s.Beside)
}

func run(ctx context.Context, c Cmd, start func(Cmd) (*Process, error)) (Result, error) {
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = tee(c.Stdout, &out), tee(c.Stderr, &errOut)
	p, err := start(c)
	if err != nil {
		return Result{Code: -1}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Kill() })
	defer stop()
	err = p.Wait()
	r := Result{Stdout: out.String(), Stderr: errOut.String(), Code: p.cmd.ProcessState.ExitCode()}
	if err != nil {
		text := strings.TrimSpace(r.Stderr)
		if text == "" {
			text = strings.TrimSpace(r.Stdout)
		}
		return r, fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), errors.Join(context.Cause(ctx), err), text)
	}
	return r, nil
}

func tee(w io.Writer, b *bytes.Buffer) io.Writer {
	if w == nil {
		return b
	}
	return io.MultiWriter(b, w)
}

// dropped are the capabilities with which root inside could change the machine
// outside the namespaces. Loading modules is what a guest agent does try
// (modprobe udf).
var dropped = []uintptr{
	unix.CAP_SYS_MODULE, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME, unix.CAP_SYS_RAWIO,
	unix.CAP_MKNOD, unix.CAP_SYSLOG, unix.CAP_WAKE_ALARM, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
}

func (s *Sandbox) launch(c Cmd, inside bool) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("sandbox: no command")
	}
	p := &Process{done: make(chan struct{})}
	started := make(chan error, 1)
	onOwnThread(func() {
		// The thread joins the namespaces, the child inherits them.
		if err := s.enter(inside); err != nil {
			started <- err
			return
		}
		started <- p.start(c, inside)
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("sandbox: start %s: %w", c.Args[0], err)
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// onOwnThread runs fn on a thread that ends afterwards, so that no other
// goroutine runs on a thread that fn has moved to other namespaces.
func onOwnThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			fn()
			return // without unlocking, which ends the thread
		}
		// The first thread can't end. It would keep the namespaces alive as
		// long as this program, and /proc/self would refer to them. So it is
		// blocked until another thread runs fn.
		begun := make(chan struct{})
		onOwnThread(func() {
			close(begun)
			fn()
		})
		<-begun
		runtime.UnlockOSThread()
	}()
}

// start runs on a thread that is in the right namespaces, so names resolve as
// in the sandboxed machine.
func (p *Process) start(c Cmd, inside bool) error {
	if inside {
		for _, bit := range dropped {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, bit, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("drop capability %d: %w", bit, err)
			}
		}
	}
	name := c.Args[0]
	if !strings.Contains(name, "/") {
		for dir := range strings.SplitSeq(Path, ":") {
			if fi, err := os.Stat(dir + "/" + name); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				name = dir + "/" + name
				break
			}
		}
	}
	p.cmd = &exec.Cmd{
		Path: name, Args: c.Args, Dir: c.Dir, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		Env:         append([]string{"PATH=" + Path, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}, c.Env...),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		// Do not wait for daemons that keep the pipe open.
		WaitDelay: time.Second,
	}
	return p.cmd.Start()
}

// enter moves the calling thread into the namespaces of the sandbox and
// verifies that it has left the machine's own network.
func (s *Sandbox) enter(inside bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := s.outer.join(); err != nil {
		return err
	}
	// /proc still is the machine's own here.
	if now, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || now != s.netID {
		return fmt.Errorf("not in the sandbox's network namespace (%q, want %q, %w)", now, s.netID, err)
	}
	if inside {
		return s.inner.join()
	}
	return nil
}

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process.
func (p *Process) Wait() error {
	<-p.done
	if errors.Is(p.err, exec.ErrWaitDelay) {
		return nil
	}
	return p.err
}

// Code waits for the end of the process and returns its exit code, -1 if a
// signal killed it.
func (p *Process) Code() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the process.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process at once, like a power failure, and waits for it.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// InNetwork calls fn on a thread that is in the sandbox's network: sockets that
// fn itself creates (not goroutines it starts) belong to the sandbox for as
// long as they exist. This lets an emulator inside the test program listen
// there.
func (s *Sandbox) InNetwork(fn func() error) error {
	done := make(chan error, 1)
	onOwnThread(func() {
		if err := s.enter(false); err != nil {
			done <- err
			return
		}
		done <- fn()
	})
	return <-done
}

// Dial opens a connection inside the sandbox's network. The address must be
// an IP address with port.
func (s *Sandbox) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := s.InNetwork(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// HTTPClient returns a client that connects within the sandbox's network.
func (s *Sandbox) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: s.Dial}}
}

// nsSet is a list of namespaces of a process, in the order in which to join
// them.
type nsSet []ns

type ns struct {
	kind string
	f    *os.File
}

var nsFlag = map[string]int{
	"net": unix.CLONE_NEWNET, "pid": unix.CLONE_NEWPID, "mnt": unix.CLONE_NEWNS,
	"uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC,
}

func openNS(pid int, kinds ...string) (nsSet, error) {
	var set nsSet
	for _, k := range kinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, k))
		if err != nil {
			set.close()
			return nil, fmt.Errorf("sandbox: %w", err)
		}
		set = append(set, ns{k, f})
	}
	return set, nil
}

func (set nsSet) join() error {
	if len(set) == 0 {
		return errors.New("the sandbox is closed")
	}
	for _, n := range set {
		if err := unix.Setns(int(n.f.Fd()), nsFlag[n.kind]); err != nil {
			return fmt.Errorf("join %s namespace: %w", n.kind, err)
		}
	}
	return nil
}

func (set *nsSet) close() {
	for _, n := range *set {
		_ = n.f.Close()
	}
	*set = nil
}
