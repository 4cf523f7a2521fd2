package process

import (
	"os"
	"strings"
	"testing"
)

// TestSEC10WhoRunsAProcess: it matters, too, who has started a program, as one
// with the set-user-ID bit runs as root with a command line that a user chose.
func TestSEC10WhoRunsAProcess(t *testing.T) {
	t.Parallel()
	const stat = "77 (a) b) S 1 77 77 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 18446744073709551615 0\n"
	const unset, system = "4294967295", "0::/system.slice/x.service"
	for name, tc := range map[string]struct {
		uid, login, cgroup string
		want               bool
	}{
		"root's service":                  {"0 0 0 0", unset, system, true},
		"no audit, no systemd":            {"0 0 0 0", "", "", true},
		"a user's":                        {"1234 1234 1234 1234", unset, system, false},
		"set-user-ID":                     {"1234 0 0 0", unset, system, false},
		"set-user-ID, dropped for a time": {"0 1234 0 1234", unset, system, false},
		"all of root's ids, by sudo":      {"0 0 0 0", "1234", system, false},
		"sudo without audit":              {"0 0 0 0", "", "0::/user.slice/user-1234.slice/session-3.scope", false},
		"sudo, hybrid hierarchy":          {"0 0 0 0", "", "4:cpu:/\n1:name=systemd:/user.slice/user-1234.slice/session-3.scope\n0::/", false},
		"a slice of that name below":      {"0 0 0 0", unset, "0::/system.slice/user.slice/user-1234.slice", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				if text == "" {
					return
				}
				if err := os.MkdirAll(root+"/proc/77", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(root+"/proc/77/"+file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("stat", stat)
			write("status", "Name:\tUid:\nUid:\t"+strings.ReplaceAll(tc.uid, " ", "\t")+"\nGid:\t0\t0\t0\t0\n")
			write("loginuid", tc.login)
			write("cgroup", tc.cgroup)
			if got := Believed(root, 77); got != tc.want {
				p, ok := Look(root, 77)
				t.Errorf("believed: %v, want %v: %+v %v", got, tc.want, p, ok)
			}
		})
	}
	if !Believed(t.TempDir(), 77) {
		t.Error("a process that has ended is not believed")
	}
}
