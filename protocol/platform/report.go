package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/imds"
	"github.com/azguest/azguest/protocol/internal/web"
	"github.com/azguest/azguest/protocol/transfer"
	"github.com/azguest/azguest/protocol/wire"
)

// namesPatience is how long a health report waits for the goal state, which
// has the ids that it must contain.
const namesPatience = time.Minute

// ReportHealth tells the platform how provisioning stands. The HTTP layer
// repeats by its pace (protocol/SPEC.md §2.5) until the report is accepted or
// the context ends. A report that is refused may have stale names, so it is
// sent again, four times in all, with new ones. If the goal state can't be
// fetched, or the report was refused the last time, the report that needs no
// names is tried (protocol/SPEC.md §10.2).
func (c *Client) ReportHealth(ctx context.Context, h protocol.Health) error {
	g := c.getIDs()
	for try := 0; ; try++ {
		var err error
		if g.InstanceID == "" || try > 0 {
			nctx, cancel := context.WithTimeoutCause(ctx, namesPatience, fmt.Errorf("no goal state in %v", namesPatience))
			_, err = c.Identity(nctx)
			cancel()
			g = c.getIDs()
		}
		named := err == nil
		if named {
			// The HTTP layer has repeated everything but refusals.
			if err = c.wireClient().PostHealth(ctx, &g, h); err == nil {
				return nil
			}
		}
		if ctx.Err() == nil && (!named || try >= 3) && c.wireClient().PostProvisioningHealth(ctx, h) == nil {
			return nil
		}
		if ctx.Err() != nil || try >= 3 {
			return fmt.Errorf("report %s: %w", h.State, err)
		}
		if serr := sleep(ctx, time.Duration(try)*5*time.Second); serr != nil {
			return fmt.Errorf("report %s: %w", h.State, err)
		}
	}
}

// ErrNoStatusBlob says that the goal state has no address for the status.
var ErrNoStatusBlob = errors.New("goal state has no status blob")

// ErrLater is hostga.ErrLater: the status was refused this time, and the next
// report should succeed.
var ErrLater = hostga.ErrLater

// ReportStatus sends the status document: through the host, and if that
// fails directly to storage (protocol/SPEC.md §9.5, §9.6).
func (c *Client) ReportStatus(ctx context.Context, s protocol.Status) (protocol.Receipt, error) {
	c.mu.Lock()
	gs, none := c.current, c.noBlob
	c.mu.Unlock()
	if gs == nil || none {
		c.refetch()
	}
	if gs == nil || gs.StatusBlob.URL.Empty() {
		return protocol.Receipt{}, fmt.Errorf("report status: %w", ErrNoStatusBlob)
	}
	doc, err := s.JSON(time.Now())
	if err != nil {
		return protocol.Receipt{}, err
	}
	blob := gs.StatusBlob
	at := blobName(blob.URL)
	c.mu.Lock()
	blob.Page = blob.Page != (c.otherType == at)
	c.mu.Unlock()
	r, err := c.sendStatus(ctx, blob, doc)
	if otherKind(err) {
		// The goal state names the wrong type for the blob that exists. The
		// type of a blob can't be changed without deleting it.
		blob.Page = !blob.Page
		if r, err = c.sendStatus(ctx, blob, doc); err == nil {
			c.mu.Lock()
			if c.otherType = at; blob.Page == gs.StatusBlob.Page {
				c.otherType = ""
			}
			c.mu.Unlock()
			c.o.Log.Warn().Bool("page", blob.Page).Msg("status blob type differs from the goal state")
		}
	}
	if refused(err) {
		c.renewAddresses()
	}
	return r, err
}

// refused reports whether a status was not accepted for a reason that another
// address may not have. What storage answers to the host is not known: a 502
// says that it has refused the status or can't be reached.
func refused(err error) bool {
	if both, ok := errors.AsType[*bothFailed](err); ok {
		return refused(both.host) || refused(both.direct)
	}
	se, ok := errors.AsType[*web.StatusError](err)
	return ok && (se.Status == http.StatusBadGateway || se.Status/100 == 4 && se.Status != http.StatusRequestTimeout && se.Status != http.StatusTooManyRequests)
}

// otherKind reports whether storage has a blob of the other type at the
// address.
func otherKind(err error) bool {
	if both, ok := errors.AsType[*bothFailed](err); ok {
		err = both.direct
	}
	se, ok := errors.AsType[*web.StatusError](err)
	return ok && se.Status == http.StatusConflict && se.Named() == "InvalidBlobType"
}

// blobName is the address of a blob without the signature that authorises
// access.
func blobName(u secret.URL) string {
	name, _, _ := strings.Cut(u.Reveal(), "?")
	return name
}

