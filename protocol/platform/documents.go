package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sync/errgroup"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/cms"
	"github.com/azguest/azguest/protocol/transfer"
	"github.com/azguest/azguest/protocol/wire"
)

// documents are the parts of one WireServer goal state.
type documents struct {
	goalState, extensions, hosting, sharedConfig, vmSettings []byte

	ext      *wire.Extensions
	onHold   bool  // by the artifacts profile of ext
	holdErr  error // why it is not known
	names    wire.Names
	certs    []protocol.Certificate
	certsErr error
	users    *protocol.RemoteAccess
	access   []byte // as received; passwords are encrypted
	failed   doc
	// next is when the first of the requests that failed is due. ownPace means
	// that something has failed that has no such time.
	next    time.Time
	ownPace bool
}

// loss is a document that could not be fetched, and why.
type loss struct {
	what doc
	err  error
}

// lose notes what could not be fetched.
func (d *documents) lose(l loss) {
	if l.err == nil {
		return
	}
	d.failed |= l.what
	switch next := protocol.NextTry(l.err); {
	case next.IsZero():
		d.ownPace = true
	case d.next.IsZero() || next.Before(d.next):
		d.next = next
	}
}

// doc is a set of documents.
type doc int

const (
	extensions doc = 1 << iota
	hosting
	shared
	certificates
	access
	profile    // not a document of the WireServer; fetched along with extensions
	everything = extensions | hosting | shared | certificates | access
)

// docNames are the names under which the documents are asked for.
var docNames = []string{
	"extensionsConfig", "hostingEnvironmentConfig", "sharedConfig", "remoteAccess." + wire.AES,
	"certificates." + wire.AES, "certificates." + wire.DES,
}

// fetch gets the documents in what, side by side, on top of old ones. Only
// ExtensionsConfig is indispensable; whatever else fails keeps its old value,
// is named in failed and asked for again later (protocol/SPEC.md §4.4).
func (c *Client) fetch(ctx context.Context, gs *wire.GoalState, old documents, what doc) (documents, error) {
	d := old
	d.failed, d.next, d.ownPace = old.failed&^what, time.Time{}, false
	w := c.wireClient()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	var lost [4]loss // one for each goroutine that may fail
	if what&extensions != 0 {
		g.Go(func() (err error) {
			defer crash.Catch(&err)
			return c.fetchExtensions(gctx, w, gs, &d)
		})
	} else if what&profile != 0 {
		g.Go(func() (err error) {
			defer crash.Catch(&err)
			c.fetchProfile(gctx, &d, profileAgain)
			return nil
		})
	}
	if what&hosting != 0 && gs.HostingEnvironmentConfig != "" {
		g.Go(func() (err error) {
			defer crash.Catch(&err)
			b, err := w.Document(gctx, "hostingEnvironmentConfig", gs.HostingEnvironmentConfig)
			if err == nil {
				var n wire.Names
				if n, err = wire.ParseHostingEnvironment(b); err == nil {
					d.names, d.hosting = n, c.forHistory(b)
				}
			}
			lost[0] = c.noteLost(gctx, hosting, err)
			return nil
		})
	}
	if what&shared != 0 && gs.SharedConfig != "" {
		g.Go(func() (err error) {
			defer crash.Catch(&err)
			b, err := w.Document(gctx, "sharedConfig", gs.SharedConfig)
			if err == nil {
				err = wire.CheckSharedConfig(b)
			}
			if err == nil {
				d.sharedConfig = b
			}
			lost[1] = c.noteLost(gctx, shared, err)
			return nil
		})
	}
	if what&certificates != 0 {
		g.Go(func() (err error) {
			defer crash.Catch(&err)
			certs, err := c.fetchCertificates(gctx, w, gs.Certificates)
			if d.certsErr = err; err == nil {
				d.certs = certs
			}
			lost[2] = c.noteLost(gctx, certificates, err)
			return nil
		})
	}
	if what&access != 0 {
		g.Go(func() (err error) {
			defer crash.Catch(&err)
			err = c.fetchAccess(gctx, w, gs.RemoteAccess, &d)
			lost[3] = c.noteLost(gctx, access, err)
			return nil
		})
	}
	// wait: each request has the context of the group
	if err := g.Wait(); err != nil {
		return old, err
	}
	if ctx.Err() != nil {
		return old, context.Cause(ctx)
	}
	for _, l := range lost {
		d.lose(l)
	}
	if what&(extensions|profile) != 0 {
		d.failed &^= profile
		d.lose(c.noteLost(ctx, profile, d.holdErr))
	}
	return d, nil
}

// noteLost returns what has to be asked for again, and logs why.
func (c *Client) noteLost(ctx context.Context, what doc, err error) loss {
	if err != nil && ctx.Err() == nil && protocol.Loud(err) {
		c.o.Log.Warn().Err(err).Msg("part of the goal state not available, will retry")
	}
	return loss{what, err}
}

