package discover

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
)

// busConfig is a private bus without access control. It can start
// NetworkManager; a call that does so by mistake leaves a file.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <servicedir>%s</servicedir>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
`

// shortDir is a temporary folder: the path of a socket has at most 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nm") //nolint:usetesting // a socket path must be short, and t.TempDir contains the test's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newBus starts a message bus at the usual path below root. started is the
// file that shows that the bus has started NetworkManager.
func newBus(t *testing.T) (root host.Root, started string) {
	t.Helper()
	prog, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("needs dbus-daemon")
	}
	dir := shortDir(t)
	root, started = host.Root(dir), filepath.Join(dir, "started")
	services, socket := filepath.Join(dir, "services"), root.Path(busSocket)
	for _, d := range []string{services, filepath.Dir(socket)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"bus.conf":                        fmt.Sprintf(busConfig, socket, services),
		"services/" + nmName + ".service": "[D-BUS Service]\nName=" + nmName + "\nExec=/bin/sh -c \": >" + started + "; exit 1\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), prog, "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile", "--print-address")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the bus does not start: %v", err)
	}
	return root, started
}

// object is one object of NetworkManager: its properties by interface.name.
type object map[string]any

// Get is org.freedesktop.DBus.Properties.Get.
func (o object) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	v, ok := o[iface+"."+name]
	if !ok {
		return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s.%s", iface, name))
	}
	return dbus.MakeVariant(v), nil
}

// manager is NetworkManager itself.
type manager struct{ devices []dbus.ObjectPath }

// GetDevices is org.freedesktop.NetworkManager.GetDevices.
func (m manager) GetDevices() ([]dbus.ObjectPath, *dbus.Error) { return m.devices, nil }

// serve is a NetworkManager with one device for each lease; a nil one is a
// device without DHCP.
func serve(t *testing.T, root host.Root, leases ...map[string]any) {
	t.Helper()
	conn, err := dialBus(t.Context(), root.Path(busSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var m manager
	export := func(v any, path dbus.ObjectPath, iface string) {
		if err := conn.Export(v, path, iface); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range leases {
		dev := dbus.ObjectPath(fmt.Sprintf("%s/Devices/%d", nmObject, i+1))
		lease := dbus.ObjectPath(fmt.Sprintf("%s/DHCP4Config/%d", nmObject, i+1))
		m.devices = append(m.devices, dev)
		if l == nil {
			lease = "/"
		} else {
			options := map[string]dbus.Variant{}
			for k, v := range l {
				options[k] = dbus.MakeVariant(v)
			}
			export(object{nmName + ".DHCP4Config.Options": options}, lease, "org.freedesktop.DBus.Properties")
		}
		export(object{nmName + ".Device.Dhcp4Config": lease}, dev, "org.freedesktop.DBus.Properties")
	}
	export(m, nmObject, nmName)
	if reply, err := conn.RequestName(nmName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("become NetworkManager: %v, %v", reply, err)
	}
}

func TestNetworkManagerOption245(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		leases []map[string]any
		want   []string
	}{
		"digits":       {[]map[string]any{{"private_245": "a83f8110"}}, []string{Default}},
		"colons":       {[]map[string]any{{"private_245": "0a:01:02:03"}}, []string{"10.1.2.3"}},
		"option":       {[]map[string]any{{"option_245": "A:1:2:3"}}, []string{"10.1.2.3"}},
		"dhclient":     {[]map[string]any{{"unknown_245": `"\250?\201\020"`}}, []string{Default}},
		"name servers": {[]map[string]any{{"domain_name_servers": "10.0.0.1 168.63.129.16", "dhcp_server_identifier": "168.63.129.16", "routers": "10.0.0.1"}}, nil},
		"nonsense":     {[]map[string]any{{"private_245": "7f000001"}, {"private_245": ""}, {"private_245": uint32(0xa83f8110)}}, nil},
		"second device": {
			[]map[string]any{nil, {"ip_address": "10.0.0.4"}, {"private_245": "0a010203"}, {"private_245": "0a010204"}},
			[]string{"10.1.2.3", "10.1.2.4"},
		},
		"no device": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, _ := newBus(t)
			serve(t, root, tc.leases...)
			got, err := networkManager(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			var want []Candidate
			for _, a := range tc.want {
				want = append(want, Candidate{a, "NetworkManager"})
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestNetworkManagerIsAskedOnlyWhenItMatters: it is not asked before the
// default address was tried, unless another one worked last time.
func TestNetworkManagerIsAskedOnlyWhenItMatters(t *testing.T) {
	t.Parallel()
	root, _ := newBus(t)
	serve(t, root, map[string]any{"private_245": "0a010203"})
	look := func(first bool, want ...Candidate) {
		t.Helper()
		if diff := cmp.Diff(want, Candidates(t.Context(), root, "/lib", time.Now(), first)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	fixed, asked := Candidate{Default, "default"}, Candidate{"10.1.2.3", "NetworkManager"}
	look(true, fixed)
	look(false, fixed, asked)
	remember := func(addr string) {
		if err := root.MkdirAll("/lib", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile("/lib/WireServerEndpoint", []byte(addr+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remember(Default)
	look(true, fixed)
	remember("10.1.2.3")
	look(true, Candidate{"10.1.2.3", "cache"}, fixed)
}

// TestNetworkManagerIsNotStarted: asking must not change the machine.
func TestNetworkManagerIsNotStarted(t *testing.T) {
	t.Parallel()
	root, started := newBus(t)
	got, err := networkManager(t.Context(), root)
	if got != nil || err == nil || !strings.Contains(err.Error(), "list devices") {
		t.Errorf("networkManager = %v, %v", got, err)
	}
	if _, err := os.Stat(started); err == nil {
		t.Error("the bus was made to start NetworkManager")
	}
	// Proof that the bus would start it: the same call without the flag.
	conn, err := dialBus(t.Context(), root.Path(busSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Object(nmName, nmObject).CallWithContext(t.Context(), nmName+".GetDevices", 0).Err; err == nil {
		t.Error("GetDevices was answered, but no NetworkManager runs")
	}
	if _, err := os.Stat(started); err != nil {
		t.Errorf("the bus starts nothing, so the test shows nothing: %v", err)
	}
}

// TestUnavailableBus: no bus, one that refuses, one that never answers.
func TestUnavailableBus(t *testing.T) {
	t.Parallel()
	root := host.Root(shortDir(t))
	if got, err := networkManager(t.Context(), root); got != nil || err != nil {
		t.Errorf("without a bus: %v, %v", got, err)
	}
	if err := os.MkdirAll(filepath.Dir(root.Path(busSocket)), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", root.Path(busSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := networkManager(ctx, root); got != nil || err == nil {
		t.Errorf("a bus that never answers: %v, %v", got, err)
	}
	if ctx.Err() == nil {
		t.Error("returned before the time limit")
	}
	// Says hello, then nothing: the connection is there, the call hangs.
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					switch {
					case err != nil:
						return
					case strings.Contains(line, "AUTH EXTERNAL"):
						fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
					case strings.Contains(line, "AUTH"):
						fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
					}
				}
			}()
		}
	}()
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if got, err := networkManager(ctx, root); got != nil || err == nil {
		t.Errorf("a bus that never says its name: %v, %v", got, err)
	}
	if ctx.Err() == nil {
		t.Error("returned before the time limit")
	}
	_ = l.Close()
	if err := os.WriteFile(root.Path(busSocket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := networkManager(t.Context(), root); got != nil || err == nil {
		t.Errorf("a bus that is none: %v, %v", got, err)
	}
}
