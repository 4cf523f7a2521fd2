package tool

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

// Limits of a collection of logs. The first two are the classic agent's
// (extensions/SPEC.md §16.3); the others keep a collection from causing
// problems itself.
const (
	collectFile  = 30 << 20  // per file; of a larger one only the end is kept
	collectTotal = 150 << 20 // before compression
	collectZip   = 64 << 20
	collectFiles = 4000
	collectFree  = 16 << 20 // of the file system must stay free
	collectChunk = 64 << 10
)

// collector makes an archive of logs for support. It streams: it holds no more
// than one chunk of one file in memory.
type collector struct {
	root host.Root
	cfg  *config.Config
	full bool

	fileMax, total, zipMax int64
	files                  int
	now                    time.Time

	lines    []string // of results.txt
	left     []string // what was left out, and why
	redacted int
	zw       *zip.Writer
	out      *counted
}

// source is something to collect: the files below dir, at most depth
// directories down, that ok takes.
type source struct {
	dir   string
	depth int
	ok    func(rel string) (take bool, why string) // why, if set, is noted in the list of what was left out
	full  bool                                     // only with -full
}

// sources is the table of what is collected, the most useful first: when the
// archive is full, the rest is left out.
func sources(cfg *config.Config) []source {
	lib := cfg.Paths.Lib
	all := func(string) (bool, string) { return true, "" }
	named := func(patterns ...string) func(string) (bool, string) {
		return func(rel string) (bool, string) {
			return slices.ContainsFunc(patterns, func(p string) bool { m, _ := path.Match(p, rel); return m }), ""
		}
	}
	list := []source{
		{dir: "/run/azguest", ok: named("status.json")},
		{dir: lib, depth: 2, ok: func(rel string) (bool, string) {
			if m, _ := path.Match("*/config/*.settings", rel); m {
				return false, "extension settings can contain secrets"
			}
			return named("waagent_status*.json", "provisioned", "*/status/*.status", "*/status/*/*.status", "*/config/HandlerState", "*/config/HandlerStatus", "*/heartbeat.log", "azguest/*.json", "azguest/*.jsonl")(rel)
		}},
		{dir: "/etc", depth: 1, ok: named("waagent.conf", "waagent.conf.d/*.conf")},
		{dir: "/usr/lib", ok: named("os-release")},
		{dir: "/proc", ok: named("meminfo", "loadavg", "uptime", "mounts", "swaps")},
	}
	if f := cfg.Logs.File; f != "" {
		list = append(list, source{dir: path.Dir(f), ok: named(path.Base(f) + "*")})
	}
	return append(
		list,
		source{dir: cfg.Paths.ExtensionLogs, depth: 3, ok: all},
		source{dir: "/var/log", ok: named("cloud-init.log", "dmesg", "boot.log", "kern.log", "syslog", "messages"), full: true},
		source{dir: "/var/log", ok: named("cloud-init-output.log"), full: true},
		source{dir: "/run/cloud-init", ok: named("status.json", "result.json", "ds-identify.log", "cloud-init-generator.log"), full: true},
		source{dir: lib + "/history", depth: 1, ok: all, full: true},
	)
}

// collect is the command -collect-logs: it writes <Lib>/logcollector/logs.zip
// and results.txt.
func (t *Tool) collect(ctx context.Context, w Waagent) error {
	c := &collector{
		root: t.Root, cfg: t.Config, full: w.Full, fileMax: collectFile, total: collectTotal, zipMax: collectZip, files: collectFiles, now: time.Now().UTC(),
	}
	if w.upload {
		c.zipMax = agent.LogsUploadMax
		// The job has started this process in a process group of its own.
		_ = unix.Setpriority(unix.PRIO_PGRP, 0, 19)
	}
	name, err := c.run(ctx, t.Version)
	if err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	fmt.Fprintf(t.Out, "Logs are in %s; the list of omitted files is in %s\n", name, path.Join(path.Dir(name), "results.txt"))
	return nil
}

// run makes the archive and returns its name below the root.
func (c *collector) run(ctx context.Context, version string) (name string, err error) {
	dir := path.Join(c.cfg.Paths.Lib, "logcollector")
	if err := c.root.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	d, err := c.root.OpenDir(dir, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = d.Close() }() // releases the lock
	if err := d.TryLock(); err != nil {
		return "", fmt.Errorf("another log collection is running: %w", err)
	}
	st, err := d.Statfs()
	if err != nil {
		return "", err
	}
	if free := int64(st.Bavail)*st.Bsize - collectFree; free < c.zipMax {
		if free < 1<<20 {
			return "", fmt.Errorf("not enough disk space: %w", unix.ENOSPC)
		}
		c.zipMax = free
	}

	name = path.Join(dir, "logs.zip")
	part := name + ".part"
	if err := c.root.Remove(part); err != nil {
		return "", err
	}
	f, err := c.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = c.root.Remove(part)
		}
	}()
	c.out = &counted{w: f}
	c.zw = zip.NewWriter(c.out)
	err = c.gather(ctx)
	results := c.results(version)
	if err == nil {
		err = c.text("results.txt", results)
	}
	err = errors.Join(err, c.zw.Close(), f.Close())
	if err == nil {
		err = c.root.Rename(part, name)
	}
	if err == nil {
		err = c.root.WriteFile(path.Join(dir, "results.txt"), []byte(results), 0o600)
	}
	return name, err
}

