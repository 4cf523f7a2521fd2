package provisioning_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
)

// TestS33ShortRSAKeys: an RSA key of the image that sshd refuses is replaced
// also where keys of the image are to stay, because sshd does not start without
// any.
func TestS33ShortRSAKeys(t *testing.T) {
	t.Parallel()
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	priv := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(short)}))
	refused := hosttest.Answer{Code: 255, Stderr: "sshd: no hostkeys available -- exiting.\n"}
	for _, tc := range []struct {
		name, conf string
		sshd       hosttest.Answer
		stays      bool
	}{
		{"sshd accepts it", "", hosttest.Answer{Stdout: "requiredrsasize 1024\n"}, true},
		{"sshd refuses it", "", hosttest.Answer{Stdout: "requiredrsasize 2048\n"}, false},
		{"sshd refuses to start, by its file", "RequiredRSASize 3072\n", refused, false},
		{"sshd refuses to start for another reason", "", refused, true},
		{"an sshd that does not know the keyword", "", hosttest.Answer{Stdout: "port 22\n"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			m.write("/etc/ssh/sshd_config", tc.conf, 0o644)
			m.write("/etc/ssh/ssh_host_rsa_key", priv, 0o600)
			m.run.Answers["/usr/sbin/sshd"] = tc.sshd
			step := provisioning.HostKeys{Dir: "/etc/ssh", Types: []string{"rsa"}, VMID: vmID, Ledger: "/var/lib/waagent/azguest/hostkeys.json"}
			if err := step.Apply(t.Context(), m.prov()); err != nil {
				t.Fatal(err)
			}
			if stays := m.read("/etc/ssh/ssh_host_rsa_key") == priv; stays != tc.stays {
				t.Errorf("the image's key stays: %v", stays)
			}
		})
	}
}

// TestS34CertificatesAndAgents: a certificate for a key that was replaced is
// reported; a key whose private half an agent has is not replaced.
func TestS34CertificatesAndAgents(t *testing.T) {
	t.Parallel()
	priv, pub := imageKey(t, "ssh-ed25519")
	cert := certificate(t, pub)
	for _, tc := range []struct {
		name, conf string
		files      map[string]string
		regenerate bool
		warns      bool
		same       []string // files that stay as they are
	}{
		{"the key is replaced", "HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n", map[string]string{"/etc/ssh/ssh_host_ed25519_key": priv, "/etc/ssh/ssh_host_ed25519_key-cert.pub": cert}, true, true, nil},
		{"elsewhere", "HostCertificate /etc/pki/host-cert.pub\n", map[string]string{"/etc/ssh/ssh_host_ed25519_key": priv, "/etc/pki/host-cert.pub": cert}, true, true, []string{"/etc/pki/host-cert.pub"}},
		{"the key stays", "HostCertificate /etc/pki/host-cert.pub\n", map[string]string{"/etc/ssh/ssh_host_ed25519_key": priv, "/etc/pki/host-cert.pub": cert}, false, false, []string{"/etc/ssh/ssh_host_ed25519_key"}},
		{"an agent has the key", "HostKeyAgent /run/agent\nHostKey /etc/pki/tpm.pub\n", map[string]string{"/etc/pki/tpm.pub": pub}, true, false, []string{"/etc/pki/tpm.pub"}},
		{"an agent has the usual key", "HostKeyAgent /run/agent\nHostKey /etc/ssh/ssh_host_ed25519_key.pub\n", map[string]string{"/etc/ssh/ssh_host_ed25519_key.pub": pub}, true, false, []string{"/etc/ssh/ssh_host_ed25519_key.pub"}},
		{"an agent has the key, which is named as if it were there", "HostKey /etc/ssh/ssh_host_ed25519_key\nHostKeyAgent /run/agent\n", map[string]string{"/etc/ssh/ssh_host_ed25519_key.pub": pub}, true, false, []string{"/etc/ssh/ssh_host_ed25519_key.pub"}},
		{"an agent has the key of the certificate", "HostKeyAgent /run/agent\nHostKey /etc/pki/tpm.pub\nHostCertificate /etc/pki/host-cert.pub\n", map[string]string{"/etc/pki/tpm.pub": pub, "/etc/pki/host-cert.pub": cert}, true, false, []string{"/etc/pki/tpm.pub"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			m.write("/etc/ssh/sshd_config", tc.conf, 0o644)
			for name, text := range tc.files {
				m.write(name, text, 0o600)
			}
			o := options()
			o.RegenerateHostKeys = tc.regenerate
			res, err := apply(t, m, plan(t, m, input(), o), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			warned := false
			for _, w := range res.Warnings {
				warned = warned || w.ID == provisioning.CodeHostKeys && strings.Contains(w.Error(), "HostCertificate")
			}
			if warned != tc.warns {
				t.Errorf("warnings %v", res.Warnings)
			}
			for _, name := range tc.same {
				if m.read(name) != tc.files[name] {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
}

// certificate returns a host certificate for a public key.
func certificate(t *testing.T, pub string) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(pub))
	if err != nil {
		t.Fatal(err)
	}
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(ca)
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(c))
}
