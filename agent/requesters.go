package agent

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol"
)

// requesters remembers the goal state in which each set of settings came first,
// so that an operation can be traced to the activity that requested it.
type requesters struct {
	mu    sync.Mutex // guards byKey
	byKey map[string]requester
}

type requester struct {
	at       time.Time
	activity string
}

func requesterKey(name, config, version string, seq int) string {
	return strings.ToLower(name) + "\x00" + config + "\x00" + version + "\x00" + strconv.Itoa(seq)
}

// set records the settings of a goal state. Settings that were in the previous
// one keep their requester.
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

// by returns the activity that requested the last operation of an extension.
// The requester of an operation that began before the settings were received is
// not known any more, for example after a restart.
func (x *requesters) by(d extensions.Detail) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := x.byKey[requesterKey(d.Name, d.Config, d.Version, d.Seq)]
	if o.activity == "" || d.Started.IsZero() || d.Started.Before(o.at) {
		return ""
	}
	return "activity " + o.activity
}
