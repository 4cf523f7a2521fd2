package agent

import (
	"encoding/base64"
	"errors"
	"os"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/update/updatetest"
	"github.com/azguest/azguest/extensions"
)

func TestTrust(t *testing.T) {
	root := host.Root(t.TempDir())
	tr := trust{root, "/etc/azguest/trust.d", "/var/lib/waagent"}
	ca, other := updatetest.NewAuthority(), updatetest.NewAuthority()
	pkg := root.Path("/p.zip")
	if err := os.WriteFile(pkg, []byte("package"), 0o600); err != nil {
		t.Fatal(err)
	}
	sig := base64.StdEncoding.EncodeToString(ca.Sign([]byte("package"), nil))
	if _, err := tr.verify(t.Context(), pkg, sig); !errors.Is(err, extensions.ErrNoTrust) {
		t.Errorf("without trusted authorities: %v", err)
	}
	write := func(name string, b []byte) {
		if err := errors.Join(root.MkdirAll("/etc/azguest/trust.d", 0o755), root.MkdirAll("/var/lib/waagent", 0o700), root.WriteFile(name, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("/etc/azguest/trust.d/other.pem", other.PEM())
	if _, err := tr.verify(t.Context(), pkg, sig); err == nil || errors.Is(err, extensions.ErrNoTrust) {
		t.Errorf("another authority: %v", err)
	}
	write("/etc/azguest/trust.d/README", []byte("no certificate"))
	write("/var/lib/waagent/microsoft_root_certificate.pem", ca.PEM())
	if signer, err := tr.verify(t.Context(), pkg, sig); err != nil || signer == "" {
		t.Errorf("the classic agent's file: %q %v", signer, err)
	}
	write("/etc/azguest/trust.d/damaged.pem", []byte("-----BEGIN nothing"))
	if _, err := tr.verify(t.Context(), pkg, sig); err == nil {
		t.Error("verified although a file of authorities is damaged")
	}
}
