package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemdSocket is systemd's own socket: it answers before and without
// dbus-daemon, to root only.
const systemdSocket = "/run/systemd/private"

// scopeTime bounds the whole conversation with systemd; a handler is never
// held up longer than that by it.
const scopeTime = 3 * time.Second

// HasSystemd reports whether systemd is the init of this machine, as
// sd_booted(3) does.
func HasSystemd() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// joinScope moves the calling process into a new scope of the job's slice,
// as `systemd-run --scope` does, and returns its cgroup. It talks to systemd
// itself instead of running that command because then a refusal and a
// failure of the handler can't be mistaken for each other (the reference
// has to guess from stderr, spec/extensions §3.4).
func joinScope(ctx context.Context, job Job) (string, error) {
	if !HasSystemd() {
		return "", errors.New("systemd is not running")
	}
	ctx, cancel := context.WithTimeout(ctx, scopeTime)
	defer cancel()
	conn, err := dialSystemd(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	manager := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	props := []property{
		{"Description", dbus.MakeVariant("VM extension command " + job.ID)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(os.Getpid())})},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	if job.Slice != "" {
		props = append(props, property{"Slice", dbus.MakeVariant(job.Slice)})
	}
	before := ownCgroup()
	call := manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.StartTransientUnit", 0,
		job.Scope, "fail", props, []auxUnit{})
	if call.Err != nil {
		return "", fmt.Errorf("start scope: %w", call.Err)
	}
	// The job that moves us is asynchronous; nothing may be started before.
	for {
		if now := ownCgroup(); now != before && strings.Contains(now, job.Scope) {
			break
		}
		select {
		case <-ctx.Done():
			return "", errors.New("start scope: systemd did not move the process in time")
		case <-time.After(2 * time.Millisecond):
		}
	}
	for _, u := range job.limits() {
		// A quota that can't be set, as of a service that is not there yet,
		// must not keep the handler from running.
		_ = manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.SetUnitProperties", 0, u.Name, true, quota(u.CPUPercent)).Err
	}
	return ownCgroup(), nil
}

type property struct {
	Name  string
	Value dbus.Variant
}

type auxUnit struct {
	Name  string
	Props []property
}

func dialSystemd(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.Dial("unix:path="+systemdSocket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(fmt.Errorf("authenticate to systemd: %w", err), conn.Close())
	}
	return conn, nil
}

// ownCgroup is the path of this process in the unified hierarchy, or in
// systemd's own one where that is the one in use.
func ownCgroup() string {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	defer f.Close()
	var v2, v1 string
	for s := bufio.NewScanner(f); s.Scan(); {
		part := strings.SplitN(s.Text(), ":", 3)
		switch {
		case len(part) != 3:
		case part[0] == "0" && part[1] == "":
			v2 = part[2]
		case part[1] == "name=systemd":
			v1 = part[2]
		}
	}
	if v1 != "" {
		return v1
	}
	return v2
}

// CgroupProcs lists the processes of a cgroup of systemd; none if it is gone.
// The path may be from a file that somebody else has written: it leads nowhere
// else than to a cgroup.
func CgroupProcs(path string) []int {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil
	}
	var pids []int
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		b, err := Root("").ReadBounded(filepath.Join(top, path, "cgroup.procs"), maxProcs)
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// maxProcs is more than the names of all processes that there can be.
const maxProcs = 64 << 20

// oomKills counts the kills of the OOM killer, in the cgroup if there is one
// and on the whole machine otherwise.
func oomKills(cgroup string) int64 {
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
