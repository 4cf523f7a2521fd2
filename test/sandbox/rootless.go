package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Rights describes root inside a sandbox.
type Rights string

const (
	// Root is the machine's own root.
	Root Rights = "root"
	// Ranged is root of a user namespace with a range of ids (/etc/subuid).
	Ranged Rights = "ranged"
	// Single is root of a user namespace with a single id: there are no other
	// users to whom files could belong.
	Single Rights = "single"
)

// CurrentRights returns the rights of this process.
func CurrentRights() Rights {
	uid, uerr := os.ReadFile("/proc/self/uid_map")
	gid, gerr := os.ReadFile("/proc/self/gid_map")
	if uerr != nil || gerr != nil {
		return Root // no user namespaces in this kernel
	}
	return lesser(rightsOf(string(uid)), rightsOf(string(gid)))
}

// lesser returns the lesser of two rights.
func lesser(a, b Rights) Rights {
	for _, r := range []Rights{Single, Ranged} {
		if a == r || b == r {
			return r
		}
	}
	return Root
}

func rightsOf(idMap string) Rights {
	var ids uint64
	for line := range strings.Lines(idMap) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 64)
		if err == nil {
			ids += n
		}
		if f[0] == "0" && f[1] == "0" && n == 1<<32-1 {
			return Root
		}
	}
	// useradd assigns ids from 1000.
	if ids > 1001 {
		return Ranged
	}
	return Single
}

// rootless reports whether this process is root of a user namespace only.
func rootless() bool { return CurrentRights() != Root }

// Ended is the exit status of the program that AsRoot ran again.
type Ended int

func (e Ended) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// lifelineName names the descriptor of a pipe whose other end the caller of
// AsRoot holds: the program that was run again shuts down when it is closed,
// however the caller ended.
const (
	lifelineName = "AZGUEST_SANDBOX_LIFELINE"
	againName    = "azguest-sandbox-again"
)

// AsRoot calls do where sandboxes can be created: in this process if it is
// root, otherwise in this program run again, with the same arguments, as root
// of a user namespace of its own. In the latter case the error is an Ended, or
// says why that was not possible (see Code). The whole program is run again
// because a multi-threaded process can't join a user namespace.
func AsRoot(ctx context.Context, do func(context.Context) error) error {
	if os.Geteuid() == 0 {
		ctx, cancel := lifeline(ctx)
		defer cancel()
		return do(ctx)
	}
	if runtime.GOOS != "linux" {
		return errors.New("sandbox: only Linux is supported")
	}
	uids, gids := subIDs("/etc/subuid", os.Geteuid()), subIDs("/etc/subgid", os.Geteuid())
	if uids != nil && gids != nil {
		err := runAgain(ctx, func(pid int) error {
			if err := newIDMap("newuidmap", pid, os.Geteuid(), uids); err != nil {
				return err
			}
			return newIDMap("newgidmap", pid, os.Getegid(), gids)
		})
		if _, mapped := errors.AsType[*mapError](err); !mapped {
			return err
		}
		// Most handlers work without other ids, too.
	}
	return runAgain(ctx, nil)
}

// lifeline returns a context that ends with the caller of AsRoot.
func lifeline(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	fd, err := strconv.Atoi(os.Getenv(lifelineName))
	if err != nil {
		return ctx, cancel
	}
	_ = os.Unsetenv(lifelineName)
	unix.CloseOnExec(fd)
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(uintptr(fd), "lifeline"))
		cancel()
	}()
	return ctx, cancel
}

// mapError reports that the helpers of package uidmap failed.
type mapError struct{ err error }

func (e *mapError) Error() string { return e.err.Error() }
func (e *mapError) Unwrap() error { return e.err }

