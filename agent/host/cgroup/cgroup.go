package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// Of are the cgroups of a process by their controllers, "" for the
// unified hierarchy.
func Of(pid int) map[string]string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(part) == 3 {
			out[part[1]] = part[2]
		}
	}
	return out
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

// Procs lists the processes of a cgroup of systemd; none if it is gone.
// The path may be from a file that somebody else has written: it leads nowhere
// else than to a cgroup.
func Procs(path string) []int {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil
	}
	var pids []int
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		b, err := host.Root("").ReadBounded(filepath.Join(top, path, "cgroup.procs"), maxProcs)
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