func (c *collector) gather(ctx context.Context) error {
	seen := map[string]bool{}
	for _, s := range sources(c.cfg) {
		if s.full && !c.full {
			continue
		}
		if err := c.walk(ctx, s, seen); err != nil {
			return err
		}
	}
	return nil
}

// walk collects the files of one source. A directory is opened once and read
// through its descriptor, so that no link inside leads out of it.
func (c *collector) walk(ctx context.Context, s source, seen map[string]bool) error {
	top, err := c.root.OpenRoot(s.dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.leave(s.dir, err.Error())
		}
		return nil
	}
	defer func() { _ = top.Close() }()
	return fs.WalkDir(top.FS(), ".", func(rel string, e fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		full := path.Join(s.dir, rel)
		if err != nil {
			c.leave(full, "cannot be read: "+err.Error())
			return nil //nolint:nilerr // one file that can't be read is noted, the rest is collected
		}
		if e.IsDir() {
			if rel != "." && strings.Count(rel, "/") >= s.depth {
				return fs.SkipDir
			}
			return nil
		}
		take, why := s.ok(rel)
		if !take || seen[full] {
			if why != "" {
				c.leave(full, why)
			}
			return nil
		}
		seen[full] = true
		switch {
		case e.Type()&fs.ModeSymlink != 0 && s.dir != "/etc" && s.dir != "/proc":
			c.leave(full, "a symbolic link")
			return nil
		case c.files <= 0:
			c.leave(full, "too many files")
			return nil
		}
		return c.file(top, rel, full)
	})
}

// file adds one file. Only what stops the whole archive is an error.
func (c *collector) file(top *os.Root, rel, full string) error {
	f, err := top.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		c.leave(full, "cannot be read: "+err.Error())
		return nil
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		c.leave(full, "not a regular file")
		return nil
	}
	room := min(c.fileMax, c.total)
	switch {
	case room < collectChunk && fi.Size() > room, c.out.n >= c.zipMax:
		c.leave(full, fmt.Sprintf("the archive is full (%d bytes)", fi.Size()))
		return nil
	}
	head := make([]byte, 8<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		c.leave(full, "cannot be read: "+err.Error())
		return nil
	}
	if bytes.IndexByte(head[:n], 0) >= 0 || bytes.HasPrefix(head[:n], []byte{0x1f, 0x8b}) {
		// Files that are not text can't be redacted.
		c.leave(full, fmt.Sprintf("not text (%d bytes)", fi.Size()))
		return nil
	}
	from := max(0, fi.Size()-room)
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		c.leave(full, "cannot be read: "+err.Error())
		return nil
	}
	h := &zip.FileHeader{Name: strings.TrimPrefix(full, "/"), Method: zip.Deflate, Modified: fi.ModTime()}
	h.SetMode(0o600)
	w, err := c.zw.CreateHeader(h)
	if err != nil {
		return err
	}
	c.files--
	r := newScrubber(c, io.LimitReader(f, room), from > 0)
	size, rerr := r.copy(w)
	c.total -= size
	line := fmt.Sprintf("%10d %s", size, full)
	switch {
	case errors.Is(rerr, errFull):
		line += " (cut: the archive is full)"
	case errors.Is(rerr, errWrite):
		return rerr
	case rerr != nil:
		line += " (cut: " + rerr.Error() + ")"
	case from > 0:
		line += fmt.Sprintf(" (the last part of %d bytes)", fi.Size())
	}
	c.lines = append(c.lines, line)
	return nil
}

func (c *collector) leave(name, why string) {
	const most = 2000
	switch n := len(c.left); {
	case n < most:
		c.left = append(c.left, secret.Redact(name+": "+why))
	case n == most:
		c.left = append(c.left, "more files")
	}
}

func (c *collector) results(version string) string {
	var b strings.Builder
	kind := "normal"
	if c.full {
		kind = "full"
	}
	fmt.Fprintf(&b, "azguest %s, %s collection of %s\n", version, kind, c.now.Format(time.RFC3339))
	fmt.Fprintf(&b, "at most the last %d MiB of each file, %d MiB in total, %d secrets redacted\n", c.fileMax>>20, collectTotal>>20, c.redacted)
	if m := peakMemory(); m != "" {
		fmt.Fprintf(&b, "peak memory of the collection: %s\n", m)
	}
	b.WriteString("\nIn the archive:\n")
	for _, l := range c.lines {
		b.WriteString(l + "\n")
	}
	b.WriteString("\nOmitted:\n")
	for _, l := range c.left {
		b.WriteString("  " + l + "\n")
	}
	return b.String()
}

// peakMemory returns the largest resident set of this process so far, as text
// with unit.
func peakMemory() string {
	b, err := host.Root("").ReadFile("/proc/self/status")
	if err != nil || runtime.GOOS != "linux" {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func (c *collector) text(name, data string) error {
	w, err := c.zw.Create(name)
	if err == nil {
		_, err = io.WriteString(w, data)
	}
	return err
}

// counted counts the bytes of the archive.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

var (
	errFull  = errors.New("the archive is full")
	errWrite = errors.New("write the archive")
)
