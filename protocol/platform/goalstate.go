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
	"github.com/azguest/azguest/protocol/transfer"
	"github.com/azguest/azguest/protocol/wire"
)

// state is what GoalState remembers between calls.
type state struct {
	docs    documents
	inc     string // incarnation of docs
	place   string // and where they were, see place
	refetch bool   // get all documents again, whatever the incarnation says
	tried   string // incarnation and place of the documents that were tried last

	vm            *hostga.VMSettings // the last one, for a 304
	supported     bool               // vmSettings answered once
	settingsProbe time.Time          // when to ask again after "unsupported"
	settingsLost  protocol.Pace      // pace of these, if it was supported before
	// unannounced: vmSettings do not change along with the WireServer's goal
	// states. maybeUnannounced: they did not, the last time.
	unannounced, maybeUnannounced bool

	// renewing: the refetch is for addresses that have expired. renewAt is when
	// the next one may be.
	renewing bool
	renewAt  time.Time

	adopted *adopted
	// retryAt is when documents that could not be fetched, or certificates
	// that are missing, are asked for again.
	retryAt     time.Time
	retryPace   protocol.Pace
	searchedFor string // id of the goal state whose certificates were searched for

	// changed: there is something to give out even if the key is the same.
	changed   bool
	current   string    // key that was given out last
	givenAt   time.Time // when there was something to give out
	fetchedAt time.Time // the goal state document

	marked       time.Time // date of the last FastTrack goal state, see markerFile
	markerLoaded bool

	blob   protocol.StatusBlob // the last one that was named
	noBlob bool                // the goal state names none
}

// adopted is the extensions goal state in effect.
type adopted struct {
	// Desired is that of ExtensionsConfig or of vmSettings, with CreatedTicks 0
	// if the date is impossible (see dated).
	protocol.Desired
	id           string
	source       protocol.Source
	fromSettings bool // from vmSettings, whatever they name as their source
	etag         string
	seq          json.RawMessage
	outdated     bool
}

// Times of the goal state logic.
const (
	idleAfter        = 10 * time.Minute
	idleDocument     = 23 * time.Second // every fourth poll of the idle period
	settingsReprobe  = 6 * time.Hour    // when a host without vmSettings is asked again
	certificateRetry = 6 * time.Second  // second search for missing certificates
	statusBlobRetry  = 3 * time.Minute  // how often a goal state without status blob is fetched
	addressRenewal   = 3 * time.Minute  // how often a goal state with expired addresses is fetched
	tickEpoch        = 621355968000000000
)

// Documents that are paced, by name.
const (
	goalStateDocument = "goal state"
	subDocuments      = "goal state documents"
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
	if !s.markerLoaded {
		s.marked, s.markerLoaded = c.readMarker(), true
		s.supported = !s.marked.IsZero()
	}
	if err := c.hostWeb.Paced(goalStateDocument); err != nil {
		return nil, err
	}
	if c.settingsUnchanged(ctx, known) {
		return nil, protocol.ErrNotModified
	}
	gs, raw, err := c.fetchDocument(ctx)
	if err != nil {
		return nil, err
	}
	out, err := c.advance(ctx, gs, raw)
	if err != nil {
		return nil, err
	}
	c.publish(out)
	s.current = out.Key()
	if s.current == known && !s.changed {
		return nil, protocol.ErrNotModified
	}
	s.changed, s.givenAt = false, time.Now()
	return out, nil
}

// fetchDocument gets the goal state document, and takes over the names in it.
func (c *Client) fetchDocument(ctx context.Context) (*wire.GoalState, []byte, error) {
	c.state.fetchedAt = time.Now()
	gs, raw, err := c.wireClient().GoalState(ctx, 0)
	c.setIDs(gs) // also from an incomplete one (protocol/SPEC.md §4.2)
	if _, paced := errors.AsType[*protocol.Fault](err); err != nil && !paced && ctx.Err() == nil {
		return nil, nil, c.hostWeb.Unusable(goalStateDocument, err)
	}
	if err != nil {
		return nil, nil, err
	}
	c.hostWeb.Usable(goalStateDocument)
	return gs, raw, nil
}

