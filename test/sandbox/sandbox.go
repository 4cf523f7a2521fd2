package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options configure the sandboxed machine. The zero value is a machine without
// a DVD and without DMI, with the files of the real one.
type Options struct {
	// DVD is the file name of the image in /dev/sr0; empty for no drive.
	DVD string
	// PlainDVD makes /dev/sr0 a regular file instead of a loop device. This
	// also happens where loop devices are not available.
	PlainDVD bool
	// CDROM adds the sysfs entries of a real CD-ROM drive (SCSI type 5).
	CDROM bool
	// DMI is the content of /sys/class/dmi/id; nil for no such folder.
	DMI *DMI
	// Layers are folders laid over the machine's root, uppermost first.
	Layers []string
	// Addresses are added to lo, beside 127.0.0.1. Nil means the platform's
	// two.
	Addresses []string
	// Hostname before provisioning; "sandbox" if empty.
	Hostname string
	// Fuse adds /dev/fuse, for other agents that must mount the DVD where the
	// kernel can't.
	Fuse bool
	// Hide are further paths of the machine to hide. A directory becomes empty,
	// a file disappears.
	Hide []string
	// Disk is the path of a directory with a file system of its own, which can
	// be filled up without affecting anything else and survives reboots; empty
	// for none.
	Disk string
	// DiskSize is the size of Disk in bytes.
	DiskSize int64
	// Log receives messages of the supervisor; nil discards them.
	Log io.Writer
}

// DMI is the part of SMBIOS that agents read.
type DMI struct {
	UUID     string // product_uuid, as the kernel prints it (lower case)
	AssetTag string // chassis_asset_tag
	Vendor   string // sys_vendor
	Product  string // product_name
}

// AzureDMI returns the DMI of a VM of the platform, with the given UUID.
func AzureDMI(uuid string) *DMI {
	return &DMI{
		UUID:     uuid,
		AssetTag: "7783-7084-3265-9085-8269-3286-77",
		Vendor:   "Microsoft Corporation",
		Product:  "Virtual Machine",
	}
}

// The addresses at which a guest finds the platform.
const (
	WireServer = "168.63.129.16"
	IMDS       = "169.254.169.254"
)

// A Sandbox is a running sandboxed machine.
type Sandbox struct {
	super *exec.Cmd
	ended chan struct{} // closed when the supervisor has been reaped
	netID string        // identity of its network namespace
	disk  string        // see scratchFor
	outer nsSet         // for processes beside the machine

	mu    sync.Mutex // guards the control socket and everything below
	ctl   net.Conn
	lines *bufio.Reader
	pid   int   // the boot process, in this program's namespace
	inner nsSet // for processes inside the machine
}

// order and answer are the messages on the control socket, one JSON line each.
type order struct {
	Boot    bool
	Options Options // only in the first order
	Scratch string  // see scratchFor
}

type answer struct {
	OK    bool
	Error string
	Loop  string // the device behind /dev/sr0, or why it is a plain file
}

// Available returns the reason why a sandbox can't be created here, or nil.
func Available() error { return available() }

// One answer for all callers: each probe is a start of the program.
var available = sync.OnceValue(func() error {
	if runtime.GOOS != "linux" {
		return errors.New("sandbox: only Linux is supported")
	}
	if os.Geteuid() != 0 {
		return &Unavailable{CodeRoot, errors.New("sandbox: needs root"), []string{"run it as root: sudo"}}
	}
	probe := exec.Command("/proc/self/exe")
	probe.Args = []string{probeName}
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: superFlags}
	if out, err := probe.CombinedOutput(); err != nil {
		err = fmt.Errorf("sandbox: namespaces or overlay not available: %w: %s", err, strings.TrimSpace(string(out)))
		if rootless() {
			return forbidden(CodeOverlay, err)
		}
		return &Unavailable{CodeRoot, err, []string{"root has limited rights here, as in a container: docker run --privileged"}}
	}
	return nil
})

const superFlags = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID

// New creates a sandbox and boots it. The caller must Close it.
func New(ctx context.Context, o Options) (*Sandbox, error) {
	if o.Addresses == nil {
		o.Addresses = []string{WireServer, IMDS}
	}
	if o.Hostname == "" {
		o.Hostname = "sandbox"
	}
	for _, p := range append([]*string{&o.DVD}, pointers(o.Layers)...) {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	log := o.Log
	o.Log = nil
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sandbox: control socket: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	mine := os.NewFile(uintptr(fds[0]), "control")
	ctl, err := net.FileConn(mine)
	_ = mine.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, fmt.Errorf("sandbox: control socket: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{superName}
	cmd.Env = []string{"PATH=" + Path, "LANG=C.UTF-8", "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C reaches only the program, which closes the sandbox itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: superFlags, Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = ctl.Close()
		return nil, fmt.Errorf("sandbox: start supervisor (needs root): %w", err)
	}
	s := &Sandbox{super: cmd, ended: make(chan struct{}), ctl: ctl, lines: bufio.NewReader(ctl)}
	go func() {
		_ = cmd.Wait()
		close(s.ended)
	}()
	if err := s.start(ctx, o, log); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sandbox) start(ctx context.Context, o Options, log io.Writer) error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	s.netID, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.super.Process.Pid))
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if s.netID == own {
		return errors.New("sandbox: refused to use the machine's own network namespace")
	}
	if s.outer, err = openNS(s.super.Process.Pid, "net", "pid"); err != nil {
		return err
	}
	if s.disk, err = scratchFor(); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	ans, err := s.boot(ctx, order{Boot: true, Options: o, Scratch: s.disk})
	if err != nil {
		return err
	}
	if log != nil && ans.Loop != "" {
		fmt.Fprintf(log, "sandbox: /dev/sr0 is %s\n", ans.Loop)
	}
	return nil
}

