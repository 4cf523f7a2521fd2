package e2e

import (
	"strings"
	"testing"
)

// TestGeneralize: a provisioned machine is deprovisioned with the classic
// command line, as scripts do; it can then be used as an image, and a VM
// created from it is provisioned like a new one.
func TestGeneralize(t *testing.T) {
	t.Parallel()
	o := blank()
	c := newAgentCloud(t, o)
	p := c.StartAgent(t)
	c.WaitReady(t)
	c.provisioned(t)

	plan := c.Sh(t, "agentctl generalize --plan; id azureuser >/dev/null && echo still there")
	for _, want := range []string{"delete the account azureuser", "host key", "/etc/machine-id", "still there"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan lacks %q:\n%s", want, plan)
		}
	}
	if got := c.Sh(t, "echo n | agentctl waagent-compat -deprovision+user; echo $?; id azureuser >/dev/null && echo still there"); !strings.HasSuffix(got, "1\nstill there") {
		t.Errorf("not confirmed: %s", got)
	}
	// The sandbox has no service manager that could stop it.
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	if got := c.Sh(t, "agentctl waagent-compat -force /deprovision+user >/tmp/out 2>&1; echo $?; id azureuser 2>/dev/null; ls /etc/ssh/ssh_host_* /var/lib/waagent/* 2>/dev/null; cat /etc/hostname"); got != "0\nlocalhost.localdomain" {
		t.Errorf("afterwards: %s\n%s", got, c.Sh(t, "cat /tmp/out"))
	}
	if got := c.Sh(t, "agentctl generalize --plan --output json"); !strings.Contains(got, `"actions": []`) {
		t.Errorf("a second run would: %s", got)
	}
	verdict := c.Sh(t, "agentctl image verify / --profile marketplace; echo $?")
	for _, bad := range []string{"ssh_host", "azureuser", "/var/lib/waagent", "machine-id", "authorized_keys"} {
		if strings.Contains(verdict, bad) {
			t.Errorf("something was left:\n%s", verdict)
		}
	}

	c.Reboot(t)
	before := c.readyReports()
	c.StartAgent(t)
	await(t, "Ready of the next VM", func() bool { return c.readyReports() > before })
	c.provisioned(t)
	if got := c.ssh(t, "azureuser", "id -un; hostname"); got != "azureuser\nfirst-light" {
		t.Errorf("the next VM: %q", got)
	}
}

// TestClassicCommands tests the other commands of the classic command line.
func TestClassicCommands(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	if got := c.Sh(t, "azguest waagent -daemon >/tmp/log 2>&1 & echo $!"); got == "" {
		t.Fatal("not started")
	}
	c.WaitReady(t)
	c.provisioned(t)
	got := c.Sh(t, "agentctl waagent-compat -collect-logs -full; echo $?; stat -c '%a %n' /var/lib/waagent/logcollector/*; head -n 1 /var/lib/waagent/logcollector/results.txt; grep -c Corr3ct /var/lib/waagent/logcollector/results.txt || :")
	for _, want := range []string{"\n0\n600 /var/lib/waagent/logcollector/logs.zip\n600 /var/lib/waagent/logcollector/results.txt\nazguest ", "full collection"} {
		if !strings.Contains(got, want) {
			t.Errorf("collect-logs lacks %q:\n%s", want, got)
		}
	}
	if got := c.Sh(t, "azguest waagent -deprovisionnow 2>&1; echo $?; azguest waagent -version 2>&1; echo $?; azguest waagent -configuration-path:/nowhere -start 2>&1; echo $?"); !strings.Contains(got, "unknown argument") || strings.Count(got, "\n2") != 2 || !strings.HasSuffix(got, "\n1") {
		t.Errorf("what is wrong: %s", got)
	}
	// A second agent does not start, because of the lock.
	if got := c.Sh(t, "timeout 20 azguest waagent -run-exthandlers >/dev/null 2>&1; echo $?"); got == "0" || got == "124" {
		t.Errorf("a second agent ended with %s", got)
	}
}
