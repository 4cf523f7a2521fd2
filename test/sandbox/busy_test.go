package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/test/sandbox"
)

// Programs are installed in sandboxes and started there while other tests fork
// (see write).
func TestNBR7InstalledProgramsStart(t *testing.T) {
	need(t)
	s, err := sandbox.New(t.Context(), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const text = "#!/bin/sh\nexit 0\n"
	from := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	hosttest.Storm(t, func(n int) error {
		name := fmt.Sprintf("/usr/local/bin/program-%d", n)
		var err error
		if n%2 == 0 {
			err = s.Install(from, name, 0o755)
		} else {
			err = s.WriteFile(name, []byte(text), 0o755)
		}
		if err != nil {
			return err
		}
		_, err = s.Run(t.Context(), "sh", "-c", name)
		return err
	})
}
