package tool

import (
	"bytes"
	"os"
	"testing"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
)

// TestHooksList: each script is named, and what will never run is said: refused
// files, and directories that are no hook's.
func TestHooksList(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	for _, d := range []string{"preempt", "freez", "nothing-like-it", ".hidden", "old.disabled"} {
		if err := root.MkdirAll("/etc/azguest/hooks.d/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"preempt/10-a": 0o755, "preempt/20-b": 0o777, "README": 0o644} {
		if err := root.WriteFile("/etc/azguest/hooks.d/"+name, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"30-link": "10-a", "40-lost": "/nowhere"} {
		if err := os.Symlink(to, root.Path("/etc/azguest/hooks.d/preempt/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"list"}, 1, `freez      -                    refused: no hook has this name; did you mean freeze?
nothing-like-it -                    refused: no hook has this name
preempt    10-a                 /etc/azguest/hooks.d/preempt/10-a
preempt    20-b                 refused: /etc/azguest/hooks.d/preempt/20-b can be changed by others than root (mode 0777)
preempt    30-link              /etc/azguest/hooks.d/preempt/10-a
preempt    40-lost              refused: /nowhere: no such file or directory
`},
		{[]string{"--help"}, 0, ""},
		{[]string{"help"}, 0, ""},
		{[]string{"-x"}, 64, ""},
		{nil, 64, ""},
	} {
		var out, errs bytes.Buffer
		tool := &Tool{Config: config.Default(), Root: root, Out: &out, Err: &errs}
		if code := tool.Hooks(t.Context(), tc.args); code != tc.code || tc.want != "" && out.String() != tc.want || tc.code == 0 && out.Len() == 0 {
			t.Errorf("hooks %q: exit %d, %s%s", tc.args, code, &out, &errs)
		}
	}
}
