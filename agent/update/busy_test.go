package update

import (
	"archive/zip"
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/update/updatetest"
)

// TestNBR7UnpackedVersionsStart: a version can be started although it was
// unpacked while handlers were being started.
func TestNBR7UnpackedVersionsStart(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of processes")
	}
	dir := t.TempDir()
	b := updatetest.Zip(updatetest.File{Name: "bin/azguest", Data: []byte("#!/bin/sh\nexit 0\n")})
	hosttest.Storm(t, func(n int) error {
		to := filepath.Join(dir, fmt.Sprint(n))
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return err
		}
		entries, err := packageRules.Check(z, int64(len(b)))
		if err != nil {
			return err
		}
		if err := unpack(entries, to); err != nil {
			return err
		}
		_, err = host.Exec{}.Run(t.Context(), host.Cmd{Name: filepath.Join(to, "bin/azguest")})
		return err
	})
}
