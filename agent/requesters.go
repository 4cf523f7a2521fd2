package agent

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol"
)

// requesters remembers in which goal state each set of settings came first, so
// that an operation can be traced to who ordered it.
type requesters struct {
	mu    sync.Mutex // guards orders
	byKey map[string]requester
}

type requester struct {
	at       time.Time
	activity string
}

func requesterKey(name, config, version string, seq int) string {
	return strings.ToLower(name) + "\x00" + config + "\x00" + version + "\x00" + strconv.Itoa(seq)
}

// set takes over what is asked for now; what was asked for before keeps its
// order.
func (x *requesters) set(gs *protocol.GoalState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := map[string]requester{}
	add := func(name, config, version string, seq int) {
		key := requesterKey(name, config, version, seq)
		o, ok := x.byKey[key]
		if !ok {
			o = requester{gs.Received, gs.ActivityID}
		}
		now[key] = o
	}
	for _, h := range gs.Handlers {
		if len(h.Settings) == 0 {
			add(h.Name, "", h.Version, -1)
		}
		for _, s := range h.Settings {
			config := ""
			if h.MultiConfig {
				config = s.Name
			}
			add(h.Name, config, h.Version, s.Seq)
		}
	}
	x.byKey = now
}

// by names the activity that ordered the last operation of an extension. An
// operation that is older than the order was ordered by somebody we have
// forgotten, for instance before a restart.
func (x *requesters) by(d extensions.Detail) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := x.byKey[requesterKey(d.Name, d.Config, d.Version, d.Seq)]
	if o.activity == "" || d.Started.IsZero() || d.Started.Before(o.at) {
		return ""
	}
	return "activity " + o.activity
}
