package log

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNBR2LogFollowsItsName: whatever another program does to the log file, the
// next record is in the file that has the name, and no record is lost.
func TestNBR2LogFollowsItsName(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do  func(file string) error
		old string // where the records before are; "" if they are gone
	}{
		"renamed":              {func(f string) error { return os.Rename(f, f+".1") }, ".1"},
		"renamed and created":  {func(f string) error { return errors.Join(os.Rename(f, f+".1"), os.WriteFile(f, nil, 0o600)) }, ".1"},
		"replaced":             {func(f string) error { return errors.Join(os.WriteFile(f+".n", nil, 0o640), os.Rename(f+".n", f)) }, ""},
		"deleted":              {os.Remove, ""},
		"truncated":            {func(f string) error { return os.Truncate(f, 0) }, ""},
		"copied and truncated": {func(f string) error { return errors.Join(copyFile(f, f+".1"), os.Truncate(f, 0)) }, ".1"},
		"directory deleted":    {func(f string) error { return os.RemoveAll(filepath.Dir(f)) }, ""},
		"directory renamed":    {func(f string) error { return os.Rename(filepath.Dir(f), filepath.Dir(f)+".old") }, ""},
		"deleted, a link":      {func(f string) error { return errors.Join(os.Rename(f, f+".1"), os.Symlink(f+".2", f)) }, ".1"},
		"nothing":              {func(string) error { return nil }, ""},
	} {
		file := filepath.Join(t.TempDir(), "log", "waagent.log")
		log, out := New(file, false)
		log.Info().Msg("before")
		if err := tc.do(file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		log.Info().Msg("after")
		if b, err := os.ReadFile(file); err != nil || strings.Count(string(b), "after") != 1 || strings.ContainsRune(string(b), 0) {
			t.Errorf("%s: %q %v", name, b, err)
		}
		if tc.old != "" {
			if b, err := os.ReadFile(file + tc.old); err != nil || strings.Count(string(b), "before") != 1 || strings.Contains(string(b), "after") {
				t.Errorf("%s: the old file has %q %v", name, b, err)
			}
		}
		if err := out.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, b, 0o600))
}

// TestNBR6ReopenAndVerbose: after Reopen, records are in the file that has the
// name; the level changes at any time.
func TestNBR6ReopenAndVerbose(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "waagent.log")
	log, out := New(file, false)
	component := log.With().Str("component", "x").Logger() // made before the change
	component.Debug().Msg("one")
	out.SetVerbose(true)
	component.Debug().Msg("two")
	if err := out.Reopen(); err != nil {
		t.Fatal(err)
	}
	component.Debug().Msg("three")
	out.SetVerbose(false)
	component.Debug().Msg("four")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]int{"one": 0, "two": 1, "three": 1, "four": 0} {
		if got := strings.Count(string(b), word); got != want {
			t.Errorf("%q is %d times in the log, want %d", word, got, want)
		}
	}
}

// TestNBR5JournalComesBack: records arrive again when the journal has made its
// socket anew, also if there was none at the start; meanwhile they go to stderr.
func TestNBR5JournalComesBack(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	var stderr bytes.Buffer
	j := &journal{socket: socket, otherwise: &stderr}
	write := func(text string) {
		t.Helper()
		if _, err := j.Write([]byte(`{"level":"info","message":"` + text + `"}`)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	listen := func() *net.UnixConn {
		t.Helper()
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	arrives := func(l *net.UnixConn, text string) {
		t.Helper()
		buf := make([]byte, 4096)
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := l.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "MESSAGE="+text) {
			t.Errorf("%s: %q %v", text, buf[:n], err)
		}
	}
	write("before the journal")
	for _, gone := range []string{"restarted", "crashed"} {
		l := listen()
		write(gone + " one")
		arrives(l, gone+" one")
		_ = l.Close()
		if gone == "crashed" { // the socket is left
			write("to a dead socket")
		}
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
		write(gone + " between")
	}
	l := listen()
	defer l.Close()
	write("at last")
	arrives(l, "at last")
	for _, want := range []string{"before the journal", "restarted between", "crashed between", "to a dead socket"} {
		if n := strings.Count(stderr.String(), want); n != 1 {
			t.Errorf("%q is %d times on stderr", want, n)
		}
	}
}

// TestNBR5OnlyTheJournalsStreamIsReplaced: records go to stderr if that is not
// the stream of the journal that JOURNAL_STREAM describes.
func TestNBR5OnlyTheJournalsStreamIsReplaced(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", st.Dev, st.Ino):   true,
		fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false,
		fmt.Sprintf("%d:%d", st.Dev+1, st.Ino): false,
		"":                                     false,
		"x":                                    false,
	} {
		if got := toJournal(stream, f); got != want {
			t.Errorf("JOURNAL_STREAM=%s: %v", stream, got)
		}
	}
}

// TestNBR5StderrWithoutReader: neither a reader of stderr that has gone nor one
// that does not read stops the agent, and the log file has each record.
func TestNBR5StderrWithoutReader(t *testing.T) {
	if file := os.Getenv("AZGUEST_TEST_LOG"); file != "" {
		log, out := New(file, false)
		for i := range 3000 { // more than a pipe holds
			log.Info().Int("n", i).Msg(strings.Repeat("x", 50))
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, redirect := range map[string]string{
		"reader gone":     `trap "" PIPE; { sleep 0.05; exec "$@" 2>&1 1>&3; } 3>"$OUT" | true`,
		"reader stopped":  `mkfifo "$OUT.fifo"; exec 4<>"$OUT.fifo"; exec "$@" >"$OUT" 2>&4`,
		"stderr closed":   `exec "$@" >"$OUT" 2>&-`,
		"a full device":   `exec "$@" >"$OUT" 2>/dev/full`,
		"the reader ends": `{ "$@" 2>&1 1>&3; echo $? >"$OUT.code"; } 3>"$OUT" | head -n 3 >/dev/null; exit $(cat "$OUT.code")`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), "bash", "-c", redirect, "bash", exe, "-test.run=^TestNBR5StderrWithoutReader$")
			cmd.Env = append(os.Environ(), "AZGUEST_TEST_LOG="+dir+"/waagent.log", "OUT="+dir+"/out", "AZGUEST_TEST_SWALLOW=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				b, _ := os.ReadFile(dir + "/out")
				t.Fatalf("%v %s %s", err, out, b)
			}
			b, err := os.ReadFile(dir + "/waagent.log")
			if err != nil || bytes.Count(b, []byte("\n")) != 3000 {
				t.Errorf("%d records in the log (%v)", bytes.Count(b, []byte("\n")), err)
			}
		})
	}
}

// TestNBR5LostRecordsAreCounted: a reader that reads again gets the record that
// it held up, and the number of those that were dropped.
func TestNBR5LostRecordsAreCounted(t *testing.T) {
	t.Parallel()
	w := &gate{open: make(chan struct{})}
	p := newPatient(w)
	for i := range 5 {
		if _, err := fmt.Fprintf(p, "record %d\n", i); !errors.Is(err, errStuck) {
			t.Errorf("record %d: %v", i, err)
		}
	}
	close(w.open)
	for {
		if _, err := io.WriteString(p, "last\n"); err == nil {
			break
		}
	}
	if got := w.text(); !strings.HasPrefix(got, "record 0\n... ") || !strings.HasSuffix(got, "\nlast\n") || strings.Count(got, "\n") != 3 {
		t.Errorf("got %q", got)
	}
}

// A gate is a writer that blocks until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	b    bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}
