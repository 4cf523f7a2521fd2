package e2e

import (
	"strings"
	"testing"
)

// TestIN12CustomDataThatFails: the result of custom data, which is run after
// Ready, is in the log and in the status, without secrets;
// what it has printed is for root only (DESIGN.md, decision 67); and custom data has
// the environment of a log-in (IN13).
func TestIN12CustomDataThatFails(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Provisioning.CustomData = []byte("#!/bin/sh\nset -eu\necho \"$HOME $USER $LOGNAME\" >/var/tmp/env\necho 'password=hunter2hunter2' >&2\necho 'E: no package x' >&2\nexit 7\n")
	c := newAgentCloud(t, o)
	c.Sh(t, "mkdir -p /etc/waagent.conf.d; echo Provisioning.ExecuteCustomData=y >/etc/waagent.conf.d/x.conf")
	c.StartAgent(t)
	c.WaitReady(t)
	await(t, "the warning", func() bool {
		s := c.Sh(t, "agentctl status || :")
		return strings.Contains(s, "AZ-PROV-CUSTOMDATA") && strings.Contains(strings.ToLower(s), "degraded")
	})
	if got := strings.TrimSpace(c.Sh(t, "cat /var/tmp/env")); got != "/root root root" {
		t.Errorf("environment %q", got)
	}
	log := c.Sh(t, "grep AZ-PROV-CUSTOMDATA /var/log/waagent.log")
	if !strings.Contains(log, "exit code 7") || strings.Contains(log, "no package") || strings.Contains(log, "hunter2") {
		t.Errorf("log, which everybody reads: %s", log)
	}
	if s := c.Sh(t, "cat /run/azguest/status.root.json"); !strings.Contains(s, "E: no package x") || strings.Contains(s, "hunter2") {
		t.Errorf("what root reads: %s", s)
	}
	if s := c.Sh(t, "agentctl status || :"); !strings.Contains(s, "E: no package x") {
		t.Errorf("agentctl status of root: %s", s)
	}
}
