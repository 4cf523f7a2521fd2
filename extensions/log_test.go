package extensions

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestCommandLog: CommandExecution.log is cut to whole lines, an existing folder
// keeps its mode, and something else in place of the log does not matter.
func TestCommandLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple})
	dir := w.root.Path("/var/log/azure/P.X")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o2750); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for i := 0; b.Len() < maxCommandLog+1000; i++ {
		fmt.Fprintf(&b, "line %d %s\n", i, strings.Repeat("é", 50))
	}
	last := b.String()[b.Len()-200:]
	log := dir + "/CommandExecution.log"
	writeFile(t, log, b.String())
	w.start()
	w.offer(ext("P.X", "1.0", 0))
	got := w.read(log)
	if len(got) > maxCommandLog || !strings.HasPrefix(got, "line ") || !strings.Contains(got, last) || !strings.Contains(got, "Enable extension: [run.sh enable]") {
		t.Errorf("the log has %d bytes and begins with %.30q", len(got), got)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("mode of the folder: %v %v", fi.Mode(), err)
	}
	if exists(log + ".tmp") {
		t.Error("the temporary file is left")
	}
	// A link is not followed, and a folder is no log; neither is a failure.
	target := w.base("precious")
	writeFile(t, target, "theirs")
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, log); err != nil {
		t.Fatal(err)
	}
	if got, want := show(w.offer(ext("P.X", "1.0", 1))), "P.X 1.0 Ready 0 | 1 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if w.read(target) != "theirs" {
		t.Error("the link was followed")
	}
}
