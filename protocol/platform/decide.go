package platform

import (
	"context"
	"encoding/json"
	"reflect"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/wire"
)

// This file chooses the extensions goal state (protocol/SPEC.md §7.4). decide
// returns the steps that are due after a poll of the platform, without side
// effects; advance performs them.

// held is what the client had before the poll, as far as decide needs it.
type held struct {
	incarnation, place string // of the documents
	documents          bool   // there are any
	refetch            bool   // get them again in any case
	adopted            bool   // an extensions goal state was adopted before
}

// seen is the result of the poll.
type seen struct {
	incarnation, place string // of the goal state document
	settings           bool   // there are vmSettings that may be used
	settingsNew        bool   // and they came with this poll
	retry              bool   // it is time to ask again for what is missing
}

// A step is one thing to do with the goal state.
type step string

const (
	getAll             step = "get all documents"
	getRest            step = "get all documents but ExtensionsConfig"
	getMissing         step = "get the documents that are missing"
	keepDocuments      step = "go on with the documents that we have"
	adoptNewer         step = "adopt the newer of ExtensionsConfig and vmSettings"
	adoptMoved         step = "adopt the newer of the two, news only if it differs"
	adoptSettings      step = "adopt vmSettings"
	searchCertificates step = "search for certificates that handlers need"
	restoreFiles       step = "write files that other programs read"
	archive            step = "archive the goal state"
)

// An action is a step, and the actions that replace the rest of the list if
// the step fails; without those a failure ends the poll.
type action struct {
	do        step
	otherwise []action
}

// decide returns the actions that are due. It is a pure function.
func decide(h held, n seen) []action {
	documentsNew := h.refetch || !h.documents || n.incarnation != h.incarnation
	moved := !documentsNew && n.place != h.place
	settings := []action{{do: adoptSettings}, {do: searchCertificates}, {do: restoreFiles}, {do: archive}}
	switch {
	case documentsNew:
		get := action{do: getAll}
		if n.settings && (n.settingsNew || !h.adopted) {
			// vmSettings can stand alone, even if ExtensionsConfig can't be
			// fetched or read.
			get.otherwise = append([]action{{do: getRest}}, settings...)
		}
		return []action{get, {do: adoptNewer}, {do: searchCertificates}, {do: archive}}
	case moved && n.settingsNew:
		get := action{do: getAll, otherwise: append([]action{{do: keepDocuments}}, settings...)}
		return append([]action{get, {do: adoptMoved}}, settings...)
	case moved:
		get := action{do: getAll, otherwise: []action{{do: keepDocuments}}}
		return []action{get, {do: adoptMoved}, {do: searchCertificates}, {do: archive}}
	case n.settingsNew:
		return settings
	case n.retry:
		return []action{{do: getMissing}}
	}
	return nil
}

// look is the state of one poll of the platform: its results so far, and what
// was held before it.
type look struct {
	gs     *wire.GoalState
	raw    []byte
	vm     *hostga.VMSettings // to be considered; nil: none
	before *adopted
	certs  []protocol.Certificate
	failed error // error of the last failed step that had an alternative
}

// advance takes over what a goal state document and vmSettings say, and
// returns the goal state to give out.
func (c *Client) advance(ctx context.Context, gs *wire.GoalState, raw []byte) (*protocol.GoalState, error) {
	s := &c.state
	vm, said := c.vmSettings(ctx) // may request that everything is fetched again
	s.noteAnnouncement(gs.Incarnation, said)
	actions := decide(
		held{incarnation: s.inc, place: s.place, documents: s.docs.ext != nil, refetch: s.refetch, adopted: s.adopted != nil},
		seen{incarnation: gs.Incarnation, place: place(gs), settings: vm != nil, settingsNew: vm != nil && said == isNew, retry: s.due()},
	)
	l := &look{gs: gs, raw: raw, vm: vm, before: s.adopted, certs: s.docs.certs}
	for len(actions) > 0 {
		a := actions[0]
		actions = actions[1:]
		if err := c.do(ctx, a.do, l); err != nil {
			if a.otherwise == nil {
				return nil, err
			}
			l.failed, actions = err, a.otherwise
		}
	}
	return c.merge(gs), nil
}

