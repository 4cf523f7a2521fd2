package extensions

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// busyBody is a script that leaves a process running, which keeps creating files
// in the handler's directory, by its path and from inside, and creates the
// directory again if necessary.
const busyBody = `log
[ "$op" = enable ] && { status success
  setsid sh -c 'i=0; while [ ! -e "${0%/*}/stop" ] && [ $i -lt 600 ]; do i=$((i+1)); mkdir -p "$0/status/d$i" here$i; true >"$0/status/d$i/f"; true >here$i/f; done; touch "${0%/*}/stopped"' "$base" >/dev/null 2>&1 & }
exit 0
`

// TestRemovalWhileHandlerWrites: the directory of a removed handler is removed
// and stays removed, although a process of the handler still writes to it.
func TestRemovalWhileHandlerWrites(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"uninstall", "not in the goal state", "killed meanwhile"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: busyBody}).start()
			w.processed(ext("P.X", "1.0", 0))
			stopped := w.base("stopped")
			if how == "uninstall" {
				w.processed(gone(ext("P.X", "1.0", 0)))
			} else {
				w.processed()
			}
			if how == "killed meanwhile" {
				w.restart()
				w.processed()
			}
			gone := func() bool { return !exists(w.base("P.X-1.0")) }
			writeFile(t, w.base("stop"), "")
			w.await("the process to end", func(Snapshot) bool { return exists(stopped) })
			w.await("the directory to go", func(Snapshot) bool { return gone() })
			left, _ := filepath.Glob(w.base("azguest/ext/records/*"))
			if len(left) > 0 {
				t.Errorf("records are left: %q", left)
			}
			// The trash is emptied at the next start, if not before.
			w.restart()
			w.await("the trash to be emptied", func(Snapshot) bool {
				e, err := os.ReadDir(w.base("azguest/ext/tmp"))
				return err == nil && len(e) == 0
			})
			if !gone() {
				t.Error("the directory is back")
			}
			// It can be installed again, and is then not removed.
			w.repo.publish(t, pkg{name: "P.X", version: "1.0", script: simple})
			if got, want := show(w.offer(ext("P.X", "1.0", 1))), "P.X 1.0 Ready 0 | 1 success 0\n"; got != want {
				t.Errorf("installed again: got %s want %s", got, want)
			}
			w.await("the old one to be forgotten", func(Snapshot) bool { return !exists(w.base("azguest/ext/gone/P.X-1.0")) })
			if !exists(w.base("P.X-1.0/run.sh")) {
				t.Error("the new installation was removed")
			}
			for _, c := range w.calls() {
				if strings.Contains(c, "install 1") {
					return
				}
			}
			t.Errorf("calls %q", w.calls())
		})
	}
}
