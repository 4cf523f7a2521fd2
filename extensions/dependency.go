package extensions

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/protocol"
)

// order is the place of a pair: what goes away first, deepest dependants
// before what they depend on, then the levels upwards (extensions/SPEC.md §12.1).
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
		if !m.pass.skipped[q.key()].None() {
			continue
		}
		blocker, never := m.gate(q)
		switch {
		case !never.None():
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
func (m *Manager) gate(q pair) (waits string, never fault.Problem) {
	late := time.Since(m.pass.began) > m.cfg.Timeouts.Depend
	var all map[string]bool
	// The platform names what an extension waits for; without a list everything
	// of a lower level counts. Names are followed transitively.
	depends := func(o pair) bool {
		if len(q.after) == 0 {
			return q.level > 0
		}
		if all == nil {
			all = m.pass.dependencies(q)
		}
		return all[o.key()]
	}
	for _, o := range m.pass.pairs {
		if o.order() >= q.order() || o.key() == q.key() {
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
		switch {
		case failure != "" && depends(o):
			return "", fault.Problem{Code: fault.CodeOther, Cause: fault.CauseBlocked, Text: failure}
		case !done && late && depends(o):
			return "", fault.Problem{Code: fault.CodeOther, Cause: fault.CauseBlocked, Text: fmt.Sprintf("Dependent Extension %s did not reach a terminal state within the allowed timeout. Last status was %s", o.row, m.lastWord(o))}
		case !done && !late:
			waits = "dependency " + o.row
		}
	}
	return waits, fault.Problem{}
}

// dependencies are the keys of all pairs that one depends on by name. Each
// name and each pair is looked at once, however often it is named: a goal state
// has room for thousands of both.
func (p *pass) dependencies(q pair) map[string]bool {
	if p.names == nil {
		p.names = namesOf(p.pairs)
	}
	all, seen := map[string]bool{}, map[protocol.Dependency]bool{}
	for todo := []pair{q}; len(todo) > 0; {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, d := range next.after {
			d = protocol.Dependency{Handler: strings.ToLower(d.Handler), Extension: strings.ToLower(d.Extension)}
			if seen[d] {
				continue
			}
			seen[d] = true
			found := [][]pair{p.names.exact[d], nil}
			if d.Extension != "" {
				found[1] = p.names.single[d.Handler]
			}
			for _, c := range slices.Concat(found...) {
				if !all[c.key()] {
					all[c.key()] = true
					todo = append(todo, c)
				}
			}
		}
	}
	return all
}

// names tell which extensions a dependency means, in lower case.
type names struct {
	// exact are those of this name; without an extension all of the handler.
	exact map[protocol.Dependency][]pair
	// single is a single-config extension, which is named by its handler alone.
	single map[string][]pair
}

func namesOf(pairs []pair) *names {
	n := &names{exact: map[protocol.Dependency][]pair{}, single: map[string][]pair{}}
	for _, c := range pairs {
		handler, ext, full := strings.ToLower(c.handler.Name), strings.ToLower(c.ext), protocol.Dependency{Extension: strings.ToLower(c.row)}
		n.exact[protocol.Dependency{Handler: handler}] = append(n.exact[protocol.Dependency{Handler: handler}], c)
		if ext == "" {
			n.single[handler] = append(n.single[handler], c)
		} else {
			d := protocol.Dependency{Handler: handler, Extension: ext}
			n.exact[d] = append(n.exact[d], c)
		}
		n.exact[full] = append(n.exact[full], c)
	}
	return n
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
	var at end
	if known, ok := m.ends[o.key()]; ok {
		at = known
	} else if at = m.rowOf(o).end; m.ends != nil {
		m.ends[o.key()] = at
	}
	switch at {
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
	return handler.Warning
}
