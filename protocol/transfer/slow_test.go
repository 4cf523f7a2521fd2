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
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// slowly delivers piece bytes in each pause, and stops after most of them.
type slowly struct {
	ctx   context.Context //nolint:containedctx // as the body of an answer has it
	r     io.Reader
	piece int
	pause time.Duration
	most  int
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.most <= 0 {
		return 0, errors.New("connection reset by peer")
	}
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(s.pause):
	}
	n, err := s.r.Read(p[:min(len(p), s.piece, s.most)])
	s.most -= n
	return n, err
}

// slowBlob answers like storage, over a slow link that is cut after most bytes.
func slowBlob(r *http.Request, content []byte, piece int, pause time.Duration, most int) *http.Response {
	from, code := 0, 200
	h := http.Header{"Etag": {`"1"`}, "Accept-Ranges": {"bytes"}}
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && r.Header.Get("If-Range") == `"1"` {
		code = 206
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
	}
	rest := content[from:]
	h.Set("Content-Length", fmt.Sprint(len(rest)))
	return &http.Response{
		StatusCode: code, Header: h, ContentLength: int64(len(rest)),
		Body: io.NopCloser(&slowly{r.Context(), bytes.NewReader(rest), piece, pause, most}),
	}
}

// TestP12: a download that makes progress has no time limit, and what a failed
// one has received is continued by the next, of this process or another.
func TestP12(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	const all = 1 << 30
	t.Run("more than five minutes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newClient(DirectOnly, answers(func(r *http.Request) (*http.Response, error) {
				return slowBlob(r, content, 4<<10, time.Second, all), nil
			}))
			start := time.Now()
			got, err := c.File(t.Context(), Want{Op: "package", URIs: one}, filepath.Join(t.TempDir(), "p"))
			if took := time.Since(start); err != nil || got != digest || took < 15*time.Minute {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	t.Run("no progress", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newClient(DirectOnly, answers(func(r *http.Request) (*http.Response, error) {
				return slowBlob(r, content, 1, 9*time.Second, all), nil
			}))
			start := time.Now()
			_, err := c.File(t.Context(), Want{Op: "package", URIs: one}, filepath.Join(t.TempDir(), "p"))
			if took := time.Since(start); protocol.OutlookOf(err, "") != protocol.Later || took > DefaultBudget {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	t.Run("one channel crawls", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newClient(HostFirst, answers(func(r *http.Request) (*http.Response, error) {
				if host, _ := relayed(r); host {
					return slowBlob(r, content, 100, 9*time.Second, all), nil
				}
				return slowBlob(r, content, 64<<10, time.Second, all), nil
			}))
			start := time.Now()
			got, err := c.File(t.Context(), Want{Op: "package", URIs: one}, filepath.Join(t.TempDir(), "p"))
			if took := time.Since(start); err != nil || got != digest || took > 3*time.Minute {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	for name, tc := range map[string]struct {
		spoil func(part string)
		limit int64
		uris  []secret.URL
		first string // range of the next attempt
	}{
		"continued":               {func(string) {}, 8 << 20, one, "bytes=1048576-"},
		"of two addresses":        {func(string) {}, 8 << 20, two, "bytes=1048576-"},
		"changed on disk":         {func(p string) { writeAt(p, "y", 1000) }, 8 << 20, one, ""},
		"cut on disk":             {func(p string) { _ = os.Truncate(p, 500_000) }, 8 << 20, one, ""},
		"record damaged":          {func(p string) { writeAt(p, "}", 1<<20) }, 8 << 20, one, ""},
		"empty":                   {func(p string) { _ = os.Truncate(p, 0) }, 8 << 20, one, ""},
		"another address":         {func(string) {}, 8 << 20, []secret.URL{secret.NewURL("http://c.example/m")}, ""},
		"another signature":       {func(string) {}, 8 << 20, []secret.URL{secret.NewURL("http://a.example/m?sig=new")}, "bytes=1048576-"},
		"larger than a new limit": {func(string) {}, 500_000, one, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				path, broken := filepath.Join(dir, "p"), true
				var ranges []string
				rt := answers(func(r *http.Request) (*http.Response, error) {
					if !broken {
						ranges = append(ranges, r.Header.Get("Range"))
						return slowBlob(r, content, 64<<10, 0, all), nil
					}
					if len(ranges) > 0 || r.URL.Host != "a.example" {
						return nil, errors.New("no route to host")
					}
					ranges = append(ranges, "")
					return slowBlob(r, content, 64<<10, 0, 1<<20), nil
				})
				if _, err := newClient(DirectOnly, rt).File(t.Context(), Want{Op: "package", URIs: one}, path); protocol.OutlookOf(err, "") != protocol.Later {
					t.Fatal(err)
				}
				tc.spoil(path + host.PartSuffix)
				broken, ranges = false, nil
				got, err := newClient(DirectOnly, rt).File(t.Context(), Want{Op: "package", URIs: tc.uris, Limit: tc.limit}, path)
				if tc.limit > 1<<20 && (err != nil || got != digest) || len(ranges) == 0 || ranges[0] != tc.first {
					t.Errorf("%v, ranges %q", err, ranges)
				}
				if left, _ := filepath.Glob(dir + "/*"); tc.limit > 1<<20 && len(left) != 1 {
					t.Errorf("left: %q", left)
				}
				if left, _ := filepath.Glob(dir + "/.*"); len(left) != 0 {
					t.Errorf("left: %q", left)
				}
			})
		})
	}
	t.Run("not kept", func(t *testing.T) { // there is no hope, or no way to continue it
		t.Parallel()
		for name, answer := range map[string]func(r *http.Request, n int) (*http.Response, error){
			"absent": func(r *http.Request, n int) (*http.Response, error) {
				if n == 1 {
					return slowBlob(r, content, 64<<10, 0, 1<<20), nil
				}
				return reply(404, ""), nil
			},
			"without an ETag": func(r *http.Request, _ int) (*http.Response, error) {
				a := slowBlob(r, content, 64<<10, 0, 1<<20)
				a.Header.Del("Etag")
				return a, nil
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				dir, n := t.TempDir(), 0
				c := newClient(DirectOnly, answers(func(r *http.Request) (*http.Response, error) { n++; return answer(r, n) }))
				if _, err := c.File(t.Context(), Want{Op: "package", URIs: one}, filepath.Join(dir, "p")); err == nil {
					t.Errorf("%s: no error", name)
				}
				if left, _ := os.ReadDir(dir); len(left) != 0 {
					t.Errorf("%s: left %v", name, left)
				}
			})
		}
	})
}

func writeAt(path, s string, at int64) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteAt([]byte(s), at)
}