func (c *Client) fetchExtensions(ctx context.Context, w *wire.Client, gs *wire.GoalState, d *documents) error {
	if gs.ExtensionsConfig == "" {
		d.ext, d.extensions = &wire.Extensions{}, nil
		return nil
	}
	b, err := w.Document(ctx, "extensionsConfig", gs.ExtensionsConfig)
	if err != nil {
		return err
	}
	x, err := wire.ParseExtensions(b)
	if err != nil {
		return err
	}
	d.ext, d.extensions = x, c.forHistory(b)
	c.fetchProfile(ctx, d, profileFirst)
	return nil
}

// How long a goal state is held up by the artifacts profile: the first time, and
// when it is asked for again.
const (
	profileFirst = 20 * time.Second
	profileAgain = 5 * time.Second
)

// fetchProfile gets the artifacts profile, which says whether the goal state is
// on hold. While it can't be had, that is not known. A profile that is not there,
// or says something else, puts nothing on hold (protocol/SPEC.md §6.5).
func (c *Client) fetchProfile(ctx context.Context, d *documents, budget time.Duration) {
	d.onHold, d.holdErr = false, nil
	if d.ext == nil || d.ext.ArtifactsProfile.Empty() {
		return
	}
	hold := false
	_, _, err := c.transfers().Get(ctx, transfer.Want{
		Op: "artifactsProfile", URIs: []secret.URL{d.ext.ArtifactsProfile}, Limit: profileLimits.Bytes, Budget: budget,
		Check: func(b transfer.Body) (err error) {
			hold, err = onHold(b.Data)
			return err
		},
	})
	switch {
	case err == nil:
		d.onHold = hold
	case protocol.OutlookOf(err, protocol.Later) == protocol.Later:
		d.holdErr = fmt.Errorf("artifacts profile: %w", err)
	default:
		c.o.Log.Debug().Err(err).Msg("no artifacts profile, so the goal state is not on hold")
	}
}

// profileLimits are those of the artifacts profile.
var profileLimits = bound.Limits{Bytes: 1 << 20, Nodes: 20_000, Depth: 64}

