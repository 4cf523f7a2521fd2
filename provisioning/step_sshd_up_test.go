package provisioning_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/sandbox"
)

// An sshd that was running before answers with the new host key, and no longer
// with the image's, when Ready may be reported.
func TestReadyMeansThatSSHDAnswers(t *testing.T) {
	t.Parallel()
	b := newBox(t, sandbox.Options{})
	b.sh("rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key")
	old, _, _, _, err := ssh.ParseAuthorizedKey([]byte(b.sh("cat /etc/ssh/ssh_host_ed25519_key.pub")))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.PrepareSSHD(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := b.Start(sandbox.Cmd{Args: []string{"/usr/sbin/sshd", "-D", "-e", "-o", "ListenAddress=127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Kill() }()
	if got := b.offered(); string(got) != string(old.Marshal()) {
		t.Fatal("sshd does not answer with the image's key")
	}
	pid := b.sh("cat /run/sshd.pid")

	// Killed right before sshd would have been reloaded, and started again.
	if out, code := b.provision("sshd-up:doing"); code >= 0 {
		t.Fatalf("the run was not killed:\n%s", out)
	}
	out, _ := b.provision("")
	if !strings.Contains(out, "sshd-up") || strings.Contains(out, "is not listening") {
		t.Errorf("provisioning printed:\n%s", out)
	}
	if got := b.offered(); string(got) == string(old.Marshal()) {
		t.Error("sshd still answers with the image's key")
	}
	if got := b.sh("cat /run/sshd.pid"); got != pid {
		t.Errorf("sshd is another process now: %s, was %s", got, pid)
	}
	if err := b.ssh(ssh.PublicKeys(b.signer)); err != nil {
		t.Errorf("log in: %v", err)
	}
}

// offered returns the ed25519 host key with which sshd answers.
func (b *box) offered() []byte {
	b.t.Helper()
	conn, err := b.dial()
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var key []byte
	enough := errors.New("enough")
	_, _, _, err = ssh.NewClientConn(conn, "127.0.0.1:22", &ssh.ClientConfig{
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
			key = k.Marshal()
			return enough
		},
	})
	if key == nil {
		b.t.Fatal(err)
	}
	return key
}

// A VM that is provisioned late: systemd has given sshd up, which takes only
// seconds without a host key.
func TestAnSSHDThatWasGivenUpIsStarted(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.write("/usr/lib/systemd/system/multi-user.target.wants/ssh.service", "", 0o644)
	m.run.Answers["systemctl show --property=ActiveState ssh.service"] = hosttest.Answer{Stdout: "ActiveState=failed\n"}
	m.run.Answers["systemctl --no-block reset-failed ssh.service"] = hosttest.Answer{}
	m.run.Answers["systemctl --no-block start ssh.service"] = hosttest.Answer{Do: func(host.Cmd) error {
		// sshd starts and writes its pid file.
		m.write("/run/sshd.pid", "4711\n", 0o644)
		m.write("/proc/4711/stat", "4711 (sshd) S 1 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 "+
			"9999999999 1 1", 0o644)
		return nil
	}}
	step := provisioning.SSHDUp{Systemctl: "systemctl"}
	if err := step.Apply(t.Context(), m.prov()); err != nil {
		t.Errorf("%v; called %v", err, m.run.Commands())
	}
}
