package ctl

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/status"
)

// follower returns a tailer for a directory of logs that others may write to.
func follower(t *testing.T) (f *tailer, dir string, out *strings.Builder) {
	t.Helper()
	root := t.TempDir()
	dir = filepath.Join(root, "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	out = &strings.Builder{}
	return &tailer{app: &app{Env: Env{Root: root, Stdout: out, Stderr: io.Discard}}, at: map[string]int64{}}, dir, out
}

// TestSEC9LogWithoutEnd: everyone who may write to a log can make it
// arbitrarily long without writing data.
func TestSEC9LogWithoutEnd(t *testing.T) {
	f, dir, out := follower(t)
	name := filepath.Join(dir, "a.log")
	if err := os.WriteFile(name, []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.last("/log/a.log", 10, false); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 3<<29); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("\nlast\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := f.more("/log/a.log", false); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("following took %d MiB", n>>20)
	}
	if got := out.String(); !strings.HasPrefix(got, "first\n") || !strings.HasSuffix(got, "\nlast\n") {
		t.Errorf("printed %d bytes: %.20q … %q", len(got), got, got[max(0, len(got)-20):])
	}
	// From here on, it works as usual.
	out.Reset()
	if err := os.WriteFile(name, []byte("new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.more("/log/a.log", false); err != nil || out.String() != "new\n" {
		t.Errorf("after it was emptied: %q, %v", out, err)
	}
}

// TestSEC9LogIsNoRegularFile: something else in the place of a log is not read,
// and not waited for.
func TestSEC9LogIsNoRegularFile(t *testing.T) {
	f, dir, out := follower(t)
	name, other := filepath.Join(dir, "a.log"), filepath.Join(filepath.Dir(dir), "secret")
	if err := os.WriteFile(other, []byte("secret of somebody else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, put := range map[string]func() error{
		"fifo":   func() error { return unix.Mkfifo(name, 0o666) },
		"link":   func() error { return os.Symlink(other, name) },
		"device": func() error { return os.Symlink("/dev/zero", name) },
		"dir":    func() error { return os.Mkdir(name, 0o700) },
		"socket": func() error { return unix.Mknod(name, unix.S_IFSOCK|0o600, 0) },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if err := f.last("/log/a.log", 10, false); err == nil {
			t.Errorf("%s: no error", what)
		}
		f.at["/log/a.log"] = 0
		if err := f.more("/log/a.log", false); err != nil || out.Len() != 0 {
			t.Errorf("%s: printed %q, %v", what, out, err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSEC9LogsOfAnExtension: the list of an extension's log files is safe,
// whatever is in its directory.
func TestSEC9LogsOfAnExtension(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "var/log/azure/Contoso.Echo")
	if err := os.MkdirAll(filepath.Join(dir, "1.0"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{dir + "/1.0/a.log": "good\n", root + "/secret": "secret of somebody else\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, put := range []error{
		unix.Mkfifo(dir+"/fifo.log", 0o666), os.Symlink(root+"/secret", dir+"/link.log"), os.Symlink(root, dir+"/up"), os.Chmod(dir, 0o777),
	} {
		if put != nil {
			t.Fatal(put)
		}
	}
	if err := os.MkdirAll(status.DefaultPaths(root).Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	code := Main(t.Context(), []string{"logs", "Contoso.Echo"}, Env{Root: root, Stdout: &out, Stderr: &errs})
	if code != 0 || strings.Contains(out.String(), "secret") || !strings.Contains(out.String(), "good") {
		t.Errorf("exit %d: %s%s", code, out.String(), errs.String())
	}
}
