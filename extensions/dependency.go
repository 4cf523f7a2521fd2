package extensions

import (
	"fmt"
	"strings"
	"time"

	"github.com/azguest/azguest/protocol"
)

// order is the place of a pair: what goes away first, deepest dependants
// before what they depend on, then the levels upwards (spec/extensions §4.2).
func (p pair) order() int {
	if !p.enable {
		return -p.level - 1
	}
	return p.level
}

// gated runs start if at least one of the pairs may go now. It reports
// whether something is to be waited for instead; false without having
// started means that none of them ever may in this goal state.
func (m *Manager) gated(pairs []pair, start func()) bool {
	wait := false
	for _, q := range pairs {
		if m.pass.skipped[q.key()].Text != "" {
			continue
		}
		blocker, never := m.gate(q)
		switch {
		case never.Text != "":
			m.skip(q, never)
		case blocker != "":
			m.pass.waits[q.key()] = blocker
			wait = true
		default:
			delete(m.pass.waits, q.key())
			start()
			return true
		}
	}
	return wait
}

// gate says what a pair waits for, or why it will never run in this pass.
func (m *Manager) gate(q pair) (waits string, never Problem) {
	late := time.Since(m.pass.began) > m.cfg.Timeouts.Depend
	for _, o := range m.pass.pairs {
		if o.key() == q.key() || o.order() >= q.order() {
			continue
		}
		if !o.enable { // what goes away goes first; whether it succeeds matters to nobody
			if o.handler != q.handler && m.pairOpen(o) {
				waits = "the removal of " + o.row
			}
			continue
		}
		if o.handler == q.handler && !q.enable {
			continue
		}
		done, failure := m.pairDone(o)
		depends := m.dependsOn(q, o)
		switch {
		case failure != "" && depends:
			return "", Problem{codeOther, causeBlocked, failure}
		case !done && late && depends:
			return "", Problem{codeOther, causeBlocked, fmt.Sprintf("Dependent Extension %s did not reach a terminal state within the allowed timeout. Last status was %s", o.row, m.lastWord(o))}
		case !done && !late:
			waits = "dependency " + o.row
		}
	}
	return waits, Problem{}
}

// dependsOn: the platform names what an extension waits for; without a list
// everything of a lower level counts. Names are followed transitively.
func (m *Manager) dependsOn(q, o pair) bool {
	if len(q.after) == 0 {
		return q.level > 0
	}
	seen := map[string]bool{}
	var walk func(pair) bool
	walk = func(p pair) bool {
		for _, d := range p.after {
			for _, c := range m.pass.pairs {
				if seen[c.key()] || !names(d, c) {
					continue
				}
				seen[c.key()] = true
				if c.key() == o.key() || walk(c) {
					return true
				}
			}
		}
		return false
	}
	return walk(q)
}

// names reports whether a dependency means this extension. A single-config
// extension is named by its handler alone.
func names(d protocol.Dependency, c pair) bool {
	if !strings.EqualFold(d.Handler, c.handler.Name) {
		return strings.EqualFold(d.Handler, "") && strings.EqualFold(d.Extension, c.row)
	}
	return c.ext == "" || d.Extension == "" || strings.EqualFold(d.Extension, c.ext)
}

// pairOpen reports whether a removal is still to be done.
func (m *Manager) pairOpen(o pair) bool {
	h := m.handler(o.handler.Name)
	if h.settled || m.pass.denied[o.key()].Status != "" || o.handler.Invalid != "" {
		return false
	}
	if o.ext != "" && o.handler.Want == protocol.WantEnabled {
		for _, r := range h.recs {
			if e, ok := r.Exts[o.ext]; ok && e.Enabled {
				return true
			}
		}
		return false
	}
	return h.busy != nil || len(h.recs) > 0
}

// pairDone reports whether an extension has reached an end in this pass, and
// what is wrong with it.
func (m *Manager) pairDone(o pair) (done bool, failure string) {
	row := m.rowOf(o)
	switch row.end {
	case endFailed:
		return true, "Skipping processing of extensions since execution of dependent extension " + o.row + " failed"
	case endError:
		return true, "Dependent Extension " + o.row + " did not succeed. Status was error"
	case endGood:
		return true, ""
	case endOpen:
	}
	return false, ""
}

func (m *Manager) lastWord(o pair) string {
	if row := m.rowOf(o); row.status.Extension != nil && !row.missing {
		return row.status.Extension.Status
	}
	return warning
}
