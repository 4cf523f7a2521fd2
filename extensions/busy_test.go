package extensions

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/extensions/handler"
)

// TestNBR7UnpackedHandlersStart: handlers can be started immediately after they
// were unpacked in parallel, directly and, as the agent does it, by a shell.
func TestNBR7UnpackedHandlersStart(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of processes")
	}
	dir := t.TempDir()
	zip := filepath.Join(dir, "p.zip")
	writeFile(t, zip, string(zipOf(t, entry{handler.ManifestName, 0o644, "[]"}, entry{"bin/run.sh", 0o644, "#!/bin/sh\nexit 0\n"})))
	hosttest.Storm(t, func(n int) error {
		to := filepath.Join(dir, fmt.Sprint(n))
		if err := unpack(zip, to, 1<<20); err != nil {
			return err
		}
		c := host.Cmd{Name: to + "/bin/run.sh"}
		if n%2 == 0 {
			c = host.Cmd{Name: "/bin/sh", Args: []string{"-c", "bin/run.sh enable"}, Dir: to}
		}
		_, err := host.Exec{}.Run(t.Context(), c)
		return err
	})
}
