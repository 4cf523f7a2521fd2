package extensions

import (
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/store"
)

// withRoom calls do, which writes to disk. If the disk is full, it frees space
// and calls it again, as long as there is something to free.
func (w *work) withRoom(do func() error) error {
	err := do()
	for fault.NoRoom(err) && w.giveUp() {
		err = do()
	}
	return err
}

// makeRoom frees space before a command if there is too little.
func (w *work) makeRoom() {
	for w.m.store.Space().Low() {
		if !w.giveUp() {
			return
		}
	}
}

func (w *work) giveUp() bool {
	what := "using some of the reserved space"
	if !w.m.store.UseReserve() {
		if !w.m.spare() {
			return false
		}
		what = "deleting packages and old commands"
	}
	w.m.log.Warn().Str("handler", w.name).Str("code", fault.CauseDiskFull).Msg("disk is full, " + what)
	return true
}

// spare deletes data that the agent does not need: packages, which can be
// downloaded again, and finished jobs except the last one of each extension. It
// reports whether it has deleted anything.
func (m *Manager) spare() bool {
	freed := false
	if entries, err := folder.Root.ReadDir(m.store.Sub("packages")); err == nil && len(entries) > 0 {
		freed = store.EmptyDir(m.store.Sub("packages")) == nil
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
	entries, err := folder.Root.ReadDir(m.store.Sub("jobs"))
	if err != nil {
		return freed
	}
	for _, e := range entries {
		dir := m.store.JobDir(e.Name())
		if _, over := job.ResultOf(dir); over && !keep[e.Name()] && folder.Root.RemoveAll(dir) == nil {
			freed = true
		}
	}
	return freed
}

// A stall counts the attempts to go on after a handler's state could not be
// stored.
type stall struct {
	tries int
	next  time.Time
}

// Times between the attempts: they double up to stallLast.
const (
	stallFirst = 5 * time.Second
	stallLast  = 10 * time.Minute
)

// stalled notes that a handler is stuck, and sets the time of the next attempt.
func (m *Manager) stalled() {
	m.stall.tries++
	m.stall.next = time.Now().Add(min(stallFirst<<min(m.stall.tries-1, 7), stallLast))
}

// unstall makes stuck handlers run again if the disk can be written. It reports
// whether there are any.
func (m *Manager) unstall() bool {
	if m.pass == nil || len(m.pass.stuck) == 0 || time.Now().Before(m.stall.next) {
		return false
	}
	probe := m.store.TrashName(m.store.Sub("tmp"))
	err := folder.Root.WriteFileLazy(probe, make([]byte, 8192), 0o600)
	_ = folder.Root.Remove(probe)
	if err != nil && !fault.NoRoom(err) { // if the disk is full, withRoom may help
		return false
	}
	for name := range m.pass.stuck {
		m.handler(name).settled = false
	}
	m.pass.stuck = map[string]fault.Problem{}
	return true
}
