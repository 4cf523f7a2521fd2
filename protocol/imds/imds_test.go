package imds

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/protocol/internal/web"
	"github.com/azguest/azguest/test/peak"
)

type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func answer(code int, body string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

const document = `{"compute":{"name":"vm1","location":"westus2","vmId":"v","userData":"aGVsbG8=","publisher":"p","osProfile":{"adminUsername":"u","computerName":"h","disablePasswordAuthentication":"true"},
"publicKeys":[{"keyData":"ssh-ed25519 AAAA","path":"/home/u/.ssh/authorized_keys"},{"path":"x"}],"vmSize":7},"network":{"interface":[{"macAddress":"000D3A000001","ipv4":{"ipAddress":[{"privateIpAddress":"10.0.0.4"}]}}]}}`

func TestInstanceFallsBackToOlderVersions(t *testing.T) {
	t.Parallel()
	var asked []string
	c := New(web.New(answers(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.Query().Get("api-version"))
		if r.Header.Get("Metadata") != "true" {
			t.Error("no Metadata header")
		}
		if len(asked) < 3 {
			return answer(400, "version"), nil
		}
		return answer(200, document), nil
	}), "ua", nil), time.Second)
	i, doc, err := c.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := i.Compute
	if len(asked) != 3 || string(doc) != document || m.Name != "vm1" || m.Admin != "u" || !m.PasswordOff || len(m.Keys) != 1 || m.UserData.Reveal() != "hello" || i.Private != "10.0.0.4" || i.ImageOrigin() != 3 {
		t.Errorf("asked %q, got %+v", asked, i)
	}
}

// TestInstanceOfNoMachine: an answer is kept for the life of the agent, so it has
// to be about a machine.
func TestInstanceOfNoMachine(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		document: true, `{"compute":{"vmId":"v"}}`: true,
		`{"error":"Service busy"}`: false, `{"error":{"code":"x"}}`: false, `{}`: false, `null`: false, `{"compute":null}`: false, ``: false,
	} {
		c := New(web.New(answers(func(*http.Request) (*http.Response, error) { return answer(200, body), nil }), "ua", nil), time.Second)
		if _, _, err := c.Instance(t.Context()); (err == nil) != want {
			t.Errorf("Instance() with %s = %v", body, err)
		}
	}
}

func TestAlive(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		`{"interface":[{"macAddress":"000D3A000001","ipv4":{"ipAddress":[{"privateIpAddress":"10.0.0.4"}]}}]}`: true,
		`{"interface":[{"macAddress":"000D3A000001","ipv4":{"ipAddress":[]}}]}`:                                false,
		`{"interface":[]}`: false,
		`null`:             false,
		`<html>`:           false,
	} {
		c := New(web.New(answers(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/metadata/instance/network" {
				t.Errorf("asked for %s", r.URL)
			}
			return answer(200, body), nil
		}), "ua", nil), time.Second)
		if err := c.Alive(t.Context()); (err == nil) != want {
			t.Errorf("Alive() with %s = %v", body, err)
		}
	}
}

func TestUnansweredRequestTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(web.New(answers(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), "ua", nil), 5*time.Second)
		start := time.Now()
		if _, _, err := c.Instance(t.Context()); err == nil || time.Since(start) > 6*time.Second {
			t.Errorf("Instance() = %v after %v", err, time.Since(start))
		}
	})
}

func TestPlatformDocument(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, "waagent/imds/valid.json"))
	if err != nil {
		t.Fatal(err)
	}
	if i, err := Parse(b); err != nil || i.Compute.VMID == "" || i.MAC == "" {
		t.Errorf("Parse() = %+v, %v", i, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(document))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) { _, _ = Parse(b) }))
}
