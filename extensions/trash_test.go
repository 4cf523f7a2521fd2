package extensions

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/handler"
)

// TestSEC5RemovalDelaysNothing: a leftover process in the directory of a
// removed handler creates files as fast as they are deleted. This delays
// neither the start of the agent nor later work.
func TestSEC5RemovalDelaysNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple})
	dir := w.root.Path("/var/lib/waagent/azguest/ext/tmp/left")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var end atomic.Bool
	var makers sync.WaitGroup
	full := make(chan bool)
	for m := range 6 {
		makers.Go(func() {
			for i := 0; !end.Load(); i++ {
				_ = os.MkdirAll(dir+"/"+strconv.Itoa(m)+"-"+strconv.Itoa(i%1000), 0o700)
				if m == 0 && i == 900 {
					close(full)
				}
			}
		})
	}
	defer makers.Wait()
	defer end.Store(true)
	<-full
	w.start()
	if got, want := show(w.offer(ext("P.X", "1.0", 0))), "P.X 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// TestSEC7OldStatusFilesAreLimited: a version change copies the newest status
// files, but not any number of them.
func TestSEC7OldStatusFilesAreLimited(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	if names, err := handler.PastFiles(base, "status", nil); err != nil || len(names) > 0 {
		t.Errorf("no folder: %v %v", names, err)
	}
	if err := os.Mkdir(base+"/status", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 1200 {
		name := fmt.Sprintf("%s/status/%d.status", base, i)
		writeFile(t, name, "[]")
		if i < 1000 {
			if err := os.Truncate(name, handler.MaxStatusFile); err != nil { // a sparse file
				t.Fatal(err)
			}
		}
	}
	names, err := handler.PastFiles(base, "status", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > handler.MaxPastFiles || len(names) < 200 || names[0] != "1199.status" {
		t.Errorf("%d files, the first is %v", len(names), names[:min(1, len(names))])
	}
	if err := os.Symlink("/etc", base+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	if names, err := handler.PastFiles(base, "elsewhere", nil); !errors.Is(err, host.ErrUnsafe) || len(names) > 0 {
		t.Errorf("a link: %v %v", names, err)
	}
}
