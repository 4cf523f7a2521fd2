package discover

import (
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/test/peak"
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
	req := &Request{XID: [4]byte(b[atXID:]), MAC: [6]byte(b[atHardware:])}
	if got := Offer(b, req); got.String() != "10.62.144.140" {
		t.Errorf("Offer = %v", got)
	}
	req.XID[0]++
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
	// A cached address that no other source confirms is forgotten.
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
	f.Fuzz(peak.Target(func(t *testing.T, s string) {
		for _, a := range []netip.Addr{Dhclient(s, time.Time{}), KeyValue(s), Option(s)} {
			if a.IsValid() && (a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || !a.Is4()) {
				t.Errorf("%v", a)
			}
		}
	}))
}

// packet is an answer to req with options in its three places.
func packet(req *Request, options, file, server string) []byte {
	b := req.ToBytes()[:atOptions]
	b[0] = bootReply
	copy(b[atFile:atCookie], file)
	copy(b[atServer:atFile], server)
	return append(b, options...)
}

// TestSEC13DHCP: the request has the same bytes as that of the library which
// was used before; option 245 is read from every place in an answer where it
// may be.
func TestSEC13DHCP(t *testing.T) {
	t.Parallel()
	req := &Request{XID: [4]byte{0x0b, 9, 0xd0, 0x6f}, MAC: [6]byte{0, 13, 58, 1, 2, 3}}
	want := strings.ReplaceAll("01010600 0b09d06f 00008000 "+strings.Repeat("00000000 ", 4)+"000d3a01 0203"+strings.Repeat("00", 10+64+128)+
		"63825363 350101 370501030f06f5 ff", " ", "")
	want += strings.Repeat("0", 2*300-len(want))
	if got := hex.EncodeToString(req.ToBytes()); got != want {
		t.Errorf("request\n%s, want\n%s", got, want)
	}
	const addr = "\xa8\x3f\x81\x10"
	for name, tc := range map[string]struct {
		answer []byte
		want   string
	}{
		"plain":              {packet(req, "\x35\x01\x02\xf5\x04"+addr+"\xff", "", ""), Default},
		"pads, no end":       {packet(req, "\x00\x00\x35\x01\x02\x00\xf5\x04"+addr, "", ""), Default},
		"in pieces":          {packet(req, "\xf5\x01\xa8\x35\x01\x02\xf5\x03\x3f\x81\x10\xff", "", ""), Default},
		"in the file":        {packet(req, "\x34\x01\x01\xff", "\xf5\x04"+addr+"\xff", ""), Default},
		"in the server":      {packet(req, "\x34\x01\x02\xff", "", "\xf5\x04"+addr+"\xff"), Default},
		"across all":         {packet(req, "\x34\x01\x03\xf5\x02\xa8\x3f\xff", "\xf5\x01\x81\xff", "\xf5\x01\x10\xff"), Default},
		"file is a name":     {packet(req, "\xff", "\xf5\x04"+addr+"\xff", ""), "invalid IP"},
		"after the end":      {packet(req, "\xff\xf5\x04"+addr, "", ""), "invalid IP"},
		"too long":           {packet(req, "\xf5\x04"+addr+"\x05\x20\x00", "", ""), "invalid IP"},
		"too long in file":   {packet(req, "\xf5\x04"+addr+"\x34\x01\x01\xff", "\x05\xff\x00", ""), "invalid IP"},
		"no length":          {packet(req, "\xf5", "", ""), "invalid IP"},
		"five bytes":         {packet(req, "\xf5\x05"+addr+"\x00\xff", "", ""), "invalid IP"},
		"loopback":           {packet(req, "\xf5\x04\x7f\x00\x00\x01\xff", "", ""), "invalid IP"},
		"nothing":            {packet(req, "\x35\x01\x02\xff", "", ""), "invalid IP"},
		"short":              {packet(req, "", "", "")[:atOptions-1], "invalid IP"},
		"empty":              {nil, "invalid IP"},
		"our own":            {req.ToBytes(), "invalid IP"},
		"to somebody else":   {packet(&Request{MAC: req.MAC}, "\xf5\x04"+addr+"\xff", "", ""), "invalid IP"},
		"to another machine": {packet(&Request{XID: req.XID}, "\xf5\x04"+addr+"\xff", "", ""), "invalid IP"},
	} {
		if got := Offer(tc.answer, req).String(); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	if _, err := Discover(net.HardwareAddr{1, 2, 3}); err == nil {
		t.Error("Discover with a hardware address of three bytes: no error")
	}
}

func FuzzOffer(f *testing.F) {
	req := &Request{XID: [4]byte{1, 2, 3, 4}, MAC: [6]byte{0, 1, 2, 3, 4, 5}}
	f.Add(req.ToBytes())
	f.Add(packet(req, "\x34\x01\x03\xf5\x02\xa8\x3f\xff", "\xf5\x01\x81\xff", "\xf5\x01\x10\xff"))
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		if a := Offer(b, req); a.IsValid() && (a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || !a.Is4()) {
			t.Errorf("%v", a)
		}
	}))
}
