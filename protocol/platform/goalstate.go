package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/internal/web"
	"github.com/azguest/azguest/protocol/wire"
)

// state is what GoalState remembers between calls.
type state struct {
	inc   string // incarnation whose documents we hold
	from  string // and where they were
	docs  documents
	force bool // get all documents again, whatever the incarnation says

	vm        *hostga.VMSettings // the last one, for a 304
	supported bool               // vmSettings answered once
	probe     time.Time          // next try after "unsupported"
	lost      web.Pace           // of those, when it was supported before

	adopted *adopted
	// again is when documents that could not be had, or certificates that
	// are missing, are asked for again.
	again  time.Time
	look   web.Pace
	chased string // id of the goal state whose missing certificates were chased
	// changed: there is something to give out even if the key is the same.
	changed bool
	loaded  bool // the FastTrack marker was read
	marker  time.Time

	current string    // key that was given out last
	looked  time.Time // at the goal state document
	news    time.Time // when there was something to give out
	silent  bool      // vmSettings do not tell of the WireServer's goal states
	doubt   bool      // they did not, the last time
	told    *bool     // whether they were new in this look; nil if they were not asked

	blob   protocol.StatusBlob // the last one that was named
	noBlob bool                // the goal state names none

	root  pace   // of a goal state that can't be used
	parts pace   // of its documents
	tried string // incarnation and place of the documents that were tried last
}

// adopted is the extensions goal state that counts.
type adopted struct {
	id      string
	source  protocol.Source
	ticks   int64
	vm      *hostga.VMSettings // for FastTrack
	ext     *wire.Extensions   // for Fabric
	seq     json.RawMessage
	onHold  bool
	inc     string
	outdate bool
}

// Times of the goal state logic.
const (
	quietAfter = 10 * time.Minute
	quietLook  = 23 * time.Second // every fourth look of the idle period
	reprobe    = 6 * time.Hour    // vmSettings that a host did not have
	chaseGap   = 6 * time.Second  // second look for missing certificates
	chaseMax   = 3 * time.Minute  // how often a goal state without status blob is fetched
	tickEpoch  = 621355968000000000
)

