package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

// peerPackages are Debian's agent and its dependencies; fuseiso mounts the DVD
// where the kernel does not support its file system.
var peerPackages = []string{"waagent", "fuseiso", "openssh-server", "sudo", "iptables", "eject", "openssl"}

// TestPeer tests the emulator, not this agent: Debian's own agent, unmodified,
// must be able to provision from the emulator's medium and run the sample
// extension.
func TestPeer(t *testing.T) {
	t.Parallel()
	c := newPeerCloud(t, samples(t))
	startPeer(t, c)
	c.WaitReady(t)
	if got := c.Sh(t, "getent passwd azureuser; hostname"); !strings.Contains(got, "first-light") {
		t.Error(got)
	}
	if got := c.follow(t, c.put(t, helloExtension)); got != "" {
		t.Errorf("extension: %s", got)
	}
	if v := c.view(t); !strings.Contains(v, "hello world from 1.1.0; protected settings decrypted") {
		t.Errorf("instance view: %s", v)
	}
	// A problem in a request of this agent is a mistake of the emulator.
	c.objections(t)
	if n := c.readyReports(); n == 0 {
		t.Error("no Ready report")
	}
}

const mountHelper = "#!/bin/sh\nexec /usr/bin/fuseiso \"$1\" \"$2\"\n"

// newPeerCloud is a cloud with Debian's agent installed. Nothing is started.
// AZGUEST_PEER may name a package (.deb) of another version, which replaces
// that of Debian 12.
func newPeerCloud(t testing.TB, packages map[string][]byte) *cloud {
	t.Helper()
	machinetest.Need(t)
	layer, err := sandbox.DebianLayer(t.Context(), peerPackages...)
	if err != nil {
		t.Skipf("Debian's agent can't be had: %v", err)
	}
	c := newCloud(t, setup{Options: machine.Options{
		Sandbox:      sandbox.Options{Layers: []string{layer}, Fuse: true},
		Provisioning: fabric.Provisioning{Password: password},
		Medium:       func(m *fabric.Medium) { m.FS = fabric.ISO9660 },
		Packages:     packages,
	}})
	c.Write(t, "/usr/sbin/mount.iso9660", mountHelper, 0o755)
	if file := os.Getenv("AZGUEST_PEER"); file != "" {
		deb, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WriteFile("/root/peer.deb", deb, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(c.Sh(t, "rm -r /usr/lib/python3/dist-packages/azurelinuxagent && dpkg-deb -x /root/peer.deb / && python3 /usr/sbin/waagent -version"))
	}
	c.prepareSSHD(t)
	// It requires ifupdown, which has nothing to do here.
	for _, name := range []string{"/usr/sbin/ifdown", "/usr/sbin/ifup"} {
		if _, err := c.ReadFile(name); err != nil {
			if err := c.WriteFile(name, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Debian's configuration leaves provisioning to cloud-init.
	c.Sh(t, "sed -i 's/^Provisioning.Agent=.*/Provisioning.Agent=waagent/; s/^ResourceDisk.Format=.*/ResourceDisk.Format=n/; s/^AutoUpdate.Enabled=.*/AutoUpdate.Enabled=n/' /etc/waagent.conf")
	return c
}

// startPeer starts Debian's agent, in the sandbox only.
func startPeer(t testing.TB, c *cloud) *sandbox.Process {
	t.Helper()
	p, err := c.Start(sandbox.Cmd{Args: []string{"/usr/bin/python3", "-u", "/usr/sbin/waagent", "-daemon"}, Stdout: &c.Log, Stderr: &c.Log})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
