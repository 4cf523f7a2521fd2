package host_test

import (
	"io/fs"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
)

// TestSEC6DirUnderAttack: every operation of Dir and Root is used while a
// local user replaces the names that it works on.
func TestSEC6DirUnderAttack(t *testing.T) {
	t.Parallel()
	top := host.Root(t.TempDir())
	names := []string{"file", "events/", "events/1.json", "log", "tree/", "tree/a/", "tree/a/b"}
	hosttest.Attack(t, top.Path("/base"), names, func(round int) {
		d, err := top.OpenDir("/base", nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = d.Close() }()
		if c, err := d.MakeDir("events", 0o700); err == nil {
			_ = c.WriteFileLazy("1.json", []byte("{}"), 0o600)
			_, _, _ = c.ReadBounded("1.json", 1<<20)
			list, _ := c.ReadDir()
			for _, e := range list {
				_ = c.Remove(e.Name())
			}
			_ = c.Close()
		}
		if f, err := d.Append("log", 0o640); err == nil {
			_, _ = f.WriteString("a line\n")
			_ = f.Close()
		}
		if f, err := top.OpenFile("/base/file", 0x201, 0o600); err == nil { // O_WRONLY|O_TRUNC
			_ = f.Close()
		}
		for _, n := range []string{"file", "events", "log", "tree"} {
			_ = d.Chmod(n, 0o711)
			_ = d.Chown(n, hosttest.LocalUser, hosttest.LocalUser)
			_ = top.Chmod("/base/"+n, 0o755)
		}
		_ = top.MkdirAll("/base/tree/a", 0o777)
		_ = top.WriteFileLazy("/base/tree/a/b", []byte("x"), 0o666)
		_ = d.Walk(1000, func(_ string, in *host.Dir, fi fs.FileInfo, _ error) error {
			_, _, _ = in.ReadBounded(fi.Name(), 1<<10)
			return nil
		})
		if round%4 == 0 {
			_ = d.RemoveAll("tree")
			_ = top.RemoveAll("/base/events")
			_ = d.Remove("file")
		}
	})
}