// GoalState returns what the platform wants. If that is the goal state with
// the key known, the error is protocol.ErrNotModified; the same key can be
// given out again when something in it changed (certificates arrived late).
// A *protocol.Fault means that the platform could not be asked.
func (c *Client) GoalState(ctx context.Context, known string) (*protocol.GoalState, error) {
	select {
	case c.turn <- struct{}{}:
		// wait: it gives back what this call has put there
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s := &c.state
	if !s.loaded {
		s.marker, s.loaded = c.readMarker(), true
		s.supported = !s.marker.IsZero()
	}
	if err := s.root.wait(); err != nil {
		return nil, err
	}
	if c.quiet(ctx, known) {
		return nil, protocol.ErrNotModified
	}
	s.looked = time.Now()
	gs, raw, err := c.wireClient().GoalState(ctx, 0)
	c.setIDs(gs) // also from an incomplete one (protocol/SPEC.md §4.2)
	if _, paced := errors.AsType[*protocol.Fault](err); err != nil && !paced && ctx.Err() == nil {
		return nil, s.root.failed(err)
	}
	if err != nil {
		return nil, err
	}
	s.root.worked()
	out, err := c.advance(ctx, gs, raw)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.current = out
	c.fast = s.supported && !c.o.NoFastTrack
	if s.vm != nil {
		c.plugin = s.vm.Plugin
	}
	c.noBlob = s.noBlob
	c.sourceFT = out.Source == protocol.FastTrack
	c.mu.Unlock()
	s.current = out.Key()
	if s.current == known && !s.changed {
		return nil, protocol.ErrNotModified
	}
	s.changed, s.news = false, time.Now()
	return out, nil
}

// quiet looks at vmSettings alone. They change with every goal state, the
// WireServer's too, and to hear that they have not costs a quarter of the goal
// state document. So a machine to which nothing has happened for a while gets
// that one every fourth time only. Whatever else the host says is left to the
// whole look.
func (c *Client) quiet(ctx context.Context, known string) bool {
	s := &c.state
	now := time.Now()
	if s.vm == nil || !s.supported || s.silent || c.o.NoFastTrack || s.changed || s.force || !s.again.IsZero() || s.adopted == nil ||
		s.current != known || now.Sub(s.news) < quietAfter || now.Sub(s.looked) >= quietLook {
		return false
	}
	_, _, err := c.hostClient().VMSettings(ctx, s.vm.ETag)
	return errors.Is(err, protocol.ErrNotModified)
}

// listen finds out whether vmSettings tell of goal states of the WireServer:
// told is nil where they could not be asked. They may come a moment after them.
func (s *state) listen(inc string, told *bool) {
	moved := s.inc != "" && inc != s.inc
	switch {
	case told == nil:
	case *told:
		s.doubt, s.silent = false, s.silent && !moved
	case s.doubt:
		s.doubt, s.silent = false, true
	case moved:
		s.doubt = true
	}
}

// advance is the algorithm of protocol/SPEC.md §7.4.
func (c *Client) advance(ctx context.Context, gs *wire.GoalState, raw []byte) (*protocol.GoalState, error) {
	s := &c.state
	s.told = nil
	vm, vmNew := c.vmSettings(ctx) // may find that everything is needed anew
	s.listen(gs.Incarnation, s.told)
	wsNew := s.force || s.docs.ext == nil || gs.Incarnation != s.inc
	moved := !wsNew && s.from != place(gs)
	if !wsNew && !vmNew && !moved {
		if c.due() {
			c.retry(ctx, gs)
		}
		return c.merge(gs), nil
	}
	if moved {
		before, certs := s.adopted, s.docs.certs
		if err := c.fetchAll(ctx, gs, raw); err == nil {
			c.adopt(c.choose(gs, vm, true))
			s.changed = s.changed || s.adopted.id != before.id || s.adopted.ticks != before.ticks || !sameCerts(certs, s.docs.certs)
		} else if protocol.Loud(err) && ctx.Err() == nil {
			c.o.Log.Warn().Err(err).Msg("documents of the new container not available, using the old ones")
		}
		if !vmNew {
			if s.changed {
				c.chase(ctx, gs, raw)
				c.archive(c.merge(gs))
			}
			return c.merge(gs), nil
		}
	}
	if wsNew {
		if err := c.fetchAll(ctx, gs, raw); err != nil {
			// vmSettings can stand alone, even if ExtensionsConfig can't be
			// had or read.
			if ctx.Err() != nil || vm == nil || (!vmNew && s.adopted != nil) {
				return nil, err
			}
			if protocol.Loud(err) {
				c.o.Log.Warn().Err(err).Msg("goal state of the WireServer not usable, using vmSettings")
			}
			docs, ferr := c.fetch(ctx, gs, s.docs, everything&^extensions)
			if ferr != nil {
				return nil, ferr
			}
			docs.goalState = raw
			s.docs, wsNew = docs, false
			c.writeDocuments(&docs)
		}
	}
	c.adopt(c.choose(gs, vm, wsNew))
	s.changed = true
	c.chase(ctx, gs, raw)
	if !wsNew {
		// Handlers are about to look for their certificates, which somebody may
		// have deleted, or a full disk refused (protocol/SPEC.md §7.4, step 6).
		c.writeDocuments(&s.docs)
	}
	out := c.merge(gs)
	c.archive(out)
	return out, nil
}

// fetchAll gets every document, and commits them and the incarnation only
// together.
func (c *Client) fetchAll(ctx context.Context, gs *wire.GoalState, raw []byte) error {
	s := &c.state
	if at := gs.Incarnation + " " + place(gs); s.tried != at { // new documents, new chance
		s.tried = at
		s.parts.worked()
		c.near.Reset(docNames...)
	}
	if err := s.parts.wait(); err != nil {
		return err
	}
	docs, err := c.fetch(ctx, gs, s.docs, everything)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return s.parts.failed(err)
	}
	s.parts.worked()
	docs.goalState = raw
	s.docs, s.inc, s.from, s.force = docs, gs.Incarnation, place(gs), false
	c.transfers().Reset()
	c.near.Reset("manifest", "package", "artifactsProfile")
	c.schedule(docs.failed != 0, true)
	c.writeDocuments(&docs)
	return nil
}

// place is where the documents of a goal state are. An incarnation repeats
// when a machine resumes from hibernation on another host, with other
// documents, and only their addresses tell (protocol/SPEC.md §4.5).
func place(gs *wire.GoalState) string {
	return strings.Join([]string{gs.ContainerID, gs.ConfigName, gs.ExtensionsConfig, gs.Certificates}, " ")
}