// do performs one step.
func (c *Client) do(ctx context.Context, what step, l *look) error {
	s := &c.state
	switch what {
	case getAll:
		return c.fetchAll(ctx, l.gs, l.raw)
	case getRest:
		c.warn(ctx, l.failed, "goal state of the WireServer not usable, using vmSettings")
		return c.fetchRest(ctx, l.gs, l.raw)
	case keepDocuments:
		c.warn(ctx, l.failed, "documents of the new container not available, using the old ones")
	case getMissing:
		c.fetchMissing(ctx, l.gs)
	case adoptNewer:
		s.adopt(c.newer(l.gs, l.vm))
		renewed := l.before != nil && !reflect.DeepEqual(s.adopted.Handlers, l.before.Handlers)
		if renewed {
			c.forgetDownloads()
		}
		s.changed = s.changed || !s.renewing || renewed || s.adopted.id != l.before.id
		s.renewing = false
	case adoptMoved:
		s.adopt(c.newer(l.gs, l.vm))
		s.changed = s.changed || s.adopted.id != l.before.id || s.adopted.CreatedTicks != l.before.CreatedTicks || !sameCerts(l.certs, s.docs.certs)
	case adoptSettings:
		s.adopt(fromSettings(l.vm, time.Now()))
		if l.before == nil || s.adopted.id != l.before.id {
			c.forgetDownloads()
		}
		s.changed = true
	case searchCertificates:
		if s.changed {
			c.searchCertificates(ctx, l.gs, l.raw)
		}
	case restoreFiles:
		// Handlers will look for their certificates next. The files may have
		// been deleted, or not written because the disk was full
		// (protocol/SPEC.md §7.4, step 6).
		c.writeDocuments(&s.docs)
	case archive:
		if s.changed {
			c.archive(l.gs.Incarnation)
		}
	}
	return nil
}

// warn logs err as the reason for an alternative, unless it was logged
// recently.
func (c *Client) warn(ctx context.Context, err error, text string) {
	if protocol.Loud(err) && ctx.Err() == nil {
		c.o.Log.Warn().Err(err).Msg(text)
	}
}

// fromDocuments is the extensions goal state of ExtensionsConfig.
func (s *state) fromDocuments(gs *wire.GoalState, now time.Time) *adopted {
	seq, _ := json.Marshal(gs.Incarnation) // reported as text
	a := &adopted{Desired: s.docs.ext.Desired, id: "incarnation_" + gs.Incarnation, source: protocol.Fabric, seq: seq}
	a.CreatedTicks = dated(a.CreatedTicks, now)
	return a
}

// fromSettings is the extensions goal state of vmSettings.
func fromSettings(vm *hostga.VMSettings, now time.Time) *adopted {
	a := &adopted{Desired: vm.Desired, id: "etag_" + vm.ETag, etag: vm.ETag, source: vm.Source, fromSettings: true, seq: vm.SeqNo}
	a.CreatedTicks = dated(a.CreatedTicks, now)
	return a
}

// newer returns the newer one of ExtensionsConfig and, if there are any,
// vmSettings.
func (c *Client) newer(gs *wire.GoalState, vm *hostga.VMSettings) *adopted {
	s := &c.state
	now := time.Now()
	fabric := s.fromDocuments(gs, now)
	if vm != nil {
		if fast := fromSettings(vm, now); fast.CreatedTicks > fabric.CreatedTicks {
			return fast
		}
		return fabric
	}
	// The host stopped FastTrack: its last FastTrack goal state must not be
	// undone by an older Fabric one (protocol/SPEC.md §7.5).
	if !s.marked.IsZero() {
		if fabric.outdated = ticksTime(fabric.CreatedTicks).Before(s.marked); !fabric.outdated {
			c.writeMarker(time.Time{})
		}
	}
	return fabric
}

// adopt takes over a candidate that is not older than the current one. The end
// of FastTrack is the exception: the current one has no source any more, and
// the older goal state is reported, marked as outdated. Of two goal states of
// one source the later one is the newer even without a date, so that a
// document without date does not leave us with the previous one.
func (s *state) adopt(n *adopted) {
	if a := s.adopted; a == nil || n.CreatedTicks >= a.CreatedTicks || n.outdated || n.CreatedTicks <= 0 && n.fromSettings == a.fromSettings {
		s.adopted = n
	}
}
