package discover

import (
	"context"
	"encoding/hex"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// Default is the address of the platform on every Azure cloud.
const Default = "168.63.129.16"

// A Candidate is an address to try, and where it comes from.
type Candidate struct {
	Addr   string
	Origin string // default, cache, dhclient, networkd, NetworkManager, dhcp
}

// leaseFiles are read in this order; the program that wrote them determines
// the format.
var leaseFiles = [...]struct{ pattern, origin string }{
	{"/run/systemd/netif/leases/*", "networkd"},
	{"/var/lib/NetworkManager/internal-*.lease", "NetworkManager"},
	{"/run/NetworkManager/devices/*", "NetworkManager"},
	{"/var/lib/dhcp/dhclient.*.leases", "dhclient"},
	{"/var/lib/dhcp/dhclient*.lease*", "dhclient"},
	{"/var/lib/dhclient/dhclient-*.leases", "dhclient"},
	{"/var/lib/dhclient/dhclient-*.lease", "dhclient"},
	{"/var/lib/NetworkManager/dhclient-*.lease", "dhclient"},
}

// maxLease bounds a lease file; dhclient appends for years.
const maxLease = 4 << 20

// Candidates lists the addresses to try, best first, without asking the
// network. libDir has the address that worked last time. NetworkManager may be
// slow to answer, so the first round asks it only if that address is neither
// the default nor in a lease file.
func Candidates(ctx context.Context, root host.Root, libDir string, now time.Time, first bool) []Candidate {
	last := ""
	if b, err := root.ReadFile(path.Join(libDir, "WireServerEndpoint")); err == nil {
		last = strings.TrimSpace(string(b))
	}
	list := fromFiles(root, now)
	is := func(c Candidate) bool { return c.Addr == last }
	if !first || last != "" && !slices.ContainsFunc(list, is) {
		hints, _ := networkManager(ctx, root) // without a bus, NetworkManager or an answer there are none
		for _, h := range hints {
			list = add(list, h)
		}
	}
	// What worked last time is tried first, if it is still plausible.
	if i := slices.IndexFunc(list, is); i > 0 {
		c := list[i]
		list = slices.Insert(slices.Delete(list, i, i+1), 0, Candidate{c.Addr, "cache"})
	}
	return list
}

// fromFiles lists the default and the addresses in lease files.
func fromFiles(root host.Root, now time.Time) []Candidate {
	var hints []Candidate
	seen := map[string]bool{}
	for _, l := range leaseFiles {
		names, err := root.Glob(l.pattern)
		if err != nil {
			continue
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			b, err := root.ReadFile(name)
			if err != nil || len(b) > maxLease {
				continue
			}
			var a netip.Addr
			if l.origin == "dhclient" {
				a = Dhclient(string(b), now)
			} else {
				a = KeyValue(string(b))
			}
			if a.IsValid() {
				hints = append(hints, Candidate{a.String(), l.origin})
			}
		}
	}
	out := []Candidate{{Default, "default"}}
	for _, h := range hints {
		out = add(out, h)
	}
	return out
}

func add(list []Candidate, c Candidate) []Candidate {
	if slices.ContainsFunc(list, func(o Candidate) bool { return o.Addr == c.Addr }) {
		return list
	}
	return append(list, c)
}

// Dhclient reads the leases of ISC dhclient: the last lease that has not
// expired and has the option wins.
func Dhclient(text string, now time.Time) netip.Addr {
	var best, cur netip.Addr
	expired, in := true, false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "lease"):
			cur, expired, in = netip.Addr{}, true, true
		case !in:
		case strings.HasPrefix(line, "}"):
			if in = false; cur.IsValid() && !expired {
				best = cur
			}
		case strings.HasPrefix(line, "option "):
			f := strings.SplitN(strings.TrimSuffix(line, ";"), " ", 3)
			if len(f) == 3 && (f[1] == "unknown-245" || f[1] == "azure-245" || f[1] == "private-245") {
				if a := Option(f[2]); a.IsValid() {
					cur = a
				}
			}
		case strings.HasPrefix(line, "expire "):
			line, _, _ = strings.Cut(line, ";") // a comment may follow
			expired = isExpired(strings.Fields(line)[1:], now)
		}
	}
	return best
}

// isExpired reads "N YYYY/MM/DD HH:MM:SS", "N never", "never" and
// "epoch N".
func isExpired(f []string, now time.Time) bool {
	if slices.Contains(f, "never") {
		return false
	}
	if len(f) >= 2 && f[0] == "epoch" {
		n, err := strconv.ParseInt(f[1], 10, 64)
		return err != nil || now.Unix() >= n
	}
	if len(f) < 2 {
		return true
	}
	t, err := time.Parse("2006/01/02 15:04:05", f[len(f)-2]+" "+f[len(f)-1])
	return err != nil || !now.Before(t)
}

// KeyValue reads the leases of systemd-networkd and NetworkManager:
// OPTION_245=a83f8110, private_245=a8:3f:81:10 and relatives.
func KeyValue(text string) netip.Addr {
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		if names245(k) {
			if a := Option(strings.Trim(strings.TrimSpace(v), `"'`)); a.IsValid() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// names245 reports whether a key of a lease means option 245.
func names245(k string) bool {
	k = strings.ToLower(strings.TrimSpace(k))
	k = k[strings.LastIndexByte(k, '.')+1:]
	switch strings.NewReplacer("-", "_", " ", "").Replace(k) {
	case "option_245", "private_245", "unknown_245", "245":
		return true
	}
	return false
}

// Option reads the value of option 245 in all its spellings: a8:3f:81:10,
// a8:3f:81:1, a83f8110, 168.63.129.16, and the four bytes themselves, quoted
// and escaped as dhclient prints binary text. For an address that no server
// can have it returns the zero Addr.
func Option(s string) netip.Addr {
	s = strings.TrimSuffix(strings.TrimSpace(s), ";")
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return usable(unescape(s[1 : len(s)-1]))
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		b := a.As4()
		return usable(b[:])
	}
	if strings.Contains(s, ":") {
		var b []byte
		for part := range strings.SplitSeq(s, ":") {
			n, err := strconv.ParseUint(part, 16, 8)
			if err != nil || len(part) == 0 || len(part) > 2 {
				return netip.Addr{}
			}
			b = append(b, byte(n))
		}
		return usable(b)
	}
	if b, err := hex.DecodeString(s); err == nil {
		return usable(b)
	}
	return usable(unescape(s))
}

// unescape undoes \ooo, \xHH and \c.
func unescape(s string) []byte {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		if i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i:i+3], 8, 8); err == nil {
				out = append(out, byte(n))
				i += 2
				continue
			}
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil && s[i] == 'x' {
				out = append(out, byte(n))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return out
}

// usable refuses what can't be a server on the network: no four bytes,
// unspecified, loopback, multicast, broadcast.
func usable(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || b[0] >= 240 || b[0] == 0 {
		return netip.Addr{}
	}
	return a
}
