package extensions

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// wary reports whether something has to be checked every few seconds: an
// extension without a final status, the directory of a removed handler, or a
// disk that could not be written.
func (m *Manager) wary() bool {
	if m.pass == nil || !m.pass.settled || m.busy > 0 || len(m.removed)+len(m.pass.dead)+len(m.pass.stuck) > 0 {
		return true
	}
	return slices.ContainsFunc(m.live().rows(&m.files), func(r row) bool {
		return r.missing || r.status.Extension != nil && r.status.Extension.Status == handler.Transitioning
	})
}

// lookForDead finds extensions whose status is transitioning although they have
// no process left that could change it. It returns whether the status report
// has changed.
func (m *Manager) lookForDead() bool {
	p := m.pass
	if p == nil || p.refused || p.hold {
		return false
	}
	changed := false
	v := m.live()
	for _, q := range p.pairs {
		h := v.handlers[strings.ToLower(q.handler.Name)]
		if !q.enable || q.bare || h.busy != nil {
			delete(p.dead, q.key())
			continue
		}
		old := p.dead[q.key()]
		delete(p.dead, q.key())
		r := v.row(q, &m.files)
		e, known := r.rec.Exts[q.ext]
		st := r.status.Extension
		if !known || e.Last == nil || e.Hash != settingsHash(r.status.Version, q) || st == nil || st.Status != handler.Transitioning && !r.missing ||
			r.rec.State != plan.Enabled && e.FailKey == "" || time.Since(e.Last.Finished).Abs() < m.cfg.Timeouts.Dead {
			changed = changed || old.final
			continue
		}
		base := m.store.Base(r.rec.Name, r.rec.Version)
		var mod time.Time
		if fi, err := folder.Root.Lstat(base + "/status/" + handler.FileName(q.ext, q.seq, ".status")); err == nil {
			mod = fi.ModTime()
		}
		switch {
		case m.alive(r, e, base):
			changed = changed || old.final
			continue
		case old.since.IsZero() || !old.modTime.Equal(mod):
			// The file has changed, so an unknown process may write it: wait again.
			p.dead[q.key()] = deadline{since: time.Now(), modTime: mod}
			changed = changed || old.final
			continue
		case !old.final && time.Since(old.since) >= m.cfg.Timeouts.Dead:
			old.final, changed = true, true
			old.message = m.deadMessage(q, e, st, r.missing)
			m.log.Warn().Str("extension", q.row).Int("seq", q.seq).Msg("extension has no final status, and none of its processes runs")
		}
		p.dead[q.key()] = old
	}
	return changed
}

// alive reports whether something could still change the extension's status:
// a process of its commands or of its package, or a systemd unit or cron job
// that does its work.
func (m *Manager) alive(r row, e store.ExtRecord, base string) bool {
	ids := map[string]bool{}
	for _, j := range e.Jobs {
		ids[j] = true
		if st, ok := job.StateOf(m.store.JobDir(j)); ok && st.Boot == m.boot && len(cgroup.Procs(st.Scope)) > 0 {
			return true
		}
	}
	if r.rec.Last != nil {
		ids[r.rec.Last.Job] = true
	}
	delete(ids, "")
	if target, err := folder.Root.Readlink(base); err == nil && len(job.Processes(nil, target)) > 0 {
		return true
	}
	if len(job.Processes(ids, base)) > 0 {
		return true
	}
	hm := m.files.Manifest(base + "/" + handler.ManifestName)
	return len(hm.Services) > 0 || m.handedOver(r.rec.Name, base)
}

// handedOver reports whether a systemd unit or cron job mentions the handler or
// its directory. Crontabs of other users than root do not count.
func (m *Manager) handedOver(name, base string) bool {
	for _, dir := range []string{
		"/etc/systemd/system", "/run/systemd/system", "/run/systemd/transient", "/usr/lib/systemd/system", "/lib/systemd/system",
		"/etc/cron.d", "/etc/init.d",
	} {
		entries, err := m.store.Root.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Type()&fs.ModeType == 0 && !strings.HasPrefix(e.Name(), "azguest-") && m.names(dir+"/"+e.Name(), name, base) {
				return true
			}
		}
	}
	return slices.ContainsFunc([]string{"/etc/crontab", "/etc/crontabs/root", "/var/spool/cron/root", "/var/spool/cron/crontabs/root", "/var/spool/cron/tabs/root"},
		func(file string) bool { return m.names(file, name, base) })
}

// names reports whether a file mentions the handler or its directory. A file
// that others than root can write does not count.
func (m *Manager) names(file, name, base string) bool {
	data, fi, err := folder.Read(m.store.Root.Path(file), 64<<10)
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && st.Mode&0o022 == 0 && (strings.Contains(string(data), base) || strings.Contains(string(data), name))
}

func (m *Manager) deadMessage(q pair, e store.ExtRecord, st *protocol.ExtensionStatus, missing bool) string {
	last := "it wrote no status file"
	if !missing && st.Message != nil {
		last = "its last status message was: " + handler.Clip(*st.Message, 1000)
	}
	out := ""
	if e.Last.Job != "" {
		dir := m.store.JobDir(e.Last.Job)
		out = "\n" + handler.OutputText(handler.Tail(dir+"/"+job.Stdout, 4096), handler.Tail(dir+"/"+job.Stderr, 4096))
	}
	return fmt.Sprintf("AZ-EXT-LIMBO: no process of extension %s is running and it did not report a final status; %s%s", q.row, last, out)
}
