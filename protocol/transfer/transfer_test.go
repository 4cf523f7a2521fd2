package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/internal/web"
)

type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

type noHost struct{}

func (noHost) IDs() hostga.IDs               { return hostga.IDs{} }
func (noHost) Refresh(context.Context) error { return nil }

func newClient(o Order, rt http.RoundTripper) *Client {
	w := web.New(rt, "ua", nil)
	return New(w, hostga.New(w, "168.63.129.16:32526", noHost{}, "n", "1"), o, nil)
}

// broken breaks off after some bytes.
type broken struct{ r io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// ranged serves content, breaking off after 1000 bytes each time.
func ranged(content []byte, etag string, log *[]string) answers {
	return func(r *http.Request) (*http.Response, error) {
		*log = append(*log, r.Header.Get("Range"))
		from, code := 0, 200
		h := http.Header{"Etag": {etag}, "Accept-Ranges": {"bytes"}}
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && r.Header.Get("If-Range") == etag {
			code = 206
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		}
		rest := content[from:]
		h.Set("Content-Length", fmt.Sprint(len(rest)))
		var body io.Reader = bytes.NewReader(rest)
		if len(rest) > 1000 {
			body = broken{bytes.NewReader(rest[:1000])}
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(body), ContentLength: int64(len(rest))}, nil
	}
}

func TestDownloadGoesOnWhereItBrokeOff(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 250)
	sum := sha256.Sum256(content)
	for etag, want := range map[string]bool{`"v1"`: true, `W/"v1"`: false} {
		synctest.Test(t, func(t *testing.T) {
			var log []string
			c := newClient(DirectOnly, ranged(content, etag, &log))
			dst := filepath.Join(t.TempDir(), "p.zip")
			got, err := c.File(t.Context(), Want{Op: "package", URIs: []secret.URL{secret.NewURL("http://a.example/p")}, Limit: 1 << 20}, dst)
			if (err == nil) != want {
				t.Errorf("%s: %v; ranges %q", etag, err, log)
			}
			if want && (got != hex.EncodeToString(sum[:]) || len(log) != 3 || log[2] != "bytes=2000-") {
				t.Errorf("%s: %s, ranges %q", etag, got, log)
			}
			b, _ := os.ReadFile(dst)
			if want != bytes.Equal(b, content) {
				t.Errorf("%s: %d bytes on disk", etag, len(b))
			}
			if left, _ := os.ReadDir(filepath.Dir(dst)); want != (len(left) == 1) {
				t.Errorf("%s: left %v", etag, left)
			}
		})
	}
}

func TestBudgetHoldsWithinADownload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(DirectOnly, answers(func(r *http.Request) (*http.Response, error) {
			pr, pw := io.Pipe()
			go func() { // never idle, never done
				for {
					select {
					case <-r.Context().Done():
						_ = pw.CloseWithError(r.Context().Err())
						return
					case <-time.After(time.Second):
						_, _ = pw.Write([]byte("x"))
					}
				}
			}()
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: pr, ContentLength: -1}, nil
		}))
		start := time.Now()
		dir := t.TempDir()
		var uris []secret.URL // one attempt ends after a minute
		for i := range 6 {
			uris = append(uris, secret.NewURL(fmt.Sprintf("http://%d.example/p?sig=canary", i)))
		}
		_, err := c.File(t.Context(), Want{Op: "package", URIs: uris, Limit: 1 << 20}, filepath.Join(dir, "p"))
		if err == nil || time.Since(start) != DefaultBudget || !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "canary") {
			t.Errorf("File() = %v after %v", err, time.Since(start))
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	})
}

func TestEveryAddressAndChannelIsTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Host+" "+r.Header.Get("X-Ms-Artifact-Location"))
			return &http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody}, nil
		}))
		_, _, err := c.Get(t.Context(), Want{Op: "manifest", URIs: []secret.URL{secret.NewURL("http://a.example/m"), secret.NewURL("http://b.example/m")}})
		var e *Error
		if !errors.As(err, &e) || len(e.Errs) != 4 || len(asked) != 4 || !strings.Contains(asked[0], "32526") {
			t.Errorf("Get() = %v; asked %q", err, asked)
		}
		if text := err.Error(); strings.Count(text, "(host)") != 1 || strings.Count(text, "(direct)") != 1 {
			t.Errorf("each channel has its reason: %s", text)
		}
	})
}

func TestAFullDiskEndsTheDownload(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full")
	}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &sink{f: f, sum: sha256.New(), limit: 100}
	if _, err := s.Write([]byte("x")); !local(err) {
		t.Errorf("Write() = %v, want a local error", err)
	}
}
