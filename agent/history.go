package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// changes detects transitions of extensions for the history, which users look
// at first.
type changes struct {
	mu    sync.Mutex        // guards the fields below
	known map[string]string // last settled outcome of each extension that is reported
	// past has the outcomes that the previous agent process showed, for
	// extensions that this one has not seen yet. It only sets
	// [status.Transition.From].
	past map[string]string
}

// historyKey names an extension in the history: "handler/extension", or
// "handler/" if the handler has only one.
func historyKey(e status.Extension) string { return e.Name + "/" + e.Config }

// settled returns the outcome with version and sequence number, "" if there is
// none yet.
func settled(e status.Extension) string {
	is := outcome(e)
	if is == "" {
		return ""
	}
	return e.Version + seqText(e.Seq) + " " + is
}

// recall takes over what the previous agent process showed last.
func (c *changes) recall(old status.Snapshot) {
	past := map[string]string{}
	for _, t := range old.History {
		to := t.To
		if to == outcomeGone {
			to = ""
		}
		past[t.What], past[t.What+"/"] = to, to
	}
	for _, e := range old.Extensions {
		if is := settled(e); is != "" {
			past[historyKey(e)] = is
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past = past
}

// outcomeGone is the outcome of an extension that is no longer reported.
const outcomeGone = "gone"

// outcome returns how the last operation of an extension ended, "" while it is
// in progress or waiting.
func outcome(e status.Extension) string {
	switch {
	case e.Phase != "" || e.BlockedBy != "" || e.Status == status.StatusTransitioning:
		return ""
	case e.Bad():
		return "failed"
	}
	return strings.ToLower(e.Actual)
}

// look returns the transitions since its last call. Operations that ended
// before since are those of the previous agent process, which has reported
// them.
func (c *changes) look(exts []status.Extension, since, now time.Time) []status.Transition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []status.Transition
	known := map[string]string{}
	for _, e := range exts {
		key, is := historyKey(e), settled(e)
		was, seen := c.known[key]
		if !seen {
			was = c.past[key]
			delete(c.past, key) // it may go and come back
		}
		if is == "" || is == was {
			known[key] = was
			continue
		}
		known[key] = is
		if !seen && e.Finished.Before(since) {
			continue
		}
		t := status.Transition{At: now, What: strings.TrimSuffix(key, "/"), From: was, To: is, Code: e.Code, Why: e.WhyRan}
		if e.Requester != "" {
			t.Why = strings.TrimPrefix(t.Why+", "+e.Requester, ", ")
		}
		out = append(out, t)
	}
	for key, was := range c.known {
		if _, still := known[key]; !still && was != "" {
			out = append(out, status.Transition{At: now, What: strings.TrimSuffix(key, "/"), From: was, To: outcomeGone})
		}
	}
	c.known = known
	slices.SortStableFunc(out, func(x, y status.Transition) int { return strings.Compare(x.What, y.What) })
	return out
}

func seqText(n int) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprintf(" seq %d", n)
}

// remember adds transitions to the history of the live status and of s, a copy
// of it.
func (a *Agent) remember(s *status.Snapshot, ts []status.Transition) {
	if len(ts) == 0 {
		return
	}
	a.live.update(func(live *status.Snapshot) {
		h := append(slices.Clone(live.History), ts...)
		live.History = h[max(0, len(h)-status.HistoryMax):]
		s.History = slices.Clone(live.History)
	})
}

// recall restores the history of the previous process of this boot, so that it
// shows what led to the restart.
func (a *Agent) recall() {
	old, err := status.Load(a.paths.Snapshot)
	if err != nil || old.Agent.BootID != a.Root.BootID() {
		return // the first process of this boot, or no snapshot
	}
	a.rep.changes.recall(old)
	a.live.update(func(s *status.Snapshot) { s.History = append(slices.Clone(old.History), s.History...) })
}
