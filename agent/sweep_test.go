package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
)

// TestSweep: temporary files of interrupted writes are removed at the next
// start in all directories to which the agent writes; other files stay.
func TestSweep(t *testing.T) {
	root := t.TempDir()
	a := &Agent{Options: Options{Root: host.Root(root), Log: zerolog.Nop()}, cfg: config.Default()}
	lib := a.cfg.Paths.Lib
	put := func(name string) string {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	var gone, stays []string
	for _, n := range []string{
		"/etc/.shadow.azg-1", "/run/azguest/.status.json.azg-2",
		lib + "/.ovf-env.xml.azg-3", lib + "/A.B-1.0.0/config/.HandlerState.azg-4", lib + "/A.B-1.0.0/status/.0.status.azg-5",
		lib + "/history/1__2/.GoalState.xml.azg-6", lib + "/azguest/.user.json.azg-7", lib + "/azguest/key/.key.azg-8",
		lib + "/azguest/ext/packages/.A.B-1.0.0.zip.azg-9", lib + "/azguest/ext/records/.A.B-1.0.0.json.azg-10",
	} {
		gone = append(gone, put(n))
	}
	for _, n := range []string{
		"/etc/shadow", "/etc/.pwd.lock", lib + "/A.B-1.0.0/config/HandlerState", lib + "/A.B-1.0.0/bin/.x.azg-1",
		lib + "/azguest/ext/packages/A.B-1.0.0.zip", lib + "/azguest/ext/jobs/1/.result.json.azg-1",
	} {
		stays = append(stays, put(n))
	}
	a.sweep()
	for _, p := range gone {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s is left over", p)
		}
	}
	for _, p := range stays {
		if _, err := os.Lstat(p); err != nil {
			t.Error(err)
		}
	}
}
