package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// poll connects to each of the addresses in turn, without pause, until its
// input ends, and prints how often that worked. An attempt stays open while 63
// others begin, so that a packet that was let through can be answered.
func poll(addrs []string) {
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	fmt.Println("polling")
	var open [64]int
	tries, made := 0, 0
	// settle counts an attempt and ends it.
	settle := func(fd int) {
		if fd == 0 {
			return
		}
		if _, err := unix.Getpeername(fd); err == nil {
			made++
		}
		_ = unix.Close(fd)
	}
	for {
		select {
		case <-stop:
			if tries < 2*len(open) {
				break // it makes at least one attempt even if told to end at once
			}
			for _, fd := range open {
				settle(fd)
			}
			fmt.Println(made, tries)
			os.Exit(0)
		default:
		}
		to := netip.MustParseAddrPort(addrs[tries%len(addrs)])
		slot := &open[tries%len(open)]
		settle(*slot)
		*slot = 0
		tries++
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			continue
		}
		*slot = fd
		_ = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	}
}

// A poller is a process that runs poll.
type poller struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
	out io.Reader
}

func (w world) poll(uid uint32, addrs string) poller {
	w.t.Helper()
	p := poller{t: w.t, cmd: w.run("", uid, "poll "+addrs)}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	p.in, p.out = in, out
	b := make([]byte, len("polling\n"))
	if _, err := io.ReadFull(out, b); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (p poller) end() (made, tries int) {
	p.t.Helper()
	_ = p.in.Close()
	b, err := io.ReadAll(p.out)
	if err := errors.Join(err, p.cmd.Wait()); err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(b), &made, &tries); err != nil {
		p.t.Fatalf("%q: %v", b, err)
	}
	return made, tries
}

