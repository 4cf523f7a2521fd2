package job

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/hosttest"
)

// onDisk returns what a file takes.
func onDisk(name string) int64 {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// TestNBR4OutputIsBounded: however much a command prints, and in which way, its
// files stay within their limits while it runs, and have the end of the output.
func TestNBR4OutputIsBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		shell string
		file  string
		last  string
	}{
		"a lot":       {`dd if=/dev/zero bs=1M count=120 2>/dev/null | tr '\0' x; echo; echo the end`, Stdout, "the end\n"},
		"on stderr":   {`{ dd if=/dev/zero bs=1M count=40 2>/dev/null | tr '\0' y; echo; echo the end; } >&2; exit 3`, Stderr, "the end\n"},
		"lines":       {`yes 0123456789012345678901234567890123456789 | head -n 600000; echo the end`, Stdout, "the end\n"},
		"opened anew": {`exec >/dev/stdout; dd if=/dev/zero bs=1M count=40 2>/dev/null | tr '\0' z; echo; echo the end`, Stdout, "the end\n"},
		"in children": {`for i in 1 2 3; do dd if=/dev/zero bs=1M count=12 2>/dev/null | tr '\0' z & done; wait; echo the end`, Stdout, "the end\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := runningJob(t, tc.shell, lastResort)
			var most int64
			hosttest.Until(t, "the result", func() bool {
				most = max(most, onDisk(filepath.Join(dir, tc.file)))
				_, ok := ResultOf(dir)
				return ok
			})
			// A writer may be ahead by what it writes while the supervisor does not
			// get the processor. Unbounded, it would be all of it.
			t.Logf("at most %d MiB", most>>20)
			b, err := os.ReadFile(filepath.Join(dir, tc.file))
			if err != nil || !strings.HasSuffix(string(b), tc.last) {
				t.Errorf("the output ends with %q (%v)", b[max(0, len(b)-20):], err)
			}
			if err := Reported(dir); err != nil {
				t.Fatal(err)
			}
			if n := onDisk(filepath.Join(dir, tc.file)); n > maxEnded {
				t.Errorf("%d bytes after the report", n)
			}
		})
	}
}

// TestNBR4Cut: what is left of an output file, for appending writers and for
// those with an offset of their own.
func TestNBR4Cut(t *testing.T) {
	t.Parallel()
	const limit, keep = 256 << 10, 64 << 10
	for name, tc := range map[string]struct {
		flag    int
		written int
		cut     bool
	}{
		"small":                 {os.O_APPEND, limit, false},
		"large":                 {os.O_APPEND, limit + 4096, true},
		"with an offset":        {0, limit + 4096, true},
		"with an offset, small": {0, limit, false},
	} {
		file := filepath.Join(t.TempDir(), "out")
		w, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|tc.flag, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		write := func(n int) {
			t.Helper()
			for i := range n / 16 {
				if _, err := fmt.Fprintf(w, "%015d\n", i); err != nil {
					t.Fatal(err)
				}
			}
		}
		for round := range 4 {
			write(tc.written)
			if err := cut(w, limit, keep, round%2 == 1); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%015d\n", tc.written/16-1)
			if got := bytes.Contains(b, []byte(truncated)); round == 0 && got != tc.cut {
				t.Errorf("%s: cut: %v", name, got)
			}
			if !bytes.HasSuffix(b, []byte(want)) {
				t.Errorf("%s, round %d: ends with %q, want %q", name, round, b[max(0, len(b)-32):], want)
			}
			if n := onDisk(file); n > limit+64<<10 {
				t.Errorf("%s, round %d: %d bytes", name, round, n)
			}
		}
		_ = w.Close()
	}
}

// TestNBR4ReportedOutputHasNoSecret: after its output was reported, no secret of
// a known form is in the files of a job, also if a process goes on writing, and
// what it writes meanwhile is not lost.
func TestNBR4ReportedOutputHasNoSecret(t *testing.T) {
	t.Parallel()
	const pem = "-----BEGIN PRIVATE KEY-----\nMIIcanary0000000000000000000000000000000000000000000000000000000000\nAAAAcanary000000000000000000\n-----END PRIVATE KEY-----\n"
	dir := t.TempDir()
	file := filepath.Join(dir, Stdout)
	w, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	say := func(text string) {
		t.Helper()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	var size int64
	for i := range 20 {
		secret := fmt.Sprintf("canary%02dsecretsecretsecret%%3D", i)
		switch i % 4 {
		case 0:
			say("GET https://st.example/b?sv=1&sig=" + secret + "&sp=r\nplain " + strconv.Itoa(i) + "\n")
		case 1: // a line in two parts
			say("AccountKey=canary")
		case 2:
			say(secret + "==\nplain " + strconv.Itoa(i) + "\n")
		default:
			say(pem + "plain " + strconv.Itoa(i))
		}
		if err := Reported(dir); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(file)
		if err != nil || fi.Size() <= size {
			t.Fatalf("round %d: size %d after %d (%v)", i, fi.Size(), size, err)
		}
		size = fi.Size()
	}
	// The last line is not complete; nobody is going to complete it.
	old := time.Now().Add(-time.Hour)
	say(" sig=canary99secretsecretsecret%3D")
	if err := errors.Join(os.Chtimes(file, old, old), Reported(dir)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("canary")) {
		t.Errorf("a secret is left:\n%s", b)
	}
	for i := range 20 {
		if want := "plain " + strconv.Itoa(i); i%4 != 1 && !bytes.Contains(b, []byte(want)) {
			t.Errorf("no %q", want)
		}
	}
}

// TestNBR4AllJobsTogether: the output of many commands has a limit, the newest
// is kept longest, and an unchanged file is not read again.
func TestNBR4AllJobsTogether(t *testing.T) {
	t.Parallel()
	jobs := t.TempDir()
	const n = 24
	var all int64
	for i := range n {
		dir := filepath.Join(jobs, fmt.Sprintf("job%02d", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, Stdout), bytes.Repeat([]byte("0123456789abcde\n"), 6<<20/16), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-100) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, Stdout), at, at); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // the others are running, for all that is known
			if err := writeJSON(dir, resultFile, Result{Class: OK, Finished: at}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var k Keeper
	for range 2 {
		if err := k.Tidy(jobs); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		size := onDisk(filepath.Join(jobs, fmt.Sprintf("job%02d", i), Stdout))
		all += size
		switch {
		case i%2 == 0 && size > maxEnded:
			t.Errorf("job %d: %d bytes after its end", i, size)
		case i%2 == 1 && i > n-6 && size < 6<<20:
			t.Errorf("job %d is running and among the newest, and was cut to %d bytes", i, size)
		}
	}
	if all > MaxAllOutput {
		t.Errorf("all together take %d bytes", all)
	}
	before := len(k.seen)
	if err := k.Tidy(jobs); err != nil || len(k.seen) != before || before < n/2 {
		t.Errorf("%d files remembered, then %d (%v)", before, len(k.seen), err)
	}
}
