// Package disk keeps the agent's own files within a budget: it measures what
// the agent uses in its directories, apart from the payloads of handlers, and
// removes the oldest files that can be made again or are only history. Of this
// module, it imports only the floor (DESIGN.md, The shape).
package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// young is the age from which on files may be removed: younger ones may still
// be written.
const young = 15 * time.Minute

// A Share is one part of the budget.
type Share struct {
	Name  string
	Path  string // for people: where the files are
	Used  int64  // bytes
	Files int
	// CanFree is what Clean would be allowed to remove, in bytes.
	CanFree int64
}

// Usage is the result of a measurement. Sizes are bytes.
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
	empty bool // it is emptied, not removed
}

// Dirs are the directories and files that are measured.
type Dirs struct{ Lib, HandlerLogs, AgentLog string }

// rule says which files belong to a share and whether they may be removed. The
// first rule that matches a name wins.
type rule struct {
	share   string
	globs   []string
	expend  bool // old files may be removed
	shallow bool // only matching files, not the contents of matching directories
	// empty: files are emptied, not removed. A process that a command has left
	// may have them open, and would go on filling the disk unseen.
	empty bool
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
		{share: "command output", globs: lib("azguest/ext/jobs/*/stdout", "azguest/ext/jobs/*/stderr"), expend: true, empty: true},
		{share: "agent log", globs: []string{d.AgentLog}},
		{share: "command logs", globs: []string{filepath.Join(d.HandlerLogs, "*", "CommandExecution*.log*")}},
		{share: "state", globs: lib("*.xml", "*.pem", "*.crt", "*.prv", "*.json", "azguest"), shallow: false},
	}
}

// Space returns what can be measured without cost: the space left in the file
// system of the library directory.
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

// maxEntries is the largest number of entries that are measured in one
// directory: handlers write there, and each file that is remembered takes
// memory.
const maxEntries = 200000

// Measure measures everything that the rules name. Files that vanish meanwhile
// are not an error; what can't be read is named in the error and left out.
func Measure(root host.Root, d Dirs) (Usage, error) {
	var errs []error
	u, err := Space(root, d.Lib)
	if err != nil {
		errs = append(errs, err)
	}
	now := time.Now()
	counted := map[string]bool{} // by a rule whose files are below those of another
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
					if counted[path] {
						return
					}
					if r.empty {
						counted[path] = true
					}
					size := allocated(fi)
					s.Used += size
					s.Files++
					if r.expend && now.Sub(fi.ModTime()) > young {
						s.CanFree += size
						u.expendables = append(u.expendables, file{path, size, fi.ModTime(), i, r.empty})
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
					continue // it vanished after it was listed
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

// allocated returns the space that a file takes on disk, not its length.
func allocated(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

// Plan returns which files to remove, oldest first, so that at most budget
// bytes and maxFiles files are left. It is a pure function.
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

// machine opens files by absolute path, as they are in a plan.
const machine = host.Root("/")

// Clean carries out a plan and removes directories it emptied. It returns
// the bytes that were freed.
func Clean(u Usage, plan []string) (int64, error) {
	files := make(map[string]file, len(u.expendables))
	for _, f := range u.expendables {
		files[f.name] = f
	}
	var freed int64
	var errs []error
	for _, name := range plan {
		// Handlers and their service accounts may write to these directories:
		// links in the path are not followed.
		gone := !machine.Exists(name)
		if files[name].empty {
			if err := empty(name); err != nil {
				errs = append(errs, fmt.Errorf("empty %s: %w", name, err))
			} else if !gone {
				freed += files[name].size
			}
			continue
		}
		if err := machine.Remove(name); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
			continue
		}
		if gone {
			continue
		}
		freed += files[name].size
		// The parent is removed with its last file; a directory that is not
		// empty stays.
		_ = machine.Remove(filepath.Dir(name))
	}
	return freed, errors.Join(errs...)
}

// empty removes the content of a file.
func empty(name string) error {
	f, err := machine.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}
