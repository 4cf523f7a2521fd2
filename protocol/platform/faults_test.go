package platform_test

import (
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// get asks the platform as the client did.
func get(t *testing.T, p *patient, url string, header map[string]string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		if http.CanonicalHeaderKey(name) != "If-None-Match" {
			req.Header.Set(name, value)
		}
	}
	resp, err := p.vm.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	return string(b)
}

// TestHostileAnswers does for HTTP answers what TestMutants does for
// documents: each kind of request meets each of these answers, with FastTrack
// and without.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	number := func(n int) *int { return &n }
	answers := map[string]fabric.Fault{
		"204":               {Status: 204},
		"205":               {Status: 205},
		"206":               {Status: 206},
		"301":               {Status: 301, Set: map[string]string{"Location": "http://192.0.2.99/elsewhere"}},
		"302 to itself":     {Status: 302, Set: map[string]string{"Location": "/machine/?comp=goalstate"}},
		"304 out of turn":   {Status: 304},
		"307":               {Status: 307, Set: map[string]string{"Location": "http://192.0.2.99/elsewhere"}},
		"400":               {Status: 400},
		"400 container":     {Status: 400, Body: text(`{"errorCode":"InvalidContainerConfiguration","message":"x"}`)},
		"403":               {Status: 403},
		"404":               {Status: 404},
		"410":               {Status: 410},
		"410 role":          {Status: 410, Body: text(`{"errorCode":"RequestRoleConfigFileNotFound","message":"x"}`)},
		"418":               {Status: 418},
		"429 later":         {Status: 429, Set: map[string]string{"Retry-After": "86400"}},
		"429 date":          {Status: 429, Set: map[string]string{"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}},
		"500":               {Status: 500},
		"502":               {Status: 502},
		"503":               {Status: 503},
		"507":               {Status: 507},
		"reset":             {Reset: true},
		"hangs":             {Delay: fabric.Duration(20 * time.Minute)},
		"slow-loris":        {Rate: 10, Body: text(string(make([]byte, 4000)))},
		"endless, no size":  {Chunked: true, Body: text(string(make([]byte, 9<<20)))},
		"chunked":           {Chunked: true},
		"cut":               {Truncate: number(10)},
		"cut, no length":    {Truncate: number(10), Chunked: true},
		"no content type":   {Set: map[string]string{"Content-Type": ""}},
		"other type":        {ContentType: "image/png"},
		"utf-16":            {ContentType: "text/xml; charset=utf-16"},
		"gzip, it says":     {Set: map[string]string{"Content-Encoding": "gzip"}},
		"no ETag":           {Set: map[string]string{"ETag": ""}},
		"weak ETag":         {Set: map[string]string{"ETag": `W/"123"`}},
		"constant ETag":     {Set: map[string]string{"ETag": "1"}},
		"wrong length":      {Set: map[string]string{"Content-Length": "7"}},
		"done but denied":   {Status: 500, Apply: true},
		"done but vanished": {Reset: true, Apply: true},
		"html":              {Body: text("<html><body>Service Unavailable</body></html>"), ContentType: "text/html"},
		"empty":             {Body: text("")},
		"error record":      {Body: text(`{"error":{"code":"ServerBusy","message":"x"}}`), ContentType: "application/json"},
		"TLS":               {Body: text("\x15\x03\x03\x00\x02\x02\x28"), ContentType: "application/octet-stream"},
	}
	kinds := []fabric.Kind{
		fabric.GoalState, fabric.ExtensionsConfig, fabric.HostingEnvironment, fabric.SharedConfig, fabric.Certificates, fabric.RemoteAccess,
		fabric.VMSettings, fabric.PluginStatus, fabric.PluginVersions, fabric.BlobGet,
	}
	n, seed := drill(t)
	for i, kind := range kinds {
		for _, fast := range []bool{false, true} {
			name := string(kind)
			if fast {
				name += " fast"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := newPatient(t, fast)
					r := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // repeatable test data from a seed
					for _, how := range some(r, answers, n) {
						x := answers[how]
						x.Kind = kind
						p.suffer(how, []fabric.Fault{x}, kind == fabric.PluginStatus)
					}
					for _, e := range p.f.Journal(fabric.Query{Contains: "elsewhere"}) {
						t.Errorf("a redirect was followed: %s", e.URL)
					}
				})
			})
		}
	}
}
