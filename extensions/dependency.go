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

// order is the position of a pair in processing: first removals, highest level
// first, then the others by ascending level (extensions/SPEC.md §12.1).
func (p pair) order() int {
	if !p.enable {
		return -p.level - 1
	}
	return p.level
}

// gated calls start if at least one of the pairs may be processed now. It
// returns whether it has called start or the pairs have to wait. False means
// that none of them can be processed in this goal state.
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

// gate returns what a pair waits for, or why it can't run in this goal state.
func (m *Manager) gate(q pair) (waits string, never fault.Problem) {
	late := time.Since(m.pass.began) > m.cfg.Timeouts.Depend
	var all map[string]bool
	// A goal state may list what an extension depends on, which includes the
	// dependencies of those. Without a list, everything of a lower level counts.
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
		if !o.enable { // removals come first, whether they succeed or not
			if o.handler != q.handler && m.pairOpen(o) {
				waits = "the removal of " + o.row
			}
			continue
		}
		if o.handler == q.handler && !q.enable {
			continue
		}
		done, failure, unusable := m.pairDone(o)
		switch {
		case failure != "" && depends(o):
			if unusable { // until it is replaced, see deadlineOf
				m.pass.dead[o.key()] = deadline{since: time.Now(), unusable: true}
			}
			return "", fault.Problem{Code: fault.CodeOther, Cause: fault.CauseBlocked, Text: failure}
		case !done && late && depends(o):
			return "", fault.Problem{Code: fault.CodeOther, Cause: fault.CauseBlocked, Text: fmt.Sprintf("Dependent Extension %s did not reach a terminal state within the allowed timeout. Last status was %s", o.row, m.lastWord(o))}
		case !done && !late:
			waits = "dependency " + o.row
		}
	}
	return waits, fault.Problem{}
}

// dependencies returns the keys of all pairs that q depends on by name, directly
// or indirectly. Each name and each pair is visited once, because a goal state
// can have thousands of both.
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

// names is an index of pairs by the names used in dependencies, in lower case.
type names struct {
	// exact has the pairs with this name; without an extension, all pairs of
	// the handler.
	exact map[protocol.Dependency][]pair
	// single has the single-config extensions, by handler name.
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

// pairOpen reports whether a removal is not finished yet.
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

// pairDone reports whether an extension has reached its end in this goal state,
// and if it failed, the message for those that depend on it, and whether that is
// because its status file can't be used.
func (m *Manager) pairDone(o pair) (done bool, failure string, unusable bool) {
	at, ok := m.ends[o.key()]
	if !ok {
		r := m.rowOf(o)
		if at = (knownEnd{r.end, r.cause == fault.CauseStatus}); m.ends != nil {
			m.ends[o.key()] = at
		}
	}
	switch at.end {
	case endFailed:
		return true, "Skipping processing of extensions since execution of dependent extension " + o.row + " failed", at.unusable
	case endError:
		return true, "Dependent Extension " + o.row + " did not succeed. Status was error", at.unusable
	case endGood:
		return true, "", false
	case endOpen:
	}
	return false, "", false
}

// A knownEnd is the end of a pair, and whether its status file can't be used.
type knownEnd struct {
	end      end
	unusable bool
}

func (m *Manager) lastWord(o pair) string {
	if row := m.rowOf(o); row.status.Extension != nil && !row.missing {
		return row.status.Extension.Status
	}
	return handler.Warning
}
