package extensions

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
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

// lookForDead finds extensions that have no final status and no process left
// that could write one. It returns whether the status report has changed.
func (m *Manager) lookForDead() bool {
	p := m.pass
	if p == nil || p.refused || p.hold {
		return false
	}
	changed := false
	v := m.live()
	for _, q := range p.pairs {
		old := p.dead[q.key()]
		delete(p.dead, q.key())
		now := m.deadlineOf(v, q, old)
		if !now.since.IsZero() {
			p.dead[q.key()] = now
		}
		changed = changed || now.final != old.final
		if old.ours() && !now.ours() { // it has said something after all
			changed = true
			m.unblock()
		}
	}
	return changed
}

// deadlineOf returns the deadline of an extension, which was old at the last
// look. It is zero if there is a final status, or something of the extension is
// alive.
func (m *Manager) deadlineOf(v view, q pair, old deadline) deadline {
	if !q.enable || q.bare || v.handlers[strings.ToLower(q.handler.Name)].busy != nil {
		return deadline{}
	}
	r := v.row(q, &m.files)
	e, known := r.rec.Exts[q.ext]
	st := r.status.Extension
	stamp, _ := store.StampOf(v.statusFile(r.rec, q))
	switch {
	case !known || e.Last == nil || e.Hash != settingsHash(r.status.Version, q) || r.rec.State != plan.Enabled && e.FailKey == "":
		return deadline{}
	case r.cause == fault.CauseStatus && len(m.pass.skipped) > 0:
		return deadline{since: time.Now(), stamp: stamp, unusable: true}
	case st == nil || st.Status != handler.Transitioning && !r.missing,
		m.alive(r, e, m.store.Base(r.rec.Name, r.rec.Version)):
		return deadline{}
	case old.since.IsZero():
		old = deadline{since: time.Now(), stamp: stamp}
		if r.missing && e.Last.Over.Boot == host.BootID() { // also of an earlier start of the agent
			old.since = old.since.Add(e.Last.Over.Left(m.cfg.Timeouts.Late) - m.cfg.Timeouts.Late)
		}
	case old.stamp != stamp: // by a process that is not known
		old = deadline{since: time.Now(), stamp: stamp, heard: true}
	case !old.final && time.Since(old.since) >= m.grace(r, e, old):
		old.final, old.message = true, m.deadMessage(q, e, st, r.missing)
		m.log.Warn().Str("extension", q.row).Int("seq", q.seq).Msg("extension has no final status, and none of its processes runs")
	}
	return old
}

// grace is how long to wait for a final status when no process of an extension
// is left. It is long if the agent can't know who writes the status: there is
// no file after an enable that succeeded, the file was written by an unknown
// process, or the handler has started something that does not look like it.
func (m *Manager) grace(r row, e store.ExtRecord, d deadline) time.Duration {
	t := m.cfg.Timeouts
	if r.missing || d.heard || time.Since(d.since) >= 2*t.Dead && m.heirs(r.rec, e) {
		return max(t.Late, 2*t.Dead)
	}
	return 2 * t.Dead
}

// heirs reports whether a process may be the work of the handler although it has
// neither its marker nor its name, such as a container or a unit of a package
// that it has installed: it was started while install, update or the first
// enable ran, and its parent has ended or is the system itself.
func (m *Manager) heirs(rec store.Record, e store.ExtRecord) bool {
	ran := []*store.Ended{rec.Last}
	if e.Attempts <= 1 {
		ran = append(ran, e.Last)
	}
	return slices.ContainsFunc(ran, func(d *store.Ended) bool {
		return d != nil && d.Began.Boot == host.BootID() && len(job.Heirs(d.Began, d.Over)) > 0
	})
}

// unblock lets extensions run that were skipped because of others. It is called
// when an error that the agent has reported for one of them turns out to be
// wrong; those that are still blocked are skipped again.
func (m *Manager) unblock() {
	for key, why := range m.pass.skipped {
		if why.Cause != fault.CauseBlocked {
			continue
		}
		delete(m.pass.skipped, key)
		name, _, _ := strings.Cut(key, "\x00")
		m.handler(name).settled = false
	}
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

// handedOver reports whether a systemd unit, a cron job or an at job mentions the
// handler or its directory. Those of other users than root do not count. An at
// job has the environment of the command that has submitted it.
func (m *Manager) handedOver(name, base string) bool {
	for _, dir := range []string{
		"/etc/systemd/system", "/run/systemd/system", "/run/systemd/transient", "/usr/lib/systemd/system", "/lib/systemd/system",
		"/etc/cron.d", "/etc/init.d", "/var/spool/at", "/var/spool/cron/atjobs",
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
	return fmt.Sprintf("AZ-EXT-LIMBO: no process of extension %s is running and it did not report a final status; %s (reason of the last run: %s)%s", q.row, last, cmp.Or(e.Last.Why, "none"), out)
}
