package discover

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/azguest/azguest/agent/host"
)

func TestOptionInAllSpellings(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a8:3f:81:10": Default, "a8:3f:81:10;": Default, "A83F8110": Default, "a83f8110": Default, "168.63.129.16": Default,
		`"\250?\201\020"`: Default, `\250?\201\020`: Default, "\xa8?\x81\x10": Default, `"\xa8?\x81\x10"`: Default,
		"a:1:2:3": "10.1.2.3", "a8:3f:81": "", "a8:3f:81:10:1": "", "": "", "7f:0:0:1": "", "127.0.0.1": "", "e0000001": "", "ffffffff": "", "00000000": "",
		"a8:3f:81:zz": "", "::1": "", "fe80::1": "", "a83f811": "",
	} {
		got := ""
		if a := Option(in); a.IsValid() {
			got = a.String()
		}
		if got != want {
			t.Errorf("Option(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDhclientLastUnexpiredWins(t *testing.T) {
	t.Parallel()
	lease := func(opt, expire string) string {
		return "lease {\n  option unknown-245 " + opt + ";\n  " + expire + "\n}\n"
	}
	now := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct{ text, want string }{
		"last":      {lease("a8:3f:81:1", "expire 0 2152/07/23 23:27:10;") + lease("a8:3f:81:2", "expire 0 2152/07/23 23:27:10;"), "168.63.129.2"},
		"unexpired": {lease("a8:3f:81:1", "expire 0 2152/07/23 23:27:10;") + lease("a8:3f:81:2", "expire 0 2012/07/23 23:27:10;"), "168.63.129.1"},
		"never":     {lease("a8:3f:81:1", "expire 0 never;"), "168.63.129.1"},
		"epoch":     {lease("a8:3f:81:1", "expire epoch 5000000000; # Fri"), "168.63.129.1"},
		"none":      {lease("a8:3f:81:1", ""), ""},
		"open":      {"lease {\n option unknown-245 a8:3f:81:1;\n expire never;\n", ""},
		"dns":       {"lease {\n option domain-name-servers 10.0.0.1;\n expire never;\n}\n", ""},
	} {
		got := ""
		if a := Dhclient(tc.text, now); a.IsValid() {
			got = a.String()
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestPlatformLeases(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	for name, want := range map[string]string{"dhcp.leases": "168.63.129.16", "dhcp.leases.multi": "168.63.129.2"} {
		b, err := os.ReadFile(filepath.Join(dir, "waagent", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := Dhclient(string(b), time.Now()).String(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	// A recorded packet of a DHCP server, of a cluster with its own address.
	b, err := os.ReadFile(filepath.Join(dir, "waagent/dhcp"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	req := &dhcpv4.DHCPv4{TransactionID: p.TransactionID, ClientHWAddr: p.ClientHWAddr}
	if got := Offer(b, req); got.String() != "10.62.144.140" {
		t.Errorf("Offer = %v", got)
	}
	req.TransactionID[0]++
	if got := Offer(b, req); got.IsValid() {
		t.Errorf("an answer to somebody else gave %v", got)
	}
}

func TestCandidates(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	if diff := cmp.Diff([]Candidate{{Default, "default"}}, Candidates(t.Context(), root, "/lib", time.Now(), false)); diff != "" {
		t.Error(diff)
	}
	for name, text := range map[string]string{
		"/run/systemd/netif/leases/2":                   "# private\nADDRESS=10.0.0.4\nDNS=10.0.0.1\nOPTION_245=0a000001\n",
		"/var/lib/NetworkManager/internal-x-eth0.lease": "private_245=a8:3f:81:10\n",
		"/lib/WireServerEndpoint":                       "10.0.0.1\n",
	} {
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []Candidate{{"10.0.0.1", "cache"}, {Default, "default"}}
	if diff := cmp.Diff(want, Candidates(t.Context(), root, "/lib", time.Now(), false)); diff != "" {
		t.Error(diff)
	}
	// A cached address that nothing vouches for any more is forgotten.
	if err := root.WriteFile("/lib/WireServerEndpoint", []byte("10.9.9.9"), 0o600); err != nil {
		t.Fatal(err)
	}
	want = []Candidate{{Default, "default"}, {"10.0.0.1", "networkd"}}
	if diff := cmp.Diff(want, Candidates(t.Context(), root, "/lib", time.Now(), false)); diff != "" {
		t.Error(diff)
	}
}

func FuzzLeases(f *testing.F) {
	f.Add("lease {\n option unknown-245 a8:3f:81:10;\n expire never;\n}\n")
	f.Add("OPTION_245=a83f8110\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, a := range []netip.Addr{Dhclient(s, time.Time{}), KeyValue(s), Option(s)} {
			if a.IsValid() && (a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || !a.Is4()) {
				t.Errorf("%v", a)
			}
		}
	})
}

func FuzzOffer(f *testing.F) {
	req, err := Discover(net.HardwareAddr{0, 1, 2, 3, 4, 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(req.ToBytes())
	f.Fuzz(func(_ *testing.T, b []byte) { _ = Offer(b, req) })
}
