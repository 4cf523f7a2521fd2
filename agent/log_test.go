package agent

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestLogLineIsReadableAndHasNoSignature(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := zerolog.New(redactor{zerolog.MultiLevelWriter(&textWriter{w: &b})}).With().Str("component", "boot").Logger()
	log.Error().Err(errors.New("get https://st.example/b?sv=1&sig=canary%3d failed")).Str("path", `a\u0026b`).Int("n", 3).Msg("fetch failed")
	line := b.String()
	for _, want := range []string{" ERROR boot: fetch failed ", `n=3`, `?<redacted> failed`, `path=a\u0026b`} {
		if !strings.Contains(line, want) {
			t.Errorf("line lacks %q: %s", want, line)
		}
	}
	if strings.Contains(line, "canary") {
		t.Errorf("signature in the log: %s", line)
	}

	// A quoted address is followed by an escaped quote.
	b.Reset()
	log.Error().Err(errors.New("Get \"https://st.example/b?sv=1&sig=canary\": refused\nsecond")).Msg("fetch failed")
	if got, want := b.String(), ` ERROR boot: fetch failed error="Get \"https://st.example/b?<redacted>\": refused\nsecond"`+"\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want …%s", got, want)
	}
}

func TestFullLogDiskDoesNotStopTheAgent(t *testing.T) {
	t.Parallel()
	log := zerolog.New(redactor{zerolog.MultiLevelWriter(&textWriter{w: failing{}})})
	log.Info().Msg("x") // zerolog would print to stderr if the writer returned an error
	if n, err := (redactor{zerolog.MultiLevelWriter(&textWriter{w: failing{}})}).Write([]byte(`{"message":"x"}`)); err != nil || n == 0 {
		t.Errorf("Write = %d, %v", n, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestJournalFieldsStayFields(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	j := &journal{c}
	if _, err := j.Write([]byte(`{"level":"warn","message":"enable failed","handler":"A.B","seq":3,"out":"two\nlines"}`)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := l.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	got := string(buf[:n])
	for _, want := range []string{"SYSLOG_IDENTIFIER=azguest\n", "PRIORITY=4\n", "AZ_EXTENSION=A.B\n", "AZ_SEQ=3\n", "MESSAGE=enable failed", "AZ_OUT\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("datagram lacks %q:\n%q", want, got)
		}
	}
}

func TestNotify(t *testing.T) {
	name := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", name)
	notify("READY=1")
	buf := make([]byte, 64)
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		t.Fatal(err)
	}
	notify("READY=1") // nobody listens: no effect
}

// TestLogOfOthers: a log that somebody else has left open to writers, or a
// link that somebody else has put in its place.
func TestLogOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	dir := t.TempDir()
	file, victim := filepath.Join(dir, "waagent.log"), filepath.Join(dir, "victim")
	for _, name := range []string{file, victim} {
		if err := os.WriteFile(name, []byte("old\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	say := func() {
		log, c := NewLogger(file, false)
		log.Info().Msg("hello")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	say()
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o644 {
		t.Errorf("mode %v %v, want 0644", fi.Mode(), err)
	}
	if err := errors.Join(os.Remove(file), os.Symlink(victim, file), os.Lchown(file, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	say()
	if b, err := os.ReadFile(victim); err != nil || string(b) != "old\n" {
		t.Errorf("written through the link: %q %v", b, err)
	}
	// The administrator's own link is followed.
	if err := errors.Join(os.Remove(file), os.Symlink(victim, file)); err != nil {
		t.Fatal(err)
	}
	say()
	if b, err := os.ReadFile(victim); err != nil || !strings.Contains(string(b), "hello") {
		t.Errorf("not written through root's link: %q %v", b, err)
	}
}
