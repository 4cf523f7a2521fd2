package host

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// TestF5AttributesAreNamed: a change that an attribute forbids says so, with
// the file, whoever has tried it.
func TestF5AttributesAreNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, on, attr string
		do             func(r Root) error
		flag, at       string // empty: no FlagError
	}{
		{"replace an immutable file", "/etc/passwd", "i", writePasswd, "immutable", "/etc/passwd"},
		{"replace an append-only file", "/etc/passwd", "a", writePasswd, "append-only", "/etc/passwd"},
		{"replace in an immutable directory", "/etc", "i", writePasswd, "immutable", "/etc"},
		{"replace in an append-only directory", "/etc", "a", writePasswd, "append-only", "/etc"},
		{"remove", "/etc/passwd", "i", func(r Root) error { return r.Remove("/etc/passwd") }, "immutable", "/etc/passwd"},
		{"mode", "/etc/passwd", "i", func(r Root) error { return r.Chmod("/etc/passwd", 0o600) }, "immutable", "/etc/passwd"},
		{"append", "/etc/passwd", "i", func(r Root) error {
			f, err := r.Append("/etc/passwd", 0o644)
			if err == nil {
				err = f.Close()
			}
			return err
		}, "immutable", "/etc/passwd"},
		{"a tool's error", "/etc/shadow", "i", func(r Root) error {
			return r.Explain(errors.New("useradd: exit 1"), "/etc/passwd", "/etc/shadow", "/etc/missing")
		}, "immutable", "/etc/shadow"},
		{"a tool's error for another reason", "", "", func(r Root) error {
			return r.Explain(errors.New("useradd: exit 1"), "/etc/passwd", "/etc/shadow")
		}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := Root(t.TempDir())
			err := errors.Join(r.MkdirAll("/etc", 0o755), r.WriteFile("/etc/passwd", []byte("root\n"), 0o644), r.WriteFile("/etc/shadow", []byte("root\n"), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			if tc.on != "" {
				if out, err := exec.CommandContext(t.Context(), "chattr", "+"+tc.attr, r.Path(tc.on)).CombinedOutput(); err != nil {
					t.Skipf("%v: %s", err, out)
				}
				t.Cleanup(func() { _ = exec.Command("chattr", "-"+tc.attr, r.Path(tc.on)).Run() })
			}
			err = tc.do(r)
			f, ok := errors.AsType[*FlagError](err)
			switch {
			case err == nil:
				t.Error("no error")
			case ok != (tc.flag != "") || ok && (f.Flag != tc.flag || f.Name != tc.at):
				t.Errorf("%v, want %s of %s", err, tc.flag, tc.at)
			case ok && tc.name[0] != 'a' && !errors.Is(err, os.ErrPermission):
				t.Errorf("%v is not a permission error any more", err)
			}
		})
	}
}

func writePasswd(r Root) error { return r.WriteFile("/etc/passwd", []byte("x\n"), 0o644) }