// flush does what "nft flush ruleset" does.
func flush(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// reloadScript flushes everything and loads a rule set in one transaction, as
// firewalld and nftables.service do.
const reloadScript = `nft -f - <<.
flush ruleset
table inet filter {
	chain output { type filter hook output priority 0; policy accept; }
}
.`

// TestSEC8NobodyConnectsWhileTheRulesAreWatchedOver: an ordinary user who tries
// all ports without pause, while the agent starts 500 times, other programs
// flush and load their rules, and the host does not answer, never gets a
// connection.
func TestSEC8NobodyConnectsWhileTheRulesAreWatchedOver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := world{t: t}
	addr := netip.MustParseAddr(testAddr)
	w.serve("", 0, "168.63.129.16:80 168.63.129.16:32526 168.63.129.16:8037")
	f := Keep(addr, 80, host.Exec{})
	if b, _, err := f.Apply(t.Context()); err != nil || b != NFTables {
		t.Skipf("no nftables in this kernel: %v %v", b, err)
	}
	if !kept(t) {
		t.Skip("this kernel has no tables that others can't flush")
	}
	p := w.poll(1234, "168.63.129.16:80 168.63.129.16:32526 168.63.129.16:8037")
	apply := func(f *Firewall) {
		t.Helper()
		if _, changed, err := f.Apply(t.Context()); err != nil || changed {
			t.Fatalf("Apply: changed %v, %v", changed, err)
		}
	}
	for range 500 {
		f.Close()
		f = Keep(addr, 80, host.Exec{})
		apply(f)
		flush(t)
		apply(f)
	}
	for range 10 {
		w.sh(reloadScript)
		apply(f)
	}
	// Another process may read the table, but not change it.
	if err := exec.CommandContext(t.Context(), "nft", "delete", "table", "ip", TableName).Run(); err == nil {
		t.Error("another process could delete the table")
	}
	apply(New(addr, 80, host.Exec{}))
	// If the host does not answer, the rules stay.
	f.reach = func(context.Context) error { return errors.New("silence") }
	for range 10 {
		if _, err := f.Root(t.Context()); err == nil || strings.Contains(err.Error(), "were removed") {
			t.Errorf("Root: %v", err)
		}
	}
	apply(f)
	if made, tries := p.end(); made != 0 || tries == 0 {
		t.Errorf("a user made %d connections in %d tries", made, tries)
	}
	if w.run("", 0, connect("-", "168.63.129.16:80", true)).Run() != nil {
		t.Error("root makes no connection")
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The poller gets connections when the rules are removed.
	for made := 0; made == 0; {
		made, _ = w.poll(1234, "168.63.129.16:80").end()
	}
}

// TestSEC8NobodyConnectsWhileTheTableIsReplaced: a packet passes the hooks of the
// new and of the old table, and the transaction can end in between. With one
// transaction alone, users got one connection in some 2,000 replacements.
func TestSEC8NobodyConnectsWhileTheTableIsReplaced(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := world{t: t}
	addr := netip.MustParseAddr(testAddr)
	w.serve("", 0, "168.63.129.16:80 168.63.129.16:32526 168.63.129.16:8037")
	f := Keep(addr, 80, host.Exec{})
	if b, _, err := f.Apply(t.Context()); err != nil || b != NFTables {
		t.Skipf("no nftables in this kernel: %v %v", b, err)
	}
	var users []poller
	for range 4 {
		users = append(users, w.poll(1234, "168.63.129.16:8037"))
	}
	for range 2000 {
		f.Close()
		f = Keep(addr, 80, host.Exec{})
		if _, _, err := f.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range users {
		if made, tries := p.end(); made != 0 || tries == 0 {
			t.Errorf("a user made %d connections in %d tries", made, tries)
		}
	}
	gone := func(after string) {
		t.Helper()
		if out := w.sh("nft list tables"); strings.Contains(out, standIn) {
			t.Errorf("the stand-in is left after %s:\n%s", after, out)
		}
	}
	gone("replacing")
	// An agent that was killed meanwhile leaves it.
	w.sh("nft add table ip " + standIn)
	f.Close()
	f = Keep(addr, 80, host.Exec{})
	if _, _, err := f.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone("the next start")
	w.sh("nft add table ip " + standIn)
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone("Remove")
}

// kept reports whether the table has an owner.
func kept(t *testing.T) bool {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if table.Name == TableName {
			return tableFlags(table) == tableOwner|tablePersist
		}
	}
	return false
}

// TestSEC8UsersStayOutWhileTheTableIsGone: if the table can be flushed and is
// not restored, users still do not reach the platform's two services.
// Everything that should pass does.
func TestSEC8UsersStayOutWhileTheTableIsGone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	f := New(netip.MustParseAddr(testAddr), 80, host.Exec{})
	if _, _, err := f.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := w.sh("ip rule"); strings.Count(out, "prohibit") != 2 {
		t.Skipf("this kernel has no routing rules for ports and users:\n%s", out)
	}
	p := w.poll(1234, "168.63.129.16:80 168.63.129.16:32526")
	for range 100 {
		flush(t)
		if _, changed, err := f.Apply(t.Context()); err != nil || !changed {
			t.Fatalf("Apply: %v %v", changed, err)
		}
	}
	w.sh(reloadScript)
	flush(t)
	for _, tc := range []struct {
		uid  uint32
		to   string
		want bool
	}{
		{0, "168.63.129.16:80", true},
		{0, "168.63.129.16:32526", true},
		{1000, "168.63.129.16:53", true},
		{1000, "10.1.0.2:80", true},
		{1000, "168.63.129.16:80", false},
		{1000, "168.63.129.16:32526", false},
		{4294967294, "168.63.129.16:80", false},
	} {
		if got := w.run("", tc.uid, connect("-", tc.to, tc.want)).Run() == nil; got != tc.want {
			t.Errorf("without the table uid %d reaches %s: %v, want %v", tc.uid, tc.to, got, tc.want)
		}
	}
	if w.run(w.platform, 0, connect("168.63.129.16", "10.1.0.1:8080", true)).Run() != nil {
		t.Error("without the table the load balancer's probe of a user's server is not answered")
	}
	if made, tries := p.end(); made != 0 || tries == 0 {
		t.Errorf("a user made %d connections in %d tries", made, tries)
	}
	// They are set once, and removed with the rest.
	for range 3 {
		if _, _, err := f.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if out := w.sh("ip rule"); strings.Count(out, "prohibit") != 2 || strings.Contains(out, "nop") {
		t.Errorf("routing rules:\n%s", out)
	}
	other := New(netip.MustParseAddr("168.63.129.17"), 80, host.Exec{})
	if _, _, err := other.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := w.sh("ip rule"); strings.Count(out, "168.63.129.17") != 2 || strings.Contains(out, "168.63.129.16 ") {
		t.Errorf("routing rules for another address:\n%s", out)
	}
	w.sh("ip rule add pref 5 from all to 192.0.2.1 prohibit")
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := w.sh("ip rule"); strings.Count(out, "prohibit") != 1 {
		t.Errorf("routing rules after removal, want the administrator's:\n%s", out)
	}
}

// TestSEC8UsersStayOutOfALocalAddress: as the previous test, with a platform
// address that is local.
func TestSEC8UsersStayOutOfALocalAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := world{t: t}
	w.serve("", 0, "168.63.129.16:80 168.63.129.16:32526 168.63.129.16:53")
	f := New(netip.MustParseAddr(testAddr), 80, host.Exec{})
	for range 3 {
		if _, _, err := f.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if out := w.sh("ip rule"); strings.Count(out, "prohibit") != 2 || strings.Count(out, "lookup local") != 1 {
		t.Fatalf("routing rules:\n%s", out)
	}
	p := w.poll(1234, "168.63.129.16:80 168.63.129.16:32526")
	for range 100 {
		flush(t)
		if _, _, err := f.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	flush(t)
	for _, uid := range []uint32{0, 1234} {
		for _, port := range []string{"80", "32526", "53"} {
			want := uid == 0 || port == "53"
			if got := w.run("", uid, connect("-", "168.63.129.16:"+port, want)).Run() == nil; got != want {
				t.Errorf("without the table uid %d reaches port %s: %v, want %v", uid, port, got, want)
			}
		}
	}
	if made, tries := p.end(); made != 0 || tries == 0 {
		t.Errorf("a user made %d connections in %d tries", made, tries)
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := w.sh("ip rule"); strings.Contains(out, "prohibit") || strings.Count(out, "lookup local") != 1 {
		t.Errorf("routing rules after removal:\n%s", out)
	}
}

// TestSEC8RulesThatLockOutTheAgentAreTakenBack: rules that block root are
// removed, and no others; a counter in the rules shows whether they block root.
func TestSEC8RulesThatLockOutTheAgentAreTakenBack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := Keep(netip.MustParseAddr(testAddr), 80, host.Exec{})
	f.reach = func(context.Context) error { return errors.New("silence") }
	apply := func() {
		t.Helper()
		if b, _, err := f.Apply(t.Context()); err != nil || b != NFTables {
			t.Skipf("no nftables in this kernel: %v %v", b, err)
		}
	}
	code := func() string {
		_, err := f.Root(t.Context())
		if fe, ok := errors.AsType[*Error](err); ok {
			return fe.Code()
		}
		return fmt.Sprint(err)
	}
	apply()
	// Connections of users do not count, whatever their number.
	users := world{t: t}.poll(1234, "168.63.129.16:80")
	for range 10 {
		if got := code(); got != "connect to 168.63.129.16:80: silence" {
			t.Errorf("a silent host: %s", got)
		}
	}
	if made, _ := users.end(); made != 0 {
		t.Errorf("a user made %d connections", made)
	}
	if ok, err := present(plan(f.addr, 0)); !ok || err != nil {
		t.Errorf("with a silent host the rules are gone: %v %v", ok, err)
	}
	f.root = 4242 // not the user of this process
	apply()
	if got := code(); got != "AZ-FW-REVERTED" {
		t.Errorf("rules that stop root: %s", got)
	}
	if ok, err := present(plan(f.addr, f.root)); ok || err != nil {
		t.Errorf("they are still there: %v %v", ok, err)
	}
}

// TestSEC8RulesThatDoNothingAreNotTakenForOurs: rules without effect are not
// mistaken for the agent's.
func TestSEC8RulesThatDoNothingAreNotTakenForOurs(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	f := New(netip.MustParseAddr(testAddr), 80, host.Exec{})
	w := world{t: t}
	for name, script := range map[string]string{
		"asleep":                "nft add table ip azguest '{ flags dormant; }'",
		"an accept before":      "nft insert rule ip azguest output accept",
		"a rule less":           "nft flush chain ip azguest forward",
		"without hooks":         `nft list table ip azguest | sed '/type filter hook/d' >/tmp/fw.$$; nft delete table ip azguest; nft -f /tmp/fw.$$; rm /tmp/fw.$$`,
		"at another hook":       `nft list table ip azguest | sed 's/hook output/hook input/' >/tmp/fw.$$; nft delete table ip azguest; nft -f /tmp/fw.$$; rm /tmp/fw.$$`,
		"about another address": `nft list table ip azguest | sed 's/168.63.129.16/168.63.129.17/' >/tmp/fw.$$; nft delete table ip azguest; nft -f /tmp/fw.$$; rm /tmp/fw.$$`,
	} {
		if b, _, err := f.Apply(t.Context()); err != nil || b != NFTables {
			t.Skipf("no nftables in this kernel: %v %v", b, err)
		}
		w.sh(script)
		if _, changed, err := f.Apply(t.Context()); err != nil || !changed {
			t.Errorf("%s: Apply changed %v, %v", name, changed, err)
		}
		if _, changed, err := f.Apply(t.Context()); err != nil || changed {
			t.Errorf("%s, again: Apply changed %v, %v", name, changed, err)
		}
	}
}

// way connects in one of several ways, and returns an exit code.
func way(how, to string, _ bool) int {
	addr := netip.MustParseAddrPort(to)
	v4 := &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	v6 := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	family, protocol := unix.AF_INET, 0
	connect := func(fd int) error { return unix.Connect(fd, v4) }
	switch how {
	case "plain":
	case "IPv4 in IPv6":
		family, connect = unix.AF_INET6, func(fd int) error { return unix.Connect(fd, v6) }
	case "MPTCP":
		protocol = unix.IPPROTO_MPTCP
	case "MPTCP, IPv4 in IPv6":
		family, protocol = unix.AF_INET6, unix.IPPROTO_MPTCP
		connect = func(fd int) error { return unix.Connect(fd, v6) }
	case "fast open":
		connect = func(fd int) error { return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, v4) }
	case "SMC":
		family = 43
	default:
		return 3
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 2 // not in this kernel
	}
	tv := unix.Timeval{Sec: 30}
	if os.Geteuid() != 0 {
		tv = unix.Timeval{Usec: 700_000} // it should not get through
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	if connect(fd) != nil {
		return 1
	}
	return 0
}

// TestSEC14NonRootConnectionsAreDropped: connections that are not root's are
// dropped, whatever kind the socket is and whether or not it has an owner.
func TestSEC14NonRootConnectionsAreDropped(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	f := New(netip.MustParseAddr(testAddr), 80, host.Exec{})
	if b, _, err := f.Apply(t.Context()); err != nil || b != NFTables {
		t.Skipf("no nftables in this kernel: %v %v", b, err)
	}
	// Only the table is tested.
	if err := setRoutes(netip.Addr{}); err != nil && !noRoutes(err) {
		t.Log(err)
	}
	type try struct {
		how, to string
		uid     uint32
		cmd     *exec.Cmd
	}
	var tries []try
	for _, how := range []string{"plain", "IPv4 in IPv6", "MPTCP", "MPTCP, IPv4 in IPv6", "fast open", "SMC"} {
		for _, to := range []string{"168.63.129.16:80", "168.63.129.16:32526", "168.63.129.16:8037"} {
			for _, uid := range []uint32{1234, 0} {
				x := try{how, to, uid, w.run("", uid, "way "+how+"|"+to)}
				if err := x.cmd.Start(); err != nil {
					t.Fatal(err)
				}
				tries = append(tries, x)
			}
		}
	}
	for _, x := range tries {
		_ = x.cmd.Wait() // the code is the answer
		switch code := x.cmd.ProcessState.ExitCode(); {
		case code == 2 || x.how == "SMC" && x.uid == 0:
			// Not supported by this kernel; SMC is optional.
		case code > 1, (code == 0) != (x.uid == 0):
			t.Errorf("%s: uid %d to %s: exit %d", x.how, x.uid, x.to, code)
		}
	}
	// Root of a user namespace is an ordinary user of the machine.
	inside := w.run("", 1234, connect("-", "168.63.129.16:80", false))
	inside.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{NoSetGroups: true},
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not through setpriv: that user is not in the namespace.
	inside.Path, inside.Args = exe, []string{exe}
	if err := inside.Run(); err == nil {
		t.Error("root of a user namespace reaches it")
	}

	// A packet without an owner: the kernel's copy of a user's.
	w.sh(`nft -f - <<.
table ip copies {
	chain output { type filter hook output priority -10; ip daddr 168.63.129.16 tcp flags syn dup to 10.1.0.2; }
}
.`)
	for _, uid := range []uint32{1234, 0} {
		if got := w.run("", uid, connect("-", "168.63.129.16:80", uid == 0)).Run() == nil; got != (uid == 0) {
			t.Errorf("with a copy that has no owner uid %d reaches it: %v", uid, got)
		}
	}
	w.sh("nft delete table ip copies")

	// A first packet in fragments, none of which shows that it is one.
	if out, err := w.run(w.container, 0, "fragments 10.2.0.2 168.63.129.16:80").CombinedOutput(); err != nil {
		t.Fatalf("send fragments: %v\n%s", err, out)
	}
	limit := time.Now().Add(patience(true))
	for droppedFragments(t) < 2 {
		if time.Now().After(limit) {
			t.Fatalf("%d pieces were dropped, want 2", droppedFragments(t))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func droppedFragments(t *testing.T) uint64 {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := c.GetRules(&nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}, &nftables.Chain{Name: "forward"})
	if err != nil || len(rules) != 2 {
		t.Fatalf("%d rules, %v", len(rules), err)
	}
	for _, e := range rules[1].Exprs {
		if n, ok := e.(*expr.Counter); ok {
			return n.Packets
		}
	}
	return 0
}

// sendFragments sends the first packet of a connection in two fragments.
func sendFragments(from, to string) int {
	dst := netip.MustParseAddrPort(to)
	tcp := make([]byte, 24)
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	tcp[12], tcp[13] = 6<<4, 2 // 24 bytes, SYN
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, piece := range []struct{ at, to int }{{0, 8}, {8, 24}} {
		ip := make([]byte, 20, 60)
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(ip[4:], 4711)
		frag := uint16(piece.at / 8)
		if piece.to < len(tcp) {
			frag |= 0x2000 // more to come
		}
		binary.BigEndian.PutUint16(ip[6:], frag)
		copy(ip[12:], net.ParseIP(from).To4())
		copy(ip[16:], dst.Addr().AsSlice())
		if err := unix.Sendto(fd, append(ip, tcp[piece.at:piece.to]...), 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()}); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}
