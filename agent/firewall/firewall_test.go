package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
)

const testAddr = "168.63.129.16"

// inNamespace runs the calling test again in a process with a network
// namespace of its own, where the platform's address is on lo. It returns
// true inside.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("AZGUEST_TEST_NETNS") == "1" {
		for _, c := range [][]string{{"ip", "link", "set", "lo", "up"}, {"ip", "addr", "add", testAddr + "/32", "dev", "lo"}} {
			if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", c, err, out)
			}
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs iproute2")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "AZGUEST_TEST_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("inside the namespace: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip(string(out))
	}
	return false
}

// patience is how long to wait for what must happen, which a slow machine must
// not exceed; for what must not happen, it is short.
func patience(wanted bool) time.Duration {
	if wanted {
		return 5 * time.Minute
	}
	return time.Second
}

// reaches reports whether a process of that uid gets a connection to the port.
func reaches(t *testing.T, uid uint32, port string, want bool) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "timeout", fmt.Sprint(patience(want).Seconds()), "bash", "-c", "exec 3<>/dev/tcp/"+testAddr+"/"+port)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir = "/"
	return cmd.Run() == nil
}

// sends reports whether a datagram of that uid leaves for the platform: the
// kernel tells the sender if a rule drops it.
func sends(t *testing.T, uid uint32) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "timeout", fmt.Sprint(patience(true).Seconds()), "bash", "-c", "echo x >/dev/udp/"+testAddr+"/8080")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir = "/"
	return cmd.Run() == nil
}

func listen(t *testing.T, port string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(testAddr, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
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

func TestFact25OnlyRootReachesThePlatform(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, p := range []string{"80", "32526", "53"} {
		listen(t, p)
	}
	f := New(netip.MustParseAddr(testAddr), 80, host.Exec{})
	other, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	other.AddTable(&nftables.Table{Name: "admin", Family: nftables.TableFamilyINet})
	if err := other.Flush(); err != nil {
		t.Skipf("no nftables in this kernel: %v", err)
	}
	if !reaches(t, 1000, "80", true) {
		t.Fatal("uid 1000 can't connect before there are rules")
	}
	for i := range 3 { // applying again changes nothing
		backend, changed, err := f.Apply(t.Context())
		if err != nil || backend != NFTables || changed != (i == 0) {
			t.Fatalf("Apply #%d = %v, %v, %v", i, backend, changed, err)
		}
	}
	ok, err := present(plan(f.addr, f.root))
	if err != nil || !ok {
		t.Fatalf("present = %v, %v", ok, err)
	}
	for _, tc := range []struct {
		uid  uint32
		port string
		want bool
	}{{0, "80", true}, {0, "32526", true}, {1000, "80", false}, {1000, "32526", false}, {1000, "53", true}, {0, "53", true}} {
		if got := reaches(t, tc.uid, tc.port, tc.want); got != tc.want {
			t.Errorf("uid %d reaches port %s: %v, want %v", tc.uid, tc.port, got, tc.want)
		}
	}
	if !sends(t, 1000) {
		t.Error("UDP is blocked")
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !reaches(t, 1000, "80", true) {
		t.Error("uid 1000 still blocked after Remove")
	}
	tables, err := other.ListTables()
	if err != nil || len(tables) != 1 || tables[0].Name != "admin" {
		t.Errorf("tables after Remove: %v, %v; want the administrator's only", tables, err)
	}
}

// TestFact25IPTablesRules: the table is "security", which no other program
// uses; TCP only, never port 53; root passes, whoever runs as root (all
// extensions); of others only what opens a connection is dropped.
func TestFact25IPTablesRules(t *testing.T) {
	t.Parallel()
	var got []string
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"iptables": {Do: func(c host.Cmd) error {
		if slices.Contains(c.Args, "-A") {
			got = append(got, strings.Join(c.Args, " "))
			return nil
		}
		return &host.ExitError{Cmd: "iptables", Code: 1}
	}}}}
	if err := New(netip.MustParseAddr(testAddr), 80, run).iptables(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-w -t security -A OUTPUT -d " + testAddr + " -p tcp --destination-port 53 -j ACCEPT",
		"-w -t security -A OUTPUT -d " + testAddr + " -p tcp -m owner --uid-owner 0 -j ACCEPT",
		"-w -t security -A OUTPUT -d " + testAddr + " -p tcp --syn -j DROP",
		"-w -t security -A FORWARD -d " + testAddr + " -p tcp ! --destination-port 53 --syn -j DROP",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rules:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestIPTablesWhereNftIsMissing(t *testing.T) {
	t.Parallel()
	var have []string
	refuse := "nothing"
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"iptables": {Do: func(c host.Cmd) error {
		op, rule := c.Args[3], strings.Join(c.Args[4:], " ")
		switch op {
		case "-A":
			if strings.HasPrefix(rule, refuse) && refuse != "" {
				return &host.ExitError{Cmd: "iptables", Code: 4}
			}
			have = append(have, rule)
		case "-C":
			if slices.Contains(have, rule) {
				return nil
			}
			return &host.ExitError{Cmd: "iptables", Code: 1}
		case "-D":
			for i, r := range have {
				if r == rule {
					have = append(have[:i], have[i+1:]...)
					break
				}
			}
		}
		return nil
	}}}}
	f := New(netip.MustParseAddr(testAddr), 80, run)
	for range 2 {
		if err := f.iptables(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(have) != 4 || !strings.HasSuffix(have[2], "--syn -j DROP") || !strings.HasPrefix(have[3], "FORWARD") || !f.iptablesPresent(t.Context()) {
		t.Errorf("rules: %q", have)
	}
	refuse = "FORWARD"
	if err := f.iptables(t.Context()); err == nil || len(have) != 0 {
		t.Errorf("one rule refused: %v, left %q", err, have)
	}
	refuse = ""
	if err := f.removeIPTables(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("after removal: %q, %v", have, err)
	}
}