// Reboot ends every process of the machine and boots it again: same files, new
// process namespace, empty /run and /tmp, the host name from /etc/hostname.
// Processes started with Beside continue.
func (s *Sandbox) Reboot(ctx context.Context) error {
	_, err := s.boot(ctx, order{Boot: true})
	return err
}

func (s *Sandbox) boot(ctx context.Context, o order) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inner.close()
	stop := context.AfterFunc(ctx, func() { _ = s.super.Process.Kill() })
	defer stop()
	var ans answer
	line, err := json.Marshal(o)
	if err == nil {
		_, err = s.ctl.Write(append(line, '\n'))
	}
	if err == nil {
		line, err = s.lines.ReadBytes('\n')
	}
	if err != nil {
		return ans, fmt.Errorf("sandbox: boot: the supervisor has exited: %w", errors.Join(context.Cause(ctx), err))
	}
	if err := json.Unmarshal(line, &ans); err != nil {
		return ans, fmt.Errorf("sandbox: boot: %w", err)
	}
	if !ans.OK {
		return ans, fmt.Errorf("sandbox: boot: %s", ans.Error)
	}
	if s.pid, err = bootPID(s.super.Process.Pid); err != nil {
		return ans, err
	}
	s.inner, err = openNS(s.pid, "ipc", "uts", "pid", "mnt")
	return ans, err
}

// bootPID finds the boot process: the child of the supervisor that is process 1
// of a process namespace of its own. The supervisor can't tell, because process
// ids differ in its namespace.
func bootPID(super int) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("sandbox: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "status"))
		if err != nil {
			continue // it has ended meanwhile
		}
		parent, own := 0, ""
		for line := range strings.SplitSeq(string(b), "\n") {
			key, val, _ := strings.Cut(line, ":")
			switch key {
			case "PPid":
				parent, _ = strconv.Atoi(strings.TrimSpace(val))
			case "NSpid":
				f := strings.Fields(val)
				own = f[len(f)-1]
			}
		}
		if parent == super && own == "1" {
			return pid, nil
		}
	}
	return 0, errors.New("sandbox: the boot process has exited")
}

// PID returns process 1 of the sandboxed machine in this program's namespace;
// its files are under /proc/PID/root.
func (s *Sandbox) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Close ends everything in and beside the sandbox and waits for it. It may be
// called more than once.
func (s *Sandbox) Close() error {
	_ = s.ctl.Close()
	_ = s.super.Process.Kill()
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inner.close()
	s.outer.close()
	disk := s.disk
	s.disk = ""
	return dropScratch(disk)
}

// open opens a file of the machine, resolving links inside the machine.
func (s *Sandbox) open(name string, flags int, perm fs.FileMode) (*os.File, error) {
	return open(s.PID(), name, flags, perm)
}

func open(pid int, name string, flags int, perm fs.FileMode) (*os.File, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	fd, err := unix.Openat2(root, strings.TrimLeft(name, "/"), &how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ReadFile reads a file of the machine.
func (s *Sandbox) ReadFile(name string) ([]byte, error) { return s.ReadTail(name, math.MaxInt64) }

// ReadTail reads the last bytes of a file of the machine, at most n.
func (s *Sandbox) ReadTail(name string, n int64) ([]byte, error) {
	// Without blocking: a program inside may have replaced the file by a pipe.
	f, err := s.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode().IsRegular() && fi.Size() > n {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, n))
}

// WriteFile writes a file of the machine with exactly the mode perm; its
// directory must exist.
func (s *Sandbox) WriteFile(name string, data []byte, perm fs.FileMode) error {
	return s.write(name, strings.NewReader(string(data)), perm)
}

// Install copies a file of this machine into the sandbox.
func (s *Sandbox) Install(from, name string, perm fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return s.write(name, src, perm)
}

// write may write a program that the caller starts next. If another test forked
// meanwhile, its child would hold a copy of the descriptor until its exec, and
// a file that is open for writing cannot be executed; so forks are locked out.
func (s *Sandbox) write(name string, r io.Reader, perm fs.FileMode) error {
	pid := s.PID() // not under ForkLock: starting a process may hold the mutex
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := open(pid, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, perm)
	if errors.Is(err, fs.ErrPermission) {
		// Without root a file of the machine can't be changed, but it can be
		// replaced.
		if err = remove(pid, name); err == nil {
			f, err = open(pid, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, perm)
		}
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Chmod(perm); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// remove removes a file of the machine.
func remove(pid int, name string) error {
	dir, err := open(pid, filepath.Dir(name), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Unlinkat(int(dir.Fd()), filepath.Base(name), 0); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func pointers(list []string) []*string {
	var out []*string
	for i := range list {
		out = append(out, &list[i])
	}
	return out
}