// sendStatus sends the document to a blob of the given type.
func (c *Client) sendStatus(ctx context.Context, blob protocol.StatusBlob, doc []byte) (protocol.Receipt, error) {
	var err error
	r := protocol.Receipt{Via: "host", Bytes: len(doc), Sent: time.Now().UTC()}
	if c.o.Order != transfer.DirectOnly {
		err = c.hostClient().PutStatus(ctx, blob, doc)
		c.observe("GuestAgentPluginStatus", err)
		r.HTTPStatus = answered(err, http.StatusOK)
		again := c.statusPutOff.Swap(errors.Is(err, hostga.ErrLater))
		if err == nil {
			r.Accepted = true
			return r, nil
		}
		// After an ID change wait once for the next report. If the host refuses
		// that, too, the status still has to reach the platform, directly.
		if errors.Is(err, hostga.ErrLater) && !again || ctx.Err() != nil || c.o.Order == transfer.HostOnly {
			return r, fmt.Errorf("report status: %w", err)
		}
	}
	r.Via, r.Sent = "direct", time.Now().UTC()
	derr := c.putDirect(ctx, blob, doc)
	r.HTTPStatus = answered(derr, http.StatusCreated)
	if derr != nil {
		if err != nil {
			derr = &bothFailed{err, derr}
		}
		return r, fmt.Errorf("report status: %w", derr)
	}
	r.Accepted = true
	return r, nil
}

// answered is the HTTP status of an answer: ok without an error, 0 if there
// was no answer.
func answered(err error, ok int) int {
	if err == nil {
		return ok
	}
	if se, found := errors.AsType[*web.StatusError](err); found {
		return se.Status
	}
	return 0
}

// bothFailed has the errors of both ways to send a status.
type bothFailed struct{ host, direct error }

func (e *bothFailed) Error() string   { return fmt.Sprintf("host: %v; direct: %v", e.host, e.direct) }
func (e *bothFailed) Unwrap() []error { return []error{e.host, e.direct} }

// refetch makes the next GoalState get everything, at most every 3 minutes.
func (c *Client) refetch() {
	select {
	case c.turn <- struct{}{}:
		// wait: it gives back what this call has put there
		defer func() { <-c.turn }()
	default:
		return // a GoalState call is running
	}
	if s := &c.state; s.adopted != nil && (s.retryAt.IsZero() || s.due()) {
		s.docs.failed |= extensions
		s.retryAt = time.Now().Add(statusBlobRetry)
	}
}

// opDirectStatus is the name of putDirect's requests.
const opDirectStatus = "directStatus"

// putDirect uploads to storage itself; only 201 counts.
func (c *Client) putDirect(ctx context.Context, blob protocol.StatusBlob, doc []byte) error {
	put := func(url string, body []byte, more bool, kv ...string) error {
		h := http.Header{}
		h.Set("X-Ms-Date", time.Now().UTC().Format("2006-01-02T15:04:05Z"))
		h.Set("X-Ms-Version", "2014-02-14")
		for i := 0; i+1 < len(kv); i += 2 {
			h.Set(kv[i], kv[i+1])
		}
		resp, err := c.storage.Do(ctx, web.Request{
			Op: opDirectStatus, Method: http.MethodPut, URL: url, PerURL: true, Header: h, Body: body, Tries: 2, Patience: 5 * time.Second,
			Part: more,
		})
		if err == nil && resp.Status != http.StatusCreated {
			err = &web.StatusError{Status: resp.Status, Body: "expected 201"}
		}
		return err
	}
	u := blob.URL.Reveal()
	if !blob.Page {
		return put(u, doc, false, "X-Ms-Blob-Type", "BlockBlob")
	}
	padded := append(bytes.Clone(doc), make([]byte, hostga.Padding(len(doc)))...) // directly it is padded with zeros
	if err := put(u, nil, true, "X-Ms-Blob-Type", "PageBlob", "X-Ms-Blob-Content-Length", strconv.Itoa(len(padded))); err != nil {
		return err
	}
	const pageMax = 4 << 20
	for at := 0; at < len(padded); at += pageMax {
		page := padded[at:min(at+pageMax, len(padded))]
		if err := put(hostga.PageURL(u), page, at+len(page) < len(padded), "X-Ms-Page-Write", "update", "X-Ms-Range", fmt.Sprintf("bytes=%d-%d", at, at+len(page)-1)); err != nil {
			return err
		}
	}
	return nil
}

// Manifest gets a version manifest from the first address that has one.
func (c *Client) Manifest(ctx context.Context, uris []secret.URL) (*protocol.Manifest, error) {
	var m *protocol.Manifest
	_, _, err := c.transfers().Get(ctx, transfer.Want{
		Op: "manifest", URIs: uris, Verify: c.verify(), Limit: wire.MaxManifest,
		Check: func(b transfer.Body) (err error) {
			if m, err = wire.ParseManifest(b.Data); err == nil {
				m.From = b.From
			}
			return err
		},
	})
	if err != nil {
		return nil, c.expired(err)
	}
	return m, nil
}

