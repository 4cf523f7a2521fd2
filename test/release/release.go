// Package release provides the release binaries of the agent to system tests.
package release

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// top is the top of the repository: tests run in the directory of their
// package, two levels below.
var top = filepath.Join("..", "..")

// built is the directory that Binary has created; empty if none.
var built string

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("AZGUEST_BIN"); dir != "" {
		return dir, nil
	}
	if err := look(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "azguest-release-")
	if err != nil {
		return "", err
	}
	built = dir
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w", "-o", dir+"/",
		"github.com/azguest/azguest/agent/cmd/azguest", "github.com/azguest/azguest/agent/cmd/agentctl")
	cmd.Dir = top // test/arm has a go.mod of its own
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return dir, nil
})

// look looks at the sources of the binaries, so that the test cache depends on
// them: it knows the files that this process looks at, not those that the
// compiler reads.
func look() error {
	for _, dir := range []string{"agent", "extensions", "ovf", "protocol", "provisioning"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Binary returns the path of azguest or agentctl. AZGUEST_BIN names a directory
// with existing binaries; otherwise they are built as by scripts/build, once
// per test program, which must call Remove at its end.
func Binary(t testing.TB, name string) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// Remove deletes what Binary has built.
func Remove() {
	if built != "" {
		_ = os.RemoveAll(built)
	}
}
