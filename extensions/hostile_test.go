package extensions

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/extensions/plan"
)

// TestHostileNames: names from the platform never lead to paths outside of the
// usual directories or to shell commands.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(t.TempDir(), "ran")
	for _, name := range []string{
		"../../etc/P", "..", ".hidden", "P.X; touch " + marker, "P.X$(touch " + marker + ")", "P.X`touch " + marker + "`", "P.X'", `P.X"`,
		"P X", "P.X\n", "P.X\t", "P.X\x1b[2J", "P.X\u202e", "P.X\\..", "-rf", "", strings.Repeat("a", 151), "WALinuxAgent", "azguest", "P.X\xff",
	} {
		if plan.IsHandlerName(name) {
			t.Errorf("the handler name %q is let through", name)
		}
	}
	for _, name := range []string{"Microsoft.Azure.Extensions.CustomScript", "Microsoft.CPlat.Core.RunCommandHandlerLinux", "A.B-C_D", "1.x"} {
		if !plan.IsHandlerName(name) {
			t.Errorf("the handler name %q is refused", name)
		}
	}
	for _, v := range []string{"1.0/../../x", "1.0-rc1", "1.0rc;id", "1.0rc$(id)", " 1.0", "1.0 ", "-1", "1..0", "", "1.0\n", "v1", "99999999999999999999", "1.0.rc.1;"} {
		if plan.IsVersion(v) {
			t.Errorf("the version %q is let through", v)
		}
	}
	for _, v := range []string{"1", "1.0", "1.0.0", "2.1.19.3", "1.0rc1", "20240101.1"} {
		if !plan.IsVersion(v) {
			t.Errorf("the version %q is refused", v)
		}
	}
	for _, n := range []string{"../a", "a/b", `a\b`, ".a", "", "a\x00", "a\nb", "a\x7f", "a\xff"} {
		if plan.IsExtensionName(n) {
			t.Errorf("the extension name %q is let through", n)
		}
	}
	for _, n := range []string{"a", "run command 1", "a.b-c_d", "übung"} {
		if !plan.IsExtensionName(n) {
			t.Errorf("the extension name %q is refused", n)
		}
	}

	w := newWorld(t, pkg{name: "P.Good", version: "1.0", script: simple})
	w.repo.pkgs["P.Evil"] = map[string][]byte{"1.0.rc;touch " + marker: pkg{script: simple}.build(t)}
	w.start()
	s := w.offer(ext("../../etc/P", "1.0", 0), ext("P.V", "1.0/../../x", 0), multi("P.M", "1.0", "../a:1"), ext("P.Good", "1.0", 0), ext("p.good", "2.0", 0),
		ext("P.X;touch "+marker+";", "1.0", 0), ext("P.Evil", "1.0rc", 0), multi("P.Neg", "1.0", "a:-1"))
	want := "../../etc/P 1.0 NotReady -1\nP.V 1.0/../../x NotReady -1\nP.M 1.0 NotReady -1\nP.Good 1.0 Ready 0 | 0 success 0\np.good 2.0 NotReady -1\n" +
		"P.X;touch " + marker + "; 1.0 NotReady -1\nP.Evil 1.0rc NotReady -1\nP.Neg 1.0 NotReady -1\n"
	if diff := cmp.Diff(want, show(s)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if exists(marker) {
		t.Error("a name was run by the shell")
	}
}

// TestSameVersion: 1.0 and 1.0.0 compare as equal but are two packages.
func TestSameVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}).start()
	w.offer(ext("P.X", "1.0", 0))
	w.repo.publish(t, pkg{name: "P.X", version: "1.0.0", script: simple})
	if got, want := show(w.offer(ext("P.X", "1.0.0", 0))), "P.X 1.0.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if exists(w.base("P.X-1.0")) {
		t.Error("the old directory is left")
	}
	// The largest possible sequence number works like any other.
	if got, want := show(w.offer(ext("P.X", "1.0.0", 1<<53))), "P.X 1.0.0 Ready 0 | 9007199254740992 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// etc creates a folder that must not change; check verifies that.
func etc(t *testing.T, root string) (dir string, check func()) {
	t.Helper()
	dir = filepath.Join(root, "precious")
	for name, body := range map[string]string{"0.settings": "theirs", "9.settings": "theirs", "a.3.settings": "theirs", "passwd": "theirs", "0.status": "[]", "HandlerManifest.json": "theirs"} {
		writeFile(t, filepath.Join(dir, name), body)
	}
	list := func() string {
		var out []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			b, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			out = append(out, e.Name()+"="+string(b))
		}
		return strings.Join(out, " ")
	}
	before := list()
	return dir, func() {
		t.Helper()
		if diff := cmp.Diff(before, list()); diff != "" {
			t.Errorf("a folder behind a link was changed (-want +got):\n%s", diff)
		}
	}
}

