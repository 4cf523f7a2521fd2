package provisioning_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/provisioning"
)

// TestIN1SSHDIsAskedAboutTheRightLogin: sshd's answer is that for a log-in of
// a person from elsewhere, and a configuration that tests any part of a log-in
// is answered, too.
func TestIN1SSHDIsAskedAboutTheRightLogin(t *testing.T) {
	t.Parallel()
	if !insideBox(t) {
		return
	}
	hostKey := prepareSSHD(t)
	for _, tc := range []struct{ name, main, want string }{
		{"plain", "PasswordAuthentication no\n", "no"},
		{"a Match of the local port", "Match LocalPort 2222\n PasswordAuthentication no\n", "yes"},
		{"a Match of our own port", "Port 2222\nMatch LocalPort 2222\n PasswordAuthentication no\n", "no"},
		{"a Match of the local address", "ListenAddress 10.1.2.3\nMatch LocalAddress 10.1.2.3\n PasswordAuthentication no\n", "no"},
		{"a Match of the routing domain", "Match RDomain blue\n PasswordAuthentication no\n", "yes"},
		{"a Match of loopback", "PasswordAuthentication no\nMatch Address 127.0.0.1,::1\n PasswordAuthentication yes\n", "no"},
		{"a Match of everybody outside", "Match Address *,!10.0.0.0/8\n PasswordAuthentication no\n", "no"},
		{"a Match of the host", "Match Host localhost\n PasswordAuthentication no\n", "yes"},
		{"a Match of another user", "Match User nobody\n PasswordAuthentication no\n", "yes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resetSSHD(t, hostKey, tc.main, nil)
			a, err := sandboxed(t).AskSSHD(t.Context(), provisioning.Login{User: "azureuser"})
			if err != nil {
				t.Fatal(err)
			}
			if got := a.Value("PasswordAuthentication"); got != tc.want {
				t.Errorf("passwords %q, want %q", got, tc.want)
			}
			// The step understands it, too, and has no reason for a warning.
			if out := runSSHDStep(t, tc.want); out != "fine" {
				t.Errorf("the step said %s", out)
			}
		})
	}
	t.Run("options of the unit", func(t *testing.T) {
		resetSSHD(t, hostKey, "Port 22\n", nil)
		if err := os.WriteFile("/etc/default/ssh", []byte("# options\nSSHD_OPTS=\"-o PasswordAuthentication=no -e\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		a, err := sandboxed(t).AskSSHD(t.Context(), provisioning.Login{User: "azureuser"})
		if err != nil || a.Value("passwordauthentication") != "no" {
			t.Errorf("answer %q, %v", a.Value("passwordauthentication"), err)
		}
	})
	t.Run("options of the process", func(t *testing.T) {
		resetSSHD(t, hostKey, "Port 22\n", nil)
		if err := os.WriteFile("/etc/ssh/custom", []byte("MaxAuthTries 3\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/usr/sbin/sshd", "-D", "-f", "/etc/ssh/custom", "-o", "PasswordAuthentication no", "-oPermitTTY=no", "-p", "2200")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		// wait: the test's context is the bound
		for t.Context().Err() == nil {
			if b, err := os.ReadFile("/run/sshd.pid"); err == nil && strings.HasSuffix(string(b), "\n") {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		a, err := sandboxed(t).AskSSHD(t.Context(), provisioning.Login{User: "azureuser"})
		if err != nil {
			t.Fatal(err)
		}
		for k, want := range map[string]string{"maxauthtries": "3", "passwordauthentication": "no", "permittty": "no", "port": "2200"} {
			if got := a.Value(k); got != want {
				t.Errorf("%s %q, want %q", k, got, want)
			}
		}
	})
}
