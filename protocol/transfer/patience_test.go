package transfer

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// reply is an answer with a body and headers, "Name: value".
func reply(code int, body string, headers ...string) *http.Response {
	h := http.Header{}
	for _, x := range headers {
		name, value, _ := strings.Cut(x, ": ")
		h.Set(name, value)
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

// relayed reports whether a request goes through the host, and the address of
// the blob.
func relayed(r *http.Request) (bool, string) {
	if at := r.Header.Get("X-Ms-Artifact-Location"); at != "" {
		return true, at
	}
	return false, r.URL.String()
}

func isDocument(b Body) error {
	if !strings.HasPrefix(string(b.Data), "document") {
		return errors.New("not a document")
	}
	return nil
}

var (
	one = []secret.URL{secret.NewURL("http://a.example/m")}
	two = []secret.URL{secret.NewURL("http://a.example/m"), secret.NewURL("http://b.example/m")}
)

// TestPAT1Content: a body that is not what was asked for is a failure of its
// channel and address. The next one is asked at once, and the bad one does not
// become the first.
func TestPAT1Content(t *testing.T) {
	t.Parallel()
	const page = "<html>sign in</html>"
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("document in a zip"))
	_ = z.Close()
	for name, tc := range map[string]struct {
		uris   []secret.URL
		answer func(host bool, at string) *http.Response
		body   string
		asked  int // at most
	}{
		"a page through the host": {one, func(host bool, _ string) *http.Response {
			if host {
				return reply(200, page)
			}
			return reply(200, "document")
		}, "document", 2},
		"a page directly, 503 through the host": {two, func(host bool, at string) *http.Response {
			if host {
				return reply(503, "")
			}
			if strings.Contains(at, "b.example") {
				return reply(200, page)
			}
			return reply(200, "document")
		}, "document", 4},
		"one address has a page": {two, func(_ bool, at string) *http.Response {
			if strings.Contains(at, "b.example") {
				return reply(200, page)
			}
			return reply(200, "document")
		}, "document", 3},
		"compressed": {one, func(bool, string) *http.Response {
			return reply(200, zipped.String(), "Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", zipped.Len()))
		}, "document in a zip", 1},
		"only said to be compressed": {one, func(bool, string) *http.Response {
			return reply(200, "document", "Content-Encoding: gzip")
		}, "document", 1},
		"half compressed": {one, func(host bool, _ string) *http.Response {
			if host {
				return reply(200, zipped.String()[:zipped.Len()/2], "Content-Encoding: gzip")
			}
			return reply(200, "document")
		}, "document", 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) { n++; return tc.answer(relayed(r)), nil }))
			start := time.Now()
			b, _, err := c.Get(t.Context(), Want{Op: "manifest", URIs: tc.uris, Check: isDocument})
			if err != nil || string(b) != tc.body || n > tc.asked || time.Since(start) != 0 {
				t.Errorf("%s: %q, %v after %d requests and %v", name, b, err, n, time.Since(start))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // and next time the good channel is the first
		var via []bool
		c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) {
			host, _ := relayed(r)
			if via = append(via, host); host {
				return reply(200, page), nil
			}
			return reply(200, "document"), nil
		}))
		for range 2 {
			if _, _, err := c.Get(t.Context(), Want{Op: "manifest", URIs: one, Check: isDocument}); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(via) != "[true false false]" {
			t.Errorf("through the host: %v", via)
		}
	})
}

