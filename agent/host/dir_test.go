package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a directory with a file in it, and one outside of it that must
// stay unchanged whatever is done to the first.
func tree(t *testing.T) (r Root, d *Dir, outside string) {
	t.Helper()
	top := t.TempDir()
	outside = filepath.Join(top, "outside")
	for _, dir := range []string{"in/sub", "outside"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"in/file", "in/sub/file", "outside/file"} {
		if err := os.WriteFile(filepath.Join(top, f), []byte(f), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	r = Root(top)
	d, err := r.OpenDir("/in", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return r, d, outside
}

// foreign makes what a local user could have planted in the directory.
func foreign(t *testing.T, in, outside string) {
	t.Helper()
	for name, f := range map[string]func(string) error{
		"link":     func(n string) error { return os.Symlink(outside+"/file", n) },
		"dirlink":  func(n string) error { return os.Symlink(outside, n) },
		"dangling": func(n string) error { return os.Symlink(outside+"/new", n) },
		"hard":     func(n string) error { return os.Link(outside+"/file", n) },
		"fifo":     func(n string) error { return unix.Mkfifo(n, 0o666) },
		"dir":      func(n string) error { return os.Mkdir(n, 0o755) },
		"socket":   func(n string) error { return unix.Mknod(n, unix.S_IFSOCK|0o666, 0) },
	} {
		if err := f(filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDirFollowsNothing: no operation reads or changes the target of a link, a
// hard link, a FIFO or a socket in the directory, and none waits for one.
func TestDirFollowsNothing(t *testing.T) {
	t.Parallel()
	r, d, outside := tree(t)
	in := filepath.Join(string(r), "in")
	foreign(t, in, outside)
	before, err := os.Stat(outside + "/file")
	if err != nil {
		t.Fatal(err)
	}
	unsafe := []string{"link", "dirlink", "dangling", "fifo", "dir", "socket"}
	for _, n := range unsafe {
		for what, err := range map[string]error{
			"open":   second(d.Open(n)),
			"read":   third(d.ReadBounded(n, 100)),
			"append": second(d.Append(n, 0o600)),
			"trunc":  second(d.OpenFile(n, os.O_WRONLY|os.O_TRUNC, 0)),
			"create": second(d.Create(n, 0o600)),
		} {
			if !errors.Is(err, ErrUnsafe) && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EISDIR) {
				t.Errorf("%s %s: %v", what, n, err)
			}
		}
	}
	for what, err := range map[string]error{
		"append to a second name":  second(d.Append("hard", 0o600)),
		"truncate a second name":   second(d.OpenFile("hard", os.O_RDWR|os.O_TRUNC, 0)),
		"chmod of a second name":   d.Chmod("hard", 0o777),
		"chown of a second name":   d.Chown("hard", 1234, 1234),
		"chmod of a link":          d.Chmod("link", 0o777),
		"chmod of a link to a dir": d.Chmod("dirlink", 0o777),
		"chown of a link":          d.Chown("link", 1234, 1234),
		"chmod of a FIFO":          d.Chmod("fifo", 0o777),
		"open a link as directory": second(d.OpenDir("dirlink")),
		"open a file as directory": second(d.OpenDir("file")),
		"make where a link is":     second(d.MakeDir("dirlink", 0o700)),
		"a path":                   second(d.Open("sub/file")),
		"the parent":               second(d.Open("..")),
		"remove by path":           d.RemoveAll("../outside"),
		"rename by path":           d.Rename("file", d, "../outside/file"),
		"write by path":            d.WriteFile("../outside/file", nil, 0o600, 0, 0),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	for _, n := range []string{"link", "dangling", "hard", "fifo", "socket"} {
		if err := d.WriteFileLazy(n, []byte("new"), 0o600); err != nil {
			t.Errorf("replace %s: %v", n, err)
		}
	}
	if err := d.RemoveAll("dirlink"); err != nil {
		t.Error(err)
	}
	after, err := os.Stat(outside + "/file")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(outside + "/file")
	if err != nil || string(b) != "outside/file" || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the file outside: %q, mode %v, %v", b, after.Mode(), err)
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
		t.Errorf("outside: %v %v", list, err)
	}
}

func second[T any](_ T, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// TestRootFollowsRootsLinksOnly: a link is followed only if root alone can
// have made it, both on the way and as the last name.
func TestRootFollowsRootsLinksOnly(t *testing.T) {
	t.Parallel()
	r, _, _ := tree(t)
	top := string(r)
	if err := errors.Join(
		os.Symlink("outside", top+"/rel"), os.Symlink("/outside/file", top+"/abs"),
		os.Mkdir(top+"/shared", 0o755), os.Chmod(top+"/shared", 0o775), // /var/log of some distributions
		os.Symlink("../outside", top+"/shared/rel"), os.Symlink("/outside/file", top+"/shared/abs"),
	); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"/rel/file", "/abs"} {
		if b, err := r.ReadFile(n); err != nil || string(b) != "outside/file" {
			t.Errorf("%s: %q %v", n, b, err)
		}
	}
	for what, err := range map[string]error{
		"read through":  second(r.ReadFile("/shared/rel/file")),
		"read":          second(r.ReadFile("/shared/abs")),
		"write through": r.WriteFile("/shared/rel/file", nil, 0o600),
		"mkdir through": r.MkdirAll("/shared/rel/new/dir", 0o755),
		"list through":  second(r.ReadDir("/shared/rel")),
		"remove":        r.RemoveAll("/shared/rel/file"),
		"chmod":         r.Chmod("/shared/abs", 0o777),
		"append":        second(r.Append("/shared/abs", 0o600)),
	} {
		if !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v, want ErrUnsafe", what, err)
		}
	}
	if found, err := r.Glob("/shared/*/file"); err != nil || len(found) != 0 {
		t.Errorf("glob: %v %v", found, err)
	}
	if found, err := r.Glob("/*/f*e"); err != nil || !slices.Equal(found, []string{"/in/file", "/outside/file", "/rel/file"}) {
		t.Errorf("glob: %v %v", found, err)
	}
	if err := r.WriteFile("/shared/abs", []byte("x"), 0o600); err != nil { // the link is replaced
		t.Error(err)
	}
	if b, err := os.ReadFile(top + "/outside/file"); err != nil || string(b) != "outside/file" {
		t.Errorf("%q %v", b, err)
	}
	d, err := r.OpenDir("/shared", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Trusted(); !errors.Is(err, ErrUnsafe) {
		t.Errorf("a directory that a group can write in: %v", err)
	}
}

// TestRemoveAllDeep: neither deep nor wide trees take many descriptors or much
// stack.
func TestRemoveAllDeep(t *testing.T) {
	t.Parallel()
	r, d, outside := tree(t)
	fd, err := unix.Open(string(r)+"/in/sub", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if err := errors.Join(unix.Mkdirat(fd, "d", 0o755), unix.Symlinkat(outside, fd, "l")); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	_ = unix.Close(fd)
	if err := r.RemoveAll("/in/sub"); err != nil {
		t.Fatal(err)
	}
	list, err := d.ReadDir()
	if err != nil || len(list) != 1 || list[0].Name() != "file" {
		t.Errorf("left: %v %v", list, err)
	}
	if _, err := os.Stat(outside + "/file"); err != nil {
		t.Error(err)
	}
	if err := r.RemoveAll("/in/sub"); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// TestExchangeAndNew: Exchange never leaves a name missing, and RenameNew
// never replaces.
func TestExchangeAndNew(t *testing.T) {
	t.Parallel()
	r, d, _ := tree(t)
	if err := r.Exchange("/in/sub", "/outside"); err != nil {
		t.Fatal(err)
	}
	if b, err := r.ReadFile("/outside/file"); err != nil || string(b) != "in/sub/file" {
		t.Errorf("%q %v", b, err)
	}
	if err := d.RenameNew("file", d, "sub"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	if _, err := d.Mkdir("sub", 0o700); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	c, err := d.Mkdir("new", 0o711)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, _, perm, err := c.Owner(); err != nil || perm != 0o711 || c.Name() != "/in/new" {
		t.Errorf("%v %v %v", c.Name(), perm, err)
	}
	if list, err := d.ReadDir(); err != nil || len(list) != 3 {
		t.Errorf("%v %v", list, err)
	}
}

// TestBoundedReads: a file beyond the reader's limit is refused by its size,
// and not read.
func TestBoundedReads(t *testing.T) {
	t.Parallel()
	r, d, _ := tree(t)
	if err := os.Truncate(string(r)+"/in/file", 1<<40); err != nil {
		t.Skip(err)
	}
	_, err := r.ReadFile("/in/file")
	var large *TooLargeError
	if !errors.As(err, &large) || large.Size != 1<<40 {
		t.Errorf("%v", err)
	}
	if _, _, err := d.ReadBounded("file", 10); !errors.As(err, &large) {
		t.Errorf("%v", err)
	}
	seen := 0
	err = d.Walk(1, func(string, *Dir, fs.FileInfo, error) error { seen++; return nil })
	if !errors.Is(err, ErrTooMany) || seen != 1 {
		t.Errorf("walk: %d entries, %v", seen, err)
	}
	if err := r.Symlink("/dev/null", "/masked"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(string(r)+"/dev", 0o755), unix.Mknod(string(r)+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
		t.Skip(err)
	}
	if b, err := r.ReadFile("/masked"); err != nil || len(b) != 0 {
		t.Errorf("masked: %q %v", b, err)
	}
	if _, err := r.Open("/dev/null"); !errors.Is(err, ErrUnsafe) {
		t.Errorf("%v", err)
	}
	f, err := r.OpenDevice("/dev/null", os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if !strings.HasSuffix(f.Name(), "null") {
		t.Error(f.Name())
	}
}

// TestReplaceDir: the new directory has the name afterwards, the old one is
// gone, and after a power cut on a file system without exchange the old one is
// restored.
func TestReplaceDir(t *testing.T) {
	t.Parallel()
	r, _, _ := tree(t)
	if err := r.ReplaceDir("/in", "/outside"); err != nil {
		t.Fatal(err)
	}
	if b, err := r.ReadFile("/outside/sub/file"); err != nil || string(b) != "in/sub/file" {
		t.Errorf("%q %v", b, err)
	}
	if r.Exists("/in") {
		t.Error("the old directory is left")
	}
	if err := r.ReplaceDir("/outside", "/new"); err != nil || !r.Exists("/new/sub/file") {
		t.Errorf("where there was none: %v", err)
	}
	if err := errors.Join(r.Rename("/new", "/"+aside("new")), r.Aside("/new")); err != nil || !r.Exists("/new/sub/file") {
		t.Errorf("put back: %v", err)
	}
	if err := r.Aside("/new"); err != nil {
		t.Errorf("with nothing aside: %v", err)
	}
}
