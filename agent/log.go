package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

const journalSocket = "/run/systemd/journal/socket"

// NewLogger returns the logger of the process: structured records to the
// journal where there is one (else text to stderr), and the classic text
// file, which handlers append to as well. An empty file switches the
// file off. No text with a SAS signature passes, whoever wrote it.
func NewLogger(file string, verbose bool) (zerolog.Logger, io.Closer) {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	var sinks []io.Writer
	if j := dialJournal(); j != nil && os.Getenv("JOURNAL_STREAM") != "" { //nolint:forbidigo // where stderr goes is a fact of the process
		sinks = append(sinks, j)
	} else {
		sinks = append(sinks, &textWriter{w: os.Stderr})
	}
	var closer io.Closer = nopCloser{}
	if file != "" {
		l := host.NewLogFile("", file, 0o644, 10<<20, 3)
		sinks = append(sinks, &textWriter{w: l})
		closer = l
	}
	level := zerolog.InfoLevel
	if verbose {
		level = zerolog.DebugLevel
	}
	return zerolog.New(redactor{zerolog.MultiLevelWriter(sinks...)}).Level(level).With().Timestamp().Logger(), closer
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// redactor is the last line: texts of others (error bodies, output) may
// carry what our own types would never print.
type redactor struct{ w zerolog.LevelWriter }

func (r redactor) Write(p []byte) (int, error) { return r.WriteLevel(zerolog.NoLevel, p) }

func (r redactor) WriteLevel(l zerolog.Level, p []byte) (int, error) {
	if _, err := r.w.WriteLevel(l, []byte(secret.Redact(string(p)))); err != nil {
		return len(p), nil //nolint:nilerr // a full disk must not stop the agent
	}
	return len(p), nil
}

// textWriter turns a record into one line: time, level, component, message,
// then the fields in order of their names.
type textWriter struct{ w io.Writer }

func (t *textWriter) Write(p []byte) (int, error) {
	rec, err := decode(p)
	if err != nil {
		return t.w.Write(p)
	}
	var b strings.Builder
	when, perr := time.Parse(time.RFC3339Nano, str(rec["time"]))
	if perr != nil {
		when = time.Now()
	}
	fmt.Fprintf(&b, "%s %s", when.UTC().Format("2006-01-02T15:04:05.000000Z"), strings.ToUpper(str(rec["level"])))
	if c := str(rec["component"]); c != "" {
		fmt.Fprintf(&b, " %s:", c)
	}
	b.WriteString(" " + str(rec["message"]))
	for _, k := range slices.Sorted(maps.Keys(rec)) {
		switch k {
		case "time", "level", "component", "message":
		default:
			fmt.Fprintf(&b, " %s=%s", k, quoteIfNeeded(str(rec[k])))
		}
	}
	b.WriteByte('\n')
	if _, err := io.WriteString(t.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func decode(p []byte) (map[string]any, error) {
	var rec map[string]any
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	err := d.Decode(&rec)
	return rec, err
}

func str(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	}
}

func quoteIfNeeded(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// journal speaks the journal's native protocol, so that fields stay fields:
// PRIORITY, SYSLOG_IDENTIFIER, AZ_EXTENSION and so on.
type journal struct {
	conn *net.UnixConn
	lost atomic.Int64 // records that the journal did not take
}

// logPatience bounds the wait for a journal that does not read.
const logPatience = time.Second

func dialJournal() *journal {
	// wait: connecting a datagram socket does not block
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
	if err != nil {
		return nil
	}
	return &journal{conn: c}
}

var priorities = map[string]string{
	"trace": "7", "debug": "7", "info": "6", "warn": "4", "error": "3", "fatal": "2", "panic": "2",
}

// journalNames are the fields that readers of the journal filter by.
var journalNames = map[string]string{
	"message": "MESSAGE", "handler": "AZ_EXTENSION", "seq": "AZ_SEQ", "activity": "AZ_ACTIVITY_ID", "code": "AZ_CODE", "component": "AZ_COMPONENT",
}

func (j *journal) Write(p []byte) (int, error) {
	rec, err := decode(p)
	if err != nil {
		rec = map[string]any{"message": string(p)}
	}
	var b bytes.Buffer
	field(&b, "SYSLOG_IDENTIFIER", "azguest")
	field(&b, "PRIORITY", priorities[str(rec["level"])])
	var tail strings.Builder
	for _, k := range slices.Sorted(maps.Keys(rec)) {
		v := str(rec[k])
		switch k {
		case "level", "time", "message":
			continue
		}
		name := journalNames[k]
		if name == "" {
			name = "AZ_" + strings.ToUpper(strings.Map(ident, k))
		}
		field(&b, name, v)
		if k != "component" {
			fmt.Fprintf(&tail, " %s=%s", k, quoteIfNeeded(v))
		}
	}
	lost := j.lost.Swap(0)
	if lost > 0 {
		fmt.Fprintf(&tail, " records_lost_before=%d", lost)
	}
	field(&b, "MESSAGE", str(rec["message"])+tail.String())
	if err := j.send(b.Bytes()); err != nil {
		j.lost.Add(lost + 1)
		return 0, err
	}
	return len(p), nil
}

// send gives a record to the journal. One that is larger than the socket takes
// goes as a file in memory, which the journal reads when it is sealed. A client
// library of the journal does the same and could not be given a deadline.
func (j *journal) send(record []byte) error {
	_ = j.conn.SetWriteDeadline(time.Now().Add(logPatience)) // else the next line waits as long as it takes
	_, err := j.conn.Write(record)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("azguest-log", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("log a large record: %w", err)
	}
	f := os.NewFile(uintptr(fd), "azguest-log")
	defer f.Close() // the journal has its own descriptor by then
	if _, err = f.Write(record); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	}
	if err == nil {
		_, _, err = j.conn.WriteMsgUnix(nil, unix.UnixRights(int(f.Fd())), nil)
	}
	if err != nil {
		return fmt.Errorf("log a large record: %w", err)
	}
	return nil
}

func ident(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

// field appends one field; a value with a line break takes the length form.
func field(b *bytes.Buffer, name, value string) {
	if value == "" {
		return
	}
	if !strings.Contains(value, "\n") {
		b.WriteString(name + "=" + value + "\n")
		return
	}
	b.WriteString(name + "\n")
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(value)))
	b.Write(n[:])
	b.WriteString(value + "\n")
}

// notify tells the service manager something (sd_notify); without one it
// does nothing.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET") //nolint:forbidigo // the service manager's own interface
	if name == "" {
		return
	}
	if name[0] == '@' {
		name = "\x00" + name[1:]
	}
	// wait: connecting a datagram socket does not block
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(logPatience))
	_, _ = c.Write([]byte(state)) // nobody to tell if the manager is gone
	_ = c.Close()
}
