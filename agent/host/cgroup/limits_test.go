package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestThrottled reads the kernel's own counters, of a control group made for
// it.
func TestThrottled(t *testing.T) {
	name := fmt.Sprintf("/azguest-test-%d", os.Getpid())
	dir := ""
	for _, top := range limitTops {
		d := filepath.Join(cgroups, top, name)
		if os.Mkdir(d, 0o755) != nil {
			continue
		}
		defer func() { _ = os.Remove(d) }()
		v1 := os.WriteFile(d+"/cpu.cfs_quota_us", []byte("10000"), 0)
		if v1 == nil || os.WriteFile(d+"/cpu.max", []byte("10000 100000"), 0) == nil {
			dir = d
			break
		}
	}
	if dir == "" {
		t.Skip("no control group to be had that limits the CPU")
	}
	inner := dir + "/inner" // has no limit of its own
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(inner) }()
	if got := Throttled(name + "/inner"); got != 0 {
		t.Errorf("before: %v", got)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c",
		"echo $$ >"+inner+"/cgroup.procs && i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; cat /proc/self/cgroup").CombinedOutput()
	if err != nil || !strings.Contains(string(out), name+"/inner") {
		t.Skipf("no process can be put there: %v %s", err, out)
	}
	if got := Throttled(name + "/inner"); got <= 0 || got > time.Minute {
		t.Errorf("after: %v", got)
	}
	if Throttled("/nonexistent") != 0 || Throttled("") != 0 {
		t.Error("Throttled() of a missing group is not 0")
	}
}

// TestLimits: the same limits in both versions of cgroupfs give the same
// result.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		want  Limits
	}{
		"unified": {map[string]string{"cpu.max": "25000 100000\n", "memory.max": "1048576\n", "pids.max": "max\n"}, Limits{CPUPercent: 25, MemoryMax: 1 << 20}},
		"none":    {map[string]string{"cpu.max": "max 100000\n", "memory.max": "max\n"}, Limits{}},
		"first": {map[string]string{
			"cpu.cfs_quota_us": "60000\n", "cpu.cfs_period_us": "100000\n", "memory.limit_in_bytes": "9223372036854771712\n", "pids.max": "7\n",
		}, Limits{CPUPercent: 60, TasksMax: 7}},
		"first, none": {map[string]string{"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, Limits{}},
	} {
		dir := t.TempDir()
		for f, text := range tc.files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var got Limits
		got.read(dir)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
