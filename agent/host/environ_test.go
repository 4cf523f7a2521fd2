package host_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/azguest/azguest/agent/host"
)

// TestIN13Environment: a program finds the variables of a log-in, as the
// passwd entry of the agent's account says.
func TestIN13Environment(t *testing.T) {
	t.Parallel()
	me := os.Geteuid()
	for _, tc := range []struct {
		name, passwd string
		want         []string
	}{
		{"another name and home", fmt.Sprintf("other:x:%d:0::/o:/bin/o\ntoor:x:%d:0::/var/roothome:/bin/ash\n", me+1, me), []string{"HOME=/var/roothome", "USER=toor", "LOGNAME=toor", "SHELL=/bin/ash"}},
		{"two names of one number", fmt.Sprintf("root:x:%d:0::/root:/bin/bash\ntoor:x:%d:0::/t:/bin/t\n", me, me), []string{"HOME=/root", "USER=root"}},
		{"empty fields", fmt.Sprintf("root:x:%d:0:::\n", me), []string{"HOME=/", "SHELL=/bin/sh"}},
		{"no entry", "", []string{"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh"}},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(tc.passwd), 0o644); err != nil {
			t.Fatal(err)
		}
		got := host.Root(dir).BaseEnvironment()
		for _, w := range append(tc.want, "PATH="+host.DefaultPath) {
			if !slices.Contains(got, w) {
				t.Errorf("%s: environment %q, want %s in it", tc.name, got, w)
			}
		}
	}
}

// TestIN13Tools: the tools of the machine, custom data among them, get it.
func TestIN13Tools(t *testing.T) {
	t.Parallel()
	res, err := host.Exec{}.Run(t.Context(), host.Cmd{Name: "sh", Args: []string{"-c", `set -u; echo "$HOME|$USER|$LOGNAME|$SHELL|$MORE"`}, Env: []string{"MORE=x"}})
	if err != nil || len(res.Stdout) < 8 {
		t.Errorf("got %q, %v", res.Stdout, err)
	}
}
