package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The routing rules protect the two most important ports while the table is
// missing: where the kernel can't keep the table from being flushed, another
// firewall that loads its rules removes it, and a user who tries without pause
// can connect before it is restored. The rules are:
//
//	ip rule add pref 5 uidrange 1-4294967294 to ADDRESS ipproto tcp dport PORT prohibit
//
// No firewall flushes them. They match sockets by their owner, but can't match
// only the first packet of a connection, so they can't be used for all ports:
// the answers of a user's server to the load balancer's probes go to the
// platform's address, too, to ports of the dynamic range. Forwarded packets
// have no owner and pass.
//
// The kernel's rule for this machine's own addresses comes before all others.
// If the platform's address is one of them, as in tests, that rule is moved
// behind these.
const (
	rulePriority = 5 // before those of other programs
	firstUser    = 1
	lastUser     = 1<<32 - 2 // the next number means "no user"
	actNop       = 3         // FR_ACT_NOP
)

// doors are the ports of the WireServer and the HostGAPlugin.
var doors = [...]uint16{80, 32526}

// A routeRule is one routing rule of the agent. Owner and protocol are the same
// in all of them.
type routeRule struct {
	addr   netip.Addr
	port   uint16
	action byte
	pref   uint32
}

// attributes returns the attributes of the rule as the kernel has them. The
// protocol is "kernel", because systemd-networkd removes the rules of all
// others.
func (r routeRule) attributes() map[uint16][]byte {
	ip := r.addr.As4()
	port := binary.NativeEndian.AppendUint16(nil, r.port)
	return map[uint16][]byte{
		unix.FRA_DST:         ip[:],
		unix.FRA_PRIORITY:    binary.NativeEndian.AppendUint32(nil, r.pref),
		unix.FRA_PROTOCOL:    {unix.RTPROT_KERNEL},
		unix.FRA_IP_PROTO:    {unix.IPPROTO_TCP},
		unix.FRA_UID_RANGE:   binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, firstUser), lastUser),
		unix.FRA_DPORT_RANGE: append(port, port...),
	}
}

func (r routeRule) message(kind, flags uint16) []byte {
	body := make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr has the same size
	body[0], body[1], body[7] = unix.AF_INET, 32, r.action
	attrs := r.attributes()
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		body = append(body, attribute(k, attrs[k])...)
	}
	return message(kind, flags|unix.NLM_F_ACK, body)
}

// parseRule parses one rule of a dump; ok means that it is one of the agent's,
// for any address.
func parseRule(b []byte) (r routeRule, ok bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET || b[1] != 32 {
		return r, false
	}
	r.action = b[7]
	have := map[uint16][]byte{}
	for b = b[unix.SizeofRtMsg:]; len(b) >= 4; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return r, false
		}
		have[binary.NativeEndian.Uint16(b[2:])] = b[4:n]
		b = b[min((n+3)&^3, len(b)):]
	}
	addr, isAddr := netip.AddrFromSlice(have[unix.FRA_DST])
	if p := have[unix.FRA_PRIORITY]; len(p) == 4 {
		r.pref = binary.NativeEndian.Uint32(p)
	} else {
		have[unix.FRA_PRIORITY] = make([]byte, 4) // 0 is left out by the kernel
	}
	port := have[unix.FRA_DPORT_RANGE]
	if !isAddr || len(port) != 4 {
		return r, false
	}
	r.addr, r.port = addr, binary.NativeEndian.Uint16(port)
	for k, want := range r.attributes() {
		if !slices.Equal(have[k], want) {
			return r, false
		}
	}
	return r, r.action == unix.FR_ACT_PROHIBIT || r.action == actNop
}

// localFirst reports whether the rule for this machine's own addresses comes
// before all rules of the agent.
func (s *socket) localFirst() (bool, error) {
	answers, err := s.ask(dumpRules())
	for _, b := range answers {
		if _, ours := parseRule(b); ours {
			return false, err
		}
		if len(b) >= unix.SizeofRtMsg && b[4] == unix.RT_TABLE_LOCAL && b[7] == unix.FR_ACT_TO_TBL {
			return true, err
		}
	}
	return false, err
}

// localLast moves the rule for this machine's own addresses behind those of the
// agent, which has no other effect. It is added again before it is deleted.
func (s *socket) localLast() error {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[4], body[7] = unix.AF_INET, unix.RT_TABLE_LOCAL, unix.FR_ACT_TO_TBL
	body = append(body, attribute(unix.FRA_PRIORITY, make([]byte, 4))...)
	for _, step := range []struct{ kind, flags uint16 }{{unix.RTM_NEWRULE, unix.NLM_F_CREATE}, {unix.RTM_DELRULE, 0}} {
		if _, err := s.ask(message(step.kind, step.flags|unix.NLM_F_ACK, body)); err != nil {
			return fmt.Errorf("move the rule for local addresses: %w", err)
		}
	}
	return nil
}

func dumpRules() []byte {
	return message(unix.RTM_GETRULE, unix.NLM_F_DUMP, append([]byte{unix.AF_INET}, make([]byte, unix.SizeofRtMsg-1)...))
}

// isLocal reports whether the address is one of this machine, as in tests.
func isLocal(addr netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr() == addr
	})
}

func (s *socket) rules() ([]routeRule, error) {
	answers, err := s.ask(dumpRules())
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	var out []routeRule
	for _, b := range answers {
		if r, ok := parseRule(b); ok {
			out = append(out, r)
		}
	}
	return out, nil
}

func (s *socket) change(kind, flags uint16, r routeRule) error {
	if _, err := s.ask(r.message(kind, flags)); err != nil {
		return fmt.Errorf("change routing rules: %w", err)
	}
	return nil
}

// setRoutes sets the agent's routing rules for addr, or removes them if addr is
// the zero address. It returns an error if the kernel does not support them.
func setRoutes(addr netip.Addr) error {
	s, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer s.close()
	have, err := s.rules()
	if err != nil {
		return err
	}
	var want []routeRule
	pref := uint32(rulePriority)
	if addr.IsValid() {
		if isLocal(addr) {
			pref = 0 // no rule can come before the one for local addresses, which is moved behind below
		}
		for _, port := range doors {
			want = append(want, routeRule{addr, port, unix.FR_ACT_PROHIBIT, pref})
		}
	}
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		// Kernels before 4.17 ignore attributes that they do not know, such as
		// ports and owners, and would make a rule that blocks everything for
		// everyone. So a rule without effect is tried first.
		r.action = actNop
		if err := s.change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		now, err := s.rules()
		if err := errors.Join(err, s.change(unix.RTM_DELRULE, 0, r)); err != nil {
			return err
		}
		if !slices.Contains(now, r) {
			return errors.New("the kernel does not support routing rules for ports and users")
		}
		r.action = unix.FR_ACT_PROHIBIT
		if err := s.change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	var errs error
	for _, r := range have {
		if !slices.Contains(want, r) {
			errs = errors.Join(errs, s.change(unix.RTM_DELRULE, 0, r))
		}
	}
	if addr.IsValid() && pref == 0 {
		first, err := s.localFirst()
		if errs = errors.Join(errs, err); first {
			errs = errors.Join(errs, s.localLast())
		}
	}
	return errs
}
