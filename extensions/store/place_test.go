package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
)

// past has files of a handler that must survive a power cut.
var past = map[string]string{
	"mrseq": "3", "config/3.settings": "{}", "config/HandlerState": "Enabled", "status/3.status": "[]", "download/3/script.sh": "sudo reboot", "heartbeat.log": "[]",
}

// TestPAT1MoreRoom: an attempt is repeated only if there is considerably more
// than at any that has failed, so a disk that others fill and empty causes no
// downloads without end.
func TestPAT1MoreRoom(t *testing.T) {
	t.Parallel()
	s := func(mib, inodes int64) FreeSpace { return FreeSpace{mib << 20, inodes, true} }
	for i, tc := range []struct {
		now, before FreeSpace
		want        bool
	}{
		{s(9, 100), s(9, 100), false},
		{s(10, 100), s(9, 100), true},
		{s(8, 163), s(9, 100), false},
		{s(8, 164), s(9, 100), true},
		{s(10, -1), s(9, -1), true},
		{s(9, 100), s(5, 100).Max(s(9, 50)), false},
		{s(10, 100), s(5, 100).Max(s(9, 50)), true},
		{FreeSpace{}, s(1, 1), false},
		{s(9, 100), FreeSpace{}, false},
	} {
		if got := tc.now.More(tc.before); got != tc.want {
			t.Errorf("%d: %+v after %+v: %v", i, tc.now, tc.before, got)
		}
	}
}

// used creates the directory of a handler that has run (see past).
func used(t *testing.T, dir string) {
	t.Helper()
	for name, body := range past {
		write(t, dir+"/"+name, body)
	}
	write(t, dir+"/run.sh", "old")
}

// unpacked creates the directory of an unpacked package.
func unpacked(t *testing.T, s Store) string {
	t.Helper()
	tmp := s.Sub("tmp", NewID())
	write(t, tmp+"/run.sh", "new")
	write(t, tmp+"/"+handler.ManifestName, "[]")
	return tmp
}

// whole returns what is missing in a handler's directory. The package may be the
// old or the new one; all files of past must be there. Only HandlerState may
// differ, if the handler has to be installed again.
func whole(base string) error {
	var errs []error
	for name, body := range past {
		b, err := os.ReadFile(base + "/" + name)
		if err == nil && name != "config/HandlerState" && string(b) != body {
			err = fmt.Errorf("%s is %q", name, b)
		}
		errs = append(errs, err)
	}
	b, err := os.ReadFile(base + "/run.sh")
	if err == nil && string(b) != "old" && string(b) != "new" {
		err = fmt.Errorf("run.sh is %q", b)
	}
	return errors.Join(append(errs, err)...)
}

type cut string

