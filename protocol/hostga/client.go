package hostga

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Port is where the HostGAPlugin listens.
const Port = "32526"

const (
	version        = "2015-09-01" // x-ms-version of this service
	storageVersion = "2014-02-14" // and of storage, for the headers it replays
)

// OpStatus is the name of PutStatus's requests, for web.Client.Reset.
const OpStatus = "hostStatus"

// IDs are the values of the headers that name this VM. They can change without
// a new incarnation, so they are read anew for each request.
type IDs struct{ ContainerID, ConfigName string }

// Host is what the client needs to know and can ask for.
type Host interface {
	IDs() IDs
	// Refresh gets the goal state, so that IDs are current.
	Refresh(ctx context.Context) error
}

// A Client talks to the HostGAPlugin at one address (host:port).
type Client struct {
	web     *web.Client
	addr    string
	host    Host
	name    string
	release string
}

// New makes a client. name and release say who uploads logs.
func New(w *web.Client, addr string, h Host, name, release string) *Client {
	return &Client{web: w, addr: addr, host: h, name: name, release: release}
}

// Stale reports whether the error says that container or configuration name
// are out of date.
func Stale(err error) bool {
	se, ok := errors.AsType[*web.StatusError](err)
	return ok && (se.Gone() || se.InvalidContainer())
}

// gone is Stale for 410 only.
func gone(err error) bool {
	se, ok := errors.AsType[*web.StatusError](err)
	return ok && se.Gone()
}

func (c *Client) url(path string) string { return "http://" + c.addr + path }

// headers makes the headers that most requests have.
func (c *Client) headers() http.Header {
	ids := c.host.IDs()
	h := http.Header{}
	h.Set("X-Ms-Version", version)
	h.Set("X-Ms-Containerid", ids.ContainerID)
	h.Set("X-Ms-Host-Config-Name", ids.ConfigName)
	return h
}

// fresh calls f, and once more after a refresh if the ids it sent were stale.
func (c *Client) fresh(ctx context.Context, f func() error) error {
	err := f()
	if f, ok := errors.AsType[*protocol.Fault](err); !Stale(err) || ok && f.Waiting {
		return err // nothing new was said
	}
	if rerr := c.host.Refresh(ctx); rerr != nil {
		return fmt.Errorf("%w; refresh: %w", err, rerr)
	}
	return f()
}

// Healthy asks /health once.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := c.web.Do(ctx, web.Request{Op: "hostHealth", URL: c.url("/health"), Tries: 1, Limit: maxAnswer})
	return err
}

// ErrUnsupported says that this host has no vmSettings.
var ErrUnsupported = errors.New("vmSettings not supported by the host")

// VMSettings gets the FastTrack goal state and its text. etag is that of
// the settings already known, or "". The error is protocol.ErrNotModified for
// a 304 and ErrUnsupported for a 404 or a plugin that is too old.
func (c *Client) VMSettings(ctx context.Context, etag string) (vm *VMSettings, raw []byte, err error) {
	err = c.fresh(ctx, func() error {
		h := c.headers()
		h.Set("X-Ms-Client-Correlationid", uuid())
		if etag != "" {
			h.Set("If-None-Match", etag)
		}
		resp, err := c.web.Do(ctx, web.Request{
			Op: "vmSettings", URL: c.url("/vmSettings"), Header: h, Tries: 1, Limit: limits.Bytes,
			Expect: []int{http.StatusNotModified, http.StatusNotFound},
		})
		if err != nil {
			return err
		}
		switch resp.Status {
		case http.StatusNotModified:
			return protocol.ErrNotModified
		case http.StatusNotFound:
			return ErrUnsupported
		}
		raw = resp.Body
		if vm, err = ParseVMSettings(raw); err != nil {
			return err
		}
		if vm.Plugin == "" { // an error document, or half of one, says nothing about support
			return &protocol.DocumentError{Doc: "vmSettings", Err: errors.New("no hostGAPluginVersion")}
		}
		if Older(vm.Plugin, minVMSettings) {
			return fmt.Errorf("%w: plugin %s", ErrUnsupported, vm.Plugin)
		}
		if vm.ETag = resp.Header.Get("Etag"); vm.ETag == "" {
			return &protocol.DocumentError{Doc: "vmSettings", Err: errors.New("no ETag")}
		}
		return nil
	})
	if err != nil {
		return nil, raw, err
	}
	return vm, raw, nil
}

// An Artifact is a blob to be fetched by the host for us.
type Artifact struct {
	URL secret.URL
	// Verify asks the host to check the address against the goal state; for
	// goal states that came by FastTrack.
	Verify bool
	// Manifest is set for packages: where the manifest came from.
	Manifest secret.URL
}

// Fetch gets an artifact. Without a Sink in r the body is in the response. A 400
// is transient: the plugin sometimes answers so for a moment.
func (c *Client) Fetch(ctx context.Context, a Artifact, r FetchLimits) (*web.Response, error) {
	var resp *web.Response
	err := c.fresh(ctx, func() error {
		h := c.headers()
		h.Set("X-Ms-Artifact-Location", a.URL.Reveal())
		if a.Verify {
			h.Set("X-Ms-Verify-From-Artifacts-Blob", "true")
		}
		if !a.Manifest.Empty() {
			h.Set("X-Ms-Artifact-Manifest-Location", a.Manifest.Reveal())
		}
		var err error
		resp, err = c.web.Do(ctx, web.Request{
			Op: r.Op, URL: c.url("/extensionArtifact"), About: a.URL.Reveal(), Header: h, Relay: true,
			Tries: 1, Limit: r.Limit, Sink: r.Sink, Check: r.Check, Expect: r.Expect,
		})
		return err
	})
	return resp, err
}