// publish makes the goal state known to the other methods of the client.
func (c *Client) publish(gs *protocol.GoalState) {
	s := &c.state
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && !c.current.StatusBlob.URL.Equal(gs.StatusBlob.URL) {
		// What failed was another address.
		c.hostWeb.Reset(hostga.OpStatus)
		c.storage.Reset(opDirectStatus)
	}
	c.current = gs
	c.hasSettings = s.supported && !c.o.NoFastTrack
	if s.vm != nil {
		c.pluginVersion = s.vm.Plugin
	}
	c.noBlob = s.noBlob
	c.fromFastTrack = gs.Source == protocol.FastTrack
}

// settingsUnchanged polls only vmSettings, where that is enough, and reports
// whether they are unchanged. They change with every goal state, the
// WireServer's included, and a 304 costs a quarter of the goal state document.
// So an idle machine fetches that document at every fourth poll only. After
// any other answer of the host the caller polls everything.
func (c *Client) settingsUnchanged(ctx context.Context, known string) bool {
	s := &c.state
	now := time.Now()
	if s.vm == nil || !s.supported || s.unannounced || c.o.NoFastTrack || s.changed || s.refetch || !s.retryAt.IsZero() || s.adopted == nil ||
		s.current != known || now.Sub(s.givenAt) < idleAfter || now.Sub(s.fetchedAt) >= idleDocument {
		return false
	}
	_, _, err := c.hostClient().VMSettings(ctx, s.vm.ETag)
	return errors.Is(err, protocol.ErrNotModified)
}

// noteAnnouncement keeps track of whether vmSettings change along with the
// goal states of the WireServer; they may change at the next poll only.
func (s *state) noteAnnouncement(inc string, vm answer) {
	moved := s.inc != "" && inc != s.inc
	switch {
	case vm == notAnswered:
	case vm == isNew:
		s.maybeUnannounced, s.unannounced = false, s.unannounced && !moved
	case s.maybeUnannounced:
		s.maybeUnannounced, s.unannounced = false, true
	case moved:
		s.maybeUnannounced = true
	}
}

// fetchAll gets every document. The documents and their incarnation are stored
// only if all that is needed was fetched.
func (c *Client) fetchAll(ctx context.Context, gs *wire.GoalState, raw []byte) error {
	s := &c.state
	if at := gs.Incarnation + " " + place(gs); s.tried != at { // forget failures of the previous documents
		s.tried = at
		c.hostWeb.Usable(subDocuments)
		c.hostWeb.Reset(docNames...)
		c.forgetDownloads()
	}
	if err := c.hostWeb.Paced(subDocuments); err != nil {
		return err
	}
	docs, err := c.fetch(ctx, gs, s.docs, everything)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return c.hostWeb.Unusable(subDocuments, err)
	}
	c.hostWeb.Usable(subDocuments)
	docs.goalState = raw
	s.docs, s.inc, s.place, s.refetch = docs, gs.Incarnation, place(gs), false
	c.schedule(docs.failed != 0, true)
	c.writeDocuments(&docs)
	return nil
}

// forgetDownloads lets downloads that failed be made at once: what is asked for
// has changed.
func (c *Client) forgetDownloads() {
	c.transfers().Reset()
	c.hostWeb.Reset(transfer.Ops...)
}

// fetchRest gets every document but ExtensionsConfig.
func (c *Client) fetchRest(ctx context.Context, gs *wire.GoalState, raw []byte) error {
	s := &c.state
	docs, err := c.fetch(ctx, gs, s.docs, everything&^extensions)
	if err != nil {
		return err
	}
	docs.goalState = raw
	s.docs = docs
	c.writeDocuments(&docs)
	return nil
}

// place is where the documents of a goal state are. An incarnation repeats
// when a machine resumes from hibernation on another host, with other
// documents, and only their addresses tell (protocol/SPEC.md §4.5).
func place(gs *wire.GoalState) string {
	return strings.Join([]string{gs.ContainerID, gs.ConfigName, gs.ExtensionsConfig, gs.Certificates}, " ")
}