// TestPAT1Outlook: what becomes of a fetch, by what its ways have answered.
func TestPAT1Outlook(t *testing.T) {
	t.Parallel()
	refused := protocol.Judge(protocol.Never, errors.New("signature"))
	for name, tc := range map[string]struct {
		host, direct int
		check        error
		dial         error
		want         protocol.Outlook
	}{
		"503":                       {503, 503, nil, nil, protocol.Later},
		"404 of everything":         {404, 404, nil, nil, protocol.Absent},
		"404 of storage, relay 502": {502, 404, nil, nil, protocol.Absent},
		"404 of the relay only":     {404, 503, nil, nil, protocol.Later},
		"404 of the relay, no way":  {404, 0, nil, syscall.ENETUNREACH, protocol.Later},
		"400 of the relay":          {400, 0, nil, syscall.ECONNREFUSED, protocol.Later},
		"400 of storage":            {400, 400, nil, nil, protocol.Later},
		"401":                       {401, 401, nil, nil, protocol.Never},
		"403":                       {403, 403, nil, nil, protocol.Later},
		"408":                       {408, 408, nil, nil, protocol.Later},
		"410":                       {410, 410, nil, nil, protocol.Later},
		"425":                       {425, 425, nil, nil, protocol.Later},
		"301":                       {301, 301, nil, nil, protocol.Later},
		"204":                       {204, 204, nil, nil, protocol.Later},
		"EPERM":                     {503, 0, nil, syscall.EPERM, protocol.Later},
		"a page":                    {200, 200, errors.New("a page"), nil, protocol.Later},
		"refused":                   {200, 200, refused, nil, protocol.Never},
		"refused, relay 503":        {503, 200, refused, nil, protocol.Never},
		"our disk":                  {200, 200, syscall.ENOSPC, nil, protocol.Later},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) {
				if host, _ := relayed(r); host {
					return reply(tc.host, ""), nil
				}
				if tc.dial != nil {
					return nil, tc.dial
				}
				return reply(tc.direct, ""), nil
			}))
			_, _, err := c.Get(t.Context(), Want{Op: "manifest", URIs: one, Check: func(Body) error { return tc.check }})
			if got := protocol.OutlookOf(err, "none"); got != tc.want {
				t.Errorf("%s: %s, want %s: %v", name, got, tc.want, err)
			}
			if tc.want == protocol.Later && tc.check == nil && protocol.NextTry(err).Before(time.Now()) {
				t.Errorf("%s: the next try is at %v", name, protocol.NextTry(err))
			}
		})
	}
	c := newClient(HostFirst, nil)
	if _, _, err := c.Get(t.Context(), Want{Op: "manifest"}); protocol.OutlookOf(err, "none") != protocol.Never {
		t.Errorf("no address: %v", err)
	}
	if _, _, err := c.Get(t.Context(), Want{Op: "manifest", URIs: []secret.URL{secret.NewURL("file:///etc/passwd")}}); protocol.OutlookOf(err, "none") != protocol.Never {
		t.Errorf("not http: %v", err)
	}
}

// TestPAT1StrangeBody: a body that is something else and may be another program's
// answer, or a part, is waited for; the wrong file is reported at once.
func TestPAT1StrangeBody(t *testing.T) {
	t.Parallel()
	length := func(s string) *http.Response { return reply(200, s, fmt.Sprintf("Content-Length: %d", len(s))) }
	for name, tc := range map[string]struct {
		host, direct func() *http.Response // nil: no answer
		want         protocol.Outlook
	}{
		"text":                            {func() *http.Response { return length("no zip") }, func() *http.Response { return length("no zip") }, protocol.Absent},
		"text, no way out":                {func() *http.Response { return length("no zip") }, nil, protocol.Absent},
		"text, relay 503":                 {func() *http.Response { return reply(503, "") }, func() *http.Response { return length("no zip") }, protocol.Absent},
		"text through the relay, 503":     {func() *http.Response { return length("no zip") }, func() *http.Response { return reply(503, "") }, protocol.Later},
		"another archive":                 {func() *http.Response { return length("\x1f\x8b\x08\x00") }, nil, protocol.Absent},
		"of unknown length":               {func() *http.Response { return reply(200, "no zip") }, nil, protocol.Later},
		"empty":                           {func() *http.Response { return length("") }, nil, protocol.Later},
		"a page":                          {func() *http.Response { return length("\ufeff\r\n<!DOCTYPE html>") }, nil, protocol.Later},
		"a record":                        {func() *http.Response { return length(`{"error":"blocked"}`) }, nil, protocol.Later},
		"half a zip file":                 {func() *http.Response { return length("PK\x03\x04 half") }, nil, protocol.Later},
		"text through the relay, no size": {func() *http.Response { return length("no zip") }, func() *http.Response { return reply(200, "x") }, protocol.Later},
	} {
		for _, file := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) {
					answer := tc.direct
					if host, _ := relayed(r); host {
						answer = tc.host
					}
					if answer == nil {
						return nil, syscall.ENETUNREACH
					}
					return answer(), nil
				}))
				w := Want{Op: "manifest", URIs: one, Check: func(Body) error { return errors.New("something else") }}
				var err error
				if file {
					_, err = c.File(t.Context(), w, filepath.Join(t.TempDir(), "x"))
				} else {
					_, _, err = c.Get(t.Context(), w)
				}
				if got := protocol.OutlookOf(err, "none"); got != tc.want {
					t.Errorf("%s (file %v): %s, want %s: %v", name, file, got, tc.want, err)
				}
			})
		}
	}
}

