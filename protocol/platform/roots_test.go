package platform

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"testing"

	"github.com/azguest/azguest/agent/host"
)

// TestP25: an authority that is installed while the agent runs is trusted from
// then on, and a bundle that can't be read changes nothing.
func TestP25(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	srv.StartTLS()
	defer srv.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for _, name := range append([]string{"/etc/ssl/certs/new-ca.pem"}, rootFiles...) {
		root := host.Root(t.TempDir())
		far := (&Options{Root: root}).farTransport((&net.Dialer{}).DialContext, nil)
		trip := func() error {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := far.RoundTrip(r)
			if err == nil {
				_ = resp.Body.Close()
			}
			return err
		}
		if err := trip(); err == nil {
			t.Fatal("a stranger is trusted")
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root.Path(name), []byte("half of a bun"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := trip(); err == nil {
			t.Errorf("%s: a stranger is trusted because of a file without certificates", name)
		}
		if err := os.WriteFile(root.Path(name), ca, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := trip(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		far.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	}
}