// FetchLimits are passed on to the HTTP layer.
type FetchLimits struct {
	Op     string
	Limit  int64
	Expect []int
	Sink   web.Sink
	Check  func(*web.Response) error
}

// pageMax is the most bytes of one page write; sizes are multiples of
// pageUnit.
const (
	pageMax  = 4 << 20
	pageUnit = 512
)

// ErrLater says that the host refused the status because the ids in it were
// stale. They have been refreshed, or the error also says why not; the next
// report should succeed (protocol/SPEC.md §9.5).
var ErrLater = errors.New("status not accepted: container ID changed")

// PutStatus uploads the status document through the host.
func (c *Client) PutStatus(ctx context.Context, blob protocol.StatusBlob, doc []byte) error {
	var err error
	if blob.Page {
		err = c.putPages(ctx, blob.URL, doc)
	} else {
		err = c.replay(ctx, blob.URL.Reveal(), doc, false, header("Content-Length", strconv.Itoa(len(doc))), header("x-ms-blob-type", "BlockBlob"))
	}
	if gone(err) {
		if rerr := c.host.Refresh(ctx); rerr != nil {
			return errors.Join(ErrLater, rerr)
		}
		return ErrLater
	}
	return err
}

func (c *Client) putPages(ctx context.Context, url secret.URL, doc []byte) error {
	// Through the host the padding is spaces, which JSON allows.
	padded := append(bytes.Clone(doc), bytes.Repeat([]byte{' '}, Padding(len(doc)))...)
	err := c.replay(ctx, url.Reveal(), nil, true, header("Content-Length", "0"), header("x-ms-blob-content-length", strconv.Itoa(len(padded))),
		header("x-ms-blob-type", "PageBlob"))
	for start := 0; err == nil && start < len(padded); start += pageMax {
		page := padded[start:min(start+pageMax, len(padded))]
		err = c.replay(ctx, PageURL(url.Reveal()), page, start+len(page) < len(padded), header("Content-Length", strconv.Itoa(len(page))),
			header("x-ms-range", fmt.Sprintf("bytes=%d-%d", start, start+len(page)-1)), header("x-ms-page-write", "update"))
	}
	return err
}

// Padding is how many bytes are missing to full pages in a page blob of n
// bytes.
func Padding(n int) int { return (pageUnit - n%pageUnit) % pageUnit }

// PageURL is the address for page writes.
func PageURL(u string) string {
	if strings.Contains(u, "?") {
		return u + "&comp=page"
	}
	return u + "?comp=page"
}

type blobHeader struct {
	Name  string `json:"headerName"`
	Value string `json:"headerValue"`
}

func header(name, value string) blobHeader { return blobHeader{name, value} }

// replay asks the host to PUT content with these headers to uri. more says that
// other parts of the blob follow.
func (c *Client) replay(ctx context.Context, uri string, content []byte, more bool, hs ...blobHeader) error {
	body := struct {
		Content *string      `json:"content,omitempty"`
		Headers []blobHeader `json:"headers"`
		URI     string       `json:"requestUri"`
	}{Headers: append(hs, header("x-ms-date", time.Now().UTC().Format("2006-01-02T15:04:05Z")), header("x-ms-version", storageVersion)), URI: uri}
	if content != nil {
		s := base64.StdEncoding.EncodeToString(content)
		body.Content = &s
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the address contains &
	if err := enc.Encode(body); err != nil {
		return fmt.Errorf("build status upload: %w", err)
	}
	h := c.headers()
	h.Set("Content-Type", "application/json")
	_, err := c.web.Do(ctx, web.Request{
		Op: OpStatus, Method: http.MethodPut, URL: c.url("/status"), Header: h, Body: bytes.TrimSpace(buf.Bytes()),
		Tries: 2, Patience: 5 * time.Second, Limit: maxAnswer, Part: more,
	})
	return err
}

// PutLogs uploads a zip of logs. deployment is the part of the
// configuration name up to the first dot.
func (c *Client) PutLogs(ctx context.Context, deployment string, zip []byte) error {
	return c.fresh(ctx, func() error {
		h := http.Header{}
		h.Set("X-Ms-Version", version)
		h.Set("X-Ms-Containerid", c.host.IDs().ContainerID)
		h.Set("X-Ms-Vmagentlog-Deploymentid", deployment)
		h.Set("X-Ms-Client-Name", c.name)
		h.Set("X-Ms-Client-Version", c.release)
		h.Set("X-Ms-Client-Correlationid", uuid())
		_, err := c.web.Do(ctx, web.Request{
			Op: "vmAgentLog", Method: http.MethodPut, URL: c.url("/vmAgentLog"), Header: h, Body: zip,
			Tries: 2, Patience: 70 * time.Second, Timeout: 30 * time.Second, Limit: maxAnswer,
		})
		return err
	})
}

// uuid is a random one (version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
