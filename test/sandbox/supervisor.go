package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names (argv[0]) under which the program starts itself again.
const (
	superName = "azguest-sandbox-supervisor"
	bootName  = "azguest-sandbox-init"
	probeName = "azguest-sandbox-probe"
)

// Main must be called first by a program that creates sandboxes. It returns at
// once in the program itself and never in the processes that the sandbox starts
// from its executable.
func Main() {
	var err error
	switch os.Args[0] {
	case superName:
		err = supervise(os.NewFile(3, "control"))
	case bootName:
		err = bootMain(os.NewFile(3, "report"))
	case probeName:
		err = probe()
	case againName:
		err = again()
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// supervisor is the process that holds everything that survives a reboot.
type supervisor struct {
	opt  Options
	base string   // where the private tmpfs is mounted
	loop *os.File // keeps the loop device attached
	// as in bootConfig
	lowers, covers []string

	mu   sync.Mutex // guards what follows; held while a child is made or reaped
	boot int
	dead chan struct{} // closed when the boot process has been reaped
}

// supervise executes orders until the control socket is closed, which happens
// however the program at the other end ends.
func supervise(ctl *os.File) error {
	unix.CloseOnExec(int(ctl.Fd()))
	sup := &supervisor{}
	lines := bufio.NewReader(ctl)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			// The program has ended or closed the sandbox; the end of this
			// process ends every process of the namespace.
			return nil //nolint:nilerr // end of input means: end the sandbox
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		var ans answer
		if sup.base == "" {
			sup.opt = o.Options
			ans.Loop, err = sup.prepare(o.Scratch)
		}
		if err == nil {
			err = sup.reboot()
		}
		ans.OK = err == nil
		if err != nil {
			ans.Error = err.Error()
		}
		out, err := json.Marshal(ans)
		if err != nil {
			return err
		}
		if _, err := ctl.Write(append(out, '\n')); err != nil {
			return err
		}
	}
}

// prepare creates the private tmpfs with the upper layer and sets up the
// network and the loop device. It returns a description of /dev/sr0.
func (s *supervisor) prepare(scratch string) (string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	// Open files that the tmpfs may hide before it is mounted.
	var image *os.File
	if s.opt.DVD != "" {
		f, err := os.Open(s.opt.DVD)
		if err != nil {
			return "", err
		}
		defer f.Close()
		image = f
	}
	var layers []*os.Root
	for _, l := range s.opt.Layers {
		if l == "" {
			continue
		}
		r, err := os.OpenRoot(l)
		if err != nil {
			return "", fmt.Errorf("layer: %w", err)
		}
		defer r.Close()
		layers = append(layers, r)
	}
	var disk *os.File
	if scratch != "" {
		f, err := os.Open(scratch)
		if err != nil {
			return "", fmt.Errorf("scratch: %w", err)
		}
		defer f.Close()
		disk = f
	}
	base, err := mountScratch()
	if err != nil {
		return "", err
	}
	if disk != nil {
		if err := useScratch(disk, base); err != nil {
			return "", err
		}
	}
	s.base = base
	upper := filepath.Join(base, "upper")
	if s.covers, err = prepareUpper(upper, s.opt.Hostname, s.opt.Hide); err != nil {
		return "", err
	}
	if rootless() {
		if s.lowers, err = lowers(upper, base); err != nil {
			return "", err
		}
		if err := own(upper); err != nil {
			return "", err
		}
		if err := forget(upper, s.lowers); err != nil {
			return "", err
		}
	}
	for _, l := range slices.Backward(layers) {
		if err := copyLayer(l, upper); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(filepath.Join(base, "work"), 0o755); err != nil {
		return "", err
	}
	if s.opt.Disk != "" {
		if err := makeDisk(filepath.Join(base, diskName), s.opt.DiskSize); err != nil {
			return "", err
		}
	}
	if err := raiseLoopback(s.opt.Addresses); err != nil {
		return "", err
	}
	if err := addCard(); err != nil {
		// The kernel has no veth; only agents that insist on a network card
		// need it.
		fmt.Fprintln(os.Stderr, "sandbox: no network interface added:", err)
	}
	sr0 := ""
	if image != nil && !s.opt.PlainDVD {
		if s.loop, err = attachLoop(image); err == nil {
			sr0 = s.loop.Name()
		} else {
			sr0 = "a plain file: " + err.Error()
		}
	}
	if image != nil && s.loop == nil {
		if sr0 == "" {
			sr0 = "a plain file"
		}
		dst, err := os.OpenFile(filepath.Join(base, "sr0"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o660)
		if err != nil {
			return "", err
		}
		if _, err := io.Copy(dst, image); err != nil {
			return "", errors.Join(err, dst.Close())
		}
		if err := dst.Close(); err != nil {
			return "", err
		}
	}
	go s.reapAll()
	return sr0, nil
}

// mountScratch mounts a tmpfs that only this mount namespace sees, so that it
// disappears with the supervisor and is never written to a disk.
func mountScratch() (string, error) {
	var errs []error
	for _, dir := range []string{"/mnt", "/media", "/srv", "/opt"} {
		err := unix.Mount("sandbox", dir, "tmpfs", unix.MS_NOSUID, "mode=0755,size=4g")
		if err == nil {
			// nosuid would disable sudo on the overlay
			return dir, unix.Mount("", dir, "", unix.MS_REMOUNT, "mode=0755,size=4g")
		}
		errs = append(errs, fmt.Errorf("tmpfs on %s: %w", dir, err))
	}
	return "", errors.Join(errs...)
}

// diskName is the mount point of Options.Disk under the supervisor's base; each
// boot mounts it at its place.
const diskName = "disk"

func makeDisk(dir string, size int64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("disk", dir, "tmpfs", unix.MS_NODEV, fmt.Sprintf("mode=0755,size=%d", size)); err != nil {
		return fmt.Errorf("disk of %d bytes: %w", size, err)
	}
	return nil
}

// reboot ends the boot process, if any, with all its children, and starts the
// next.
func (s *supervisor) reboot() error {
	if s.boot != 0 {
		if err := unix.Kill(s.boot, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the machine: %w", err)
		}
		<-s.dead
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cfg, err := json.Marshal(bootConfig{Options: s.opt, Base: s.base, Loop: s.loopNumber(), Lowers: s.lowers, Covers: s.covers})
	if err != nil {
		_ = w.Close()
		return err
	}
	// Not os/exec, whose Wait would compete with reapAll.
	s.mu.Lock()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{bootName}, &syscall.ProcAttr{
		Env:   []string{"PATH=" + Path, "LANG=C.UTF-8", "SANDBOX_BOOT=" + string(cfg)},
		Files: []uintptr{0, 1, 2, w.Fd()},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Setsid:     true,
		},
	})
	s.boot, s.dead = pid, make(chan struct{})
	s.mu.Unlock()
	_ = w.Close()
	if err != nil {
		s.boot = 0
		return fmt.Errorf("start boot process: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(out)); text != "ok" {
		return fmt.Errorf("boot process: %s", text)
	}
	return nil
}

// reapAll reaps every process that ends: children and orphans, because the
// supervisor is process 1 of its namespace.
func (s *supervisor) reapAll() {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for {
		for s.reapOne() {
		}
		<-child
	}
}

func (s *supervisor) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
	if err != nil || pid <= 0 {
		return errors.Is(err, unix.EINTR)
	}
	if pid == s.boot {
		close(s.dead)
	}
	return true
}

// probe tests for Available whether a tmpfs can be the upper layer of an
// overlay of the root.
func probe() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	base, err := mountScratch()
	if err != nil {
		return err
	}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			return err
		}
	}
	if rootless() {
		return overlay("/usr", filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(base, "root"))
	}
	return mountOverlay(base)
}

func mountOverlay(base string) error {
	opt := fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%s/work", base, base)
	if err := unix.Mount("overlay", filepath.Join(base, "root"), "overlay", 0, opt); err != nil {
		return fmt.Errorf("overlay of the root (%s): %w", opt, err)
	}
	return nil
}

// LookPath is exec.LookPath on this machine with the sandbox's PATH, for tests
// that are skipped where a tool is missing.
func LookPath(name string) (string, error) {
	for dir := range strings.SplitSeq(Path, ":") {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}
