package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

func (a *app) logsCmd() *cobra.Command {
	var (
		follow bool
		lines  = 50
	)
	c := &cobra.Command{
		Use: "logs [EXTENSION]", Short: "Show the log of the agent or the logs of an extension", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeExt,
		RunE: func(c *cobra.Command, args []string) error {
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
	c.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing new lines")
	lineCount(c, &lines, "number of lines of each file")
	return c
}

// logFiles finds what to show: the agent's log, or every log file in the
// directory of an extension, and the directory to watch.
func (a *app) logFiles(args []string) (files []string, dir string, err error) {
	conf, _, _ := a.config() // settings that can't be read have their defaults
	if len(args) == 0 {
		if conf.Logs.File == "" {
			return nil, "", exitWith(ExitUnknown, errors.New("the agent writes no log file (Logs.File=off); run: journalctl -u azguest"))
		}
		f := path.Clean("/" + conf.Logs.File)
		if _, err := a.root().Stat(f); err != nil {
			return nil, "", exitWith(ExitUnknown, fmt.Errorf("%w; run: journalctl -u azguest", err))
		}
		return []string{f}, path.Dir(f), nil
	}
	name := args[0]
	if s, _, err := a.load(); err == nil {
		if found, err := findExt(s, name); err == nil {
			name = found[0].Name
			if d := found[0].LogDir; d != "" {
				dir = path.Clean("/" + d)
			}
		}
	}
	if dir == "" {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return nil, "", usage("invalid extension name %q", name)
		}
		dir = path.Join("/", conf.Paths.ExtensionLogs, name)
	}
	// An extension may have one directory per version; deeper directories are
	// not for logs.
	at := map[string]time.Time{}
	add := func(dir string) error {
		return a.root().Walk(dir, maxWalk, func(rel string, _ *host.Dir, fi fs.FileInfo, err error) error {
			switch {
			case err != nil:
				return nil //nolint:nilerr // a subdirectory that vanished or is not ours to read is not shown
			case fi.IsDir() && strings.Count(rel, "/") > 1:
				return host.SkipDir
			case fi.Mode().IsRegular() && plainLog(rel) && len(files) < maxFollowed:
				f := path.Join(dir, rel)
				files, at[f] = append(files, f), fi.ModTime()
			}
			return nil
		})
	}
	// While other users can write to the log directory, the agent writes its
	// own lines to the second directory.
	instead := path.Join("/", conf.Paths.Lib, "azguest/ext/logs", name)
	_ = add(instead) // usually it does not exist
	if err := add(dir); err != nil && !errors.Is(err, host.ErrTooMany) {
		if len(files) == 0 {
			return nil, "", exitWith(ExitUnknown, fmt.Errorf("no logs of %s: %w", name, err))
		}
		dir = instead // not readable, or a link: show only the agent's own lines
	}
	slices.SortFunc(files, func(x, y string) int { return at[x].Compare(at[y]) })
	return files, dir, nil
}

// Limits for the directory of an extension, to which other users may write, and
// which may change while it is read.
const (
	maxWalk     = 100000  // entries of a directory
	maxFollowed = 1000    // files
	maxTail     = 1 << 20 // bytes of a file that are read at once
)

func plainLog(p string) bool {
	switch filepath.Ext(p) {
	case ".gz", ".zip", ".xz", ".json", ".tmp":
		return false
	}
	return true
}

// tailer prints the ends of files and remembers how far it got. File names are
// below the root.
type tailer struct {
	app  *app
	at   map[string]int64
	head string // file whose name was printed last
}

// tail reads a file from an offset on, but not more than its last maxTail
// bytes: other users may have made it very large. Only regular files are read,
// and links of other users are not followed.
func (t *tailer) tail(name string, from int64) ([]byte, error) {
	f, err := t.app.root().Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() < from {
		from = 0 // truncated, or a new file of the same name
	}
	if skip := fi.Size() - maxTail - from; skip > 0 {
		if _, known := t.at[name]; known {
			fmt.Fprintf(t.app.Stderr, "agentctl: %s: %d bytes omitted\n", clean(name), skip)
		}
		from += skip
	}
	data, err := io.ReadAll(io.NewSectionReader(f, from, fi.Size()-from))
	t.at[name] = from + int64(len(data))
	return data, err
}

func (t *tailer) last(name string, lines int, header bool) error {
	data, err := t.tail(name, 0)
	if err != nil {
		return err
	}
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
		t.app.text("==> %s <==\n", clean(name))
		t.head = name
	}
}

// safe redacts secrets and, on a terminal, replaces control characters.
func (t *tailer) safe(b []byte) string {
	s := secret.Redact(string(b))
	if t.app.TTY {
		return clean(s)
	}
	return s
}

// follow prints what is appended to the files, as notified by the kernel, until
// the context ends.
func (t *tailer) follow(ctx context.Context, files []string, dir string) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer w.Close() // read only
	dirs := []string{dir}
	for _, f := range files {
		dirs = append(dirs, path.Dir(f))
	}
	slices.Sort(dirs)
	for _, d := range slices.Compact(dirs) {
		if err := w.Add(t.app.root().Path(d)); err != nil {
			return fmt.Errorf("follow %s: %w", d, err)
		}
	}
	one := len(files) == 1
	more := func(name string) error {
		if _, known := t.at[name]; !known && (one || !plainLog(name) || len(t.at) >= maxFollowed) {
			return nil // another file next to the agent's log, or too many files
		}
		return t.more(name, !one)
	}
	for _, f := range files { // what was written between reading and watching
		if err := more(f); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil // ended by Ctrl-C
		case ev := <-w.Events:
			if ev.Has(fsnotify.Write) || ev.Has(fsnotify.Create) {
				if err := more(path.Join("/", strings.TrimPrefix(ev.Name, t.app.Root))); err != nil {
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
	data, err := t.tail(name, t.at[name])
	if err != nil || len(data) == 0 {
		return nil //nolint:nilerr // rotated away meanwhile, its successor has its own event; or no file
	}
	if header {
		t.header(name)
	}
	t.app.text("%s", t.safe(data))
	return nil
}
