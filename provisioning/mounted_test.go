package provisioning_test

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/host"
)

// TestIN8MountedFiles: a single file that is a mount point is written in place;
// one that is read-only is an error and stays.
func TestIN8MountedFiles(t *testing.T) {
	if !insideBox(t) {
		return
	}
	sh(t, `mkdir /tmp/m && cd /tmp/m && echo "127.0.0.1 localhost" >hosts && echo old >hostname && chmod 640 hosts
		touch /etc/hosts /etc/hostname
		mount --bind hosts /etc/hosts && mount --bind hostname /etc/hostname && mount -o remount,bind,ro /etc/hostname`)
	before := sh(t, "stat -c '%i %a' /tmp/m/hosts")
	if err := host.Root("/").WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n127.0.1.1 vm\n"), 0o644); err != nil {
		t.Error(err)
	}
	if got := sh(t, "cat /tmp/m/hosts"); !strings.HasSuffix(got, "127.0.1.1 vm") {
		t.Errorf("hosts: %q", got)
	}
	if err := host.Root("/").WriteFile("/etc/hosts", []byte("x\n"), 0o644); err != nil || sh(t, "cat /etc/hosts") != "x" {
		t.Errorf("a shorter text: %v, %q", err, sh(t, "cat /etc/hosts"))
	}
	if got := sh(t, "stat -c '%i %a' /tmp/m/hosts"); got != before {
		t.Errorf("file %s, was %s", got, before)
	}
	if err := host.Root("/").WriteFile("/etc/hostname", []byte("vm\n"), 0o644); err == nil || sh(t, "cat /etc/hostname") != "old" {
		t.Errorf("read-only file: error %v", err)
	}
	if left := sh(t, "ls -A /etc | grep azg- || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}
