// Package e2e tests the whole system: the release binaries, built once, in a
// sandbox of this machine, with the emulated platform.
//
// A test creates a cloud (sandbox, fabric and one VM of it), starts the agent,
// and checks what the platform received and the state of the machine. Tests are
// skipped, with the reason, where a sandbox can't be created.
package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

// patience is the time limit of every wait.
const patience = machinetest.Patience

func TestMain(m *testing.M) { machinetest.Main(m) }

// A cloud is one VM with a platform of its own.
type cloud struct {
	*machinetest.Machine
	key ed25519.PrivateKey // of the account
}

type setup struct {
	machine.Options
	key       ed25519.PrivateKey // of the account; new if nil
	telemetry bool
	defaults  bool // no configuration file
}

// newCloud starts the platform and boots the machine, which has no agent.
func newCloud(t testing.TB, o setup) *cloud {
	t.Helper()
	if o.key == nil {
		o.key = newKey(t)
	}
	if o.Provisioning.SSHKeys == nil {
		o.Provisioning.SSHKeys = []string{authorized(t, o.key.Public(), "azureuser")}
	}
	return &cloud{machinetest.New(t, o.Options), o.key}
}

// newAgentCloud is a cloud with the release binaries installed. Nothing is
// started.
func newAgentCloud(t testing.TB, o setup) *cloud {
	t.Helper()
	machinetest.Need(t)
	if o.Conf = conf; !o.telemetry {
		o.Conf += "Telemetry.Enabled=n\n"
	}
	if o.defaults {
		o.Conf = ""
	}
	c := newCloud(t, o)
	c.InstallAgent(t)
	c.prepareSSHD(t)
	return c
}

// await waits until ok returns true.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	machinetest.Await(t, what, ok)
}

// prepareSSHD does the part of the installation of openssh-server that
// unpacking does not.
func (c *cloud) prepareSSHD(t testing.TB) {
	t.Helper()
	if err := c.PrepareSSHD(t.Context()); err != nil {
		t.Skip(err)
	}
}

// ssh logs in with the generated key and runs a command.
func (c *cloud) ssh(t testing.TB, user, command string) string {
	t.Helper()
	d, err := c.Start(sandbox.Cmd{Args: []string{"/usr/sbin/sshd", "-D", "-e"}, Stderr: machinetest.Log{T: t}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Kill() }()
	signer, err := ssh.NewSignerFromKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // the server is in the sandbox of the test
		Timeout:         patience,
	}
	var client *ssh.Client
	await(t, "sshd", func() bool {
		conn, err := c.Dial(t.Context(), "tcp", "127.0.0.1:22")
		if err != nil {
			return false
		}
		sc, chans, reqs, err := ssh.NewClientConn(conn, "127.0.0.1:22", cfg)
		if err != nil {
			t.Fatalf("ssh as %s: %v", user, err)
		}
		client = ssh.NewClient(sc, chans, reqs)
		return true
	})
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	out, err := session.CombinedOutput(command)
	if err != nil {
		t.Fatalf("ssh %s %s: %v: %s", user, command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// authorized returns a public key as a line of authorized_keys.
func authorized(t testing.TB, pub any, comment string) string {
	t.Helper()
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) + " " + comment
}
