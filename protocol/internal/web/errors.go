package web

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// StatusError is an answer with a status that the caller did not expect.
type StatusError struct {
	Status int
	Body   string // at most 4 KiB
	after  time.Duration
	relay  bool // it is a relay's answer, see Request.Relay
}

func (e *StatusError) Error() string {
	msg := strings.Join(strings.Fields(secret.Redact(e.Body)), " ")
	if len(msg) > 200 {
		msg = strings.ToValidUTF8(msg[:200], "") + "…"
	}
	if msg == "" {
		return fmt.Sprintf("status %d", e.Status)
	}
	return fmt.Sprintf("status %d: %s", e.Status, msg)
}

// Outlook implements protocol.OutlookOf (protocol/SPEC.md §2.3). Few statuses
// say something about what was asked for, and not about the server, a proxy or
// the moment.
func (e *StatusError) Outlook() protocol.Outlook {
	switch e.Status {
	case 404:
		return protocol.Absent
	case 400:
		if e.relay || e.InvalidContainer() {
			return protocol.Later
		}
		return protocol.Never
	case 401, 405, 406, 411, 413, 414, 415, 451:
		return protocol.Never
	}
	return protocol.Later
}

// Gone reports a 410: the container or configuration name is stale.
func (e *StatusError) Gone() bool { return e.Status == 410 }

// InvalidContainer reports a 400 of the HostGAPlugin with the same meaning.
func (e *StatusError) InvalidContainer() bool {
	return e.Status == 400 && e.Named() == "InvalidContainerConfiguration"
}

// Named is the server's own code for the error, where it gives one: the
// errorCode of the HostGAPlugin, the Code of storage. Message texts are not
// interpreted.
func (e *StatusError) Named() string {
	body := []byte(strings.TrimSpace(strings.TrimPrefix(e.Body, "\ufeff")))
	var doc struct {
		ErrorCode string `json:"errorCode"`
		Code      string `json:"code"`
		Error     struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &doc) == nil {
		return cmp.Or(doc.ErrorCode, doc.Code, doc.Error.Code)
	}
	var x struct {
		Code string `xml:"Code"`
	}
	if xml.Unmarshal(body, &x) == nil {
		return x.Code
	}
	return ""
}

// Expired implements protocol.Expired: storage does not accept the signature in
// the address.
func (e *StatusError) Expired() bool { return e.Status == 403 && e.Named() == "AuthenticationFailed" }

// Throttled reports an answer that asks the client to come back later.
func (e *StatusError) Throttled() bool {
	return e.Status == 403 || e.Status == 429 || e.Status == 503
}

// Code returns the error code, which is stable.
func (e *StatusError) Code() string {
	switch {
	case e.Gone():
		return "host-gone"
	case e.InvalidContainer():
		return "host-invalid-container"
	case e.Throttled():
		return "host-throttled"
	}
	return "host-status"
}

type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("%v after %v", errSlow, e.after) }
func (*timeoutError) Unwrap() error   { return errSlow }
func (*timeoutError) Code() string    { return "host-timeout" }

// Outlook implements protocol.OutlookOf.
func (*timeoutError) Outlook() protocol.Outlook { return protocol.Later }

// netError is a failure of the network.
type netError struct{ err error }

func (e *netError) Error() string { return e.err.Error() }
func (e *netError) Unwrap() error { return e.err }
func (*netError) Code() string    { return "host-unreachable" }

// Outlook implements protocol.OutlookOf.
func (*netError) Outlook() protocol.Outlook { return protocol.Later }

// Silent reports whether err means that nobody has answered.
func Silent(err error) bool {
	if _, ok := errors.AsType[*netError](err); ok {
		return true
	}
	_, ok := errors.AsType[*timeoutError](err)
	return ok
}

// ContentError is an answer that is not what was asked for. Err says what is
// wrong with it and whether there is hope; by itself the fault is that of the
// transport.
type ContentError struct{ Err error }

func (e *ContentError) Error() string { return e.Err.Error() }
func (e *ContentError) Unwrap() error { return e.Err }

// Outlook implements protocol.OutlookOf.
func (e *ContentError) Outlook() protocol.Outlook { return protocol.OutlookOf(e.Err, protocol.Later) }

// Code returns the error code, which is stable.
func (e *ContentError) Code() string {
	if c, ok := errors.AsType[interface {
		error
		Code() string
	}](e.Err); ok {
		return c.Code()
	}
	return "host-document"
}

// SizeError is a body beyond its limit; the request is not repeated.
type SizeError struct{ Limit int64 }

func (e *SizeError) Error() string { return fmt.Sprintf("more than %d bytes", e.Limit) }

// Code returns the error code, which is stable.
func (*SizeError) Code() string { return "host-document" }

// Outlook implements protocol.OutlookOf.
func (*SizeError) Outlook() protocol.Outlook { return protocol.Never }

// addressError is a text that is not an HTTP URL.
type addressError struct{ url string }

func (e *addressError) Error() string { return "not an HTTP URL: " + bound.Quote(e.url) }
func (*addressError) Code() string    { return "host-document" }

// Outlook implements protocol.OutlookOf.
func (*addressError) Outlook() protocol.Outlook { return protocol.Never }

// localError is a failure on this machine, not of the network: a full disk, a
// closed file.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }
func (*localError) Code() string    { return "local-io" }

// Outlook implements protocol.OutlookOf.
func (*localError) Outlook() protocol.Outlook { return protocol.Later }

var errProxy = errors.New("configured proxy is not a URL")