// vmSettings returns the FastTrack document to consider, and whether it is
// new. A host that does not have it, or has trouble with it, does not keep
// the WireServer's goal state from counting.
func (c *Client) vmSettings(ctx context.Context) (vm *hostga.VMSettings, isNew bool) {
	s := &c.state
	if c.o.NoFastTrack || time.Now().Before(s.probe) {
		return nil, false
	}
	etag := ""
	if s.vm != nil && !s.force {
		etag = s.vm.ETag
	}
	got, raw, err := c.hostClient().VMSettings(ctx, etag)
	switch {
	case err == nil:
		s.vm, s.supported, s.lost, s.told, isNew = got, true, web.Pace{}, new(true), true
		s.docs.vmSettings = c.forHistory(raw)
	case errors.Is(err, protocol.ErrNotModified):
		s.told = new(false)
	case errors.Is(err, hostga.ErrUnsupported):
		if s.supported {
			c.o.Log.Info().Msg("vmSettings no longer supported by the host")
		}
		// One that had them may have them again in a moment (a 404 of a host
		// that is just starting), so that the first hour is watched.
		now := time.Now()
		if s.supported || s.lost.Total() > 0 {
			s.probe = now.Add(s.lost.Failed(now))
		}
		if s.lost.Total() == 0 || now.Sub(s.lost.Since()) > time.Hour {
			s.probe = now.Add(reprobe)
		}
		s.vm, s.supported = nil, false
		s.force = s.force || s.adopted != nil && s.adopted.vm != nil
		return nil, false
	default:
		if protocol.Loud(err) && ctx.Err() == nil {
			c.o.Log.Warn().Err(err).Msg("vmSettings not available, using the WireServer only")
		}
	}
	if s.vm == nil {
		return nil, false
	}
	if s.vm.Source == string(protocol.Fabric) {
		// Never used, however new; and it ends FastTrack (protocol/SPEC.md §7.5).
		if isNew {
			c.writeMarker(time.Time{})
		}
		return nil, false
	}
	if isNew && s.vm.Source == string(protocol.FastTrack) {
		c.writeMarker(ticksTime(dated(s.vm.CreatedTicks, time.Now())))
	}
	return s.vm, isNew
}

// FastTrack reports whether the host offers vmSettings, for supportedFeatures.
func (c *Client) FastTrack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fast
}

// choose picks the candidate.
func (c *Client) choose(gs *wire.GoalState, vm *hostga.VMSettings, wsNew bool) *adopted {
	s := &c.state
	now := time.Now()
	var fast *adopted
	if vm != nil {
		fast = &adopted{id: "etag_" + vm.ETag, source: protocol.Source(vm.Source), ticks: dated(vm.CreatedTicks, now), vm: vm, seq: vm.SeqNo, onHold: vm.OnHold, inc: gs.Incarnation}
	}
	if !wsNew {
		return fast
	}
	seq, _ := json.Marshal(gs.Incarnation) // reported as text
	x := s.docs.ext
	fabric := &adopted{id: "incarnation_" + gs.Incarnation, source: protocol.Fabric, ticks: dated(x.CreatedTicks, now), ext: x, seq: seq, onHold: s.docs.onHold, inc: gs.Incarnation}
	if fast != nil && fast.ticks > fabric.ticks {
		return fast
	}
	// The host stopped FastTrack: what it said last must not be undone by an
	// older Fabric goal state (protocol/SPEC.md §7.5).
	if vm == nil && !s.marker.IsZero() {
		if ticksTime(fabric.ticks).Before(s.marker) {
			fabric.outdate = true
		} else {
			c.writeMarker(time.Time{})
		}
	}
	return fabric
}

// adopt takes over a candidate that is not older than the current one. The
// end of FastTrack is the exception: then the current one has lost its
// ground, and the older goal state is reported, marked as outdated. Between
// two of one source the newer is known without a date, so a document that
// lost its own is no reason to stay behind.
func (c *Client) adopt(n *adopted) {
	s := &c.state
	switch {
	case n == nil:
	case s.adopted == nil, n.ticks >= s.adopted.ticks, n.outdate, n.ticks <= 0 && (n.vm == nil) == (s.adopted.vm == nil):
		s.adopted = n
	}
}

