package handlers

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
)

// TestAgentctlExt: what an operator on the machine can see and do about an
// extension, with the real binaries.
func TestAgentctlExt(t *testing.T) {
	t.Parallel()
	h := publisher + ".Runner"
	m := newMachine(t)
	if err := m.Fabric.AddPackage(h, "1.0.0", runnerZip(t)); err != nil {
		t.Fatal(err)
	}
	start(t, m)
	ctl := func(args string) (string, int) {
		t.Helper()
		r, _ := m.Run(t.Context(), append([]string{"agentctl"}, strings.Fields(args)...)...)
		return r.Stdout + r.Stderr, r.Code
	}
	says := func(args string, code int, words ...string) {
		t.Helper()
		out, got := ctl(args)
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("agentctl %s does not say %q:\n%s", args, w, out)
			}
		}
		if got != code {
			t.Errorf("agentctl %s: exit %d, want %d:\n%s", args, got, code, out)
		}
	}
	m.Put(t, fabric.Extension{
		Name: "runner", Handler: h, Version: "1.0", Settings: map[string]any{"script": "test -e /var/tmp/go || { echo no go; exit 9; }; echo gone"},
		Protected: map[string]any{"password": "CANARY-decrypt"},
	})
	if got := m.Settle(t, "runner")["runner"]; got == "Succeeded" {
		t.Fatalf("it was to fail: %s", got)
	}
	says("ext list", 0, h, "1.0.0")
	says("ext show runner", 0, "no go", "1.0.0")
	says("ext logs runner", 0, "Enable extension: [run.sh enable]")
	says("ext history runner", 0, h)
	settings := lib + "/" + h + "-1.0.0/config/0.settings"
	says("ext decrypt "+settings, 0, "CANARY-decrypt")
	says("ext orphans", 0, "no leftovers found")
	if r, _ := m.Run(t.Context(), "setpriv", "--reuid=65534", "--clear-groups", "agentctl", "ext", "decrypt", settings); r.Code == 0 || strings.Contains(r.Stdout, "CANARY") {
		t.Errorf("anybody may decrypt: %s", r.Stdout)
	}
	if strings.Contains(m.Log.String(), "CANARY") {
		t.Error("the log has the secret")
	}
	m.Sh(t, "touch /var/tmp/go")
	says("ext retry runner", 0, "retry requested")
	m.WaitRow(t, h, "well", func(r machine.Row) bool { return r.Word() == "success" && r.Message() == "gone" })
	m.Put(t, fabric.Extension{Name: "runner", Handler: h, Version: "1.0", Settings: map[string]any{"script": "sleep 300"}})
	await(t, "enable to run", func() bool { return m.Sh(t, "pgrep -f '[s]leep 300' || :") != "" })
	says("ext show runner", 0, "enable")
	says("ext cancel runner", 0, "stopped ")
	if got := m.Settle(t, "runner")["runner"]; !strings.Contains(got, "AZ-EXT-SIGNAL") {
		t.Errorf("cancelled: %s", got)
	}
	says("ext cancel runner", 1, "nothing is running")
	m.Sh(t, "mkdir -p /etc/systemd/system "+lib+"/Gone.Handler-1.0/config; echo x >"+lib+"/Gone.Handler-1.0/HandlerManifest.json; echo 'ExecStart="+lib+"/Never.There-2.0/x' >/etc/systemd/system/never.service")
	m.Sh(t, "mkdir "+lib+"/work; cd "+lib+"/work; setsid sleep 299 >/dev/null 2>&1 & until pgrep -fx 'sleep 299' >/dev/null; do sleep 0.05; done; rm -r "+lib+"/work")
	says("ext orphans", 1, "never.service", "Never.There-2.0/x does not exist", "Gone.Handler-1.0", "sleep 299")
}
