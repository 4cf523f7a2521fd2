package extensions

import (
	"strings"
	"time"

	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/protocol"
)

// The platform may refer to a certificate a moment before it delivers it, for
// example after a hibernation (protocol/SPEC.md §4.5). A handler that is started
// before could not decrypt its protected settings, would fail and would not be
// run again. So it has to wait a while; and if it has failed without the
// certificate, it is run once more when the certificate arrives.

// lacking returns the thumbprint of a certificate that one of the pairs needs
// and whose key is not on disk, or "".
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

// waitsForCertificate returns the thumbprint of the certificate that a command
// has to wait for, or "".
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

// lookForCertificates makes extensions that failed without their certificate
// run once more when it has arrived.
func (m *Manager) lookForCertificates() {
	p := m.pass
	for key, q := range p.blind {
		if m.lacking([]pair{q}) != "" {
			continue
		}
		switch m.rowOf(q).end {
		case endOpen:
			continue // it may still succeed
		case endFailed, endError:
			p.forced[key] = "certificate received"
			m.rearm(strings.ToLower(q.handler.Name))
		case endGood:
		}
		delete(p.blind, key)
	}
}
