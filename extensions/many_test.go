package extensions

import (
	"context"
	"fmt"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/protocol"
)

// TestSEC7ManyDependencies: a goal state has the maximum number of extensions,
// each of which depends, also indirectly, on all before it. The time of one
// round must not grow with the third power of their number, or the watchdog
// would restart the agent again and again.
func TestSEC7ManyDependencies(t *testing.T) {
	t.Parallel()
	const handlers, exts = 8, 500
	gs := &protocol.GoalState{ID: "many", Incarnation: "1"}
	var before []protocol.Dependency
	for i := range handlers {
		h := multi(fmt.Sprintf("P.M%d", i), "1.0")
		for j := range exts {
			name := fmt.Sprintf("e%d", j)
			s := protocol.Settings{Name: name, Want: protocol.WantEnabled, Public: []byte(`{}`), Level: i*exts + j}
			s.After = before[max(0, len(before)-3):]
			before = append(before, protocol.Dependency{Handler: h.Name, Extension: name})
			h.Settings = append(h.Settings, s)
		}
		gs.Handlers = append(gs.Handlers, h)
	}
	w := newWorld(t)
	m := New(w.root, launcher(), w.repo, w.evs, zerolog.Nop(), w.cfg)
	if err := m.store.Init(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m.newPass(gs)
	m.schedule(ctx)
	if n := len(m.pass.waits); n < (handlers-1)*exts {
		t.Errorf("%d extensions wait", n)
	}
	last := m.pass.pairs[len(m.pass.pairs)-1]
	if n := len(m.pass.dependencies(last)); n != handlers*exts-1 {
		t.Errorf("the last one depends on %d", n)
	}
	cancel()
	m.running.Wait()
}
