package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRights(t *testing.T) {
	for idMap, want := range map[string]Rights{
		"         0          0 4294967295\n":                               Root,
		"         0       1000          1\n":                               Single,
		"         0       1000          1\n         1     100000  65536\n": Ranged,
		"         0     100000      65536\n":                               Ranged,
		"":                                                                 Single,
	} {
		if got := rightsOf(idMap); got != want {
			t.Errorf("rights of %q: %s, want %s", idMap, got, want)
		}
	}
	if got := lesser(lesser(Root, Ranged), Single); got != Single {
		t.Errorf("lesser: %s", got)
	}
}

func TestSubIDs(t *testing.T) {
	me := strconv.Itoa(os.Geteuid())
	for text, want := range map[string]*idRange{
		"":                                      nil,
		"other:1:65536\n":                       nil,
		"other:1:65536\n" + me + ":7:65536\n":   {"7", "65536"},
		me + ":7:1000\n" + me + ":100000:2000":  {"100000", "2000"}, // useradd begins at 1000
		"nonsense\n" + me + ":x\n" + me + ":1:": nil,
	} {
		file := filepath.Join(t.TempDir(), "subuid")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, subIDs(file, os.Geteuid()), cmp.AllowUnexported(idRange{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if got := subIDs("/nonexistent", 0); got != nil {
		t.Errorf("without a file: %v", got)
	}
}

// TestFixes: each setting that forbids user namespaces is named with its fix.
func TestFixes(t *testing.T) {
	for name, tc := range map[string]struct{ file, value, want string }{
		"debian":    {"proc/sys/kernel/unprivileged_userns_clone", "0\n", "sudo sysctl kernel.unprivileged_userns_clone=1"},
		"limit":     {"proc/sys/user/max_user_namespaces", "0\n", "sudo sysctl user.max_user_namespaces="},
		"ubuntu":    {"proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		"container": {".dockerenv", "", "--security-opt seccomp=unconfined"},
		"nothing":   {"proc/sys/user/max_user_namespaces", "1000\n", "run it as root: sudo"},
	} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, tc.file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, tc.file), []byte(tc.value), 0o644); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(fixes(root, CodeUserNS), "\n")
		if !strings.Contains(got, tc.want) || !strings.HasSuffix(got, "or run it as root: sudo") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestLowers: every directory of the machine's root exists, and no layer has
// another mount below it.
func TestLowers(t *testing.T) {
	upper := filepath.Join(t.TempDir(), "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := lowers(upper, "/nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := mountPoints()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if i := slices.IndexFunc(got, func(l string) bool { return strings.HasPrefix(m, l+"/") }); i >= 0 {
			t.Errorf("%s is a layer with the mount %s", got[i], m)
		}
	}
	top, err := os.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range top {
		if !e.IsDir() {
			continue
		}
		if _, err := os.Lstat(filepath.Join(upper, e.Name())); err != nil {
			t.Errorf("it is missed: %v", err)
		}
	}
	if got := unescape(`/a\040b\134c\04`); got != `/a b\c\04` {
		t.Errorf("unescape: %q", got)
	}
}

// TestForget: white-outs are removed where there is no overlay, because they
// would appear as devices.
func TestForget(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	upper := t.TempDir()
	for _, name := range []string{"etc/shadow-", "var/log/waagent.log"} {
		path := filepath.Join(upper, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), unix.Mknod(path, unix.S_IFCHR, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := forget(upper, []string{"/var"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(upper, "etc/shadow-")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("outside of layers: %v", err)
	}
	if !hidden(upper, "/var/log/waagent.log") {
		t.Error("the white-out in a layer was removed")
	}
}

func TestOlderThan(t *testing.T) {
	for release, want := range map[string]bool{"6.1.0-56-cloud-amd64": true, "5.15.0": true, "6.6": false, "6.18.44": false, "7.0-rc1": false, "odd": false} {
		if got := olderThan(release, 6, 6); got != want {
			t.Errorf("%s: %t", release, got)
		}
	}
}
