package firewall

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// network sets up the machine under test as a router between the platform and a
// container:
//
//	container 10.2.0.2 -- 10.2.0.1 machine 10.1.0.1 -- 10.1.0.2 platform 168.63.129.16
//
// each in a network namespace of its own.
const network = `set -e
ip link add toplat type veth peer name eth0 netns $PLATFORM
ip link add tocont type veth peer name eth0 netns $CONTAINER
ip addr del 168.63.129.16/32 dev lo
ip addr add 10.1.0.1/30 dev toplat; ip link set toplat up
ip addr add 10.2.0.1/24 dev tocont; ip link set tocont up
ip route add 168.63.129.16 via 10.1.0.2
echo 1 >/proc/sys/net/ipv4/ip_forward
ipin() { nsenter -t $1 -n ip $2; }
ipin $PLATFORM "link set lo up"; ipin $PLATFORM "addr add 168.63.129.16/32 dev lo"
ipin $PLATFORM "addr add 10.1.0.2/30 dev eth0"; ipin $PLATFORM "link set eth0 up"; ipin $PLATFORM "route add 10.2.0.0/24 via 10.1.0.1"
ipin $CONTAINER "addr add 10.2.0.2/24 dev eth0"; ipin $CONTAINER "link set eth0 up"; ipin $CONTAINER "route add default via 10.2.0.1"
`

// neighbours are the rules of other programs, and how they load them again.
var neighbours = []struct{ name, needs, setUp, reload string }{
	{"none", "", "", ""},
	{"nftables.service", "nft", `cat >/tmp/rules.$$ <<.
flush ruleset
table inet filter {
	chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; tcp dport { 22, 8080 } accept; icmp type echo-request accept; }
	chain forward { type filter hook forward priority 0; policy accept; }
	chain output { type filter hook output priority 0; policy accept; }
}
.
nft -f /tmp/rules.$$; cp /tmp/rules.$$ /tmp/rules`, "nft -f /tmp/rules"},
	{"firewalld", "nft", `nft -f - <<.
table inet firewalld {
	chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; ct state { established, related } accept; oifname "lo" accept; ip6 daddr ::/96 reject; }
	chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; ct state { established, related } accept; ct status dnat accept; }
}
.`, `nft delete table inet firewalld; nft -f - <<.
table inet firewalld {
	chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; ct state { established, related } accept; oifname "lo" accept; ip6 daddr ::/96 reject; }
	chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; ct state { established, related } accept; ct status dnat accept; }
}
.`},
	{"docker with iptables-nft", "iptables-nft", docker("iptables-nft"), docker("iptables-nft -F DOCKER-USER; :")},
	{"docker with iptables-legacy", "iptables-legacy", docker("iptables-legacy"), docker("iptables-legacy -F DOCKER-USER; :")},
	{"ufw with iptables-nft", "iptables-nft", ufw("iptables-nft"), "iptables-nft-save >/tmp/rules && iptables-nft-restore </tmp/rules"},
	{"ufw with iptables-legacy", "iptables-legacy", ufw("iptables-legacy"), "iptables-legacy-save >/tmp/rules && iptables-legacy-restore </tmp/rules"},
}

func docker(iptables string) string {
	return strings.ReplaceAll(`I -N DOCKER-USER
I -A FORWARD -j DOCKER-USER
I -A DOCKER-USER -j RETURN
I -t nat -A POSTROUTING -s 10.2.0.0/24 ! -o tocont -j MASQUERADE
I -A FORWARD -o tocont -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
I -A FORWARD -i tocont -j ACCEPT`, "I ", iptables+" ")
}

func ufw(iptables string) string {
	return strings.ReplaceAll(`I -P INPUT DROP
I -A INPUT -i lo -j ACCEPT
I -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
I -A INPUT -m conntrack --ctstate INVALID -j DROP
I -A INPUT -p tcp --dport 8080 -j ACCEPT
I -N ufw-track-output
I -A OUTPUT -j ufw-track-output
I -A ufw-track-output -p tcp -m conntrack --ctstate NEW -j ACCEPT`, "I ", iptables+" ")
}

// role makes this test's program a server or a client in another namespace.
const role = "AZGUEST_TEST_ROLE"

