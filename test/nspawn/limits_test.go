package nspawn

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/bundles"
)

// TestTOOL15LimitsAtAnySpeed: the resource limits of a manifest are applied, and a command that
// was slowed down by them is reported once, as a note and not as a fault.
// Enable is made slow; whether other commands are depends on the machine.
func TestTOOL15LimitsAtAnySpeed(t *testing.T) {
	t.Parallel()
	b := probePackage()
	b.Flags = map[string]any{"resourceLimits": map[string]any{
		"cpuQuotaPercentage": 20,
		"services":           []any{map[string]any{"name": "dbus.service", "cpuQuotaPercentage": 70}, map[string]any{"name": "none.service", "cpuQuotaPercentage": 5}},
	}}
	b.Files = map[string]string{"bin/probe": strings.Replace(probeScript, "cp /proc/self/cgroup", "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done\ncp /proc/self/cgroup", 1)}
	m := newMachine(t, order{noCloudInit: true, packages: []bundles.Bundle{b}, extension: probe})
	m.on()
	m.succeeded()
	m.settled()
	slice := "azure-vmextensions-" + probe + ".slice"
	for script, want := range map[string]string{
		"systemctl show -P CPUQuotaPerSecUSec " + slice:                "200ms",
		"systemctl show -P CPUQuotaPerSecUSec dbus.service":            "700ms",
		"agentctl ext show Probe | grep -c 'note AZ-CG-THROTTLED'":     "1",
		"agentctl ext show Probe | grep -c '^  throttled_s *[0-9.]*$'": "1",
		"agentctl status >/dev/null; echo $?":                          "0",
		"agentctl explain AZ-CG-THROTTLED | grep -c resourceLimits":    "1",
		// The sequence number in the status lets a collector of the audit log
		// detect missing lines.
		`[ "$(agentctl status --output json | sed -n 's/^ *"audit_seq": *\([0-9]*\).*/\1/p')" = "$(wc -l </var/log/azure/azguest-audit.log)" ] && tail -n 1 /var/log/azure/azguest-audit.log | grep -c "\"n\":$(wc -l </var/log/azure/azguest-audit.log),"`: "1",
	} {
		if got, err := m.try(script); got != want {
			t.Errorf("%s: %q (%v), want %q", script, got, err, want)
		}
	}
	for log, script := range map[string]string{
		"journal":     "journalctl -b -u azguest -o cat | grep -oE '(install|enable|update) ended|AZ-CG-THROTTLED'",
		"command log": "grep -oE 'bin/probe [a-z]+|AZ-CG-THROTTLED: the command was throttled' /var/log/azure/" + probe + "/CommandExecution.log",
	} {
		if wrong := notesOfThrottling(strings.Split(m.sh(script), "\n")); wrong != "" {
			t.Errorf("%s: %s", log, wrong)
		}
	}
	// A version without limits runs without limits.
	b.Flags, b.Version = nil, "1.0.1.0"
	zip, err := b.Zip()
	m.must(err)
	m.must(m.f.AddPackage(b.Name, b.Version, zip))
	m.must(m.vm.PutExtension(probe, "1.0", map[string]any{"n": 2}))
	m.await("the new version to be enabled", func() bool {
		return m.holds("agentctl ext show Probe | grep -q '^  version *1.0.1.0' && agentctl ext show Probe | grep -q '^  status *success'")
	})
	for _, unit := range []string{slice, "dbus.service"} {
		if got := m.sh("systemctl show -P CPUQuotaPerSecUSec " + unit); got != "infinity" {
			t.Errorf("the limit of %s is left: %s", unit, got)
		}
	}
	if t.Failed() {
		t.Log(m.sh("agentctl ext show Probe; agentctl status --output json | tail -n 30; cat /proc/self/cgroup; ls /sys/fs/cgroup; journalctl -b -u azguest -o cat | grep -i probe"))
	}
}

// notesOfThrottling checks commands and the notes after them, in order.
func notesOfThrottling(lines []string) string {
	before, enable := "", 0
	for _, l := range lines {
		if !strings.HasPrefix(l, "AZ-CG-") {
			before = l
			continue
		}
		if before == "" {
			return "a note about no command, or a second one about the same: " + strings.Join(lines, ", ")
		}
		if strings.Contains(before, "enable") {
			enable++
		}
		before = ""
	}
	if enable != 1 {
		return "not one note about enable: " + strings.Join(lines, ", ")
	}
	return ""
}

// TestTOOL15NotesOfThrottling: any number of commands may be slow.
func TestTOOL15NotesOfThrottling(t *testing.T) {
	t.Parallel()
	const note = "AZ-CG-THROTTLED"
	for text, right := range map[string]bool{
		"install ended,enable ended," + note:                           true,
		"install ended," + note + ",enable ended," + note:              true,
		"install ended," + note + ",enable ended":                      false,
		"install ended,enable ended," + note + "," + note:              false,
		note + ",install ended,enable ended," + note:                   false,
		"install ended," + note + "," + note + ",enable ended," + note: false,
		"":                           false,
		"install ended,enable ended": false,
	} {
		if wrong := notesOfThrottling(strings.Split(text, ",")); (wrong == "") != right {
			t.Errorf("%q: %q", text, wrong)
		}
	}
}
