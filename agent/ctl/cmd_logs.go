package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/secret"
)

func (a *app) logsCmd() *cobra.Command {
	var (
		follow bool
		lines  int
	)
	c := &cobra.Command{
		Use: "logs [EXTENSION]", Short: "The log of the agent, or the logs of an extension", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeExt,
		RunE: func(c *cobra.Command, args []string) error {
			if lines < 0 {
				return usage("--lines is a number from 0 up")
			}
			files, dir, err := a.logFiles(args)
			if err != nil {
				return err
			}
			t := &tailer{app: a, at: map[string]int64{}}
			for _, f := range files {
				if err := t.last(f, lines, len(files) > 1); err != nil {
					return exitWith(ExitUnknown, fmt.Errorf("read log: %w", err))
				}
			}
			if !follow {
				return nil
			}
			return t.follow(c.Context(), files, dir)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written from now on")
	c.Flags().IntVarP(&lines, "lines", "n", 50, "how many lines of each file")
	return c
}

// logFiles finds what to show: the agent's log, or every log file in the
// directory of an extension, and the directory to watch.
func (a *app) logFiles(args []string) (files []string, dir string, err error) {
	conf, _, _ := a.config() // what cannot be read is at its default
	if len(args) == 0 {
		if conf.Logs.File == "" {
			return nil, "", exitWith(ExitUnknown, errors.New("the agent writes no log file (Logs.File=off): journalctl -u azguest"))
		}
		f := filepath.Join(a.Root, conf.Logs.File)
		if _, err := os.Stat(f); err != nil {
			return nil, "", exitWith(ExitUnknown, fmt.Errorf("%w; try: journalctl -u azguest", err))
		}
		return []string{f}, filepath.Dir(f), nil
	}
	name := args[0]
	if s, _, err := a.load(); err == nil {
		if found, err := findExt(s, name); err == nil {
			name = found[0].Name
			if d := found[0].LogDir; d != "" {
				dir = filepath.Join(a.Root, d)
			}
		}
	}
	if dir == "" {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return nil, "", usage("%q is not the name of an extension", name)
		}
		dir = filepath.Join(a.Root, conf.Paths.ExtensionLogs, name)
	}
	// One extension may have one directory per version below; deeper it gets
	// into somebody else's data.
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && p == dir:
			return err
		case err != nil:
			return nil //nolint:nilerr // a subdirectory that vanished or is not ours to read is not shown
		case d.IsDir() && strings.Count(strings.TrimPrefix(p, dir), "/") > 2:
			return fs.SkipDir
		case d.Type().IsRegular() && plainLog(p):
			files = append(files, p)
		}
		return nil
	})
	if err != nil {
		return nil, "", exitWith(ExitUnknown, fmt.Errorf("no logs of %s: %w", name, err))
	}
	slices.SortFunc(files, func(x, y string) int { return modTime(x).Compare(modTime(y)) })
	return files, dir, nil
}

func plainLog(p string) bool {
	switch filepath.Ext(p) {
	case ".gz", ".zip", ".xz", ".json", ".tmp":
		return false
	}
	return true
}

// tailer prints the ends of files and remembers how far it got.
type tailer struct {
	app  *app
	at   map[string]int64
	head string // file whose name was printed last
}

// maxTail is how far back last looks for the beginning of a line.
const maxTail = 1 << 20

func (t *tailer) last(name string, lines int, header bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	from := max(0, fi.Size()-maxTail)
	data, err := io.ReadAll(io.NewSectionReader(f, from, fi.Size()-from))
	if err != nil {
		return err
	}
	t.at[name] = from + int64(len(data))
	if header {
		t.header(name)
	}
	t.app.text("%s", t.safe(lastLines(data, lines)))
	return nil
}

func lastLines(data []byte, n int) []byte {
	end := len(bytes.TrimSuffix(data, []byte("\n")))
	i := end
	for ; n > 0 && i >= 0; n-- {
		i = bytes.LastIndexByte(data[:i], '\n')
	}
	if n == 0 && i == end {
		return nil
	}
	return data[i+1:]
}

func (t *tailer) header(name string) {
	if t.head != name {
		t.app.text("==> %s <==\n", strings.TrimPrefix(name, t.app.Root))
		t.head = name
	}
}

// safe keeps control characters of others from a terminal, and secrets from
// whoever looks over a shoulder or is sent what was printed.
func (t *tailer) safe(b []byte) string {
	s := secret.Redact(string(b))
	if t.app.TTY {
		return clean(s)
	}
	return s
}

// follow prints what is appended, as the kernel tells of it.
func (t *tailer) follow(ctx context.Context, files []string, dir string) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer w.Close() // read only
	dirs := []string{dir}
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	slices.Sort(dirs)
	for _, d := range slices.Compact(dirs) {
		if err := w.Add(d); err != nil {
			return fmt.Errorf("follow %s: %w", d, err)
		}
	}
	one := len(files) == 1
	more := func(name string) error {
		if _, known := t.at[name]; !known && (one || !plainLog(name)) {
			return nil // another file beside the agent's log
		}
		return t.more(name, !one)
	}
	for _, f := range files { // what came between reading and watching
		if err := more(f); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is how this ends
		case ev := <-w.Events:
			if ev.Has(fsnotify.Write) || ev.Has(fsnotify.Create) {
				if err := more(ev.Name); err != nil {
					return err
				}
			}
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("follow: %w", err)
			}
		}
	}
}

func (t *tailer) more(name string, header bool) error {
	fi, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil //nolint:nilerr // rotated away meanwhile; its successor has its own event
	}
	defer f.Close() // read only
	if fi.Size() < t.at[name] {
		t.at[name] = 0 // truncated, or a new file of the same name
	}
	data, err := io.ReadAll(io.NewSectionReader(f, t.at[name], fi.Size()-t.at[name]))
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	if len(data) == 0 {
		return nil
	}
	t.at[name] += int64(len(data))
	if header {
		t.header(name)
	}
	t.app.text("%s", t.safe(data))
	return nil
}
