package extensions

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// skip excludes a pair from processing in this goal state.
func (m *Manager) skip(q pair, why fault.Problem) {
	p := m.pass
	p.skipped[q.key()] = why
	delete(p.waits, q.key())
	delete(m.ends, q.key())
	m.log.Warn().Str("extension", q.row).Str("code", why.Cause).Str("why", why.Text).Msg("extension skipped")
	h := m.handler(q.handler.Name)
	w := newWork(m, h, q.handler, plan.Task{Op: plan.Enable, Version: q.handler.Version, Ext: q.ext})
	w.emit(q.handler.Version, plan.Enable, false, why.Text, 0)
	r := w.rec(m.versionOf(q.handler))
	if q.ext == "" || r.Report.Status == "" {
		r.Report = handler.ReportOf(why)
	}
	if q.ext != "" {
		w.placeholder(r, q.ext, q.seq, "Enable", why.Code, why.Text)
	}
	if err := w.put(r); err != nil {
		m.log.Warn().Err(err).Str("extension", q.row).Msg("could not save record")
	}
	h.recs = w.recs
}

// versionOf returns the version that is processed for a handler.
func (m *Manager) versionOf(want *protocol.Handler) string {
	if d, ok := m.pass.versions[strings.ToLower(want.Name)]; ok && d.version != "" {
		return d.version
	}
	return want.Version
}

// placeholder writes an error status file on behalf of a handler. An existing
// file is the handler's word and stays.
func (m *Manager) placeholder(r store.Record, ext string, seq int, op string, code int, message string) error {
	base := m.store.Base(r.Name, r.Version)
	if err := folder.Root.Mkdir(base, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write status: %w", err)
	}
	if err := errors.Join(m.store.CheckBase(r.Name, r.Version), folder.MakeAll(base)); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	path := base + "/status/" + handler.FileName(ext, seq, ".status")
	if _, err := folder.Root.Lstat(path); err == nil {
		return nil
	}
	full := r.Name
	if ext != "" {
		full += "." + ext
	}
	return folder.Write(base, path, handler.ErrorStatusFile(full, op, code, message, time.Now()), 0o600)
}

// refuse handles a handler that must not run at all, because extensions are
// switched off or the policy denies it. It reports whether that is the case.
func (m *Manager) refuse(h *managed, want *protocol.Handler, mine []pair) bool {
	p := m.pass
	code := fault.CodeEnable
	if want.Want != protocol.WantEnabled {
		code = fault.CodeDisable
	}
	why, signer := fault.Problem{}, policy.UnknownSigner
	have, there := h.recs[m.versionOf(want)]
	if there && have.Digest != "" {
		signer = have.Signer
	}
	deny := func() fault.Problem {
		why := p.policy.Deny(want.Name, m.versionOf(want), signer, want.Want != protocol.WantEnabled)
		if why.None() && there && want.Want == protocol.WantEnabled {
			why = m.unproven(p.policy, have)
		}
		return why
	}
	if m.cfg.Mode != ModeOn {
		why = fault.Problem{Code: code, Cause: fault.CauseDisabled, Text: fmt.Sprintf("Extension '%s' will not be processed since extension processing is disabled. To enable extension processing, set Extensions.Enabled=y in '%s'", want.Name, m.cfg.Conf)}
	} else if why = deny(); !why.None() && p.policy.Mode == policy.Audit {
		m.log.Warn().Str("handler", want.Name).Str("policy", why.Text).Msg("policy would deny this extension (audit mode)")
		m.auditLog(store.AuditEntry{What: "deny", Handler: want.Name, Version: want.Version, GoalState: p.key, Class: "audit", Text: why.Text})
		why = fault.Problem{}
	}
	if why.None() {
		return false
	}
	if m.cfg.Mode == ModeReportOnly {
		rep := handler.Report{}
		if len(h.recs) == 0 {
			// It is not installed: report that, so that the platform does not wait
			// for it. An installed one is reported as it is.
			rep = handler.ReportOf(fault.Problem{Code: code, Cause: fault.CauseDisabled, Text: fmt.Sprintf("Extension '%s' will not be processed since extensions are only reported. To enable extension processing, set Extensions.Mode=on in '%s'", want.Name, m.cfg.Conf)})
		}
		for _, q := range mine {
			p.denied[q.key()] = rep
		}
		return true
	}
	m.auditLog(store.AuditEntry{What: "deny", Handler: want.Name, Version: want.Version, GoalState: p.key, Code: code, Text: why.Text})
	w := newWork(m, h, want, plan.Task{Op: plan.Enable, Version: want.Version})
	op := plan.Enable
	if code == fault.CodeDisable {
		op = plan.Uninstall
	}
	w.emit(want.Version, op, false, why.Text, 0)
	version := want.Version
	if code == fault.CodeDisable { // report it for the installed version
		for v := range h.recs {
			version = v
		}
	}
	r := w.rec(version)
	r.Report = handler.ReportOf(why)
	for _, q := range mine {
		p.denied[q.key()] = r.Report
		if q.enable && !q.bare {
			w.placeholder(r, q.ext, q.seq, "Enable", code, why.Text)
		}
	}
	if err := w.put(r); err != nil {
		m.log.Warn().Err(err).Str("handler", want.Name).Msg("could not save record")
	}
	h.recs = w.recs
	return true
}

// loadPolicy reads the policy. It is read again for each goal state.
func (m *Manager) loadPolicy() policy.Effective { return policy.Read(m.store.Root, m.cfg.Policy) }

// PolicyExplain returns the mode of this machine's policy, and why it denies an
// extension. refusal is the zero value if it allows it.
func (m *Manager) PolicyExplain(name, version, signer string) (mode string, refusal fault.Problem) {
	p := m.loadPolicy()
	return p.Mode, p.Deny(name, version, signer, false)
}