// TestLinks: a handler that replaces its folders with links does not affect
// anything else, and the links are removed.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, dirs := range [][]string{{"config"}, {"status"}, {"config", "status"}} {
		t.Run(strings.Join(dirs, " and "), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: simple}, pkg{name: "P.M", version: "1.0", script: simple, manifest: `"supportsMultipleExtensions": true`}).start()
			target, same := etc(t, string(w.root))
			w.offer(ext("P.X", "1.0", 0), multi("P.M", "1.0", "a:3", "b:3"))
			replace := func() {
				t.Helper()
				for _, h := range []string{"P.X-1.0", "P.M-1.0"} {
					for _, d := range dirs {
						p := w.base(h + "/" + d)
						if err := errors.Join(os.RemoveAll(p), os.Symlink(target, p)); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			replace()
			w.m.Wake()
			w.processed(ext("P.X", "1.0", 1), multi("P.M", "1.0", "a:4", "-b:3"))
			same()
			s := w.offer(ext("P.X", "1.0", 2), multi("P.M", "1.0", "a:5"))
			if got, want := show(s), "P.X 1.0 Ready 0 | 2 success 0\nP.M 1.0 Ready 0 | a 5 success 0\n"; got != want {
				t.Errorf("got %s want %s", got, want)
			}
			same()
			replace()
			w.restart()
			w.processed(ext("P.X", "2.0", 3), multi("P.M", "1.0", "a:6"))
			same()
			if got := show(w.processed(gone(ext("P.X", "2.0", 3)), gone(multi("P.M", "1.0", "a:6")))); got != "" {
				t.Errorf("after uninstall %s", got)
			}
			same()
		})
	}
}

// TestBaseBecomesLink: each of the handler's commands replaces the whole
// directory with a link.
func TestBaseBecomesLink(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"install", "enable", "disable", "update", "uninstall"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			evil := "log\n[ \"$op\" = enable ] && status success\n[ \"$op\" != " + op + " ] || { cd /; rm -rf $base; ln -s $base/../../../../precious $base; }\nexit 0\n"
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: evil}, pkg{name: "P.X", version: "2.0", script: evil}, pkg{name: "P.Good", version: "1.0", script: simple}).start()
			_, same := etc(t, string(w.root))
			w.processed(ext("P.X", "1.0", 0), ext("P.Good", "1.0", 0))
			same()
			w.processed(ext("P.X", "1.0", 1), ext("P.Good", "1.0", 0))
			same()
			w.processed(ext("P.X", "2.0", 1), ext("P.Good", "1.0", 0))
			same()
			w.restart()
			w.processed(ext("P.X", "2.0", 2), ext("P.Good", "1.0", 0))
			same()
			s := w.processed(gone(ext("P.X", "2.0", 2)), ext("P.Good", "1.0", 1))
			if got, want := show(s), "P.Good 1.0 Ready 0 | 1 success 0\n"; got != want {
				t.Errorf("got %s want %s", got, want)
			}
			same()
			for _, d := range []string{"P.X-1.0", "P.X-2.0"} {
				if exists(w.base(d)) {
					t.Errorf("%s is left", d)
				}
			}
		})
	}
}

// TestUnusableFilesDoNotBlock: processing continues even if a handler leaves
// unusable files where the agent has to write or copy from.
func TestUnusableFilesDoNotBlock(t *testing.T) {
	t.Parallel()
	for name, mk := range map[string]func(path string) error{
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"device":    func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"directory": func(p string) error { return os.MkdirAll(p+"/sub", 0o700) },
		"symlink":   func(p string) error { return os.Symlink("/dev/zero", p) },
		"sparse":    func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 10<<30)) },
		"socket":    func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
		"immutable": func(p string) error { return os.WriteFile(p, []byte("x"), 0o000) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: simple}).start()
			w.offer(ext("P.X", "1.0", 0))
			for _, f := range []string{"config/1.settings", "config/2.settings", "config/HandlerState", "config/HandlerStatus", "HandlerEnvironment.json", "mrseq", "status/1.status", "status/9.status", "heartbeat.log"} {
				p := w.base("P.X-1.0/" + f)
				if err := os.RemoveAll(p); err != nil {
					t.Fatal(err)
				}
				if err := mk(p); errors.Is(err, unix.EPERM) {
					t.Skip(err)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			_ = os.RemoveAll(w.base("P.X-1.0/status/1.status")) // so that the test handler can write its own
			s := w.offer(ext("P.X", "1.0", 1))
			if got, want := show(s), "P.X 1.0 Ready 0 | 1 success 0\n"; got != want {
				t.Errorf("new settings: got %s want %s", got, want)
			}
			w.restart()
			s = w.offer(ext("P.X", "2.0", 2))
			if got, want := show(s), "P.X 2.0 Ready 0 | 2 success 0\n"; got != want {
				t.Errorf("update: got %s %q want %s", got, message(s, 0), want)
			}
			if got := show(w.offer(gone(ext("P.X", "2.0", 2)))); got != "" || exists(w.base("P.X-1.0")) || exists(w.base("P.X-2.0")) {
				t.Errorf("after uninstall %s", got)
			}
		})
	}
}
