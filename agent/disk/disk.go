// Package disk keeps the agent's own files within a budget: it
// measures what the agent uses below its directories, apart from the
// handlers' own payloads, and a single janitor removes the oldest of what
// can be made again or is only history. It imports the floor only.
package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// young is how long a file is left alone: somebody may be writing it.
const young = 15 * time.Minute

// A Share is one part of the budget.
type Share struct {
	Name  string
	Path  string // what a person would look at
	Used  int64  // bytes
	Files int
	// CanFree is what the janitor would be allowed to remove.
	CanFree int64
}

// Usage is the whole picture. Sizes are bytes.
type Usage struct {
	Shares      []Share
	Used        int64
	Files       int
	Free        int64 // of the file system under the library directory
	Size        int64
	InodesFree  int64
	Inodes      int64 // in all; 0 if the file system does not count them
	ReadOnly    bool
	expendables []file
}

type file struct {
	name  string
	size  int64
	at    time.Time
	share int
}

// Dirs are the directories that count.
type Dirs struct{ Lib, HandlerLogs, AgentLog string }

// rule says which files belong to a share and whether the janitor may take
// them. The first rule that matches a name wins.
type rule struct {
	share   string
	globs   []string
	expend  bool // old ones may go
	shallow bool // only the names themselves, not what is below
}

func rules(d Dirs) []rule {
	lib := func(names ...string) []string {
		for i, n := range names {
			names[i] = filepath.Join(d.Lib, n)
		}
		return names
	}
	return []rule{
		{share: "history", globs: lib("history"), expend: true},
		{share: "telemetry spool", globs: lib("events"), expend: true},
		{share: "packages", globs: lib("*.zip"), expend: true, shallow: true},
		{share: "agent versions", globs: lib("WALinuxAgent-*")},
		{share: "log collector", globs: lib("logcollector"), expend: true},
		{share: "rotated logs", globs: []string{strings.TrimSuffix(d.AgentLog, ".log") + "-*.log*", d.AgentLog + ".*"}, expend: true},
		{share: "agent log", globs: []string{d.AgentLog}},
		{share: "command logs", globs: []string{filepath.Join(d.HandlerLogs, "*", "CommandExecution*.log*")}},
		{share: "state", globs: lib("*.xml", "*.pem", "*.crt", "*.prv", "*.json", "azguest"), shallow: false},
	}
}

// Space is the part of the picture that costs nothing to look at: what the
// file system under the library directory has left.
func Space(root host.Root, lib string) (Usage, error) {
	var u Usage
	var st unix.Statfs_t
	err := unix.Statfs(root.Path(lib), &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return u, nil
	case err != nil:
		return u, fmt.Errorf("check file system of %s: %w", lib, err)
	}
	u.Free = int64(st.Bavail) * st.Bsize
	u.Size = int64(st.Blocks) * st.Bsize
	u.InodesFree, u.Inodes = int64(st.Ffree), int64(st.Files)
	u.ReadOnly = st.Flags&unix.ST_RDONLY != 0
	return u, nil
}

// maxEntries bounds what is looked at in one directory: the handlers write
// there, and what is remembered of each file is memory of the agent's.
const maxEntries = 200000

// Measure looks at everything the rules name. Files that vanish meanwhile
// are not an error; what can't be read is named in the error and left out.
func Measure(root host.Root, d Dirs) (Usage, error) {
	var errs []error
	u, err := Space(root, d.Lib)
	if err != nil {
		errs = append(errs, err)
	}
	now := time.Now()
	for i, r := range rules(d) {
		s := Share{Name: r.share, Path: r.globs[0]}
		for _, pattern := range r.globs {
			names, err := root.Glob(pattern)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, name := range names {
				count := func(path string, fi fs.FileInfo) {
					size := allocated(fi)
					s.Used += size
					s.Files++
					if r.expend && now.Sub(fi.ModTime()) > young {
						s.CanFree += size
						u.expendables = append(u.expendables, file{path, size, fi.ModTime(), i})
					}
				}
				fi, err := root.Lstat(name)
				switch {
				case err != nil:
				case !fi.IsDir():
					count(root.Path(name), fi)
				case !r.shallow:
					err = root.Walk(name, maxEntries, func(rel string, _ *host.Dir, fi fs.FileInfo, err error) error {
						switch {
						case err != nil:
							return err
						case !fi.IsDir():
							count(filepath.Join(root.Path(name), rel), fi)
						}
						return nil
					})
				}
				if errors.Is(err, fs.ErrNotExist) {
					continue // it vanished between the listing and the look
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("measure %s: %w", name, err))
				}
			}
		}
		u.Shares = append(u.Shares, s)
		u.Used += s.Used
		u.Files += s.Files
	}
	slices.SortStableFunc(u.expendables, func(a, b file) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.name, b.name)) })
	return u, errors.Join(errs...)
}

// allocated is what the file takes, not how long it claims to be.
func allocated(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

// Plan says which files to remove, oldest first, so that at most budget
// bytes and maxFiles files are left. It is pure.
func Plan(u Usage, budget int64, maxFiles int) []string {
	used, files := u.Used, u.Files
	var out []string
	for _, f := range u.expendables {
		if used <= budget && files <= maxFiles {
			break
		}
		out = append(out, f.name)
		used -= f.size
		files--
	}
	return out
}

// machine takes complete paths, which is what a plan has.
const machine = host.Root("/")

// Clean carries out a plan and removes directories it emptied. It returns
// the bytes that were freed.
func Clean(u Usage, plan []string) (int64, error) {
	sizes := make(map[string]int64, len(u.expendables))
	for _, f := range u.expendables {
		sizes[f.name] = f.size
	}
	var freed int64
	var errs []error
	for _, name := range plan {
		// Handlers, and whom they run as, may write in these directories: no
		// link that was put on the way is followed.
		gone := !machine.Exists(name)
		if err := machine.Remove(name); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
			continue
		}
		if gone {
			continue
		}
		freed += sizes[name]
		// The parent goes with its last file; a filled one stays.
		_ = machine.Remove(filepath.Dir(name))
	}
	return freed, errors.Join(errs...)
}
