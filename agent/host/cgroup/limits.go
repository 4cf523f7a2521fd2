package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// A UnitLimit is the CPU limit of a systemd unit.
type UnitLimit struct {
	Name       string `json:"name"`
	CPUPercent int    `json:"cpuPercent,omitempty"` // of one core; 0 sets no limit
}

// limits are the quotas to set along with the scope. A quota of 0 (no limit)
// is set only to remove an earlier one.
func (s Scope) limits() []UnitLimit {
	var out []UnitLimit
	for _, l := range s.Limits {
		if l.Name == "" {
			continue
		}
		_, err := os.Lstat("/run/systemd/system.control/" + l.Name + ".d/50-CPUQuota.conf")
		if l.CPUPercent > 0 || err == nil {
			out = append(out, l)
		}
	}
	return out
}

// quota returns the unit properties for a limit in per cent of one core; 0 is
// no limit.
func quota(percent int) []property {
	// 1 % of one core is 10 ms of each second.
	usec := uint64(percent) * 10000
	if percent == 0 {
		usec = math.MaxUint64
	}
	return []property{
		{"CPUAccounting", dbus.MakeVariant(true)},
		{"CPUQuotaPerSecUSec", dbus.MakeVariant(usec)},
	}
}

const cgroups = "/sys/fs/cgroup"

// limitTops are the directories in cgroupfs with limits: that of the unified
// hierarchy, and those of the controllers of version 1.
var limitTops = []string{"", "/cpu", "/cpu,cpuacct", "/memory", "/pids"}

// Throttled is how long CPU quotas have kept a cgroup waiting since it exists:
// the longest time among the cgroup and the slices that it is in.
func Throttled(cgroup string) time.Duration {
	if cgroup == "" {
		return 0
	}
	var out time.Duration
	for _, top := range limitTops {
		for dir := filepath.Join(cgroups, top, cgroup); len(dir) > len(cgroups+top); dir = filepath.Dir(dir) {
			stat := filepath.Join(dir, "cpu.stat")
			if n, ok := counter(stat, "throttled_usec"); ok {
				out = max(out, time.Duration(n)*time.Microsecond)
			} else if n, ok := counter(stat, "throttled_time"); ok {
				out = max(out, time.Duration(n))
			}
		}
	}
	return out
}

// Limits are what a cgroup may use at most; 0 is no limit.
type Limits struct {
	CPUPercent int   // of one core
	MemoryMax  int64 // bytes
	TasksMax   int
	Throttled  time.Duration // for how long its processes were kept waiting for CPU
}

// LimitsOf reads the limits in force for a cgroup: its own and those of
// the slices it is in. ok is false if there is no such cgroup.
func LimitsOf(path string) (l Limits, ok bool) {
	if path == "" || path == "/" {
		return l, false
	}
	for _, top := range []string{"", "/unified", "/systemd"} {
		_, err := os.Stat(cgroups + top + path)
		ok = ok || err == nil
	}
	if !ok {
		return l, false
	}
	for _, top := range limitTops {
		// In version 1 a cgroup without a limit is missing in that hierarchy.
		for dir := filepath.Join(cgroups, top, path); len(dir) > len(cgroups+top); dir = filepath.Dir(dir) {
			l.read(dir)
		}
	}
	l.Throttled = Throttled(path)
	return l, true
}

// read adds the limits in one directory of cgroupfs, of either version.
func (l *Limits) read(dir string) {
	number := func(name string) int64 {
		n, err := strconv.ParseInt(firstLine(dir+"/"+name), 10, 64)
		if err != nil || n < 0 || n >= 1<<60 { // "max", -1, and what version 1 calls no limit
			return 0
		}
		return n
	}
	q, p := number("cpu.cfs_quota_us"), number("cpu.cfs_period_us")
	if quota, period, found := strings.Cut(firstLine(dir+"/cpu.max"), " "); found && quota != "max" {
		q, _ = strconv.ParseInt(quota, 10, 64) // 0 is none
		p, _ = strconv.ParseInt(period, 10, 64)
	}
	if q > 0 && p > 0 {
		l.CPUPercent = int(least(int64(l.CPUPercent), max(1, 100*q/p)))
	}
	for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
		if n := number(name); n > 0 {
			l.MemoryMax = least(l.MemoryMax, n)
		}
	}
	if n := number("pids.max"); n > 0 {
		l.TasksMax = int(least(int64(l.TasksMax), n))
	}
}

// least is the smaller limit, where 0 is none.
func least(a, b int64) int64 {
	if a == 0 || b < a {
		return b
	}
	return a
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// OOMKills counts the kills of the OOM killer, in the cgroup if there is one
// and on the whole machine otherwise.
func OOMKills(cgroup string) int64 {
	if cgroup != "" {
		if n, ok := counter(filepath.Join("/sys/fs/cgroup", cgroup, "memory.events"), "oom_kill"); ok {
			return n
		}
		if n, ok := counter(filepath.Join("/sys/fs/cgroup/memory", cgroup, "memory.oom_control"), "oom_kill"); ok {
			return n
		}
	}
	n, _ := counter("/proc/vmstat", "oom_kill")
	return n
}

// counter reads one "name value" line.
func counter(path, name string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
