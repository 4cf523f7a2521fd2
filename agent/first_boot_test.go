package agent

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// metadataService answers a request, by the time since it was first asked; 0 is
// no connection.
type metadataService func(age time.Duration) (code int, body string)

func (s metadataService) agent(t *testing.T) *Agent {
	began := time.Now()
	rt := roundTrip(func(*http.Request) (*http.Response, error) {
		code, body := s(time.Since(began))
		if code == 0 {
			return nil, syscall.ENETUNREACH
		}
		return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}, nil
	})
	a := &Agent{platform: platform.New(platform.Options{Root: host.Root(t.TempDir()), HTTP: &http.Client{Transport: rt}, Log: zerolog.Nop()})}
	a.Log = zerolog.Nop()
	return a
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const pooled = `{"compute":{"name":"vm","vmId":"v"},"extended":{"compute":{"ppsType":"Running"}}}`

// after answers code and body for a while, then the document.
func after(d time.Duration, code int, body string) metadataService {
	return func(age time.Duration) (int, string) {
		if age < d {
			return code, body
		}
		return 200, pooled
	}
}

// TestPAT1FirstBoot: a metadata service that says "not now" is waited for, for
// the type of a pooled machine and for the data of a first boot; where there is
// none, the boot goes on soon.
func TestPAT1FirstBoot(t *testing.T) {
	t.Parallel()
	never := 1000 * time.Hour
	for name, tc := range map[string]struct {
		service metadataService
		pps     provisioning.PPSType
		ppsIn   time.Duration // at most
		found   bool
		foundIn time.Duration
	}{
		"at once":               {after(0, 0, ""), provisioning.PPSRunning, 0, true, 0},
		"410 for 70 s":          {after(70*time.Second, 410, ""), provisioning.PPSRunning, 72 * time.Second, true, 72 * time.Second},
		"404 for 40 s":          {after(40*time.Second, 404, ""), provisioning.PPSRunning, 42 * time.Second, true, 42 * time.Second},
		"429 for 30 s":          {after(30*time.Second, 429, ""), provisioning.PPSRunning, 32 * time.Second, true, 32 * time.Second},
		"500 for 3 min":         {after(3*time.Minute, 500, ""), provisioning.PPSNone, 75 * time.Second, true, 182 * time.Second},
		"a page for 30 s":       {after(30*time.Second, 200, "<html>"), provisioning.PPSRunning, 32 * time.Second, true, 32 * time.Second},
		"half of it for 30 s":   {after(30*time.Second, 200, pooled[:40]), provisioning.PPSRunning, 32 * time.Second, true, 32 * time.Second},
		"no network for 3 s":    {after(3*time.Second, 0, ""), provisioning.PPSRunning, 4 * time.Second, true, 4 * time.Second},
		"410 for ever":          {after(never, 410, ""), provisioning.PPSNone, 75 * time.Second, false, 5*time.Minute + 2*time.Second},
		"nothing there":         {after(never, 0, ""), provisioning.PPSNone, 5 * time.Second, false, 12 * time.Second},
		"a document of nothing": {after(30*time.Second, 200, "{}"), provisioning.PPSRunning, 32 * time.Second, true, 32 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := tc.service.agent(t)
			start := time.Now()
			kind, stop := a.askPPS(t.Context())
			if got := <-kind; got != tc.pps || time.Since(start) > tc.ppsIn {
				t.Errorf("%s: type %s after %v, want %s within %v", name, got, time.Since(start), tc.pps, tc.ppsIn)
			}
			stop()
		})
		synctest.Test(t, func(t *testing.T) {
			a := tc.service.agent(t)
			start := time.Now()
			known, stop := a.learn(t.Context())
			md, err := known.awaitPatiently(t.Context(), metadataPatience)
			if (err == nil) != tc.found || tc.found && md.VMID != "v" || time.Since(start) > tc.foundIn {
				t.Errorf("%s: %v after %v, want %v within %v", name, err, time.Since(start), tc.found, tc.foundIn)
			}
			stop()
		})
	}
}
