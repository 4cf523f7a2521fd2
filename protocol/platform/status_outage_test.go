package platform

import (
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// TestStatusThroughARefusal: storage refuses the status for an hour, because the
// signature in its address has expired or for another reason. The platform may
// have renewed the address without a new goal state, whichever way the refusal
// is seen; a new one is used at once, an old one within the pace, and nothing is
// asked for more often than that.
func TestStatusThroughARefusal(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status  int
		direct  bool // storage can be reached directly
		renewed bool // by another address
		page    bool
	}{
		"expired":                     {403, true, true, false},
		"expired, seen by the host":   {403, false, true, false},
		"the container is gone":       {404, true, true, false},
		"a lease":                     {409, true, false, false},
		"a lease on pages":            {409, true, false, true},
		"throttled":                   {429, true, false, false},
		"storage fails, by the host":  {500, false, false, false},
		"pages that storage can't do": {503, true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(f *fakeHost) {
				f.ext = strings.Replace(extNone, "https://st.blob", "http://st.blob", 1)
				if tc.page {
					f.ext = strings.Replace(f.ext, "BlockBlob", "PageBlob", 1)
				}
			}, func(t *testing.T, f *fakeHost, c *Client) {
				gs := mustGS(t, c, "")
				report := func() error {
					_, _ = c.GoalState(t.Context(), gs.Key())
					_, err := c.ReportStatus(t.Context(), protocol.Status{})
					return err
				}
				f.set(func() {
					f.refused, f.refusePages = tc.status, tc.page
					if !tc.direct {
						f.fail["dial st.blob.example:80"] = 1
					}
				})
				f.clear()
				for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(45 * time.Second) {
					if err := report(); err == nil {
						t.Fatalf("%s: delivered", name)
					}
				}
				all := len(f.requests("PUT"))
				if all > 90 {
					t.Errorf("%s: %d requests in an hour", name, all)
				}
				if n := len(f.requests("type=extensionsConfig")); n > 21 {
					t.Errorf("%s: the goal state was fetched %d times", name, n)
				}
				limit := 10 * time.Minute
				f.set(func() {
					if tc.renewed {
						f.ext = strings.Replace(f.ext, "sig=canary", "sig=another", 1)
						f.refusedFor, limit = "sig=canary", 4*time.Minute
					} else {
						f.refused = 0
					}
				})
				for start := time.Now(); ; time.Sleep(45 * time.Second) {
					if report() == nil {
						break
					}
					if time.Since(start) > limit {
						t.Errorf("%s: not delivered after %v", name, limit)
						break
					}
				}
			})
		})
	}
}

// TestOnlyTheServiceIsBlamed: what is reported about the host's relay is whether
// it answers, not what this machine or a publisher made of the answer.
func TestOnlyTheServiceIsBlamed(t *testing.T) {
	t.Parallel()
	document := &protocol.DocumentError{Doc: "manifest", Err: errors.New("not XML")}
	for name, tc := range map[string]struct {
		err    error
		blamed bool
	}{
		"no error":        {nil, false},
		"404":             {&web.StatusError{Status: http.StatusNotFound}, false},
		"502":             {&web.StatusError{Status: http.StatusBadGateway}, false},
		"503":             {&web.StatusError{Status: http.StatusServiceUnavailable}, true},
		"our disk":        {&web.ContentError{Err: syscall.ENOSPC}, false},
		"our disk, early": {syscall.ENOSPC, false},
		"the wrong file":  {&web.ContentError{Err: document}, false},
		"no metadata":     {document, true},
		"too large":       {&web.SizeError{Limit: 1}, false},
	} {
		if notTheService(tc.err) == tc.blamed {
			t.Errorf("%s: blamed %v", name, !tc.blamed)
		}
	}
}
