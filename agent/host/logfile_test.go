package host_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
)

func TestLogFileRotates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := host.NewLogFile(host.Root(dir), "/log/agent.log", 0o640, 100, 2)
	defer l.Close()
	for i := range 30 {
		if _, err := io.WriteString(l, strings.Repeat(string(rune('a'+i%26)), 39)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	list, err := os.ReadDir(dir + "/log")
	if err != nil || len(list) != 3 {
		t.Fatalf("%v %v", list, err)
	}
	for _, e := range list {
		if fi, err := e.Info(); err != nil || fi.Mode().Perm() != 0o640 || fi.Size() > 100 {
			t.Errorf("%s: %v %v", e.Name(), fi, err)
		}
	}
	b, err := os.ReadFile(dir + "/log/agent.log.1.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || len(b) != 80 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestLogFileIsOurs: another user's file or directory in place of the log is
// moved aside and never written to, and a log that was moved away is made
// again.
func TestLogFileIsOurs(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(victim, log string) error{
		"symlink": func(victim, log string) error {
			return errors.Join(os.Symlink(victim, log), os.Lchown(log, hosttest.LocalUser, -1))
		},
		"hard link": os.Link,
		"fifo":      func(_, log string) error { return unix.Mkfifo(log, 0o666) },
		"directory": func(_, log string) error { return os.Mkdir(log, 0o777) },
		"socket":    func(_, log string) error { return unix.Mknod(log, unix.S_IFSOCK|0o666, 0) },
		"a user's": func(_, log string) error {
			return errors.Join(os.WriteFile(log, nil, 0o666), os.Chown(log, hosttest.LocalUser, -1))
		},
		"deleted": func(string, string) error { return nil },
		"renamed": func(string, string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			log, victim := filepath.Join(dir, "agent.log"), filepath.Join(dir, "victim")
			if err := os.WriteFile(victim, []byte("old\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			l := host.NewLogFile(host.Root(""), log, 0o644, 1<<20, 1)
			defer l.Close()
			_, err := io.WriteString(l, "before\n")
			if name == "renamed" {
				err = errors.Join(err, os.Rename(log, log+".1"))
			} else {
				err = errors.Join(err, os.Remove(log))
			}
			if err = errors.Join(err, plant(victim, log)); err != nil {
				if os.Geteuid() != 0 {
					t.Skip(err)
				}
				t.Fatal(err)
			}
			if _, err := io.WriteString(l, "after\n"); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(log); err != nil || string(b) != "after\n" {
				t.Errorf("log: %q %v", b, err)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "old\n" {
				t.Errorf("victim: %q %v", b, err)
			}
		})
	}
}

// TestLogFileDeletesNoTrees: a directory that somebody else puts in place of
// the log, or of an older one, is moved and not deleted: deleting could take
// long, and would block everything that logs.
func TestLogFileDeletesNoTrees(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"agent.log", "agent.log.foreign", "agent.log.1.gz", "agent.log.2.gz"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o777), os.WriteFile(filepath.Join(dir, name, "tree"), nil, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	l := host.NewLogFile(host.Root(""), dir+"/agent.log", 0o644, 100, 2)
	defer l.Close()
	for range 10 {
		if _, err := io.WriteString(l, strings.Repeat("a", 39)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	hidden, err := filepath.Glob(dir + "/.*/tree")
	if err != nil {
		t.Fatal(err)
	}
	open, err := filepath.Glob(dir + "/[a-z]*/tree")
	if err != nil || len(hidden)+len(open) != 4 {
		t.Errorf("trees left: %q %q", hidden, open)
	}
	for _, name := range []string{"agent.log", "agent.log.1.gz", "agent.log.2.gz"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
}

// TestSEC1LogUnderAttack: the directory of the log belongs to a local user,
// which is worse than a group that can write in it.
func TestSEC1LogUnderAttack(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "log")
	l := host.NewLogFile(host.Root(""), base+"/agent.log", 0o644, 200, 2)
	defer l.Close()
	hosttest.Attack(t, base, []string{"agent.log", "agent.log.1.gz", "agent.log.2.gz", "agent.log.foreign"}, func(int) {
		_, _ = io.WriteString(l, "* * * * * root id\n")
	})
}

// TestNBR2AppendOnlyLog: a log that may only be appended to (chattr +a) can't be
// rotated. It loses no record and no older log because of that, and is rotated
// once that is possible.
func TestNBR2AppendOnlyLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.log")
	l := host.NewLogFile(host.Root(dir), "/agent.log", 0o640, 1000, 3)
	defer l.Close()
	line := func(c string) {
		t.Helper()
		if _, err := io.WriteString(l, strings.Repeat(c, 39)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file+".1.gz", []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	line("a")
	attr := func(flag string) {
		t.Helper()
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "chattr", flag, file).CombinedOutput(); err != nil {
			t.Skipf("chattr %s: %v %s", flag, err, out)
		}
	}
	attr("+a")
	defer func() { _ = exec.CommandContext(context.WithoutCancel(t.Context()), "chattr", "-a", file).Run() }()
	for range 99 {
		line("a")
	}
	if b, err := os.ReadFile(file); err != nil || bytes.Count(b, []byte("\n")) != 100 {
		t.Errorf("%d records (%v), want 100", bytes.Count(b, []byte("\n")), err)
	}
	if b, err := os.ReadFile(file + ".1.gz"); err != nil || string(b) != "older" {
		t.Errorf("the older log is %q (%v)", b, err)
	}
	attr("-a")
	for range 5 {
		line("b")
	}
	if b, err := os.ReadFile(file + ".2.gz"); err != nil || string(b) != "older" {
		t.Errorf("the older log is %q (%v) after a rotation", b, err)
	}
}

// rotations are rules for a log of the agent: that of the classic package, which
// stays on a machine when ours replaces it, and others that people write. The
// second is what logrotate does by them, where it is not installed.
var rotations = map[string][2]string{
	"the classic package's":      {"compress\nmonthly\nrotate 20\nnotifempty\nmissingok\n", `gzip LOG.1`},
	"with the last uncompressed": {"compress\ndelaycompress\nrotate 20\nmissingok\n", `if [ -e LOG.2 ]; then gzip LOG.2; fi`},
	"uncompressed":               {"create 0640\nrotate 20\nmissingok\n", `:`},
}

// shift is how logrotate renames older files, and then the log.
const shift = `i=20
while [ $i -gt 0 ]; do
	for f in LOG.$i LOG.$i.gz; do
		if [ -e $f ]; then mv -T $f LOG.$((i + 1))${f#LOG.$i}; fi
	done
	i=$((i - 1))
done
mv LOG LOG.1
`

// TestNBR2RotationByBoth: logrotate and the agent rotate the same log in turn.
// No record is lost or there twice, and neither gets in the other's way.
func TestNBR2RotationByBoth(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("logrotate")
	if err != nil {
		t.Log("no logrotate: a script does the same")
	}
	for name, rule := range rotations {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		conf, log := filepath.Join(dir, "conf"), filepath.Join(dir, "waagent.log")
		if err := os.WriteFile(conf, []byte(log+" {\n"+rule[0]+"}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		l := host.NewLogFile("", log, 0o644, 1000, 20)
		written := 0
		records := func(n int) {
			for range n {
				if _, err := fmt.Fprintf(l, "record %04d %s\n", written, strings.Repeat("x", 80)); err != nil {
					t.Fatal(err)
				}
				written++
			}
		}
		for round := range 4 {
			for range 1 + round%2 {
				records(3) // less than the limit
				cmd := exec.CommandContext(t.Context(), program, "-f", "-s", filepath.Join(dir, "state"), conf)
				if program == "" {
					cmd = exec.CommandContext(t.Context(), "sh", "-euc", strings.ReplaceAll(shift+rule[1], "LOG", log))
				}
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%s, round %d: %v %s", name, round, err, out)
				}
			}
			records(25) // more than twice the limit
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-euc", `for f in "$1"*; do case $f in *.gz) gzip -dc "$f" ;; *) cat "$f" ;; esac; done | sort`, "sh", log).Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != written {
			t.Errorf("%s: %d of %d records are there", name, len(lines), written)
		}
		for i, line := range lines {
			if !strings.HasPrefix(line, fmt.Sprintf("record %04d ", i)) {
				t.Errorf("%s: %q instead of record %d", name, line, i)
				break
			}
		}
	}
}