// onHold reads the artifacts profile blob. Everything in it is optional, so that
// it is known by what it does not have: a record without onHold that names an
// error (the forms of web.StatusError.Named) is the answer of another service.
func onHold(b []byte) (bool, error) {
	var p struct{ OnHold, Error, ErrorCode, Code json.RawMessage }
	text := bytes.TrimRight(wire.TrimBOM(b), " \r\n\t\x00")
	if len(text) == 0 {
		return false, nil
	}
	if err := profileLimits.JSON(text); err != nil {
		return false, fmt.Errorf("artifacts profile: %w", err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return false, errors.New("artifacts profile: not JSON")
	}
	switch v := strings.ToLower(string(bytes.Trim(p.OnHold, `"`))); {
	case len(p.OnHold) == 0 && slices.ContainsFunc([]json.RawMessage{p.Error, p.ErrorCode, p.Code}, func(m json.RawMessage) bool { return len(m) > 0 && string(m) != "null" }):
		return false, errors.New("artifacts profile: it is the answer of another service")
	case v == "true":
		return true, nil
	case len(p.OnHold) == 0 || v == "false" || v == "null" || p.OnHold[0] == '"':
		return false, nil
	}
	// It is a profile, only not of a kind that we know.
	return false, protocol.Judge(protocol.Never, errors.New("artifacts profile: onHold is neither true nor false"))
}

// fetchCertificates tries the better cipher first (protocol/SPEC.md §5.2).
func (c *Client) fetchCertificates(ctx context.Context, w *wire.Client, uri string) ([]protocol.Certificate, error) {
	if uri == "" {
		return nil, nil
	}
	key, head, err := c.key.get(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, cipher := range []string{wire.AES, wire.DES} {
		out, err := openCertificates(ctx, w, uri, head, cipher, key)
		if err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		errs = append(errs, fmt.Errorf("certificates (%s): %w", cipher, err))
	}
	// Only if no cipher has any hope, there is none.
	outlook := protocol.Never
	for _, err := range errs {
		if protocol.OutlookOf(err, protocol.Later) != protocol.Never {
			outlook = protocol.Later
		}
	}
	return nil, protocol.Judge(outlook, errors.Join(errs...))
}

func openCertificates(ctx context.Context, w *wire.Client, uri, head, cipher string, key cms.Key) ([]protocol.Certificate, error) {
	b, err := w.Encrypted(ctx, "certificates", uri, head, cipher)
	if err != nil {
		return nil, err
	}
	der, err := wire.ParseCertificates(b)
	if err != nil || der == nil {
		return nil, err
	}
	plain, err := cms.Decrypt(der, key)
	if errors.Is(err, cms.ErrNotForUs) {
		err = protocol.Judge(protocol.Never, err)
	}
	if err != nil {
		return nil, &protocol.DocumentError{Doc: "certificates", Err: err}
	}
	pfx, err := cms.ParsePFX(plain, "")
	if err != nil {
		return nil, &protocol.DocumentError{Doc: "certificates", Err: err}
	}
	var out []protocol.Certificate
	for _, p := range pfx.Pairs {
		k := protocol.Certificate{Thumbprint: p.Thumbprint, Name: p.Name, CertPEM: p.CertPEM()}
		if p.Key != nil {
			k.KeyPEM = secret.New(string(p.KeyPEM()))
		}
		out = append(out, k)
	}
	return out, nil
}

// fetchAccess gets the list of just-in-time users. A failure is not the same
// as an empty list: existing accounts must stay.
func (c *Client) fetchAccess(ctx context.Context, w *wire.Client, uri string, d *documents) error {
	if uri == "" {
		d.users, d.access = nil, nil
		return nil
	}
	users, raw, err := c.openAccess(ctx, w, uri)
	if err != nil {
		d.users = &protocol.RemoteAccess{Err: err}
		return err
	}
	d.users, d.access = users, c.forHistory(raw)
	return nil
}

func (c *Client) openAccess(ctx context.Context, w *wire.Client, uri string) (*protocol.RemoteAccess, []byte, error) {
	key, head, err := c.key.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	b, err := w.Encrypted(ctx, "remoteAccess", uri, head, wire.AES)
	if err != nil {
		return nil, nil, err
	}
	doc, err := wire.ParseRemoteAccess(b)
	if err != nil {
		return nil, nil, err
	}
	out := &protocol.RemoteAccess{Incarnation: doc.Incarnation}
	for _, u := range doc.Users {
		r := protocol.RemoteUser{Name: u.Name, Err: u.Err}
		var terr error
		if r.Expires, terr = expiry(u.Expires); terr != nil && r.Err == nil {
			r.Err = fmt.Errorf("user %s: %w", u.Name, terr)
		}
		if r.Err == nil {
			plain, derr := cms.Decrypt(u.Password, key)
			if derr != nil {
				r.Err = fmt.Errorf("user %s: password: %w", u.Name, derr)
			} else {
				r.Password = secret.New(utf16LE(plain))
			}
		}
		out.Users = append(out.Users, r)
	}
	return out, b, nil
}

// expiry reads "Wed, 01 Jan 2025 10:00:00 UTC"; whatever the zone says, it
// is UTC (protocol/SPEC.md §12.1).
func expiry(s string) (time.Time, error) {
	f := strings.Fields(s)
	if len(f) >= 5 {
		if t, err := time.Parse("2 Jan 2006 15:04:05", strings.Join(f[1:5], " ")); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("invalid expiry time %q", s)
}

func utf16LE(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u = append(u, uint16(b[i])|uint16(b[i+1])<<8)
	}
	return strings.TrimPrefix(string(utf16.Decode(u)), "\ufeff")
}

// writeDocuments writes the files that other programs read: handlers find
// certificates by thumbprint two levels above their configuration
// (protocol/SPEC.md §5.5).
func (c *Client) writeDocuments(d *documents) {
	var all []byte
	for _, k := range d.certs {
		all = append(append(all, bytes.TrimRight(k.CertPEM, "\n")...), '\n')
		c.keepFile(k.Thumbprint+".crt", k.CertPEM, 0o400)
		if k.KeyPEM.Set() {
			c.keepFile(k.Thumbprint+".prv", []byte(k.KeyPEM.Reveal()), 0o400)
		}
	}
	if len(all) > 0 {
		// Azure Stack asks its users to add this file to the trusted
		// authorities of the machine, so there are no private keys in it.
		c.keepFile("Certificates.pem", all, 0o400)
	}
	if d.sharedConfig != nil {
		c.keepFile("SharedConfig.xml", d.sharedConfig, 0o600)
	}
	c.keepFile("GoalState.1.xml", []byte("<!-- placeholder for programs that look for this file; see history/ -->\n"), 0o600)
}

// marker is the file with the date of the last FastTrack goal state; it
// survives restarts.
type marker struct {
	Timestamp string `json:"timestamp"`
}

const (
	markerFile = "fast_track.json"
	markerTime = "2006-01-02T15:04:05.000000Z"
)

// readMarker returns the zero time without a marker, and now for one that
// can't be read.
func (c *Client) readMarker() time.Time {
	b, err := c.o.Root.ReadFile(path.Join(c.o.LibDir, markerFile))
	if err != nil {
		if !c.o.Root.Exists(path.Join(c.o.LibDir, markerFile)) {
			return time.Time{}
		}
		return time.Now()
	}
	var m marker
	if json.Unmarshal(b, &m) == nil {
		for _, layout := range []string{markerTime, time.RFC3339Nano, "2006-01-02T15:04:05.999999"} {
			if t, err := time.Parse(layout, m.Timestamp); err == nil {
				return t.UTC()
			}
		}
	}
	return time.Now()
}

// writeMarker sets or, with the zero time, removes the marker.
func (c *Client) writeMarker(t time.Time) {
	t = t.Truncate(time.Microsecond)
	if t.Equal(c.state.marked) {
		return
	}
	c.state.marked = t
	if t.IsZero() {
		if err := c.o.Root.Remove(path.Join(c.o.LibDir, markerFile)); err != nil {
			c.o.Log.Warn().Err(err).Msg("could not remove FastTrack marker")
		}
		return
	}
	b, _ := json.Marshal(marker{t.Format(markerTime)}) // a string always marshals
	c.keepFile(markerFile, b, 0o600)
}
