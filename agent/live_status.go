package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// liveStatus holds the current status of every part of the agent; the reporter
// copies it. Only the methods in this file lock it, and nothing blocks while it
// is locked.
type liveStatus struct {
	mu    sync.Mutex // guards snap
	snap  status.Snapshot
	dirty chan struct{} // capacity 1: something changed since the last copy
}

func newLiveStatus() *liveStatus { return &liveStatus{dirty: make(chan struct{}, 1)} }

// set changes the snapshot and asks for a report.
func (b *liveStatus) set(change func(*status.Snapshot)) {
	b.update(change)
	b.poke()
}

// update changes the snapshot without asking for a report.
func (b *liveStatus) update(change func(*status.Snapshot)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.snap)
}

// poke asks for a report without changing the snapshot.
func (b *liveStatus) poke() {
	select {
	case b.dirty <- struct{}{}:
	default:
	}
}

// note adds a line to the history that agentctl shows.
func (b *liveStatus) note(what, text string) {
	b.set(func(s *status.Snapshot) {
		s.History = append(s.History, status.Transition{At: time.Now().UTC(), What: what, Why: text})
		if n := len(s.History); n > status.HistoryMax {
			s.History = slices.Clone(s.History[n-status.HistoryMax:])
		}
	})
}

// problem records a problem that has no section of its own in the snapshot, or
// clears it (err nil).
func (b *liveStatus) problem(what, code, fix string, err error) {
	b.set(func(s *status.Snapshot) {
		i := slices.IndexFunc(s.Problems, func(p status.Item) bool { return p.What == what })
		if err == nil {
			if i >= 0 {
				s.Problems = slices.Delete(slices.Clone(s.Problems), i, i+1)
			}
			return
		}
		item := status.Item{
			Problem: status.Problem{Code: code, Since: time.Now().UTC(), Fix: fix},
			State:   status.Warn, What: what, Message: err.Error(),
		}
		s.Problems = slices.Clone(s.Problems)
		if i < 0 {
			s.Problems = append(s.Problems, item)
			return
		}
		item.Since = s.Problems[i].Since
		s.Problems[i] = item
	})
}

// shows reports whether a problem is shown.
func (b *liveStatus) shows(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.snap.Problems, func(p status.Item) bool { return p.What == what })
}

// copy returns the snapshot as it is now. The slices in it are replaced by
// the writers, never changed in place, so they can be shared.
func (b *liveStatus) copy() status.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.snap
	s.History = slices.Clone(s.History)
	return s
}
