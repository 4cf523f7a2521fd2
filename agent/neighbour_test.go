package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/config"
)

// TestNBR1UnitOwnsNoSharedFolder: systemd changes mode and owner of what a unit
// calls its own, and "systemctl clean" removes it.
func TestNBR1UnitOwnsNoSharedFolder(t *testing.T) {
	t.Parallel()
	for line := range strings.SplitSeq(unit, "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if own := strings.HasSuffix(key, "Directory"); own && (key != "RuntimeDirectory" || value != "azguest") {
			t.Errorf("the unit owns %s", line)
		}
	}
}

// TestNBR1FoldersKeepWhatTheyHave: the agent restricts access of others to its
// directories, and leaves a group its read access, special bits, and what is
// below.
func TestNBR1FoldersKeepWhatTheyHave(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		perm       os.FileMode
		have, want os.FileMode
	}{
		{"as made", 0o700, 0o700, 0o700},
		{"a group reads", 0o700, 0o750, 0o750},
		{"a group traverses", 0o700, 0o710, 0o710},
		{"others read", 0o700, 0o755, 0o700},
		{"a group writes", 0o700, 0o770, 0o750},
		{"logs of a group", 0o755, 0o750, 0o750},
		{"logs of the owner", 0o755, 0o700, 0o700},
		{"logs that a group writes", 0o755, 0o775, 0o755},
		{"logs with setgid", 0o755, 0o755 | os.ModeSetgid, 0o755 | os.ModeSetgid},
		{"logs with setgid that a group writes", 0o755, 0o775 | os.ModeSetgid, 0o755 | os.ModeSetgid},
	} {
		a := &Agent{}
		dir := filepath.Join(t.TempDir(), "d")
		below := filepath.Join(dir, "below")
		if err := errors.Join(os.MkdirAll(below, 0o755), os.Chmod(below, 0o777), os.Chmod(dir, tc.have)); err != nil {
			t.Fatal(err)
		}
		if err := a.tighten(dir, tc.perm); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		for name, want := range map[string]os.FileMode{dir: tc.want, below: 0o777} {
			fi, err := os.Stat(name)
			if err != nil || fi.Mode()&^os.ModeDir != want {
				t.Errorf("%s: %s has mode %v (%v), want %v", tc.name, filepath.Base(name), fi.Mode(), err, want)
			}
		}
	}
}

// TestNBR6ReloadSaysWhatItDoesNotApply: changed keys that take effect only with
// the next start are named.
func TestNBR6ReloadSaysWhatItDoesNotApply(t *testing.T) {
	t.Parallel()
	have, _ := config.Parse("a", []byte("Logs.Verbose=n\nOS.EnableFirewall=n\n"))
	for text, want := range map[string][]string{
		"Logs.Verbose=n\nOS.EnableFirewall=n\n":                            nil,
		"Logs.Verbose=y\nOS.EnableFirewall=n\n":                            nil,
		"Logs.Verbose=y\nOS.EnableFirewall=y\n":                            {"OS.EnableFirewall"},
		"Provisioning.MonitorHostName=y\nOS.EnableFirewall=n\n":            {"Provisioning.MonitorHostName"},
		"Provisioning.MonitorHostName=n\n# comment\nOS.EnableFirewall=n\n": nil,
	} {
		now, _ := config.Parse("a", []byte(text))
		if got := changedKeys(have, now); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