// Package gets a package to dst (a name below the root), at most limit bytes,
// and returns its SHA-256 in hex. manifest is the address that the version
// manifest came from, which is passed on to the host. check is called with the
// file and its digest before it is taken, see transfer.Want; it may be nil.
func (c *Client) Package(ctx context.Context, uris []secret.URL, manifest secret.URL, dst string, limit int64, check func(file, digest string) error) (sha256 string, err error) {
	w := transfer.Want{Op: "package", URIs: uris, Verify: c.verify(), Manifest: manifest, Limit: limit}
	if check != nil {
		w.Check = func(b transfer.Body) error { return check(b.File, b.Digest) }
	}
	digest, err := c.transfers().File(ctx, w, c.o.Root.Path(dst))
	return digest, c.expired(err)
}

// expired renews the addresses if storage no longer accepts the signature in
// one.
func (c *Client) expired(err error) error {
	if !protocol.Expired(err) {
		return err
	}
	c.renewAddresses()
	return fmt.Errorf("the signature in the address is not valid at this time, asking the platform for another one: %w", err)
}

// renewAddresses makes the next GoalState get everything again, at most every 3
// minutes: the platform may have renewed addresses without a new goal state.
func (c *Client) renewAddresses() {
	select {
	case c.turn <- struct{}{}:
		// wait: it gives back what this call has put there
		defer func() { <-c.turn }()
		if s := &c.state; s.adopted != nil && !time.Now().Before(s.renewAt) {
			s.refetch, s.renewing = true, true
			s.renewAt = time.Now().Add(addressRenewal)
		}
	default: // a GoalState call is running; the next failure tells
	}
}

// verify reports whether the host is to check addresses against the goal
// state, which it does for FastTrack only.
func (c *Client) verify() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fromFastTrack
}

// UploadLogs uploads a zip of logs through the host.
func (c *Client) UploadLogs(ctx context.Context, zip []byte) error {
	return c.hostClient().PutLogs(ctx, wire.DeploymentID(c.getIDs().ConfigName), zip)
}

// SendEvents sends telemetry. Events that do not arrive are not sent again, as
// the protocol has it; the error says how many arrived.
func (c *Client) SendEvents(ctx context.Context, evs []event.Event) error {
	if c.o.NoTelemetry || len(evs) == 0 {
		return nil
	}
	batches, dropped := wire.Telemetry(evs, c.common(ctx))
	sent, err := c.wireClient().PostTelemetryAll(ctx, batches)
	if err != nil {
		return fmt.Errorf("send %d events: %d accepted: %w", len(evs), sent, err)
	}
	if dropped > 0 {
		return fmt.Errorf("send %d events: %d are too large", len(evs), dropped)
	}
	return nil
}

// common are the parameters of every event.
func (c *Client) common(ctx context.Context) wire.Common {
	g := c.getIDs()
	out := wire.Common{
		GAVersion: c.o.AgentName + "-" + c.o.AgentVersion, ContainerID: g.ContainerID,
		OSVersion: c.o.Facts.OSVersion, Architecture: c.o.Facts.Architecture, RAM: c.o.Facts.RAM, Processors: c.o.Facts.Processors,
	}
	c.mu.Lock()
	if c.current != nil {
		out.RoleName, out.TenantName, out.RoleInstanceName = c.current.RoleName, c.current.TenantName, c.current.VMName
	}
	c.mu.Unlock()
	if i, err := c.Instance(ctx); err == nil {
		m := i.Compute
		out.Location, out.SubscriptionID, out.ResourceGroupName, out.VMID = m.Location, m.SubscriptionID, m.ResourceGroup, m.VMID
		out.ImageOrigin = i.ImageOrigin()
	}
	return out
}

// Instance returns what the metadata service says about this machine. It asks
// until there was an answer, at most every ten minutes.
func (c *Client) Instance(ctx context.Context) (*imds.Instance, error) {
	c.mu.Lock()
	i, asked := c.instance, c.instanceAsked
	c.mu.Unlock()
	if i != nil {
		return i, nil
	}
	if !asked.IsZero() && time.Since(asked) < 10*time.Minute {
		return nil, errors.New("metadata service does not answer")
	}
	i, doc, err := c.metadata.Instance(ctx)
	c.mu.Lock()
	if ctx.Err() == nil { // a cancelled call says nothing about the service
		c.instanceAsked = time.Now()
	}
	if err == nil {
		c.instance = i
	}
	c.mu.Unlock()
	if err == nil && c.o.Metadata != nil {
		c.o.Metadata(doc)
	}
	return i, err
}

// metadataTries is how often NewestMetadata asks.
const metadataTries = 2

// NewestMetadata fetches the instance document in the newest version that the
// service has. It gives up soon.
func (c *Client) NewestMetadata(ctx context.Context) ([]byte, error) {
	return c.metadata.Newest(ctx, metadataTries)
}
