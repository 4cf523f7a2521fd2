package extensions

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
)

// packagerBusy returns who uses the package manager, if the command has to wait
// for it because it may need it, too; otherwise "".
func (m *Manager) packagerBusy(h *managed, t plan.Task) string {
	switch t.Op {
	case plan.Fetch, plan.Copy, plan.Remove:
		return ""
	case plan.Install, plan.Update, plan.Enable, plan.Disable, plan.Uninstall:
	}
	if !h.recs[t.Version].Packager {
		return ""
	}
	for _, o := range m.handlers {
		if o == h || o.busy == nil {
			continue
		}
		switch o.busy.Op {
		case plan.Install, plan.Update, plan.Enable, plan.Disable, plan.Uninstall:
			if o.recs[o.busy.Version].Packager {
				return o.name
			}
		case plan.Fetch, plan.Copy, plan.Remove:
		}
	}
	if t.Op == plan.Install || t.Op == plan.Update || t.Op == plan.Enable {
		return m.packagesLocked(h)
	}
	return "" // removals do not wait for other programs
}

// A lockWait is what a handler has seen of the package manager's lock.
type lockWait struct {
	since, seen time.Time // when it was first and last held
	who         string    // by whom
}

// packagesLocked returns the program that holds the lock of the package manager
// if it is worth waiting for, or "". Most handlers fail at once if the lock is
// held, for example by updates after a boot. Those are several programs in a
// row, so a lock that was held has to be free for Timeouts.PackagesFree. The
// wait is limited to Timeouts.Packages; a process that the handler itself left
// running is not waited for.
func (m *Manager) packagesLocked(h *managed) string {
	key, now := strings.ToLower(h.name), time.Now()
	l, waiting := m.pass.locked[key]
	who, pid := host.PackageLock(m.store.Root)
	switch {
	case who == "" && now.Sub(l.seen) >= m.cfg.Timeouts.PackagesFree:
		delete(m.pass.locked, key)
		return ""
	case who != "" && m.leftRunning(h, pid):
		return ""
	case who != "":
		if !waiting {
			l.since = now
			m.log.Info().Str("handler", h.name).Str("holder", who).Msg("waiting for the package manager")
		}
		l.seen, l.who = now, who
		m.pass.locked[key] = l
	}
	if now.Sub(l.since) > m.cfg.Timeouts.Packages {
		return ""
	}
	return l.who
}

// leftRunning reports whether a process belongs to commands of the handler that
// have ended.
func (m *Manager) leftRunning(h *managed, pid int) bool {
	if pid == 0 {
		return false
	}
	return slices.ContainsFunc(slices.Collect(maps.Values(h.recs)), func(r store.Record) bool {
		ids := map[string]bool{}
		for _, e := range r.Exts {
			for _, j := range e.Jobs {
				ids[j] = true
			}
		}
		return slices.Contains(job.Processes(ids, m.store.Base(r.Name, r.Version)), pid)
	})
}

// scanLimit is how many bytes of a package usesPackageManager reads.
const scanLimit = 256 << 20

// usesPackageManager reports whether the files of a package mention a package
// manager. WALinuxAgent runs one handler after the other, so many handlers do
// not wait for the lock of apt or rpm. Handlers that may need it therefore do
// not run in parallel with each other.
func usesPackageManager(dir string) bool {
	words := [][]byte{[]byte("apt-get"), []byte("dpkg "), []byte("yum "), []byte("dnf "), []byte("dnf5 "), []byte("apk add"), []byte("zypper "), []byte("tdnf "), []byte("rpm -")}
	left, found := int64(scanLimit), errors.New("found")
	err := folder.Root.Walk(dir, store.MaxCarried, func(_ string, in *host.Dir, fi fs.FileInfo, err error) error {
		if err != nil || !fi.Mode().IsRegular() {
			return err
		}
		f, err := in.Open(fi.Name())
		if err != nil {
			return err
		}
		defer f.Close()
		buf := make([]byte, 64<<10)
		keep := 0
		for left > 0 {
			n, err := f.Read(buf[keep:])
			left -= int64(n)
			for _, word := range words {
				if bytes.Contains(buf[:keep+n], word) {
					return found
				}
			}
			if err != nil {
				return nil // end of file; other errors are left to unpack
			}
			// A word may lie across two reads.
			keep = copy(buf, buf[max(0, keep+n-16):keep+n])
		}
		return nil
	})
	return errors.Is(err, found)
}
