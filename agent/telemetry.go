package agent

import (
	"context"
	"errors"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
)

// batch is the largest number of events that one turn sends: the server accepts
// 15 posts in 15 seconds, and nothing here is urgent.
const batch = 300

// sendEvents is the telemetry job. With telemetry off nothing is sent, but the
// event files that handlers write are still removed (extensions/SPEC.md §16.1).
func (a *Agent) sendEvents(ctx context.Context) error {
	if !a.cfg.Telemetry.Enabled {
		return a.spool.Empty()
	}
	evs, err := a.spool.Take(batch)
	if len(evs) == 0 {
		return err
	}
	serr := a.platform.SendEvents(ctx, evs)
	dropped := a.spool.Dropped()
	a.live.update(func(s *status.Snapshot) {
		t := &s.Telemetry
		t.LastAt, t.Error, t.Problem = time.Now().UTC(), "", status.Problem{}
		t.Dropped += dropped
		if serr != nil {
			t.Error = secret.Redact(serr.Error())
		} else {
			t.Sent += int64(len(evs))
		}
	})
	return errors.Join(err, serr)
}

// collectEvents is the job that empties the handlers' event folders.
func (a *Agent) collectEvents(context.Context) error {
	c, err := event.CollectExtensions(a.Root.Path(a.cfg.Paths.ExtensionLogs), a.cfg.Telemetry.Enabled)
	for _, e := range c.Events {
		a.events.Emit(e)
	}
	return err
}

// hostHealth is the job that reports to the host's health service whether the
// host's services can be reached from here.
func (a *Agent) hostHealth(ctx context.Context) error {
	if !a.cfg.Telemetry.Enabled {
		return nil
	}
	if err := a.platform.Heartbeat(ctx); err != nil {
		a.live.set(func(s *status.Snapshot) { s.Telemetry.Error = secret.Redact(err.Error()) })
	}
	return nil
}
