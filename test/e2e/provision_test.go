package e2e

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// TestVMAccessOpensPasswords: the machine was created without password logins,
// and its owner has lost the key and uses VMAccess, which edits sshd_config.
// The agent's drop-in takes precedence over that file and must not undo the
// change. The change must be in effect before success is reported.
func TestVMAccessOpensPasswords(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Provisioning = fabric.Provisioning{}
	const vmaccess = "Microsoft.OSTCExtensions.VMAccessForLinux"
	o.Packages[vmaccess+"/1.5.0.0"] = handler(t, `
if [ "$op" = enable ]; then
	echo 'PasswordAuthentication yes' >>/etc/ssh/sshd_config
	say success 0 reset
fi
`)
	c := newAgentCloud(t, o)
	c.prepareSSHD(t)
	// As in distributions.
	c.Sh(t, "grep -q ^Include /etc/ssh/sshd_config || sed -i '1i Include /etc/ssh/sshd_config.d/*.conf' /etc/ssh/sshd_config; sed -i '/^PasswordAuthentication/d' /etc/ssh/sshd_config")
	c.StartAgent(t)
	c.WaitReady(t)
	const ask = "sshd -T | sed -n 's/^passwordauthentication //p'"
	if got := c.Sh(t, ask); got != "no" {
		t.Fatalf("passwords: %q, want no", got)
	}
	if err := c.VM.PutExtension(vmaccess, "1.5.0.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the success of VMAccess", func() bool {
		state, err := c.VM.ProvisioningState("VMAccessForLinux")
		return err == nil && state == "Succeeded"
	})
	if got := c.Sh(t, ask); got != "yes" {
		t.Errorf("passwords: %q after the success was reported, want yes\n%s", got, c.Sh(t, "cat /etc/ssh/sshd_config.d/*.conf"))
	}
}

// TestKeyOfAnUndeliveredCertificate: the provisioning document refers to the
// key by a certificate that is not in the goal state, but IMDS has the key
// itself.
func TestKeyOfAnUndeliveredCertificate(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Provisioning = fabric.Provisioning{}
	o.Medium = func(m *fabric.Medium) {
		doc, err := fabric.OVFEnvironment(m.Provisioning, fabric.SpellingDVD)
		if err != nil {
			t.Fatal(err)
		}
		from, to := strings.Index(string(doc), "<PublicKey>"), strings.Index(string(doc), "</PublicKey>")
		m.Raw = []byte(string(doc[:from]) + "<PublicKey><Fingerprint>0123456789ABCDEF0123456789ABCDEF01234567</Fingerprint>" +
			"<Path>$HOME/azureuser/.ssh/authorized_keys</Path>" + string(doc[to:]))
	}
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	if got := c.ssh(t, "azureuser", "id -un"); got != "azureuser" {
		t.Errorf("ssh shows %q", got)
	}
}