func TestMain(m *testing.M) {
	kind, arg, _ := strings.Cut(os.Getenv(role), " ")
	switch kind {
	case "serve": // ADDRESS...
		for a := range strings.FieldsSeq(arg) {
			l, err := net.Listen("tcp", a)
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_ = c.Close()
				}
			}()
		}
		fmt.Println("serving")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
		os.Exit(0)
	case "poll": // TO...
		poll(strings.Fields(arg))
	case "way": // HOW|TO
		os.Exit(way(strings.Cut(arg, "|")))
	case "fragments": // FROM TO
		from, to, _ := strings.Cut(arg, " ")
		os.Exit(sendFragments(from, to))
	case "connect": // PATIENCE FROM TO
		most, arg, _ := strings.Cut(arg, " ")
		from, to, _ := strings.Cut(arg, " ")
		var d net.Dialer
		var err error
		if d.Timeout, err = time.ParseDuration(most); err != nil {
			panic(err)
		}
		if from != "-" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		c, err := d.Dial("tcp", to)
		if err != nil {
			os.Exit(1)
		}
		_ = c.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// world is the environment of a test case.
type world struct {
	t         *testing.T
	platform  string // pid of a process in its namespace
	container string
}

// newWorld makes the three namespaces, and servers in them.
func newWorld(t *testing.T) world {
	t.Helper()
	for _, tool := range []string{"nft", "unshare", "nsenter", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	w := world{t: t}
	for _, ns := range []*string{&w.platform, &w.container} {
		cmd := exec.CommandContext(t.Context(), "sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		*ns = fmt.Sprint(cmd.Process.Pid)
	}
	w.sh(network)
	w.serve(w.platform, 0, "168.63.129.16:80 168.63.129.16:32526 168.63.129.16:53 168.63.129.16:8037 10.1.0.2:80")
	w.serve("", 1000, "0.0.0.0:8080")
	return w
}

func (w world) sh(script string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "bash", "-c", script)
	cmd.Env = append(os.Environ(), "PLATFORM="+w.platform, "CONTAINER="+w.container)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// run returns a command that runs this program as uid, in the namespace of a
// process ("": here).
func (w world) run(ns string, uid uint32, what string) *exec.Cmd {
	args := []string{"/proc/self/exe"}
	if exe, err := os.Executable(); err == nil {
		args[0] = exe
	}
	args = append([]string{"setpriv", fmt.Sprintf("--reuid=%d", uid), "--clear-groups"}, args...)
	if ns != "" {
		args = append([]string{"nsenter", "-t", ns, "-n"}, args...)
	}
	cmd := exec.CommandContext(w.t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), role+"="+what)
	cmd.Dir = "/"
	return cmd
}

func (w world) serve(ns string, uid uint32, addrs string) {
	w.t.Helper()
	cmd := w.run(ns, uid, "serve "+addrs)
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	b := make([]byte, len("serving\n"))
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "serving\n" {
		w.t.Fatalf("server: %q %v", b, err)
	}
}

// others returns the rules of all other firewalls, without counters.
func (w world) others() string {
	out := w.sh("nft list ruleset; if type iptables-legacy-save >/dev/null 2>&1; then iptables-legacy-save; fi; ip6tables-legacy-save 2>/dev/null || :")
	out = regexp.MustCompile(`(?ms)^table ip azguest \{.*?^\}\n`).ReplaceAllString(out, "")
	out = regexp.MustCompile(`counter packets \d+ bytes \d+|\[\d+:\d+\]|(?m)^#.*$`).ReplaceAllString(out, "")
	return regexp.MustCompile(`\n+`).ReplaceAllString(out, "\n")
}

// connect returns the role to connect FROM an address, "-" for any, TO another.
func connect(from, to string, want bool) string {
	return "connect " + patience(want).String() + " " + from + " " + to
}

// check tries connections of all users and containers.
func (w world) check(when string, protected bool) {
	w.t.Helper()
	cases := []struct {
		who, ns  string
		uid      uint32
		from, to string
		want     bool
	}{
		{"root", "", 0, "-", "168.63.129.16:80", true},
		{"root", "", 0, "-", "168.63.129.16:32526", true},
		{"root, DNS", "", 0, "-", "168.63.129.16:53", true},
		{"a user", "", 1000, "-", "168.63.129.16:80", !protected},
		{"a user", "", 1000, "-", "168.63.129.16:32526", !protected},
		{"a user, DNS", "", 1000, "-", "168.63.129.16:53", true},
		{"a container", w.container, 0, "-", "168.63.129.16:80", !protected},
		{"a container", w.container, 0, "-", "168.63.129.16:32526", !protected},
		{"a container, DNS", w.container, 0, "-", "168.63.129.16:53", true},
		{"a container, elsewhere", w.container, 0, "-", "10.1.0.2:80", true},
		{"the load balancer's probe", w.platform, 0, "168.63.129.16", "10.1.0.1:8080", true},
	}
	tries := make([]*exec.Cmd, len(cases))
	for i, tc := range cases {
		tries[i] = w.run(tc.ns, tc.uid, connect(tc.from, tc.to, tc.want))
		if err := tries[i].Start(); err != nil {
			w.t.Fatal(err)
		}
	}
	for i, tc := range cases {
		if got := tries[i].Wait() == nil; got != tc.want {
			w.t.Errorf("%s: %s reaches %s: %v, want %v", when, tc.who, tc.to, got, tc.want)
		}
	}
}

// TestWithOtherFirewalls: whatever other firewall there is, root reaches the
// platform, users and containers do not, the load balancer's probes are
// answered, and the rules of others are not changed.
func TestWithOtherFirewalls(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := newWorld(t)
	f := New(netip.MustParseAddr(testAddr), 80, host.Exec{})
	for _, n := range neighbours {
		t.Run(n.name, func(t *testing.T) {
			if _, err := exec.LookPath(n.needs); n.needs != "" && err != nil {
				t.Skip("needs " + n.needs)
			}
			w := world{t, w.platform, w.container}
			w.sh("nft flush ruleset; for i in iptables-legacy; do type $i >/dev/null 2>&1 || continue; for t in filter nat mangle security raw; do $i -t $t -F; $i -t $t -X; done; $i -P INPUT ACCEPT; done")
			if n.setUp != "" {
				w.sh(n.setUp)
			}
			w.check("before", false)
			if open, err := f.Exposed(t.Context(), patience(true)); err != nil || !open {
				t.Errorf("before: exposed %v %v", open, err)
			}
			before := w.others()
			if _, changed, err := f.Apply(t.Context()); err != nil || !changed {
				t.Fatalf("Apply: %v %v", changed, err)
			}
			if open, err := f.Exposed(t.Context(), 300*time.Millisecond); err != nil || open {
				t.Errorf("with the rules: exposed %v %v", open, err)
			}
			w.check("with the rules", true)
			if n.name == "none" {
				if b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count"); err == nil && string(bytes.TrimSpace(b)) != "0" {
					t.Errorf("%s connections are tracked because of us", bytes.TrimSpace(b))
				}
			}
			if after := w.others(); after != before {
				t.Errorf("others' rules were\n%s\nand are\n%s", before, after)
			}
			if n.reload != "" {
				w.reload(f, n.reload)
				w.check("after a reload", true)
				before = w.others() // perhaps in another notation
			}
			if err := f.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.check("after removal", false)
			if after := w.others(); after != before {
				t.Errorf("others' rules were\n%s\nand after our removal are\n%s", before, after)
			}
		})
	}
}

// reload loads the rules of the other firewall again while those of the agent
// are watched.
func (w world) reload(f *Firewall, script string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	back := make(chan struct{}, 1)
	go func() {
		done <- Watch(ctx, func() {
			if _, changed, err := f.Apply(ctx); changed && err == nil {
				select {
				case back <- struct{}{}:
				default:
				}
			}
		})
	}()
	// It is watching once it reports a change. Rules that do not exist can't be
	// removed.
	limit := time.After(patience(true))
	for ready := false; !ready; {
		if _, _, err := f.Apply(ctx); err != nil {
			w.t.Fatal(err)
		}
		if err := f.Remove(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		select {
		case <-back:
			ready = true
		case <-time.After(50 * time.Millisecond):
		case <-limit:
			cancel()
			w.t.Fatalf("changes of the rules are not noticed: %v", <-done)
		}
	}
	w.sh(script)
	if ok, err := present(plan(f.addr, f.root)); err != nil || !ok {
		select {
		case <-back:
		case <-limit:
			w.t.Error("the rules did not come back")
		}
	}
	cancel()
	<-done //nolint:errcheck // ended by the test; its error does not matter
}
