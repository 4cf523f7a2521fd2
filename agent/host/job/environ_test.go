package job

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
)

// TestIN13Handlers: a command of a handler has the same environment as every
// other program that the agent starts.
func TestIN13Handlers(t *testing.T) {
	t.Setenv("PATH", host.DefaultPath) // further directories of it would be passed on
	dir := filepath.Join(t.TempDir(), rand.Text())
	spec := Job{ID: filepath.Base(dir), Shell: `set -u; printf '%s\n' "PATH=$PATH" "LANG=$LANG" "HOME=$HOME" "USER=$USER" "LOGNAME=$LOGNAME" "SHELL=$SHELL" "$MORE"`, Dir: "/", Env: []string{"MORE=more"}, Timeout: time.Minute}
	if err := SelfLauncher().Start(dir, spec); err != nil {
		t.Fatal(err)
	}
	var res Result
	hosttest.Until(t, "the result", func() (ok bool) {
		res, ok = ResultOf(dir)
		return ok
	})
	out, err := os.ReadFile(filepath.Join(dir, Stdout))
	want := strings.Join(append(host.Root("/").BaseEnvironment(), "more"), "\n") + "\n"
	if err != nil || res.Code != 0 || string(out) != want {
		t.Errorf("result %+v, output %q, %v, want %q", res, out, err, want)
	}
}
