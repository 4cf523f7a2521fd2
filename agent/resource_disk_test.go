package agent

import (
	"context"
	"os"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/fabric"
)

// files writes the files of a machine.
func files(t *testing.T, r host.Root, list map[string]string) {
	t.Helper()
	for name, text := range list {
		if err := r.MkdirAll(path.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := r.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// withDisk returns what the kernel shows of a resource disk of 4 MiB.
func withDisk(content string) map[string]string {
	return map[string]string{
		"/sys/bus/vmbus/devices/a/device_id": "{f8b3781a-1e82-4818-a1c3-63d806ec15bb}\n", "/sys/bus/vmbus/devices/a/host0/target0:0:0/0:0:0:1/block/sdb/x": "",
		"/sys/block/sdb/size": "8192\n", "/sys/block/sdb/dev": "8:16\n", "/sys/block/sdb/ro": "0\n", "/proc/self/mountinfo": "", "/proc/swaps": "Filename\n",
		"/dev/sdb": content + strings.Repeat("\x00", 4<<20-len(content)), "/dev/sdb1": "",
	}
}

func TestResourceDisk(t *testing.T) {
	t.Parallel()
	blank, ext := "", strings.Repeat("\x00", 1080)+"\x53\xef"
	for name, tc := range map[string]struct {
		content string
		format  bool
		fs      string
		ran     string
		problem string
	}{
		"not asked for": {blank, false, "ext4", "", ""},
		"blank":         {blank, true, "ext4", "mkfs.ext4 mount", ""},
		"has data":      {"LUKS\xba\xbe", true, "ext4", "", "not changed"},
		"a file system": {ext, true, "ext4", "mount", ""},
		"bad config":    {blank, true, "ntfs", "", "is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testAgent(t, fabric.New(t), func(c *config.Config) {
				c.ResourceDisk.Format, c.ResourceDisk.FileSystem, c.ResourceDisk.MountPoint = tc.format, tc.fs, "/mnt/resource"
			})
			run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
			a.Runner = run
			files(t, a.Root, withDisk(tc.content))
			a.diskLatch.open()
			if err := a.resourceDisk(t.Context()); err != nil {
				t.Fatal(err)
			}
			var ran []string
			for _, c := range run.Commands() {
				ran = append(ran, strings.Fields(c)[0])
			}
			problem := ""
			for _, p := range a.live.copy().Problems {
				problem = p.Message
			}
			if strings.Join(ran, " ") != tc.ran || (problem == "") != (tc.problem == "") || !strings.Contains(problem, tc.problem) {
				t.Errorf("ran %q, problem %q", ran, problem)
			}
			if readme := a.Root.Exists("/mnt/resource/DATALOSS_WARNING_README.txt"); readme != strings.Contains(tc.ran, "mount") {
				t.Errorf("warning: %v", readme)
			}
		})
	}
}

// TestResourceDiskWaitsForProvisioning: nothing waits for the disk, and it
// waits for those who may still make file systems.
func TestResourceDiskWaitsForProvisioning(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		owner    provisioning.Owner
		standing provisioning.Standing
		at       bool // at once
	}{
		"first boot":                     {provisioning.OwnerSelf, provisioning.Fresh, false},
		"later boot":                     {provisioning.OwnerSelf, provisioning.Provisioned, true},
		"copy of a machine":              {provisioning.OwnerSelf, provisioning.Moved, true},
		"nobody":                         {provisioning.OwnerNobody, provisioning.Fresh, true},
		"cloud-init, first boot":         {provisioning.OwnerCloudInit, provisioning.Fresh, false},
		"cloud-init, a later boot":       {provisioning.OwnerCloudInit, provisioning.Provisioned, true},
		"azure-init, the disk has moved": {provisioning.OwnerAzureInit, provisioning.Moved, false},
	} {
		a := &Agent{diskLatch: newLatch()}
		a.decided(provisioning.Finding{Owner: tc.owner}, tc.standing)
		select {
		case <-a.diskLatch.opened:
			if !tc.at {
				t.Errorf("%s: the disk is prepared at once, want it to wait", name)
			}
		default:
			if tc.at {
				t.Errorf("%s: the disk waits, want it prepared at once", name)
			}
		}
		a.diskLatch.open()
		a.diskLatch.open() // opening it twice has no effect
	}
}

func TestResourceDiskComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, fabric.New(t), func(c *config.Config) { c.ResourceDisk.Format, c.ResourceDisk.FileSystem = true, "ext4" })
		ctx, cancel := context.WithCancel(t.Context())
		a.diskLatch.open()
		start := time.Now()
		if err := a.resourceDisk(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 20*time.Second || took > time.Minute {
			t.Errorf("looked for %v", took)
		}
		if p := a.live.copy().Problems; len(p) != 0 {
			t.Errorf("a size without such a disk: %+v", p)
		}
		a.cfg.ResourceDisk.EnableSwap, a.cfg.ResourceDisk.SwapSizeMB = true, 64
		if err := a.resourceDisk(ctx); err != nil {
			t.Fatal(err)
		}
		if p := a.live.copy().Problems; len(p) != 1 || !strings.Contains(p[0].Message, "no resource disk") {
			t.Errorf("problems: %+v", p)
		}
		cancel()
		if err := a.resourceDisk(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestScsiTimeout(t *testing.T) {
	t.Parallel()
	a := testAgent(t, fabric.New(t), func(c *config.Config) { c.OS.RootDeviceScsiTimeout = "300" })
	files(t, a.Root, map[string]string{"/sys/block/sda/device/timeout": "30\n", "/sys/block/sdb/device/timeout": "300\n", "/sys/block/nvme0n1/device/timeout": "30\n"})
	if err := os.Chmod(a.Root.Path("/sys/block/sdb/device/timeout"), 0o400); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(a.Root.Path("/sys/block/sdb/device/timeout"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.scsiTimeout(t.Context()); err != nil {
		t.Fatal(err)
	}
	for disk, want := range map[string]string{"sda": "300", "sdb": "300", "nvme0n1": "30"} {
		if b, err := a.Root.ReadFile("/sys/block/" + disk + "/device/timeout"); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %q, %v", disk, b, err)
		}
	}
	if after, err := os.Stat(a.Root.Path("/sys/block/sdb/device/timeout")); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Error("a correct timeout was written again")
	}
	for in, want := range map[string]string{"": "", "None": "", " 60 ": "60", "0": "!", "-1": "!", "x": "!", "100000": "!"} {
		got, err := scsiSeconds(in)
		if (err != nil) != (want == "!") || err == nil && got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func TestOptionalJobsAreOff(t *testing.T) {
	t.Parallel()
	names := func(a *Agent) string {
		var out []string
		for _, j := range a.jobs() {
			out = append(out, j.name)
		}
		return strings.Join(out, " ")
	}
	f := fabric.New(t)
	for _, n := range []string{"scsi-timeout", "host-name", "logs"} {
		if s := names(testAgent(t, f)); strings.Contains(s, n) {
			t.Errorf("by default there is the job %s: %s", n, s)
		}
	}
	s := names(testAgent(t, f, func(c *config.Config) { c.OS.RootDeviceScsiTimeout, c.Provisioning.MonitorHostName = "300", true }))
	if !strings.Contains(s, "scsi-timeout") || !strings.Contains(s, "host-name") {
		t.Errorf("asked for, and not there: %s", s)
	}
}
