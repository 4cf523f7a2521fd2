package process

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Info is what the kernel knows of a process. A process can choose its name,
// command line, directory and environment itself, so none of these is in here.
type Info struct {
	PID, Parent, Session int
	Ticks                uint64 // when it started, in clock ticks since boot
	// UIDs are the real, effective, saved and file system uid.
	UIDs [4]int
	// Login is the login uid of the session in which it was started (loginuid),
	// -1 if none. sudo and su do not change it; only root can set it.
	Login int
	// Slice is the uid whose slice of systemd the process is in, -1 if none.
	Slice int
	State string // R, S, D, T (stopped), t (traced) …
	Ended bool   // a zombie: it has no memory and no files any more
}

// IDs lists all process ids. root is the directory that stands for "/".
func IDs(root string) ([]int, error) {
	d, err := os.Open(filepath.Join(root, "proc"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Look reads what the kernel says of one process; false if there is none.
func Look(root string, pid int) (Info, bool) {
	dir := filepath.Join(root, "proc", strconv.Itoa(pid))
	p := Info{PID: pid, Login: -1, Slice: -1}
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	// The name is in brackets and may hold anything.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return p, false
	}
	p.State, p.Ended = f[0], ended(f)
	p.Parent, _ = strconv.Atoi(f[1])
	p.Session, _ = strconv.Atoi(f[3])
	p.Ticks, _ = strconv.ParseUint(f[19], 10, 64)
	if b, err = os.ReadFile(dir + "/status"); err != nil {
		return p, false
	}
	known := false
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			for i, id := range strings.Fields(rest) {
				n, err := strconv.Atoi(id)
				if known = err == nil && i < len(p.UIDs); !known {
					return p, false
				}
				p.UIDs[i] = n
			}
			break
		}
	}
	if b, err := os.ReadFile(dir + "/loginuid"); err == nil {
		// "Unset" is the largest number.
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n < 1<<32-1 {
			p.Login = int(n)
		}
	}
	if b, err := os.ReadFile(dir + "/cgroup"); err == nil {
		p.Slice = userSlice(string(b))
	}
	return p, known
}

// maxText is how many bytes of a command line or an environment are read. Any
// process can say where in its memory they are (PR_SET_MM_MAP, which needs no
// privilege) and so make them terabytes long.
const maxText = 256 << 10

// Text is the beginning of a file in /proc/PID that has content of the
// process's own choice: "environ" or "cmdline".
func Text(pid int, name string) ([]byte, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/" + name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	return b, errors.Join(err, f.Close())
}

// userSlice is the N of user.slice/user-N.slice at the top of a process's
// cgroup path. Further down, users can make cgroups of that name.
func userSlice(cgroup string) int {
	for line := range strings.Lines(cgroup) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || part[1] != "" && part[1] != "name=systemd" {
			continue
		}
		rest, ok := strings.CutPrefix(part[2], "/user.slice/user-")
		if !ok {
			continue
		}
		id, _, _ := strings.Cut(rest, "/")
		if id, ok = strings.CutSuffix(id, ".slice"); !ok {
			continue
		}
		if n, err := strconv.Atoi(id); err == nil {
			return n
		}
	}
	return -1
}

// OfUser reports whether one of the process's user ids is uid.
func (p Info) OfUser(uid int) bool {
	return p.UIDs[0] == uid || p.UIDs[1] == uid || p.UIDs[2] == uid || p.UIDs[3] == uid
}

// Service reports whether no user has started the process: it belongs to no
// login session, or to the same one as self, which then was started by hand.
func (p Info) Service(self Info) bool {
	return (p.Login == -1 || p.Login == self.Login) && (p.Slice == -1 || p.Slice == self.Slice)
}

// Believed reports whether the name and the command line of a process can be
// trusted: root runs it, and not on behalf of a user. (A set-user-ID program
// has root's rights, and arguments that its user gave it.) A process that
// can't be read counts as trusted, as it has ended by then.
func Believed(root string, pid int) bool {
	p, ok := Look(root, pid)
	self, _ := Look(root, os.Getpid())
	return !ok || p.RunBy(0, self)
}

// RunBy reports whether all user ids of the process are uid, and it is a
// Service.
func (p Info) RunBy(uid int, self Info) bool {
	return p.UIDs == [4]int{uid, uid, uid, uid} && p.Service(self)
}

// Running lists the processes of the machine that have not ended.
func Running() map[int]Info {
	pids, err := IDs("/")
	if err != nil {
		return nil
	}
	out := map[int]Info{}
	for _, pid := range pids {
		if p, ok := Look("/", pid); ok && (!p.Ended || threads(pid)) {
			out[pid] = p
		}
	}
	return out
}
