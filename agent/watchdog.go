package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
)

const (
	codeHung = "AZ-AGENT-HUNG"
	// hungAfter is how long a vital part may be silent beyond its period. Its
	// turns are limited to turnLimit, so one that is silent for longer hangs.
	hungAfter = turnLimit + time.Minute
	// hungLooks is how many checks of the watchdog must have passed meanwhile:
	// after a pause of the whole machine, every part has been silent.
	hungLooks = 4
	// hungFile tells the next process why this one ended, and hungStacks has
	// its stacks. They are in /run, in memory, because the disk may be what
	// hangs.
	hungFile   = "/run/azguest/hung.json"
	hungStacks = "/run/azguest/hung.stacks"
	maxStacks  = 1 << 20
	// hungShown is how long the next process shows the hang.
	hungShown = time.Hour
	// hungSay limits the report before the process ends, because the log may be
	// what hangs.
	hungSay = 10 * time.Second
)

// pulse records when each vital part of the agent last showed that it works.
type pulse struct {
	mu    sync.Mutex // guards vital
	vital map[string]*beat
}

type beat struct {
	at     time.Time
	period time.Duration
	looks  int // checks of the watchdog since then
}

// begin makes a part vital: it has to call beat in every period, until end.
func (p *pulse) begin(name string, period time.Duration) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vital == nil {
		p.vital = map[string]*beat{}
	}
	b := &beat{at: time.Now(), period: period}
	p.vital[name] = b
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.vital[name] == b {
			delete(p.vital, name)
		}
	}
}

// beat shows that a part works.
func (p *pulse) beat(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.vital[name]; b != nil {
		b.at, b.looks = time.Now(), 0
	}
}

// silent names the parts that hang. Only the watchdog calls it.
func (p *pulse) silent(now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for name, b := range p.vital {
		b.looks++
		if b.looks > hungLooks && now.Sub(b.at) > b.period+hungAfter {
			out = append(out, fmt.Sprintf("%s for %v", name, now.Sub(b.at).Round(time.Second)))
		}
	}
	slices.Sort(out)
	return out
}

// watchdog reports to the service manager that the agent works, while all vital
// parts do. When one of them hangs it reports that and ends the process, so that
// it is started again; where nothing would start it, it only reports.
func (a *Agent) watchdog(ctx context.Context) error {
	sign := time.NewTicker(lifeSign(os.Getenv("WATCHDOG_USEC"))) //nolint:forbidigo // the service manager's own interface
	defer sign.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-sign.C:
		}
		silent := a.pulse.silent(time.Now())
		switch {
		case len(silent) == 0 && said:
			said = false
			a.live.problem("watchdog", "", "", nil)
			fallthrough
		case len(silent) == 0:
			notify("WATCHDOG=1")
		case !said:
			said = true
			a.hung(ctx, "parts of the agent do not respond: "+strings.Join(silent, ", "))
		}
	}
}

// A hang is what a process that hung leaves on disk for the next one.
type hang struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	PID  int       `json:"pid"`
}

// hung reports that the agent hangs, and ends the process.
func (a *Agent) hung(ctx context.Context, what string) {
	stacks := make([]byte, maxStacks)
	stacks = stacks[:runtime.Stack(stacks, true)]
	said := inBackground(func() error {
		b, err := json.Marshal(hang{time.Now().UTC(), what, os.Getpid()})
		if err == nil && a.Hung != nil { // else no new process follows
			err = a.Root.WriteFile(hungFile, append(b, '\n'), 0o600)
		}
		err = errors.Join(err, a.Root.WriteFile(hungStacks, stacks, 0o600))
		a.live.problem("watchdog", codeHung, fixOf(codeHung), errors.New(what))
		a.Log.Error().Err(err).Str("code", codeHung).Str("stacks", hungStacks).Bool("ends", a.Hung != nil).Msg(what)
		a.events.Emit(event.Event{Kind: event.Operation, Time: time.Now().UTC(), Name: "WALinuxAgent", Version: a.Version, Op: "AgentHung", Message: codeHung + ": " + what})
		a.save()
		return nil
	})
	select {
	case err := <-said:
		if err != nil {
			a.Log.Error().Err(err).Func(host.LogStack(err)).Msg("could not report hang of the agent")
		}
	case <-time.After(hungSay): // do not wait longer for a log or a disk that hangs
	case <-ctx.Done():
		return
	}
	if a.Hung != nil {
		a.Hung()
	}
}

// afterHang reports that the process before this one hung.
func (a *Agent) afterHang() {
	b, err := a.Root.ReadFile(hungFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var h hang
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		h.What = "the agent hung"
	}
	if err := a.Root.RemoveAll(hungFile); err != nil {
		a.Log.Warn().Err(err).Msg("could not remove saved report of a hang")
	}
	text := "restarted: " + h.What
	a.Log.Error().Err(err).Str("code", codeHung).Time("at", h.At).Str("stacks", hungStacks).Msg(text)
	a.live.note("agent", codeHung+": "+text)
	a.live.problem("watchdog", codeHung, fixOf(codeHung), fmt.Errorf("%s at %s", text, h.At.Format(time.DateTime)))
	a.events.Emit(event.Event{Kind: event.Operation, Time: time.Now().UTC(), Name: "WALinuxAgent", Version: a.Version, Op: "AgentHung", Message: codeHung + ": " + text})
	a.hangTold = time.Now()
}

// forgetHang removes the report of a hang from the status after hungShown.
func (a *Agent) forgetHang() {
	if !a.hangTold.IsZero() && time.Since(a.hangTold) > hungShown {
		a.hangTold = time.Time{}
		a.live.problem("watchdog", "", "", nil)
	}
}