// answer is what a host said when it was asked for vmSettings.
type answer string

const (
	notAnswered answer = "" // or not asked
	unchanged   answer = "unchanged"
	isNew       answer = "new"
)

// vmSettings returns the FastTrack document to consider, nil for none, and
// what the host answered. If the host has none, or fails, the goal state of
// the WireServer is used.
func (c *Client) vmSettings(ctx context.Context) (*hostga.VMSettings, answer) {
	s := &c.state
	if c.o.NoFastTrack || time.Now().Before(s.settingsProbe) {
		return nil, notAnswered
	}
	etag := ""
	if s.vm != nil && !s.refetch {
		etag = s.vm.ETag
	}
	got, raw, err := c.hostClient().VMSettings(ctx, etag)
	said := notAnswered
	switch {
	case err == nil:
		s.vm, s.supported, s.settingsLost, said = got, true, protocol.Pace{}, isNew
		s.docs.vmSettings = c.forHistory(raw)
	case errors.Is(err, protocol.ErrNotModified):
		said = unchanged
	case errors.Is(err, hostga.ErrUnsupported):
		c.settingsUnsupported()
		return nil, notAnswered
	default:
		if protocol.Loud(err) && ctx.Err() == nil {
			c.o.Log.Warn().Err(err).Msg("vmSettings not available, using the WireServer only")
		}
	}
	switch {
	case s.vm == nil:
		return nil, said
	case s.vm.Source == protocol.Fabric: // never used, however new; and it ends FastTrack (protocol/SPEC.md §7.5)
		if said == isNew {
			c.writeMarker(time.Time{})
		}
		return nil, said
	case s.vm.Source == protocol.FastTrack && said == isNew:
		c.writeMarker(ticksTime(dated(s.vm.CreatedTicks, time.Now())))
	}
	return s.vm, said
}

// settingsUnsupported plans when to ask a host without vmSettings again. A
// host that had them may have them again soon (one that is just starting
// answers 404), so it is asked more often for an hour.
func (c *Client) settingsUnsupported() {
	s := &c.state
	if s.supported {
		c.o.Log.Info().Msg("vmSettings no longer supported by the host")
	}
	now := time.Now()
	if s.supported || s.settingsLost.Total() > 0 {
		s.settingsProbe = now.Add(s.settingsLost.Failed(now))
	}
	if s.settingsLost.Total() == 0 || now.Sub(s.settingsLost.Since()) > time.Hour {
		s.settingsProbe = now.Add(settingsReprobe)
	}
	s.vm, s.supported = nil, false
	s.refetch = s.refetch || s.adopted != nil && s.adopted.fromSettings
}

// FastTrack reports whether the host offers vmSettings, for supportedFeatures.
func (c *Client) FastTrack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hasSettings
}

