package log

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/secret"
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

	// A quoted URL is followed by an escaped quote.
	b.Reset()
	log.Error().Err(errors.New("Get \"https://st.example/b?sv=1&sig=canary\": refused\nsecond")).Msg("fetch failed")
	if got, want := b.String(), ` ERROR boot: fetch failed error="Get \"https://st.example/b?<redacted>\": refused\nsecond"`+"\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want …%s", got, want)
	}
}

// TestPrintedIsNotInTheFile: the log file, which everybody may read, has no words
// of scripts.
func TestPrintedIsNotInTheFile(t *testing.T) {
	t.Parallel()
	var root, public bytes.Buffer
	log := zerolog.New(redactor{zerolog.MultiLevelWriter(&textWriter{w: &root}, &textWriter{w: &public, public: true})})
	log.Warn().Str(secret.Printed, "some words").Str("code", "X").Msg("m")
	if !strings.Contains(root.String(), "some words") || strings.Contains(public.String(), "words") || !strings.Contains(public.String(), "code=X") {
		t.Errorf("%q, %q", root.String(), public.String())
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
	j := &journal{conn: c}
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

// TestUntrustedLogFileIsNotUsed: a log to which other users can write, or a
// link that another user has put in its place, is not used.
func TestUntrustedLogFileIsNotUsed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to create files of another user")
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
		log, c := New(file, false)
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

// TestERR8LargeRecordArrives: a record that is larger than the journal's socket
// takes arrives as a sealed file in memory; one that is lost because the
// journal does not read is counted in the next.
func TestERR8LargeRecordArrives(t *testing.T) {
	t.Parallel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "journal")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.(*net.UnixConn)
	}
	j, there := &journal{conn: conn(fds[0])}, conn(fds[1])
	read := func() string {
		t.Helper()
		buf, oob := make([]byte, 1<<20), make([]byte, 1<<10)
		if err := there.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, m, _, _, err := there.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		if m == 0 {
			return string(buf[:n])
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			t.Fatal(err)
		}
		got, err := unix.ParseUnixRights(&msgs[0])
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(got[0]), "record")
		defer f.Close()
		if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
			t.Errorf("seals %x, %v", seals, err)
		}
		b := make([]byte, 16<<20)
		k, err := f.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		return string(b[:k])
	}
	for _, size := range []int{100, 200 << 10, 4 << 20} {
		record := fmt.Sprintf(`{"level":"info","message":"large","text":%q}`, strings.Repeat("x", size))
		if _, err := j.Write([]byte(record)); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got := read(); !strings.Contains(got, "AZ_TEXT="+strings.Repeat("x", size)) || !strings.Contains(got, "SYSLOG_IDENTIFIER=azguest") {
			t.Errorf("%d bytes: got %d", size, len(got))
		}
	}
	sent := 0
	for {
		if _, err := j.Write([]byte(`{"level":"info","message":"small"}`)); err != nil {
			break // the journal does not read
		}
		sent++
	}
	for range sent {
		read()
	}
	if _, err := j.Write([]byte(`{"level":"info","message":"again"}`)); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.Contains(got, "records_lost_before=1") {
		t.Errorf("a loss is not said: %q", got)
	}
}