// TestPAT1Resume: what breaks a download off, and what the next answer may be.
func TestPAT1Resume(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	sum := sha256.Sum256(content)
	serve := func(r *http.Request, etag string, b []byte, most int) *http.Response {
		from := 0
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		h := http.Header{"Etag": {etag}, "Accept-Ranges": {"bytes"}}
		code := 200
		if r.Header.Get("Range") != "" {
			code = 206
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		}
		rest := b[min(from, len(b)):]
		var body io.Reader = bytes.NewReader(rest)
		if len(rest) > most {
			body = broken{bytes.NewReader(rest[:most])}
		}
		h.Set("Content-Length", fmt.Sprint(len(rest)))
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(body), ContentLength: int64(len(rest))}
	}
	old := bytes.Repeat([]byte("x"), len(content))
	for name, tc := range map[string]struct {
		answer func(n int, r *http.Request) *http.Response
		within time.Duration
	}{
		"cut at every 100 KiB": {func(_ int, r *http.Request) *http.Response { return serve(r, `"1"`, content, 100<<10) }, time.Minute},
		"replaced meanwhile, 206 in spite of If-Range": {func(n int, r *http.Request) *http.Response {
			if n == 1 {
				return serve(r, `"1"`, old, 500_000)
			}
			return serve(r, `"2"`, content, 1<<30)
		}, 10 * time.Second},
		"replaced by a shorter one, 416": {func(n int, r *http.Request) *http.Response {
			if n == 1 {
				return serve(r, `"1"`, append(old, old...), 1_500_000)
			}
			if r.Header.Get("Range") != "" {
				return reply(416, "")
			}
			return serve(r, `"2"`, content, 1<<30)
		}, 10 * time.Second},
		"412": {func(n int, r *http.Request) *http.Response {
			if n == 1 {
				return serve(r, `"1"`, old, 500_000)
			}
			if r.Header.Get("If-Range") != "" {
				return reply(412, "")
			}
			return serve(r, `"2"`, content, 1<<30)
		}, 10 * time.Second},
		"206 without Content-Range": {func(n int, r *http.Request) *http.Response {
			a := serve(r, `"1"`, content, 500_000)
			if n == 2 {
				a.Header.Del("Content-Range")
			}
			if n > 2 {
				return serve(r, `"1"`, content, 1<<30)
			}
			return a
		}, 10 * time.Second},
		"200 with everything": {func(n int, r *http.Request) *http.Response {
			if n == 1 {
				return serve(r, `"1"`, content, 500_000)
			}
			r.Header.Del("Range")
			return serve(r, `"1"`, content, 1<<30)
		}, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := newClient(DirectOnly, answers(func(r *http.Request) (*http.Response, error) { n++; return tc.answer(n, r), nil }))
			start := time.Now()
			got, err := c.File(t.Context(), Want{Op: "package", URIs: one, Limit: 8 << 20}, filepath.Join(t.TempDir(), "p"))
			if err != nil || got != hex.EncodeToString(sum[:]) || time.Since(start) > tc.within {
				t.Errorf("%s: %v after %v and %d requests, right digest: %v", name, err, time.Since(start), n, got == hex.EncodeToString(sum[:]))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // changed each time: this has an end
		n := 0
		c := newClient(DirectOnly, answers(func(r *http.Request) (*http.Response, error) {
			n++
			return serve(r, fmt.Sprintf(`"%d"`, n), content, 200<<10), nil
		}))
		if _, err := c.File(t.Context(), Want{Op: "package", URIs: one, Limit: 8 << 20}, filepath.Join(t.TempDir(), "p")); protocol.OutlookOf(err, "none") != protocol.Later || n > 12 {
			t.Errorf("%v after %d requests", err, n)
		}
	})
}

