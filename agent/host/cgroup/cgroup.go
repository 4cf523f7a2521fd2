package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// Of returns the cgroup paths of a process by controllers, as in
// /proc/PID/cgroup. The unified hierarchy (version 2) has the key "".
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

// ownCgroup is the cgroup path of this process: in systemd's own hierarchy of
// version 1 if there is one, else in the unified hierarchy.
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

// Procs lists the process ids in a cgroup of systemd; none if it is gone. path
// may come from a file that others can write: it can't lead out of cgroupfs.
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

// maxProcs is more bytes than a list of all possible process ids has.
const maxProcs = 64 << 20
