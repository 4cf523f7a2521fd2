package ctl

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/status"
)

// orphan is something that an extension has left behind.
type orphan struct {
	Kind string `json:"kind"` // package, logs, unit
	Path string `json:"path"`
	Why  string `json:"why"`
}

func (a *app) orphansCmd() *cobra.Command {
	return &cobra.Command{
		Use: "orphans", Short: "List leftovers of removed extensions", Args: cobra.NoArgs,
		Long: `orphans lists packages and logs of extensions that are no longer in the goal
state, systemd units that start a program of a removed package, and processes
that run in a removed package. Nothing is changed.
Exit code 0: none found; 1: some found.`,
		RunE: func(*cobra.Command, []string) error {
			s, err := a.snapshot()
			if err != nil {
				return err
			}
			found, err := a.orphans(s)
			if a.output == "json" {
				a.json(found)
			} else if len(found) > 0 {
				rows := [][]string{{"WHAT", "WHERE", "WHY"}}
				for _, o := range found {
					rows = append(rows, []string{o.Kind, o.Path, o.Why})
				}
				table(a.Stdout, rows)
			} else if err == nil {
				a.text("no leftovers found\n")
			}
			switch {
			case err != nil:
				return exitWith(ExitUnknown, err)
			case len(found) > 0:
				return exit(ExitDegraded)
			}
			return nil
		},
	}
}

// packageDir is the name of the directory of a package: Publisher.Type-1.2.3.
var packageDir = regexp.MustCompile(`^(.+\..+)-([0-9]+(\.[0-9]+)*)$`)

func (a *app) orphans(s status.Snapshot) ([]orphan, error) {
	out := []orphan{}
	conf, _, _ := a.config() // settings that can't be read have their defaults
	has := func(name, version string) bool {
		return slices.ContainsFunc(s.Extensions, func(e status.Extension) bool {
			return strings.EqualFold(e.Name, name) && (version == "" || e.Version == version)
		})
	}
	entries, err := a.root().ReadDir(conf.Paths.Lib)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	for _, e := range entries {
		m := packageDir.FindStringSubmatch(e.Name())
		if m == nil || e.Type().IsRegular() || has(m[1], m[2]) {
			continue
		}
		why := "not in the goal state"
		if has(m[1], "") {
			why = "another version is in use"
		}
		out = append(out, orphan{"package", filepath.Join(conf.Paths.Lib, e.Name()), why})
	}
	entries, err = a.root().ReadDir(conf.Paths.ExtensionLogs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	for _, e := range entries {
		if e.IsDir() && strings.Contains(e.Name(), ".") && !has(e.Name(), "") {
			out = append(out, orphan{"logs", filepath.Join(conf.Paths.ExtensionLogs, e.Name()), "kept for troubleshooting"})
		}
	}
	return append(append(out, a.deadUnits(conf.Paths.Lib)...), a.lostProcesses(conf.Paths.Lib)...), nil
}

// lostProcesses finds processes whose program or working directory was in a
// directory below lib that was deleted. Only root can read the links of other
// users' processes. Processes of users are left out: they are not from an
// extension.
func (a *app) lostProcesses(lib string) []orphan {
	var out []orphan
	procs, _ := a.root().Glob("/proc/[0-9]*") // it fails only for a malformed pattern
	for _, p := range procs {
		if pid, err := strconv.Atoi(filepath.Base(p)); err != nil || !status.Believed(a.Root, pid) {
			continue
		}
		for _, link := range []string{"exe", "cwd"} {
			at, err := a.root().Readlink(path.Join(p, link))
			if err != nil || !strings.HasPrefix(at, lib+"/") || !strings.HasSuffix(at, " (deleted)") {
				continue
			}
			line, _ := a.root().ReadBounded(path.Join(p, "cmdline"), 1<<20) // it may end meanwhile
			name := []rune(strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
			out = append(out, orphan{"process", filepath.Base(p) + " " + clean(string(name[:min(len(name), 60)])), "its directory was deleted"})
			break
		}
	}
	return out
}

// deadUnits finds units that start a program below lib that does not exist.
func (a *app) deadUnits(lib string) []orphan {
	var out []orphan
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if fi, err := a.root().Lstat(path.Dir(dir)); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			continue // another name of a directory in this list
		}
		files, _ := a.root().Glob(path.Join(dir, "*.service")) // it fails only for a malformed pattern
		for _, name := range files {
			if prog := a.goneProgram(name, lib); prog != "" {
				out = append(out, orphan{"unit", name, prog + " does not exist"})
			}
		}
	}
	return out
}

// goneProgram returns the program below lib that a unit starts and that does
// not exist, "" if there is none.
func (a *app) goneProgram(unit, lib string) string {
	f, err := a.root().Open(unit)
	if err != nil {
		return "" // masked, or vanished
	}
	defer f.Close() // read only
	data, _ := io.ReadAll(io.LimitReader(f, 64<<10))
	for l := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(l), "=")
		if !strings.HasPrefix(key, "ExecStart") && key != "WorkingDirectory" {
			continue
		}
		for word := range strings.FieldsSeq(value) {
			word = strings.Trim(strings.TrimLeft(word, "-@:+!"), `"'`)
			if !strings.HasPrefix(word, lib+"/") {
				continue
			}
			if _, err := a.root().Stat(word); errors.Is(err, fs.ErrNotExist) {
				return word
			}
		}
	}
	return ""
}
