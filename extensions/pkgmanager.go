package extensions

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
)

// packagerBusy says who keeps a command waiting that may use the package
// manager, or "".
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
	return "" // what goes away does not wait for strangers
}

// packagesLocked says who else is changing the installed packages. Most
// handlers fail at once where they meet that, at a boot for instance, when
// updates run; it is worth waiting for, but not for ever, and not for what the
// handler left running itself.
func (m *Manager) packagesLocked(h *managed) string {
	key := strings.ToLower(h.name)
	who, pid := host.PackageLock(m.store.Root)
	if who == "" {
		return ""
	}
	since, waiting := m.pass.locked[key]
	if !waiting {
		since = time.Now()
		m.pass.locked[key] = since
	}
	if time.Since(since) > m.cfg.Timeouts.Packages {
		return ""
	}
	for _, r := range h.recs {
		ids := map[string]bool{}
		for _, e := range r.Exts {
			for _, j := range e.Jobs {
				ids[j] = true
			}
		}
		if pid != 0 && slices.Contains(job.Processes(ids, m.store.Base(r.Name, r.Version)), pid) {
			return ""
		}
	}
	if !waiting {
		m.log.Info().Str("handler", h.name).Str("holder", who).Msg("waiting for the package manager")
	}
	return who
}

// scanLimit bounds how much of a package is read for words.
const scanLimit = 256 << 20

// usesPackageManager looks for the names of package managers in the files of
// a package. The old agent ran one handler after the other, so handlers never
// had to wait for the lock of apt or rpm, and many do not; those that may
// need it are kept apart, the others run side by side.
func usesPackageManager(dir string) bool {
	words := [][]byte{[]byte("apt-get"), []byte("dpkg "), []byte("yum "), []byte("dnf "), []byte("zypper "), []byte("tdnf "), []byte("rpm -")}
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
				return nil // the end, or something unpack would have noticed
			}
			// A word may lie across two reads.
			keep = copy(buf, buf[max(0, keep+n-16):keep+n])
		}
		return nil
	})
	return errors.Is(err, found)
}