// missing lists the thumbprints that handlers need and we have no key for.
func (s *state) missing() []string {
	if s.adopted == nil {
		return nil
	}
	var out []string
	for _, h := range s.adopted.Handlers {
		if h.Want != protocol.WantEnabled {
			continue
		}
		for _, set := range h.Settings {
			t := strings.ToUpper(set.Thumbprint)
			if t == "" || !set.Protected.Set() || set.Want == protocol.WantDisabled {
				continue
			}
			have := slices.ContainsFunc(s.docs.certs, func(k protocol.Certificate) bool { return k.Thumbprint == t && k.KeyPEM.Set() })
			if !have && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

// searchCertificates gets everything once more, at once, when FastTrack names
// certificates that the WireServer did not deliver: after hibernation the
// incarnation repeats with other certificates (protocol/SPEC.md §4.5). A second
// search follows after 6 s, then by the pace of failing requests.
func (c *Client) searchCertificates(ctx context.Context, gs *wire.GoalState, raw []byte) {
	s := &c.state
	if len(s.missing()) == 0 {
		return
	}
	if s.adopted.source == protocol.FastTrack && s.searchedFor != s.adopted.id {
		s.searchedFor = s.adopted.id
		docs, err := c.fetch(ctx, gs, s.docs, everything)
		if err == nil {
			docs.goalState, docs.vmSettings = raw, s.docs.vmSettings
			s.docs = docs
			c.writeDocuments(&docs)
		}
	}
	c.schedule(len(s.missing()) > 0, true)
}

// schedule plans when to ask again for what is missing: when a request that has
// failed is due, which has a pace of its own, and at the pace of failing requests
// for what has none, such as a certificate that was not delivered.
func (c *Client) schedule(needed, anew bool) {
	s := &c.state
	if !needed {
		s.retryAt, s.retryPace = time.Time{}, protocol.Pace{}
		return
	}
	if anew {
		s.retryPace = protocol.Pace{}
	}
	now := time.Now()
	s.retryAt = now.Add(max(certificateRetry, s.retryPace.Failed(now)))
	own := s.docs.ownPace || len(s.missing()) > 0 && s.docs.failed&certificates == 0
	if next := s.docs.next; next.After(now) && (!own || next.Before(s.retryAt)) {
		s.retryAt = next.Add(10 * time.Millisecond) // not a moment too early
	}
}

func (s *state) due() bool {
	return !s.retryAt.IsZero() && !time.Now().Before(s.retryAt)
}

// fetchMissing asks again for the documents that failed, and for the
// certificates if one is missing.
func (c *Client) fetchMissing(ctx context.Context, gs *wire.GoalState) {
	s := &c.state
	what := s.docs.failed
	if len(s.missing()) > 0 {
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
	c.schedule(docs.failed != 0 || len(s.missing()) > 0, false)
	if better {
		s.changed = true
		c.writeDocuments(&docs)
	}
}

func sameCerts(a, b []protocol.Certificate) bool {
	return slices.EqualFunc(a, b, func(x, y protocol.Certificate) bool { return x.Thumbprint == y.Thumbprint })
}

// merge makes the goal state that GoalState returns.
func (c *Client) merge(gs *wire.GoalState) *protocol.GoalState {
	s := &c.state
	a := s.adopted
	out := &protocol.GoalState{
		Incarnation: gs.Incarnation, ContainerID: gs.ContainerID, InstanceID: gs.InstanceID, ConfigName: gs.ConfigName,
		ID: a.id, Source: a.source, ETag: a.etag, SeqNo: a.seq, Outdated: a.outdated, Desired: a.Desired,
		Certs: slices.Clone(s.docs.certs), CertsErr: s.docs.certsErr, Users: s.docs.users,
		VMName: s.docs.names.VM, RoleName: s.docs.names.Role, TenantName: s.docs.names.Tenant,
		SharedConfig: bytes.Clone(s.docs.sharedConfig), Received: time.Now().UTC(),
	}
	if !a.fromSettings {
		out.OnHold, out.HoldErr = s.docs.onHold, s.docs.holdErr
	}
	if out.StatusBlob.URL.Empty() && s.docs.ext != nil {
		// The address in the other document is better than no status at all.
		out.StatusBlob = s.docs.ext.StatusBlob
	}
	// So is that of an earlier goal state: the platform's operators need the
	// status of a machine whose goal state is defective.
	if s.noBlob = out.StatusBlob.URL.Empty(); s.noBlob {
		out.StatusBlob = s.blob
	}
	s.blob = out.StatusBlob
	if m := s.missing(); len(m) > 0 {
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

// Code returns the error code, which is stable.
func (*MissingError) Code() string { return "certificate-missing" }

// Outlook implements protocol.OutlookOf.
func (*MissingError) Outlook() protocol.Outlook { return protocol.Absent }

// dated is the date of a document in ticks, or 0 (none) if it is impossible: a
// document dated far in the future would be newer than all later ones. No
// platform's clock is wrong by more than a year. While our own clock is not
// set yet (before 2020), nothing is checked.
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
