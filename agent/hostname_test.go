package agent

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/test/fabric"
)

func TestMonitorHostName(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		now, record, cloud   string
		wantRecord, wantFile string
	}{
		"first look":             {"vm-01", "", "", "vm-01", ""},
		"nothing new":            {"vm-01", "vm-01", "", "vm-01", ""},
		"changed":                {"web-02", "vm-01", "", "web-02", "web-02\n"},
		"cloud-init named it":    {"vm-01", "", `{"fqdn":"vm-01.x","hostname":"vm-01"}`, "", ""},
		"changed from its name":  {"web-02", "", `{"hostname":"vm-01"}`, "web-02", "web-02\n"},
		"between two names":      {"localhost", "vm-01", "", "vm-01", ""},
		"a name that is none":    {"bad name", "vm-01", "", "vm-01", ""},
		"cloud-init's is broken": {"vm-01", "", `{`, "vm-01", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testAgent(t, fabric.New(t), func(c *config.Config) { c.Provisioning.MonitorHostName = true })
			run := &hosttest.Runner{}
			a.Runner = run
			a.Kernel = host.Kernel{HostName: func() (string, error) { return tc.now, nil }, SetHostName: func(string) error { t.Error("the name was set"); return nil }}
			list := map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/etc/shadow": "root:*:1::::::\n", "/etc/hosts": "127.0.0.1 localhost\n"}
			if tc.record != "" {
				list["/var/lib/waagent/published_hostname"] = tc.record
			}
			if tc.cloud != "" {
				list["/var/lib/cloud/data/set-hostname"] = tc.cloud
			}
			files(t, a.Root, list)
			if err := a.monitorHostName(t.Context()); err != nil || len(run.Commands()) > 0 {
				t.Errorf("before provisioning has ended: %v", err)
			}
			a.startGate.open()
			for range 2 {
				if err := a.monitorHostName(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			rec, _ := a.Root.ReadFile("/var/lib/waagent/published_hostname")
			etc, _ := a.Root.ReadFile("/etc/hostname")
			if string(rec) != tc.wantRecord || string(etc) != tc.wantFile {
				t.Errorf("record %q, /etc/hostname %q", rec, etc)
			}
			for _, c := range run.Commands() {
				for _, bad := range []string{"down", "restart", "ifup", "dhclient"} {
					if strings.Contains(c, bad) {
						t.Errorf("the network was bounced: %s", c)
					}
				}
			}
		})
	}
}

func TestPlanRenewal(t *testing.T) {
	t.Parallel()
	for want, list := range map[string]map[string]string{
		"networkctl renew eth0":               {"/run/systemd/netif/links/2": "ADMIN_STATE=configured\nOPER_STATE=routable\n"},
		"nmcli --wait 30 device reapply eth0": {"/run/NetworkManager/devices/2": "[device]\nmanaged=true\n"},
		"dhcpcd --rebind eth0":                {"/run/dhcpcd/pid": "1\n"},
		"":                                    {"/run/systemd/netif/links/2": "ADMIN_STATE=unmanaged\n", "/run/systemd/netif/links/3": "ADMIN_STATE=configured\n", "/run/NetworkManager/devices/2": "managed=false\n", "/run/dhclient.eth0.pid": "1\n"},
	} {
		r := host.Root(t.TempDir())
		files(t, r, list)
		if got := strings.TrimSpace(planRenewal(r, "eth0", 2).cmd.String()); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	r := host.Root(t.TempDir())
	files(t, r, map[string]string{"/proc/net/route": "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth1 0000000A 00000000 0001 0 0 0 00FFFFFF\neth0 00000000 0100000A 0003 0 0 0 00000000\n"})
	if got := defaultInterface(r); got != "eth0" {
		t.Errorf("default interface %q", got)
	}
	if got := defaultInterface(host.Root(t.TempDir())); got != "" {
		t.Errorf("default interface %q", got)
	}
}