// missing lists the thumbprints that handlers need and we have no key for.
func (c *Client) missing() []string {
	var out []string
	for _, h := range c.state.adopted.handlers() {
		if h.Want != protocol.WantEnabled {
			continue
		}
		for _, set := range h.Settings {
			t := strings.ToUpper(set.Thumbprint)
			if t == "" || !set.Protected.Set() || set.Want == protocol.WantDisabled {
				continue
			}
			have := slices.ContainsFunc(c.state.docs.certs, func(k protocol.Certificate) bool { return k.Thumbprint == t && k.KeyPEM.Set() })
			if !have && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

func (a *adopted) handlers() []protocol.Handler {
	switch {
	case a == nil:
		return nil
	case a.vm != nil:
		return a.vm.Handlers
	}
	return a.ext.Handlers
}

// chase gets everything once more, at once, when FastTrack names certificates
// that the WireServer did not deliver: after hibernation the incarnation
// repeats with other certificates (protocol/SPEC.md §4.5). A second look
// follows after 6 s, then seldom ones.
func (c *Client) chase(ctx context.Context, gs *wire.GoalState, raw []byte) {
	s := &c.state
	if len(c.missing()) == 0 {
		return
	}
	if s.adopted.source == protocol.FastTrack && s.chased != s.adopted.id {
		s.chased = s.adopted.id
		docs, err := c.fetch(ctx, gs, s.docs, everything)
		if err == nil {
			docs.goalState, docs.vmSettings = raw, s.docs.vmSettings
			s.docs = docs
			c.writeDocuments(&docs)
		}
	}
	c.schedule(len(c.missing()) > 0, true)
}

// schedule plans the next look for what is missing.
func (c *Client) schedule(needed, anew bool) {
	s := &c.state
	if !needed {
		s.again, s.look = time.Time{}, web.Pace{}
		return
	}
	if anew {
		s.look = web.Pace{}
	}
	now := time.Now()
	s.again = now.Add(max(chaseGap, s.look.Failed(now)))
}

func (c *Client) due() bool {
	return !c.state.again.IsZero() && !time.Now().Before(c.state.again)
}

// retry asks again for what failed, and for everything that leads to missing
// certificates.
func (c *Client) retry(ctx context.Context, gs *wire.GoalState) {
	s := &c.state
	what := s.docs.failed
	before := len(c.missing())
	if before > 0 {
		what |= certificates
	}
	docs, err := c.fetch(ctx, gs, s.docs, what)
	if err != nil {
		c.schedule(true, false)
		return
	}
	docs.goalState, docs.vmSettings = s.docs.goalState, s.docs.vmSettings
	better := docs.failed != s.docs.failed || !sameCerts(docs.certs, s.docs.certs)
	s.docs = docs
	c.schedule(docs.failed != 0 || len(c.missing()) > 0, false)
	if better {
		s.changed = true
		c.writeDocuments(&docs)
	}
}

func sameCerts(a, b []protocol.Certificate) bool {
	return slices.EqualFunc(a, b, func(x, y protocol.Certificate) bool { return x.Thumbprint == y.Thumbprint })
}

// merge makes the goal state to give out.
func (c *Client) merge(gs *wire.GoalState) *protocol.GoalState {
	s := &c.state
	a := s.adopted
	out := &protocol.GoalState{
		Incarnation: gs.Incarnation, ContainerID: gs.ContainerID, InstanceID: gs.InstanceID, ConfigName: gs.ConfigName,
		ID: a.id, Source: a.source, SeqNo: a.seq, CreatedTicks: a.ticks, OnHold: a.onHold, Outdated: a.outdate,
		Certs: slices.Clone(s.docs.certs), CertsErr: s.docs.certsErr, Users: s.docs.users,
		VMName: s.docs.names.VM, RoleName: s.docs.names.Role, TenantName: s.docs.names.Tenant,
		SharedConfig: bytes.Clone(s.docs.sharedConfig), Received: time.Now().UTC(),
	}
	if a.vm != nil {
		out.ETag, out.ActivityID, out.CorrelationID = a.vm.ETag, a.vm.ActivityID, a.vm.CorrelationID
		out.RequiredFeatures, out.StatusBlob, out.Families, out.Handlers = a.vm.RequiredFeatures, a.vm.StatusBlob, a.vm.Families, a.vm.Handlers
	} else {
		out.ActivityID, out.CorrelationID = a.ext.ActivityID, a.ext.CorrelationID
		out.RequiredFeatures, out.StatusBlob, out.Families, out.Handlers = a.ext.RequiredFeatures, a.ext.StatusBlob, a.ext.Families, a.ext.Handlers
	}
	if out.StatusBlob.URL.Empty() && s.docs.ext != nil {
		// Better the other document's address than no status at all.
		out.StatusBlob = s.docs.ext.StatusBlob
	}
	// And better the address of yesterday: whoever reads the status wants to
	// know about a goal state that is not as it should be.
	if s.noBlob = out.StatusBlob.URL.Empty(); s.noBlob {
		out.StatusBlob = s.blob
	}
	s.blob = out.StatusBlob
	if m := c.missing(); len(m) > 0 {
		out.CertsErr = errors.Join(out.CertsErr, &MissingError{m})
	}
	return out
}

// MissingError names certificates that a handler's settings are encrypted to
// and that the platform has not delivered.
type MissingError struct{ Thumbprints []string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("certificates of protected settings not delivered by the platform: %s", strings.Join(e.Thumbprints, ", "))
}

// Code is stable.
func (*MissingError) Code() string { return "certificate-missing" }

// dated is the date of a document, or 0, for none, where it can't be one: a
// document from the far future would be newer than all that come after it. A
// year is more than clocks of platforms are wrong by; one of ours that has not
// been set yet says nothing.
func dated(ticks int64, now time.Time) int64 {
	at := ticksTime(ticks)
	if at.IsZero() || now.Year() >= 2020 && at.Sub(now) > 366*24*time.Hour {
		return 0
	}
	return ticks
}

// ticksTime converts 100 ns since 0001-01-01.
func ticksTime(t int64) time.Time {
	if t <= 0 || t > 3155378975999999999 { // the year 9999
		return time.Time{}
	}
	t -= tickEpoch
	return time.Unix(t/1e7, t%1e7*100).UTC()
}
