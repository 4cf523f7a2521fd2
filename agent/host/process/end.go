package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
)

// A Revoked user is one whose account is being removed; EndUser ends the
// user's processes.
type Revoked struct {
	UID int
	// Subordinate are the uids that the user's own namespaces may use
	// (subuid(5)) and that no other account has.
	Subordinate []IDRange
	// SpareCaller leaves alone the calling process, its ancestors up to the
	// topmost one of the user, and their sessions, so that an administrator's
	// command that removes the administrator's own account can finish.
	SpareCaller bool
}

// An IDRange is a range of uids, both ends included.
type IDRange struct{ First, Last int }

// Has reports whether id is in the range.
func (r IDRange) Has(id int) bool { return r.First <= id && id <= r.Last }

// endPatience is how long to wait for the end of killed processes. One that is
// in the middle of a disk access ends after it.
const endPatience = 20 * time.Second

// EndUser ends everything that a user runs: processes that have uid as one of
// their user ids, are in the user's slice of systemd or in a namespace that
// the user has made, and what descends from any of these, as a shell of sudo
// does. It repeats until two scans in a row have found nothing.
//
// A process that forks and exits faster than it can be looked up can't be
// signalled by its process id; killEvery ends it.
func EndUser(ctx context.Context, u Revoked) error {
	if u.UID <= 0 || u.UID == os.Geteuid() {
		return fmt.Errorf("end processes of uid %d: system account", u.UID)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, endPatience, fmt.Errorf("not finished after %v", endPatience))
	defer cancel()
	var seen map[int]uint64
	for quiet := 0; ; {
		t, err := takeTable()
		if err != nil {
			return fmt.Errorf("end processes of uid %d: %w", u.UID, err)
		}
		victims := t.victims(u, seen)
		for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
			for _, p := range victims {
				_ = p.Signal(sig)
			}
		}
		if !t.shared(u) {
			_ = killEvery(u.UID) // best effort: the scans work without it
		}
		seen = t.borrowed(u)
		if quiet++; len(victims) > 0 {
			quiet = 0
		}
		if quiet == 2 {
			return nil
		}
		select {
		case <-ctx.Done():
			if len(victims) == 0 {
				return nil
			}
			var pids []string
			for _, p := range victims[:min(10, len(victims))] {
				pids = append(pids, strconv.Itoa(p.PID))
			}
			return fmt.Errorf("end processes of uid %d: %d left (%s): %w", u.UID, len(victims), strings.Join(pids, " "), context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A table is a snapshot of all processes.
type table struct {
	all  map[int]member
	self Info
	ns   namespaces
}

type member struct {
	Info
	namespaces
}

// namespaces are those of a process, as the kernel names them.
type namespaces struct {
	pid, user string
	owners    []int // uids that made the user namespace and its parents
}

func takeTable() (table, error) {
	t := table{all: map[int]member{}}
	pids, err := IDs("/")
	if err != nil {
		return t, err
	}
	t.self, _ = Look("/", os.Getpid())
	t.ns = namespacesOf("self", "")
	for _, pid := range pids {
		if p, ok := Look("/", pid); ok && !p.Ended {
			t.all[pid] = member{p, namespacesOf(strconv.Itoa(pid), t.ns.user)}
		}
	}
	return t, nil
}

func namespacesOf(pid, ours string) namespaces {
	var n namespaces
	n.pid, _ = os.Readlink(path.Join("/proc", pid, "ns/pid"))
	n.user, _ = os.Readlink(path.Join("/proc", pid, "ns/user"))
	if n.user == "" || ours == "" || n.user == ours {
		return n
	}
	fd, err := unix.Open(path.Join("/proc", pid, "ns/user"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == nil && len(n.owners) < 32 { // the kernel nests 32
		var owner int
		if owner, err = unix.IoctlGetInt(fd, unix.NS_GET_OWNER_UID); err == nil {
			n.owners = append(n.owners, owner)
		}
		parent, perr := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		_ = unix.Close(fd)
		if fd, err = parent, perr; err != nil {
			return n
		}
		if to, lerr := os.Readlink(path.Join("/proc/self/fd", strconv.Itoa(fd))); lerr != nil || to == ours {
			break
		}
	}
	if err == nil {
		_ = unix.Close(fd)
	}
	return n
}

// victims are the processes to end. One that has uid only as its effective or
// file system uid is root's and works for the user at the moment, as servers
// do: it counts only if the scan before has seen it so, too.
func (t table) victims(u Revoked, seen map[int]uint64) []Info {
	spared := t.spared(u)
	chosen := map[int]bool{}
	may := func(p member) bool { return p.PID != 1 && p.PID != t.self.PID && !spared(p.Info) }
	for pid, p := range t.all {
		ticks, again := seen[pid]
		if may(p) && !t.foreign(p) && (t.of(p, u) || again && ticks == p.Ticks && p.OfUser(u.UID)) {
			chosen[pid] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, p := range t.all {
			if !chosen[pid] && chosen[p.Parent] && may(p) {
				chosen[pid], grown = true, true
			}
		}
	}
	var out []Info
	for pid := range chosen {
		out = append(out, t.all[pid].Info)
	}
	slices.SortFunc(out, func(a, b Info) int { return a.PID - b.PID })
	return out
}

func (t table) of(p member, u Revoked) bool {
	if p.UIDs[0] == u.UID || p.UIDs[2] == u.UID || p.Slice == u.UID || slices.Contains(p.owners, u.UID) {
		return true
	}
	// A set-user-ID file of the user's namespace can run outside of it, too.
	// Another namespace may use the same uids for somebody else.
	return p.user == t.ns.user && slices.ContainsFunc(u.Subordinate, func(r IDRange) bool { return r.Has(p.UIDs[0]) || r.Has(p.UIDs[2]) })
}

// borrowed are the processes that have uid in any of their user ids at the
// moment; a process of root's may have borrowed it.
func (t table) borrowed(u Revoked) map[int]uint64 {
	out := map[int]uint64{}
	for pid, p := range t.all {
		if p.OfUser(u.UID) {
			out[pid] = p.Ticks
		}
	}
	return out
}

// foreign reports whether a process is in a container that root runs, where
// uids mean other users: it has another PID namespace, which a process of
// root's has started, and is in neither a user's user namespace nor a user's
// slice.
func (t table) foreign(p member) bool {
	if p.pid == t.ns.pid || p.user != t.ns.user || p.Slice != -1 {
		return false
	}
	for range len(t.all) {
		parent, ok := t.all[p.Parent]
		if !ok || parent.PID == 1 {
			return false
		}
		if parent.pid == t.ns.pid {
			return parent.UIDs == [4]int{}
		}
		p = parent
	}
	return false
}

// shared reports whether processes have the uid that must not be ended.
func (t table) shared(u Revoked) bool {
	spared := t.spared(u)
	for _, p := range t.all {
		if p.OfUser(u.UID) && (t.foreign(p) || spared(p.Info)) {
			return true
		}
	}
	return false
}

// spared returns what SpareCaller leaves alone.
func (t table) spared(u Revoked) func(Info) bool {
	if !u.SpareCaller {
		return func(Info) bool { return false }
	}
	line, sessions := map[int]bool{}, map[int]bool{}
	var way []Info
	for p, ok := t.all[t.self.PID]; ok && p.PID > 1 && len(way) <= len(t.all); p, ok = t.all[p.Parent] {
		way = append(way, p.Info)
		if t.of(p, u) { // up to the user's topmost one
			for _, q := range way {
				line[q.PID], sessions[q.Session] = true, true
			}
		}
	}
	return func(p Info) bool { return line[p.PID] || sessions[p.Session] }
}

// InSession reports whether the caller runs in a session of the user; true
// also if the processes can't be read.
func InSession(uid int) bool {
	t, err := takeTable()
	return err != nil || t.spared(Revoked{UID: uid, SpareCaller: true})(t.self)
}

// killEvery kills all processes whose real or saved uid is uid, in one call:
// kill(-1) as that user. No process can fork while the kernel goes through
// them, so none escapes. The calling thread keeps root as its saved uid and
// has a real uid that no process has, so that no process of the user may
// signal it meanwhile.
func killEvery(uid int) error {
	const nobody = 1<<32 - 3 // no process has it
	done := make(chan error, 1)
	go func() {
		defer crash.Guard()
		runtime.LockOSThread()
		r, e, s := unix.Getresuid()
		if r != 0 || e != 0 || s != 0 {
			runtime.UnlockOSThread()
			done <- unix.EPERM
			return
		}
		dumpable, derr := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		// The raw call changes this thread alone.
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, uintptr(uid), 0)
		if errno != 0 {
			runtime.UnlockOSThread()
			done <- errno
			return
		}
		var err error
		var caps [2]unix.CapUserData
		if err = unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err == nil && caps[0].Effective&(1<<unix.CAP_KILL) != 0 {
			err = errors.New("CAP_KILL was not dropped")
		}
		if err == nil {
			if _, _, errno = unix.RawSyscall(unix.SYS_KILL, ^uintptr(0), uintptr(unix.SIGKILL), 0); errno != 0 && errno != unix.ESRCH && errno != unix.EPERM {
				err = errno
			}
		}
		if _, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
			done <- errno // and the thread ends with this function
			return
		}
		if derr == nil {
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(dumpable), 0, 0, 0)
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	// wait: a few system calls that do not block
	return <-done
}

// RemoveIPC removes the user's System V shared memory, semaphores and queues,
// which stay when all processes have gone.
func RemoveIPC(uid int) error {
	var errs []error
	for kind, call := range map[string]uintptr{"shm": unix.SYS_SHMCTL, "sem": unix.SYS_SEMCTL, "msg": unix.SYS_MSGCTL} {
		b, err := os.ReadFile("/proc/sysvipc/" + kind)
		if err != nil {
			continue // a kernel without System V IPC
		}
		for _, id := range ipcOf(string(b), uid) {
			// The second argument of semctl is the number of a semaphore.
			args := [3]uintptr{uintptr(id), unix.IPC_RMID, 0}
			if kind == "sem" {
				args = [3]uintptr{uintptr(id), 0, unix.IPC_RMID}
			}
			if _, _, errno := unix.Syscall(call, args[0], args[1], args[2]); errno != 0 && errno != unix.EINVAL && errno != unix.EIDRM {
				errs = append(errs, fmt.Errorf("remove %s %d: %w", kind, id, errno))
			}
		}
	}
	return errors.Join(errs...)
}

// ipcOf reads a table of /proc/sysvipc: the ids of what uid owns or made.
func ipcOf(text string, uid int) []int {
	var ids []int
	var head []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if head == nil {
			head = f
			continue
		}
		id := -1
		mine := false
		for i, name := range head[:min(len(head), len(f))] {
			n, err := strconv.Atoi(f[i])
			switch {
			case err != nil:
			case strings.HasSuffix(name, "id") && i == 1:
				id = n
			case name == "uid" || name == "cuid":
				mine = mine || n == uid
			}
		}
		if mine && id >= 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
