// Package e2e is the system as a customer meets it: the release binaries,
// built once, in a sandbox of this machine, against the emulated platform.
//
// A test makes a cloud (sandbox, fabric and one VM of it), starts the agent,
// and looks at what the platform received and at what the machine became. Tests
// skip, and say why, where a sandbox can't be made.
package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

// patience bounds every wait: it is not what is tested, and a slow machine must
// not meet it.
const patience = 5 * time.Minute

func TestMain(m *testing.M) {
	sandbox.Main()
	flag.Parse()
	code := m.Run()
	release.Remove()
	os.Exit(code)
}

// need skips where a sandbox can't be made, or is not wanted.
func need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
}

// A cloud is one VM of a platform of its own.
type cloud struct {
	*sandbox.Sandbox
	f   *fabric.Fabric
	vm  *fabric.VM
	key ed25519.PrivateKey // of the account
	log buffer             // what the agent printed
}

// blobAddress is where the emulated storage listens: TEST-NET, never routed.
const blobAddress = "192.0.2.10"

type setup struct {
	sandbox      sandbox.Options
	provisioning fabric.Provisioning
	key          ed25519.PrivateKey   // of the account; new if nil
	medium       func(*fabric.Medium) // what is special about the DVD
	noMedium     bool
	noIMDS       bool
	config       func(*fabric.Config)
	packages     map[string][]byte // name/version: zip
	telemetry    bool
	defaults     bool // no configuration file
}

// newCloud starts the platform and boots the machine.
func newCloud(t testing.TB, o setup) *cloud {
	t.Helper()
	need(t)
	c := &cloud{}
	p := o.provisioning
	if p.User == "" {
		p.User = "azureuser"
	}
	if p.HostName == "" {
		p.HostName = "first-light"
	}
	if c.key = o.key; c.key == nil {
		c.key = newKey(t)
	}
	if p.SSHKeys == nil {
		p.SSHKeys = []string{authorized(t, c.key.Public(), p.User)}
	}
	c.f = fabric.New(t, func(fo *fabric.Options) { fo.BlobURL = "http://" + blobAddress })
	options := []fabric.VMOption{fabric.Provision(p)}
	if o.config != nil {
		options = append(options, fabric.WithConfig(o.config))
	}
	for name, zip := range o.packages {
		name, version, _ := strings.Cut(name, "/")
		if err := c.f.AddPackage(name, version, zip); err != nil {
			t.Fatal(err)
		}
	}
	c.vm = c.f.CreateVM("vm-01", options...)
	so := o.sandbox
	so.Addresses = []string{sandbox.WireServer, sandbox.IMDS, blobAddress}
	if _, bench := t.(*testing.B); so.Log == nil && !bench {
		so.Log = logWriter{t}
	}
	if !o.noMedium {
		so.DVD = image(t, c.vm, o.medium)
	}
	s, err := sandbox.New(t.Context(), so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c.Sandbox = s
	listen := map[fabric.Service]string{
		fabric.Wire:   sandbox.WireServer + ":80",
		fabric.HostGA: sandbox.WireServer + ":32526",
		fabric.IMDS:   sandbox.IMDS + ":80",
		fabric.Blob:   blobAddress + ":80",
	}
	if o.noIMDS {
		delete(listen, fabric.IMDS)
	}
	for service, addr := range listen {
		err := s.InNetwork(func() error {
			_, err := c.f.Listen(service, addr, c.vm, false)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump(t)
		}
	})
	return c
}

// close ends the machine and the platform before the test does.
func (c *cloud) close(t testing.TB) {
	t.Helper()
	if err := errors.Join(c.Close(), c.f.Close()); err != nil {
		t.Fatal(err)
	}
}

// dump shows, after a failure, what the platform saw and the agent logged.
func (c *cloud) dump(t testing.TB) {
	for _, e := range c.f.Journal(fabric.Query{}) {
		if e.Kind == fabric.GoalState || e.Kind == fabric.Control || e.Code == 304 {
			continue
		}
		t.Logf("fabric: %s %s %s %d %v %.160q", e.Kind, e.Method, e.URL, e.Code, e.Problems, e.Body)
	}
	if doc, n := c.vm.StatusDocument(); n > 0 {
		t.Logf("status document %d: %s", n, doc)
	}
	t.Logf("agent:\n%s", c.log.String())
	// An agent that was started by another, after an update for instance, has
	// no terminal of ours.
	for _, name := range []string{"/var/log/waagent.log", "/var/lib/waagent/azguest/guard.log", "/var/lib/waagent/azguest/update.json"} {
		if b, err := c.ReadFile(name); err == nil {
			t.Logf("%s:\n%s", name, b)
		}
	}
}

// await waits until ok, which is asked again and again. What it waits for is
// observed from outside, where nothing can notify.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// ready waits for a Ready report and fails at once on ProvisioningFailed.
func (c *cloud) ready(t testing.TB) {
	t.Helper()
	await(t, "Ready", func() bool {
		h := c.vm.Health()
		if h.State == "NotReady" && h.SubStatus == "ProvisioningFailed" {
			t.Fatalf("provisioning failed: %s", h.Description)
		}
		return h.State == "Ready"
	})
}

// sh runs a script in the machine and returns what it printed.
func (c *cloud) sh(t testing.TB, script string) string {
	t.Helper()
	r, err := c.Run(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}

// prepareSSHD does what installing openssh-server does.
func (c *cloud) prepareSSHD(t testing.TB) {
	t.Helper()
	if err := c.PrepareSSHD(t.Context()); err != nil {
		t.Skip(err)
	}
}

// ssh logs in with the generated key and runs a command.
func (c *cloud) ssh(t testing.TB, user, command string) string {
	t.Helper()
	d, err := c.Start(sandbox.Cmd{Args: []string{"/usr/sbin/sshd", "-D", "-e"}, Stderr: logWriter{t}})
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
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // the sandbox's own
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

// authorized is a public key as a line of authorized_keys.
func authorized(t testing.TB, pub any, comment string) string {
	t.Helper()
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) + " " + comment
}

// image writes the DVD that the platform would attach to the VM.
func image(t testing.TB, vm *fabric.VM, change func(*fabric.Medium)) string {
	t.Helper()
	m := vm.Medium()
	if change != nil {
		change(&m)
	}
	b, err := m.Image()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "dvd.img")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// buffer collects the output of processes.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// logWriter shows output with the test it belongs to.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		w.t.Logf("%s", bytes.TrimRight(line, "\n"))
	}
	return len(p), nil
}
