package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/status"
)

func TestCodes(t *testing.T) {
	form := regexp.MustCompile(`^AZ-[A-Z]+-[A-Z0-9]+$`)
	seen := map[string]bool{}
	for _, c := range Codes() {
		if !form.MatchString(c.Code) || seen[c.Code] {
			t.Errorf("%s: bad form, or twice", c.Code)
		}
		seen[c.Code] = true
		if !strings.HasSuffix(c.Meaning, ".") || !strings.HasSuffix(c.Cause, ".") || c.Fix == "" {
			t.Errorf("%s: words are missing: %+v", c.Code, c)
		}
	}
	for _, name := range []string{"AZ-DISK-LOW", "az-disk-low", " disk-low "} {
		if c, ok := Lookup(name); !ok || c.Code != "AZ-DISK-LOW" {
			t.Errorf("Lookup(%q) = %+v, %v", name, c, ok)
		}
	}
	if _, ok := Lookup(""); ok {
		t.Error("Lookup of an empty code finds one")
	}
}

// TestCodesInSources: every code in the project's sources is in the table.
func TestCodesInSources(t *testing.T) {
	quoted := regexp.MustCompile(`"(AZ-[A-Z]+-[A-Z0-9-]+)"`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range quoted.FindAllSubmatch(b, -1) {
			if _, ok := Lookup(string(m[1])); !ok {
				t.Errorf("%s: %s is not in the table of package doctor", path, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

const (
	routes    = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\neth0\t00000000\t0101000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth1\t10813FA8\t0101000A\t0007\t0\t0\t100\tFFFFFFFF\t0\t0\t0\n"
	mountinfo = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n30 22 8:2 / /var rw,nosuid - ext4 /dev/sda2 rw\n31 22 0:5 / /run rw - tmpfs tmpfs rw\n"
	vmID      = "90556bd4-3d9b-4a2d-a5a1-2b1c0a5d2e11"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// well returns a machine without a problem.
func well(t *testing.T) Env {
	t.Helper()
	root := t.TempDir()
	e := Env{
		Root: root, Now: now, Config: config.Default(),
		Snapshot: status.Snapshot{WrittenAt: now.Add(-5 * time.Second)},
		Life:     status.Life{Known: true, Running: true, PID: 812, How: "lock"},
		Statfs: func(_ string, st *unix.Statfs_t) error {
			*st = unix.Statfs_t{Bsize: 4096, Blocks: 1 << 20, Bfree: 1 << 19, Files: 1 << 20, Ffree: 1 << 19}
			return nil
		},
	}
	for name, text := range map[string]string{
		"/proc/net/route":                         routes,
		"/proc/self/mountinfo":                    mountinfo,
		"/proc/900/cmdline":                       "sshd: user\x00",
		"/etc/resolv.conf":                        "# x\nnameserver 168.63.129.16\n",
		"/sys/fs/cgroup/cgroup.controllers":       "cpu memory\n",
		"/sys/class/dmi/id/product_uuid":          vmID + "\n",
		"/var/lib/waagent/provisioned":            "D46B5590-9B3D-2D4A-A5A1-2B1C0A5D2E11",
		"/run/systemd/system/x":                   "",
		"/usr/lib/systemd/system/azguest.service": "[Unit]\n",
	} {
		put(t, e, name, text)
	}
	link(t, e, "/etc/systemd/system/multi-user.target.wants/azguest.service", "/usr/lib/systemd/system/azguest.service")
	link(t, e, "/proc/812/exe", "/usr/bin/azguest")
	return e
}

func put(t *testing.T, e Env, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(e.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, e Env, name, target string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(e.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(e.path(name)) // it may exist
	if err := os.Symlink(target, e.path(name)); err != nil {
		t.Fatal(err)
	}
}

func statfs(blocks, bfree, files, ffree uint64) func(string, *unix.Statfs_t) error {
	return func(_ string, st *unix.Statfs_t) error {
		*st = unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bfree: bfree, Files: files, Ffree: ffree}
		return nil
	}
}

// TestFaults: each fault has its code; without a fault there is none.
func TestFaults(t *testing.T) {
	tests := map[string]struct {
		fault func(*testing.T, *Env)
		want  []string
	}{
		"none":       {func(*testing.T, *Env) {}, nil},
		"down":       {func(_ *testing.T, e *Env) { e.Life = status.Life{Known: true} }, []string{"AZ-AGENT-DOWN"}},
		"hung":       {func(_ *testing.T, e *Env) { e.Snapshot.WrittenAt = now.Add(-10 * time.Minute) }, []string{"AZ-AGENT-HUNG"}},
		"crash loop": {func(_ *testing.T, e *Env) { e.Snapshot.Agent.Restarts = 7 }, []string{"AZ-AGENT-CRASHLOOP"}},
		"masked":     {func(t *testing.T, e *Env) { link(t, *e, "/etc/systemd/system/azguest.service", "/dev/null") }, []string{"AZ-AGENT-MASKED"}},
		"old binary": {func(t *testing.T, e *Env) { link(t, *e, "/proc/812/exe", "/usr/bin/azguest (deleted)") }, []string{"AZ-AGENT-OLDBINARY"}},
		"waagent daemon": {func(t *testing.T, e *Env) {
			put(t, *e, "/proc/77/cmdline", "/usr/bin/python3\x00-u\x00/usr/sbin/waagent\x00-daemon\x00")
		}, []string{"AZ-AGENT-OTHER"}},
		"waagent egg": {func(t *testing.T, e *Env) {
			put(t, *e, "/proc/78/cmdline", "python3\x00-u\x00bin/WALinuxAgent-2.9.1.1-py3.8.egg\x00-run-exthandlers\x00")
		}, []string{"AZ-AGENT-OTHER"}},
		"SEC10 a user's process of that name": {func(t *testing.T, e *Env) {
			put(t, *e, "/proc/77/cmdline", "/usr/bin/python3\x00-u\x00/usr/sbin/waagent\x00-daemon\x00")
			put(t, *e, "/proc/77/stat", "77 (python3) S 1 77 77 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n")
			put(t, *e, "/proc/77/status", "Name:\tpython3\nUid:\t1234\t1234\t1234\t1234\n")
		}, nil},
		"editor on waagent": {func(t *testing.T, e *Env) { put(t, *e, "/proc/79/cmdline", "vi\x00/usr/sbin/waagent\x00") }, nil},
		"waagent enabled": {func(t *testing.T, e *Env) {
			link(t, *e, "/etc/systemd/system/multi-user.target.wants/walinuxagent.service", "/lib/systemd/system/walinuxagent.service")
		}, []string{"AZ-AGENT-OTHER"}},
		"disable_agent": {func(t *testing.T, e *Env) { put(t, *e, "/var/lib/waagent/disable_agent", "") }, []string{"AZ-AGENT-DISABLED"}},
		"bad config": {func(_ *testing.T, e *Env) {
			e.Config, e.Warnings = config.Parse("f", []byte("Foo=1\nLogs.Verbose=x\n"))
		}, []string{"AZ-CONF-UNKNOWN", "AZ-CONF-VALUE"}},
		"config unreadable": {func(_ *testing.T, e *Env) { e.ConfigErr = errors.New("permission denied") }, []string{"AZ-CONF-READ"}},
		"extensions off":    {func(_ *testing.T, e *Env) { e.Config, _ = config.Parse("f", []byte("Extensions.Enabled=n\n")) }, []string{"AZ-EXT-DISABLED"}},
		"disk full":         {func(_ *testing.T, e *Env) { e.Statfs = statfs(1<<20, 0, 1<<20, 1<<19) }, []string{"AZ-DISK-FULL"}},
		"disk low":          {func(_ *testing.T, e *Env) { e.Statfs = statfs(1<<20, 4000, 1<<20, 1<<19) }, []string{"AZ-DISK-LOW"}},
		"inodes full":       {func(_ *testing.T, e *Env) { e.Statfs = statfs(1<<20, 1<<19, 1<<20, 0) }, []string{"AZ-DISK-INODES"}},
		"no inodes counted": {func(_ *testing.T, e *Env) { e.Statfs = statfs(1<<20, 1<<19, 0, 0) }, nil},
		"noexec": {func(t *testing.T, e *Env) {
			put(t, *e, "/proc/self/mountinfo", strings.Replace(mountinfo, "nosuid", "noexec", 1))
		}, []string{"AZ-EXEC-NOEXEC"}},
		"noexec, elsewhere": {
			func(t *testing.T, e *Env) {
				put(t, *e, "/proc/self/mountinfo", strings.Replace(mountinfo, "nosuid", "noexec", 1))
				e.Config, _ = config.Parse("f", []byte("Extensions.ExecDir=/opt/azguest\n"))
			}, nil,
		},
		"read-only": {func(t *testing.T, e *Env) {
			put(t, *e, "/proc/self/mountinfo", strings.Replace(mountinfo, "/dev/sda2 rw", "/dev/sda2 ro", 1))
		}, []string{"AZ-DISK-READONLY", "AZ-DISK-READONLY"}},
		"lib writable": {
			func(t *testing.T, e *Env) {
				if err := os.Chmod(e.path("/var/lib/waagent"), 0o777); err != nil { //nolint:gosec // this mode is the fault under test
					t.Fatal(err)
				}
			}, []string{"AZ-DISK-PERM"},
		},
		"clock back": {func(_ *testing.T, e *Env) { e.Snapshot.WrittenAt = now.Add(time.Hour) }, []string{"AZ-CLOCK-BACK"}},
		"no route":   {func(t *testing.T, e *Env) { put(t, *e, "/proc/net/route", "Iface\tDestination\n") }, []string{"AZ-NET-NOROUTE"}},
		"no dns":     {func(t *testing.T, e *Env) { put(t, *e, "/etc/resolv.conf", "search x\n") }, []string{"AZ-NET-DNS"}},
		"no cgroups": {func(t *testing.T, e *Env) { _ = os.RemoveAll(e.path("/sys/fs/cgroup")) }, []string{"AZ-CG-MISSING"}},
		"cloned": {func(t *testing.T, e *Env) {
			put(t, *e, "/var/lib/waagent/provisioned", "11111111-2222-3333-4444-555555555555")
		}, []string{"AZ-VM-CLONED"}},
		"same spelling": {func(t *testing.T, e *Env) { put(t, *e, "/var/lib/waagent/provisioned", strings.ToUpper(vmID)+"\n") }, nil},
		"snapshot damaged": {func(_ *testing.T, e *Env) {
			e.Snapshot, e.SnapErr = status.Snapshot{}, errors.New("unexpected end of JSON")
		}, []string{"AZ-AGENT-SNAPSHOT", "AZ-AGENT-SNAPSHOT"}},
		"agent complains": {func(_ *testing.T, e *Env) { e.Snapshot.Platform.Code = "AZ-NET-WIRESERVER" }, []string{"AZ-NET-WIRESERVER"}},

		// What only the running agent can find.
		"wireserver dropped by nobody's rule": {net(Network{Endpoints: ends("wireserver", "AZ-NET-WIRESERVER", status.Error)}), []string{"AZ-NET-WIRESERVER"}},
		"wireserver blocked by an admin's rule": {net(Network{
			Endpoints: ends("wireserver", "AZ-NET-WIRESERVER", status.Error),
			Rules:     BlockingRules("-A OUTPUT -d 168.63.129.16/32 -p tcp -j DROP\n", platformAddr),
		}), []string{"AZ-FW-BLOCKED"}},
		"wireserver blocked by the classic agent's rules": {net(Network{
			Endpoints: ends("wireserver", "AZ-NET-WIRESERVER", status.Error),
			Rules:     BlockingRules("-A OUTPUT -d 168.63.129.16/32 -p tcp -m conntrack --ctstate INVALID,NEW -j DROP\n", platformAddr),
		}), []string{"AZ-FW-BLOCKED"}},
		"INVALID is dropped": {net(Network{
			Endpoints: ends("wireserver", "AZ-NET-WIRESERVER", status.Error),
			Rules:     BlockingRules("table inet filter {\n\tchain output {\n\t\tct state invalid counter packets 7 bytes 420 drop\n", platformAddr),
		}), []string{"AZ-FW-BLOCKED"}},
		"hostplugin only": {net(Network{Endpoints: append(ends("wireserver", "", status.OK), ends("hostplugin", "AZ-NET-HOSTPLUGIN", status.Warn)...)}), []string{"AZ-NET-HOSTPLUGIN"}},
		"imds":            {net(Network{Endpoints: ends("imds", "AZ-NET-IMDS", status.Warn)}), []string{"AZ-NET-IMDS"}},
		"proxy":           {net(Network{Endpoints: ends("wireserver", "AZ-NET-PROXY", status.Error)}), []string{"AZ-NET-PROXY"}},
		"TLS is opened":   {net(Network{Endpoints: ends("storage", "AZ-NET-TLS", status.Warn)}), []string{"AZ-NET-TLS"}},
		"storage names":   {net(Network{Endpoints: ends("storage", "AZ-NET-DNS", status.Warn)}), []string{"AZ-NET-DNS"}},
		"clock skew":      {net(Network{Skew: -time.Hour, SkewKnown: true}), []string{"AZ-CLOCK-SKEW"}},
		"all reached":     {net(Network{Endpoints: ends("wireserver", "", status.OK), SkewKnown: true}), nil},
		"well again just now": {func(t *testing.T, e *Env) {
			e.Snapshot.Endpoints = ends("imds", "AZ-NET-IMDS", status.Warn)
			net(Network{Endpoints: ends("imds", "", status.OK)})(t, e)
		}, nil},
		"endpoint of DHCP": {complaint("AZ-NET-ENDPOINT"), []string{"AZ-NET-ENDPOINT"}},
		"FIPS and 3DES":    {complaint("AZ-CERT-DECRYPT"), []string{"AZ-CERT-DECRYPT"}},
		"status refused":   {func(_ *testing.T, e *Env) { e.Snapshot.Platform.Problem = status.Problem{Code: "AZ-PLAT-REJECTED"} }, []string{"AZ-PLAT-REJECTED"}},
		"update rolled back": {func(_ *testing.T, e *Env) {
			e.Snapshot.Agent.Update = status.Update{Problem: status.Problem{Code: "AZ-UPD-ROLLBACK"}, LastResult: "rolled back"}
		}, []string{"AZ-UPD-ROLLBACK"}},
		"certificate missing": {func(_ *testing.T, e *Env) {
			e.Snapshot.Certs = []status.Cert{{Thumbprint: "AB", Message: "not delivered", Problem: status.Problem{Code: "AZ-CERT-MISSING"}}}
		}, []string{"AZ-CERT-MISSING"}},
		"limbo":    {extension("AZ-EXT-LIMBO"), []string{"AZ-EXT-LIMBO"}},
		"SELinux":  {extension("AZ-EXT-SELINUX"), []string{"AZ-EXT-SELINUX"}},
		"policy":   {extension("AZ-POL-DENIED"), []string{"AZ-POL-DENIED"}},
		"unsigned": {extension("AZ-POL-SIGNATURE"), []string{"AZ-POL-SIGNATURE"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if os.Getuid() != 0 {
				t.Skip("the directories of the test must belong to root")
			}
			e := well(t)
			tc.fault(t, &e)
			var got []string
			for _, f := range Run(t.Context(), e) {
				if f.State == status.Warn || f.State == status.Error || f.State == Note && f.Code != "" {
					got = append(got, f.Code)
					if f.Fix == "" || f.Evidence == "" && f.Check != "platform" {
						t.Errorf("%+v: without evidence or fix", f)
					}
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
		})
	}
}

const platformAddr = "168.63.129.16"

func ends(name, code string, st status.State) []status.Endpoint {
	return []status.Endpoint{{Name: name, State: st, URL: "http://x", Via: "direct", LastError: "no answer in time", Problem: status.Problem{Code: code}}}
}

func net(n Network) func(*testing.T, *Env) {
	return func(_ *testing.T, e *Env) { e.Network = n.Findings() }
}

func complaint(code string) func(*testing.T, *Env) {
	return func(_ *testing.T, e *Env) {
		e.Snapshot.Problems = []status.Item{{Problem: status.Problem{Code: code}, State: status.Warn, What: "x", Message: "y"}}
	}
}

func extension(code string) func(*testing.T, *Env) {
	return func(_ *testing.T, e *Env) {
		e.Snapshot.Extensions = []status.Extension{{Name: "Contoso.App", Message: "failed", Problem: status.Problem{Code: code}}}
	}
}

func TestBlockingRules(t *testing.T) {
	for name, tc := range map[string]struct {
		listing string
		want    int
	}{
		"none":                  {"-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n", 0},
		"output policy":         {"-P OUTPUT DROP\n", 1},
		"nft output policy":     {"table inet f {\n chain o {\n type filter hook output priority filter; policy drop;\n", 1},
		"address":               {"-A OUTPUT -d 168.63.129.16/32 -j REJECT\n", 1},
		"twice the same":        {"-A OUTPUT -d 168.63.129.16/32 -j REJECT\n-A OUTPUT -d 168.63.129.16/32 -j REJECT\n", 1},
		"another address":       {"-A OUTPUT -d 168.63.129.17/32 -j DROP\n", 0},
		"users only":            {"-A OUTPUT -d 168.63.129.16/32 -p tcp -m owner ! --uid-owner 0 -j DROP\n", 0},
		"ours":                  {"table ip azguest {\n chain output {\n ip daddr 168.63.129.16 ct state invalid drop\n}\n}\n", 0},
		"ours, being replaced":  {"table ip azguest-new { # handle 7\n chain output {\n ip daddr 168.63.129.16 drop\n}\n}\n", 0},
		"a name like ours":      {"table ip azguest-newer {\n ip daddr 168.63.129.16 drop\n", 1},
		"theirs after ours":     {"table ip azguest {\n ip daddr 168.63.129.16 drop\n}\ntable ip x {\n ip daddr 168.63.129.16 drop\n", 1},
		"containers only":       {"-A FORWARD -d 168.63.129.16/32 -j DROP\n", 0},
		"answers of the server": {"-A INPUT -m conntrack --ctstate INVALID -j DROP\n", 1},
	} {
		if got := BlockingRules(tc.listing, platformAddr, "169.254.169.254"); len(got) != tc.want {
			t.Errorf("%s: %q, want %d", name, got, tc.want)
		}
	}
}

// TestRunHere: on any machine, doctor ends and changes nothing.
func TestRunHere(t *testing.T) {
	c, w, err := config.Load(config.DefaultPaths())
	for _, f := range Run(t.Context(), Env{Now: time.Now(), Config: c, Warnings: w, ConfigErr: err, SnapErr: fs.ErrNotExist}) {
		if f.State == "" || f.Check == "" {
			t.Errorf("%+v", f)
		}
	}
}

func TestMountOf(t *testing.T) {
	table := mountinfo + "40 30 8:3 / /var/lib\\040x rw,noexec - ext4 /dev/sdb rw\n41 30 8:3 / /var/lib ro - ext4 /dev/sdb rw\n42 30 8:4 / /var/lib rw - xfs /dev/sdc rw\nbroken\n"
	for path, want := range map[string]string{"/var/lib/waagent": "/var/lib", "/var/libx": "/var", "/var/lib x/y": "/var/lib x", "/opt": "/", "/run": "/run"} {
		if m, ok := mountOf(table, path); !ok || m.point != want {
			t.Errorf("mountOf(%s) = %+v, want %s", path, m, want)
		}
	}
	if m, _ := mountOf(table, "/var/lib/waagent"); slices.Contains(m.opts, "ro") {
		t.Errorf("the last mount wins: %+v", m)
	}
}

func FuzzTables(f *testing.F) {
	f.Add(routes, mountinfo)
	f.Fuzz(func(_ *testing.T, r, m string) {
		routeTo(r, 0x10813fa8)
		mountOf(m, "/var/lib/waagent")
		swapID(m)
	})
}
