package extensions

import (
	"strings"
	"time"

	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/protocol"
)

// The platform may name a certificate a moment before it delivers it, after a
// hibernation for instance (protocol/SPEC.md §4.5). A handler that was
// started meanwhile could not read its protected settings, would say so, and
// would not be run again. So it waits a while; and one that has run in vain
// runs once more when its certificate arrives after all.

// lacking is the certificate that one of the pairs needs and that is not on
// disk, where handlers look for it, or "".
func (m *Manager) lacking(pairs []pair) string {
	for _, q := range pairs {
		if !q.enable {
			continue
		}
		for _, s := range q.handler.Settings {
			if q.ext != "" && s.Name != q.ext || s.Want == protocol.WantDisabled {
				continue
			}
			t := strings.ToUpper(s.Thumbprint)
			if t == "" || s.Protected.Empty() || strings.ContainsAny(t, "/.\x00") {
				continue
			}
			if !m.store.Root.Exists(m.store.Lib + "/" + t + ".prv") {
				return t
			}
		}
	}
	return ""
}

// waitsForCertificate says which certificate a command has to wait for, or "".
func (m *Manager) waitsForCertificate(want *protocol.Handler, pairs []pair, t plan.Task) string {
	p := m.pass
	if want.Want != protocol.WantEnabled || t.Op == plan.Fetch || t.Op == plan.Copy || t.Op == plan.Remove {
		return ""
	}
	thumb := m.lacking(pairs)
	if thumb == "" {
		return ""
	}
	if time.Since(p.began) < m.cfg.Timeouts.Certificate {
		return thumb
	}
	for _, q := range pairs {
		if m.lacking([]pair{q}) != "" && p.blind[q.key()].row == "" {
			p.blind[q.key()] = q
			m.log.Warn().Str("extension", q.row).Str("certificate", thumb).Msg("certificate of the protected settings not available, continuing without it")
		}
	}
	return ""
}

// lookForCertificates runs those again that failed without their certificate,
// once, when it is there.
func (m *Manager) lookForCertificates() {
	p := m.pass
	for key, q := range p.blind {
		if m.lacking([]pair{q}) != "" {
			continue
		}
		switch m.rowOf(q).end {
		case endOpen:
			continue // it may still come to a good end
		case endFailed, endError:
			p.forced[key] = "certificate received"
			m.rearm(strings.ToLower(q.handler.Name))
		case endGood:
		}
		delete(p.blind, key)
	}
}