// TestPAT1RetryAfter: a pause that a server asks for is obeyed, by a call or by
// its caller, in seconds or as a date by the server's own clock, and never
// longer than a minute or shorter than the pace.
func TestPAT1RetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where a bubble begins
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	years := 26 * 365 * 24 * time.Hour
	for name, tc := range map[string]struct {
		headers  []string
		min, max time.Duration
	}{
		"none":                   {nil, 0, 2 * time.Second},
		"20":                     {[]string{"Retry-After: 20"}, 20 * time.Second, 21 * time.Second},
		"59":                     {[]string{"Retry-After: 59"}, 59 * time.Second, time.Minute},
		"a day":                  {[]string{"Retry-After: 86400"}, time.Minute, 61 * time.Second},
		"years":                  {[]string{"Retry-After: 3153600000"}, time.Minute, 61 * time.Second},
		"0":                      {[]string{"Retry-After: 0"}, 500 * time.Millisecond, 2 * time.Second},
		"-5":                     {[]string{"Retry-After: -5"}, 500 * time.Millisecond, 2 * time.Second},
		"soon":                   {[]string{"Retry-After: soon"}, 500 * time.Millisecond, 2 * time.Second},
		"too many digits":        {[]string{"Retry-After: 99999999999999999999"}, 500 * time.Millisecond, 2 * time.Second},
		"date":                   {[]string{"Retry-After: " + date(30*time.Second)}, 30 * time.Second, 31 * time.Second},
		"date, clocks differ":    {[]string{"Date: " + date(years), "Retry-After: " + date(years+30*time.Second)}, 30 * time.Second, 31 * time.Second},
		"date in the past":       {[]string{"Date: " + date(years), "Retry-After: " + date(years-time.Hour)}, 500 * time.Millisecond, 2 * time.Second},
		"date without the other": {[]string{"Retry-After: " + date(years)}, time.Minute, 61 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := newClient(DirectOnly, answers(func(*http.Request) (*http.Response, error) {
				if n++; n == 1 {
					return reply(503, "", tc.headers...), nil
				}
				return reply(200, "document"), nil
			}))
			start := time.Now()
			for { // as the engine does
				_, _, err := c.Get(t.Context(), Want{Op: "manifest", URIs: one})
				if err == nil {
					break
				}
				time.Sleep(time.Until(protocol.NextTry(err)))
			}
			if took := time.Since(start); took < tc.min || took > max(tc.max, 3*time.Second) || n != 2 {
				t.Errorf("%s: %d requests in %v, want %v to %v", name, n, took, tc.min, tc.max)
			}
		})
	}
}

// TestPAT1RefusedOnce: a package that was received whole and is refused is asked
// for over another way once more, and no further when the same bytes come.
func TestPAT1RefusedOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		direct string // what storage has
		asked  int
		good   bool
	}{
		"the same everywhere":      {"bad", 2, false},
		"the relay has an old one": {"good", 2, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) {
				n++
				if host, _ := relayed(r); host {
					return reply(200, "bad"), nil
				}
				return reply(200, tc.direct), nil
			}))
			_, err := c.File(context.WithoutCancel(t.Context()), Want{Op: "package", URIs: two, Check: func(b Body) error {
				if strings.HasPrefix(b.Digest, "770e607624d689265ca6c44884d0807d") { // of "good"
					return nil
				}
				return protocol.Judge(protocol.Never, errors.New("signature"))
			}}, filepath.Join(t.TempDir(), "p"))
			if (err == nil) != tc.good || n != tc.asked {
				t.Errorf("%s: %v after %d requests, want %d", name, err, n, tc.asked)
			}
		})
	}
}
