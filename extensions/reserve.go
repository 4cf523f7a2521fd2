package extensions

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/job"
)

// On a full disk the one thing that must still work is the command that makes
// room. What the agent needs for it is little: settings, a record,
// a job with its output, and later the status. It is set aside while there is
// plenty, and given up slice by slice when a write finds no room or is about
// to: who fills the disk takes what is freed, and there must be more commands
// than one.
const (
	reserveFiles = 128
	reserveFile  = 32 << 10 // bytes of each
	reserveSlice = 16       // files given up at a time
	// lowBytes and lowFiles are when a command is not begun without more room:
	// its supervisor and the handler itself write too.
	lowBytes = 256 << 10
	lowFiles = reserveSlice
)

// A space is what a file system has left for us. Inodes are -1 where they
// are not counted.
type space struct {
	bytes, inodes int64
	ok            bool
}

func (s store) space() space {
	var st unix.Statfs_t
	if unix.Statfs(s.sub(), &st) != nil {
		return space{}
	}
	sp := space{bytes: int64(st.Bavail) * st.Bsize, inodes: -1, ok: true}
	if st.Files > 0 {
		sp.inodes = int64(st.Ffree)
	}
	return sp
}

func (sp space) low() bool {
	return sp.ok && (sp.bytes < lowBytes || sp.inodes >= 0 && sp.inodes < lowFiles)
}

// setAside makes what is missing of the reserve, if there is plenty.
func (s store) setAside() {
	dir := s.sub("reserve")
	if left, err := top.ReadDir(dir); err == nil && len(left) >= reserveFiles {
		return
	}
	sp := s.space()
	if !sp.ok || sp.bytes < 2*reserveFiles*reserveFile || sp.inodes >= 0 && sp.inodes < 4*reserveFiles {
		return
	}
	if err := top.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return
	}
	for i := range reserveFiles {
		f, err := top.OpenFile(dir+"/"+strconv.Itoa(i), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, reserveFile)
		if errors.Is(err, unix.EOPNOTSUPP) {
			_, err = f.Write(make([]byte, reserveFile))
		}
		if errors.Join(err, f.Close()) != nil {
			return
		}
	}
}

// giveUp frees a slice of the reserve and reports whether there was one.
func (s store) giveUp() bool {
	dir := s.sub("reserve")
	left, err := top.ReadDir(dir)
	if err != nil {
		return false
	}
	freed := false
	for _, e := range left[:min(len(left), reserveSlice)] {
		freed = top.Remove(dir+"/"+e.Name()) == nil || freed
	}
	return freed
}

// withRoom does a piece of work that writes, and does it again as long as
// there was no room and more can be made.
func (w *work) withRoom(do func() error) error {
	err := do()
	for noRoom(err) && w.giveUp() {
		err = do()
	}
	return err
}

// makeRoom sees to it that a command finds some.
func (w *work) makeRoom() {
	for w.m.store.space().low() {
		if !w.giveUp() {
			return
		}
	}
}

func (w *work) giveUp() bool {
	what := "using some of the reserved space"
	if !w.m.store.giveUp() {
		if !w.m.spare() {
			return false
		}
		what = "deleting packages and old commands"
	}
	w.m.log.Warn().Str("handler", w.name).Str("code", causeDiskFull).Msg("disk is full, " + what)
	return true
}

// spare deletes what the agent can do without: packages that could be
// downloaded again, and commands of which the newest of each handler is all
// that anybody asks for. It reports whether there was any.
func (m *Manager) spare() bool {
	freed := false
	if entries, err := top.ReadDir(m.store.sub("packages")); err == nil && len(entries) > 0 {
		freed = emptyDir(m.store.sub("packages")) == nil
	}
	keep := map[string]bool{}
	m.mu.Lock()
	for _, h := range m.view.handlers {
		for _, r := range h.recs {
			if r.Doing != nil {
				keep[r.Doing.Job] = true
			}
			for _, e := range r.Exts {
				if e.Last != nil {
					keep[e.Last.Job] = true
				}
			}
		}
	}
	m.mu.Unlock()
	entries, err := top.ReadDir(m.store.sub("jobs"))
	if err != nil {
		return freed
	}
	for _, e := range entries {
		dir := m.store.jobDir(e.Name())
		if _, over := job.ResultOf(dir); over && !keep[e.Name()] && top.RemoveAll(dir) == nil {
			freed = true
		}
	}
	return freed
}

// A stall is a handler whose state could not be written.
type stall struct {
	tries int
	next  time.Time
}

// Unwritable disks are looked at again soon, and ever less often if it was
// not the disk.
const (
	stallFirst = 5 * time.Second
	stallLast  = 10 * time.Minute
)

// stalled notes that a handler is stuck.
func (m *Manager) stalled() {
	m.stall.tries++
	m.stall.next = time.Now().Add(min(stallFirst<<min(m.stall.tries-1, 7), stallLast))
}

// unstall tries what was stuck again, when the disk takes writes. It reports
// whether there is something to be done.
func (m *Manager) unstall() bool {
	if m.pass == nil || len(m.pass.stuck) == 0 || time.Now().Before(m.stall.next) {
		return false
	}
	probe := m.store.trash(m.store.sub("tmp"))
	err := top.WriteFileLazy(probe, make([]byte, 8192), 0o600)
	_ = top.Remove(probe)
	if err != nil && !noRoom(err) { // on a full one it is worth a try
		return false
	}
	for name := range m.pass.stuck {
		m.handler(name).settled = false
	}
	m.pass.stuck = map[string]Problem{}
	return true
}

// writable lets the caller go on where only the disk says no: what was to be
// written is written with the next change.
func writable(err error) error {
	if noRoom(err) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
