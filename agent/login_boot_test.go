package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning/access"
	"github.com/azguest/azguest/test/fabric"
)

// TestIN1FailedIsNotDoneAtTheNextStart: a machine into which nobody gets is not
// taken for provisioned by the next start, in the same boot or another; when it
// has been mended, it is reported as ready.
func TestIN1FailedIsNotDoneAtTheNextStart(t *testing.T) {
	t.Parallel()
	f := fabric.New(t)
	vm := f.CreateVM("vm-01", fabric.Linux("azureuser"))
	medium := fabric.Medium{Provisioning: fabric.Provisioning{HostName: "vm-01", User: "azureuser", Password: "Correct-Horse-7"}}
	docs, err := medium.Files()
	if err != nil {
		t.Fatal(err)
	}
	root := host.Root(t.TempDir())
	files(t, root, map[string]string{
		"/sys/class/dmi/id/product_uuid":  vm.ID() + "\n",
		"/proc/sys/kernel/random/boot_id": "boot-1\n",
		"/etc/passwd":                     "root:x:0:0::/root:/bin/sh\nazureuser:x:1000:1000::/home/azureuser:/bin/sh\n",
		"/etc/group":                      "root:x:0:\nazureuser:x:1000:\n",
		"/etc/shadow":                     "root:*:20000:0:99999:7:::\nazureuser:*:20000:0:99999:7:::\n",
		"/etc/hosts":                      "127.0.0.1 localhost vm-01\n",
		"/media/ovf-env.xml":              string(docs["ovf-env.xml"]),
		"/run/systemd/system/x":           "", // there, a machine without an SSH server lets nobody in
		"/run/azguest/x":                  "", "/var/log/azure/x": "", "/var/lib/waagent/x": "",
	})
	if err := errors.Join(root.MkdirAll("/bin", 0o755), root.WriteFile("/bin/sh", nil, 0o755)); err != nil {
		t.Fatal(err)
	}

	for _, start := range []struct {
		name, change string
		state        string
	}{
		{"first", "", status.ProvFailed},
		{"the agent is restarted", "", status.ProvFailed},
		{"the machine is restarted", "/proc/sys/kernel/random/boot_id", status.ProvFailed},
		{"somebody has mended it", "/run/systemd", status.ProvDone},
		{"once more", "", status.ProvDone},
	} {
		switch start.change {
		case "":
		case "/run/systemd":
			err = root.RemoveAll(start.change)
		default:
			err = root.WriteFile(start.change, []byte("boot-2\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		p, health := startOnce(t, f, root, vm)
		marked := root.Exists("/var/lib/waagent/provisioned")
		if p.State != start.state || marked != (start.state == status.ProvDone) {
			t.Errorf("%s: provisioning %s (%s), marker there: %v; want %s", start.name, p.State, p.Error, marked, start.state)
		}
		if start.state == status.ProvFailed && (p.Code != access.CodeNone || health.SubStatus != "ProvisioningFailed") {
			t.Errorf("%s: code %s, health %+v", start.name, p.Code, health)
		}
		if start.state == status.ProvDone && health.State != "Ready" {
			t.Errorf("%s: health %+v", start.name, health)
		}
	}
}

// startOnce runs an agent without extensions until it has decided about
// provisioning, and returns what it shows and what the platform has accepted.
func startOnce(t *testing.T, f *fabric.Fabric, root host.Root, vm *fabric.VM) (status.Provisioning, fabric.HealthReport) {
	t.Helper()
	cfg := config.Default()
	cfg.Protocol.Endpoint = "168.63.129.16" // the fabric's, in memory
	cfg.Extensions.Mode, cfg.Provisioning.Agent, cfg.Provisioning.Media = config.ModeOff, config.AgentSelf, "/media"
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"/bin/sh": {Stdout: "azguest-log-in\n"}}} // it runs what it is told
	a := New(Options{
		Version: "3.0.0.1", Config: cfg, Root: root, Runner: run, Log: zerolog.Nop(),
		Platform: func(o *platform.Options) { o.Dial = f.DialContext },
	})
	a.Kernel = host.Kernel{HostName: func() (string, error) { return "vm-01", nil }, SetHostName: func(string) error { return nil }}
	before := healthReports(f)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		<-done //nolint:errcheck // ended by the test; its error does not matter
		a.platform.Close()
	}()
	var p status.Provisioning
	await(t, ctx, func() string {
		p = a.live.copy().Provisioning
		switch {
		case p.State != status.ProvFailed && p.State != status.ProvDone:
			return "provisioning is " + p.State
		case p.State == status.ProvFailed && healthReports(f) < before+2, p.State == status.ProvDone && vm.Health().State != "Ready":
			return "the outcome is not reported"
		}
		return ""
	})
	return p, vm.Health()
}

func healthReports(f *fabric.Fabric) (n int) {
	for _, e := range f.Journal(fabric.Query{Kind: fabric.Health}) {
		if strings.Contains(e.Body, "Ready") {
			n++
		}
	}
	return n
}
