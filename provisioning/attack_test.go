package provisioning_test

import (
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
)

// TestSEC3RemovalUnderAttack exchanges names in the home and the spool
// directories of an account while it is being removed, as another user could.
func TestSEC3RemovalUnderAttack(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		base  string
		names []string
	}{
		{"/home", []string{"ann/", "ann/.ssh/", "ann/.ssh/authorized_keys", "ann/sub/"}},
		{"/var/spool/cron", []string{"ann", "crontabs/", "crontabs/ann", "atjobs/", "atjobs/job"}},
		{"/run/user", []string{"1234/", "1234/systemd/", "1234/systemd/x"}},
		{"/var/mail", []string{"ann", "other/"}},
		{"/dev/shm", []string{"ann", "dir/"}},
		{"/etc/ssh/keys", []string{"ann", "ann2/"}},
	} {
		t.Run(tc.base, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			passwd := m.read("/etc/passwd")
			m.write("/etc/ssh/sshd_config", "AuthorizedKeysFile /etc/ssh/keys/%u .ssh/authorized_keys\n", 0o644)
			m.run.Answers["userdel"] = hosttest.Answer{Do: func(host.Cmd) error { m.write("/etc/passwd", passwd, 0o644); return nil }}
			hosttest.Attack(t, m.root.Path(tc.base), tc.names, func(int) {
				m.write("/etc/passwd", passwd+"ann:x:1234:1234:JIT_Account:/home/ann:/bin/bash\n", 0o644)
				_ = provisioning.RemoveJIT{Name: "ann"}.Apply(t.Context(), m.prov()) // errors do not matter here
			})
		})
	}
}

// TestSEC3KeysUnderAttack does the same in a user's own home while keys
// are written there.
func TestSEC3KeysUnderAttack(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.write("/etc/passwd", m.read("/etc/passwd")+"azureuser:x:1234:1234::/home/azureuser:/bin/bash\n", 0o644)
	steps := plan(t, m, input(), options())
	hosttest.Attack(t, m.root.Path("/home"), []string{"azureuser/", "azureuser/.ssh/", "azureuser/.ssh/authorized_keys"}, func(int) {
		for _, s := range steps {
			if s.ID() == provisioning.StepKeys {
				_ = s.Apply(t.Context(), m.prov())
			}
		}
	})
}