// TestERR5PowerCutWhileReplacing: a power cut at any time while a used directory
// is replaced with a package that was fetched again leaves the handler with its
// settings, states and mrseq, and the next start continues from there.
func TestERR5PowerCutWhileReplacing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		exec string
		make func(t *testing.T, s Store)
	}{
		"plain": {"", func(t *testing.T, s Store) { used(t, s.Base("P.X", "1.0")) }},
		"elsewhere": {"/opt/x", func(t *testing.T, s Store) {
			used(t, s.execDir("P.X", "1.0"))
			symlink(t, s.execDir("P.X", "1.0"), s.Base("P.X", "1.0"))
		}},
		"from now on elsewhere": {"/opt/x", func(t *testing.T, s Store) { used(t, s.Base("P.X", "1.0")) }},
		"moved, and not linked": {"/opt/x", func(t *testing.T, s Store) { used(t, s.Base("P.X", "1.0")); used(t, s.execDir("P.X", "1.0")) }},
		"a link to nowhere there": {"/opt/x", func(t *testing.T, s Store) {
			used(t, s.execDir("P.X", "1.0"))
			symlink(t, "/nowhere", s.Base("P.X", "1.0"))
		}},
	} {
		for _, at := range []string{"before the package has its name", "after the package has its name", "before the link has its name", "never"} {
			t.Run(name+", "+at, func(t *testing.T) {
				t.Parallel()
				s := New(host.Root(t.TempDir()), "/lib", tc.exec, "")
				if err := s.Init(); err != nil {
					t.Fatal(err)
				}
				tc.make(t, s)
				s.Step = func(where string) {
					if where == at {
						panic(cut(where))
					}
				}
				died := false
				func() {
					defer func() {
						if c, ok := recover().(cut); ok {
							died = c != ""
						}
					}()
					if err := s.Place(unpacked(t, s), "P.X", "1.0"); err != nil {
						t.Error(err)
					}
				}()
				s.Step = nil
				base := s.Base("P.X", "1.0")
				if !died || s.CheckBase("P.X", "1.0") == nil {
					if err := errors.Join(s.CheckBase("P.X", "1.0"), whole(base)); err != nil {
						t.Errorf("after the cut: %v", err)
					}
				}
				if err := s.Init(); err != nil {
					t.Fatal(err)
				}
				Delete(t.Context(), s.Trash()) // as Run does next
				if err := s.Place(unpacked(t, s), "P.X", "1.0"); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(s.CheckBase("P.X", "1.0"), whole(base)); err != nil {
					t.Errorf("after the next try: %v", err)
				}
				if b, err := os.ReadFile(base + "/run.sh"); err != nil || string(b) != "new" {
					t.Errorf("run.sh is %q, %v", b, err)
				}
				for _, dir := range []string{s.Root.Path("/lib"), s.Root.Path("/opt/x"), s.Sub("tmp")} {
					left, err := os.ReadDir(dir)
					if err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Fatal(err)
					}
					for _, e := range left {
						if e.Name() != "P.X-1.0" && e.Name() != "azguest" && e.Name() != "events" {
							t.Errorf("%s is left in %s", e.Name(), dir)
						}
					}
				}
			})
		}
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// TestERR5NeverMissing keeps checking the directory while it is replaced again
// and again: a start can continue from every state of the disk that occurs.
func TestERR5NeverMissing(t *testing.T) {
	t.Parallel()
	s := New(host.Root(t.TempDir()), "/lib", "", "")
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	base := s.Base("P.X", "1.0")
	used(t, base)
	stop, seen := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				seen <- nil
				return
			default:
			}
			// Use one descriptor: between two accesses by path it may be replaced.
			d, err := os.Open(base)
			if err == nil {
				err = unix.Faccessat(int(d.Fd()), "mrseq", unix.R_OK, 0)
				// The opened directory may be the old one, which is being deleted.
				if fi, serr := os.Stat(base); err != nil && serr == nil {
					if di, derr := d.Stat(); derr == nil && !os.SameFile(fi, di) {
						err = nil
					}
				}
				_ = d.Close()
			}
			if err != nil {
				seen <- err
				return
			}
		}
	}()
	for range 50 {
		if err := s.Place(unpacked(t, s), "P.X", "1.0"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-seen; err != nil {
		t.Errorf("seen meanwhile: %v", err)
	}
	if err := whole(base); err != nil {
		t.Error(err)
	}
}

// TestERR5ReplaceWithoutExchange tests every state of the disk on a file system
// that can't exchange two names: the old directory is renamed, the new one gets
// its name, and the old one is deleted.
func TestERR5ReplaceWithoutExchange(t *testing.T) {
	t.Parallel()
	for name, there := range map[string][]string{
		"before":           {"P.X-1.0"},
		"it stands aside":  {".P.X-1.0.azg-old"},
		"the new is there": {"P.X-1.0", ".P.X-1.0.azg-old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(host.Root(t.TempDir()), "/lib", "", "")
			for _, dir := range there {
				used(t, s.Root.Path("/lib/"+dir))
			}
			if err := s.Init(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.CheckBase("P.X", "1.0"), whole(s.Base("P.X", "1.0"))); err != nil {
				t.Error(err)
			}
			if isThere(s.Root.Path("/lib/.P.X-1.0.azg-old")) {
				t.Error("the renamed old directory is left")
			}
		})
	}
}

// TestERR5HandlerFilesAreCopied: everything that a handler may have in its
// directory is in the new one, the old one has not changed, and no link or FIFO
// in it was followed or opened.
func TestERR5HandlerFilesAreCopied(t *testing.T) {
	t.Parallel()
	for _, copies := range []bool{false, true} {
		t.Run(fmt.Sprintf("copies %v", copies), func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			precious, same := outside(t, top)
			old, fresh := top+"/old", top+"/fresh"
			write(t, old+"/data/deep/er/file", "x")
			write(t, old+"/config/0.settings", "old")
			write(t, old+"/run.sh", "old")
			write(t, fresh+"/run.sh", "new")
			write(t, fresh+"/config/extra", "new")
			symlink(t, precious, old+"/dir")
			symlink(t, precious+"/passwd", old+"/file")
			symlink(t, "nowhere", old+"/data/dangling")
			err := errors.Join(unix.Mkfifo(old+"/fifo", 0o600), os.Link(precious+"/passwd", old+"/second"), os.Chmod(old+"/data", 0o750), os.Chmod(old+"/data/deep/er/file", 0o640))
			if os.Geteuid() == 0 {
				err = errors.Join(err, os.Chown(old+"/data", 1234, 1234), os.Chown(old+"/data/deep/er/file", 1234, 1234))
			}
			if err != nil {
				t.Fatal(err)
			}
			before := tree(t, old)
			from, err := folder.Open(old)
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			to, err := folder.Open(fresh)
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			take := carry
			if copies {
				take = copyTree
			}
			if err := take(from, to); err != nil {
				t.Fatal(err)
			}
			same()
			if diff := cmp.Diff(before, tree(t, old)); diff != "" {
				t.Errorf("the old directory was changed (-want +got):\n%s", diff)
			}
			got := tree(t, fresh)
			for name, what := range before {
				if name == "run.sh" {
					what = strings.Replace(what, "old", "new", 1)
				}
				if name == "fifo" && copies {
					continue // created again by the process that uses it
				}
				if got[name] != what {
					t.Errorf("%s is %q, want %q", name, got[name], what)
				}
			}
			if got["config/extra"] == "" {
				t.Error("a file of the package is gone")
			}
		})
	}
}

// tree returns a description of everything in a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st, _ := fi.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%v %d:%d", fi.Mode(), st.Uid, st.Gid)
		switch fi.Mode().Type() {
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += " " + string(b)
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what += " → " + target
		default:
		}
		out[strings.TrimPrefix(p, dir+"/")] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