// runAgain runs this program in a new user namespace. If mapIDs is nil, this
// user is root inside and there are no other users.
func runAgain(ctx context.Context, mapIDs func(pid int) error) error {
	life, lifeEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifeEnd.Close()
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		_ = life.Close()
		return err
	}
	defer readyEnd.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // the supervisor ends by itself when its lifeline is closed
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), lifelineName+"=3")
	cmd.ExtraFiles = []*os.File{life, ready}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	if mapIDs == nil {
		cmd.Args[0] = os.Args[0]
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	} else {
		// The child has no ids yet, and waits for them.
		cmd.Args[0] = againName
		cmd.Args = append([]string{againName, os.Args[0]}, os.Args[1:]...)
	}
	// Ctrl-C reaches the child directly; in any case it ends by its lifeline,
	// and this process after it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	err = cmd.Start()
	_, _ = life.Close(), ready.Close()
	if err != nil {
		return forbidden(CodeUserNS, fmt.Errorf("make a user namespace: %w", err))
	}
	if mapIDs != nil {
		if err := mapIDs(cmd.Process.Pid); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return &mapError{err}
		}
	}
	_ = readyEnd.Close()
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // only its exit status is needed
		close(ended)
	}()
	for {
		select {
		case <-ended:
			code := cmd.ProcessState.ExitCode()
			if code < 0 {
				code = 1
			}
			return Ended(code)
		case <-signals:
			_ = lifeEnd.Close()
		case <-ctx.Done():
			_ = lifeEnd.Close()
			ctx = context.WithoutCancel(ctx)
		}
	}
}

// again runs in the child before it has its ids: once they are mapped, it
// executes the program again, which gives it the capabilities of root.
func again() error {
	ready := os.NewFile(4, "ready")
	if _, err := io.Copy(io.Discard, ready); err != nil {
		return err
	}
	_ = ready.Close()
	return syscall.Exec("/proc/self/exe", os.Args[1:], os.Environ())
}

// idRange is the range of a line of /etc/subuid.
type idRange struct{ start, count string }

// subIDs returns the first usable range of subordinate ids of a user; nil for
// none.
func subIDs(file string, uid int) *idRange {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	owners := []string{strconv.Itoa(uid)}
	if u, err := user.LookupId(owners[0]); err == nil {
		owners = append(owners, u.Username)
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		p := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(p) != 3 {
			continue
		}
		count, err := strconv.Atoi(p[2])
		if err == nil && count > 1000 && (p[0] == owners[0] || p[0] == owners[len(owners)-1]) {
			return &idRange{p[1], p[2]}
		}
	}
	return nil
}

func newIDMap(program string, pid, own int, r *idRange) error {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = LookPath(program)
	}
	if err != nil {
		return err
	}
	out, err := exec.Command(path, strconv.Itoa(pid), "0", strconv.Itoa(own), "1", "1", r.start, r.count).CombinedOutput() //nolint:noctx // takes only a moment
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Codes of the reasons why a user can't create sandboxes.
const (
	CodeRoot    = "AZ-LAB-ROOT"    // not root, or root with limited rights
	CodeUserNS  = "AZ-LAB-USERNS"  // user namespaces are not available
	CodeOverlay = "AZ-LAB-OVERLAY" // overlayfs is not available in user namespaces
)

// An Unavailable says why sandboxes can't be created, and how to fix it.
type Unavailable struct {
	Code string
	Err  error
	Fix  []string
}

func (u *Unavailable) Error() string {
	return u.Code + ": " + u.Err.Error() + "\n  " + strings.Join(u.Fix, "\n  ")
}

func (u *Unavailable) Unwrap() error { return u.Err }

func forbidden(code string, err error) error { return &Unavailable{code, err, fixes("/", code)} }

// fixes returns the commands that change the settings of the machine which
// forbid it.
func fixes(root, code string) []string {
	is := func(name, value string) bool {
		b, err := os.ReadFile(filepath.Join(root, "proc/sys", name))
		return err == nil && strings.TrimSpace(string(b)) == value
	}
	var out []string
	if is("kernel/unprivileged_userns_clone", "0") {
		out = append(out, "kernel.unprivileged_userns_clone is 0: sudo sysctl kernel.unprivileged_userns_clone=1")
	}
	if is("user/max_user_namespaces", "0") {
		out = append(out, "user.max_user_namespaces is 0: sudo sysctl user.max_user_namespaces=15000")
	}
	if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
		out = append(out, "kernel.apparmor_restrict_unprivileged_userns is 1, so AppArmor denies user namespaces to programs without a profile: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0")
	}
	for _, mark := range []string{".dockerenv", "run/.containerenv"} {
		if _, err := os.Stat(filepath.Join(root, mark)); err == nil {
			out = append(out, "this is a container: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined, or --privileged")
		}
	}
	if len(out) == 0 && code == CodeOverlay {
		out = append(out, "overlayfs in user namespaces needs Linux 5.11 with CONFIG_OVERLAY_FS (sudo modprobe overlay)")
	}
	return append(out, "or run it as root: sudo")
}
