package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// journal writes records with the journal's native protocol, so that fields are
// preserved: PRIORITY, SYSLOG_IDENTIFIER, AZ_EXTENSION and so on.
//
// It connects when a record is written, and again when the journal has made its
// socket anew: at boot and during a restart of the journal there may be none.
// Records that the journal does not accept go to the other writer.
type journal struct {
	socket    string
	otherwise io.Writer // nil for none

	mu   sync.Mutex // guards the rest
	conn *net.UnixConn
	lost int // records that nobody has accepted since the last one
	// stuck is when a record was waited for in vain.
	stuck time.Time
}

const journalSocket = "/run/systemd/journal/socket"

// logPatience limits the wait for a journal that does not read.
const logPatience = time.Second

// stuckTime is how long records are not waited for after one was in vain.
const stuckTime = 10 * time.Second

// toJournal reports whether a file is connected to the journal, as the service
// manager describes it in JOURNAL_STREAM (systemd.exec(5)): the device and the
// inode of the stream. Without that comparison, a stderr that was redirected to
// a file would stay empty.
func toJournal(stream string, f *os.File) bool {
	dev, ino, ok := strings.Cut(stream, ":")
	if !ok {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return dev == strconv.FormatUint(st.Dev, 10) && ino == strconv.FormatUint(st.Ino, 10)
}

// connect returns the connection to the journal.
func (j *journal) connect() (*net.UnixConn, error) {
	if j.conn != nil {
		return j.conn, nil
	}
	// wait: connecting a datagram socket does not block
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to the journal: %w", err)
	}
	j.conn = c
	return c, nil
}

// deliver sends a record, over a new connection if the old one leads nowhere.
func (j *journal) deliver(record []byte) error {
	for again := j.conn != nil; ; again = false {
		c, err := j.connect()
		if err == nil {
			err = j.send(c, record)
		}
		// A journal that does not read has the right socket.
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if j.conn != nil {
			_ = j.conn.Close()
			j.conn = nil
		}
		if !again {
			return err
		}
	}
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
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lost > 0 {
		fmt.Fprintf(&tail, " records_lost_before=%d", j.lost)
	}
	field(&b, "MESSAGE", str(rec["message"])+tail.String())
	err = j.deliver(b.Bytes())
	if err == nil {
		j.lost = 0
		return len(p), nil
	}
	if j.otherwise != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // else it leads to the same journal
		if n, oerr := j.otherwise.Write(p); oerr == nil {
			return n, nil
		}
	}
	j.lost++
	return 0, err
}

// send sends a record to the journal. A record that is too large for the socket
// is sent as a sealed file in memory. go-systemd sends large records, too, but
// without a deadline (DESIGN.md, decision 58).
func (j *journal) send(conn *net.UnixConn, record []byte) error {
	// Without a deadline, the write may block; with one for each record, a
	// journal that is stopped would slow down everything for as long.
	wait := logPatience
	if time.Since(j.stuck) < stuckTime {
		wait = time.Millisecond
	}
	_ = conn.SetWriteDeadline(time.Now().Add(wait))
	_, err := conn.Write(record)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if wait == logPatience {
			j.stuck = time.Now()
		}
		return err
	}
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
		_, _, err = conn.WriteMsgUnix(nil, unix.UnixRights(int(f.Fd())), nil)
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

// field appends one field; a value with a line break is written with its
// length.
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
