// Package release gives system tests the release binaries of the agent.
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

// top is the top of the repository: tests run in their package's folder, two
// below it.
var top = filepath.Join("..", "..")

// built is the folder that Binary has made; empty if none.
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
	cmd.Dir = top // test/arm is a module of its own
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return dir, nil
})

// look lets the test cache know what the binaries are made of: it sees which
// files this process looks at, not which ones the compiler does.
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

// Binary is the path of azguest or agentctl. AZGUEST_BIN names a folder of
// ones built before; otherwise they are built here, as scripts/build does,
// once in a test program, which calls Remove at its end.
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
