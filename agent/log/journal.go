package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// journal writes records with the journal's native protocol, so that fields are
// preserved: PRIORITY, SYSLOG_IDENTIFIER, AZ_EXTENSION and so on.
type journal struct {
	conn *net.UnixConn
	lost atomic.Int64 // records that the journal did not accept
}

const journalSocket = "/run/systemd/journal/socket"

// logPatience limits the wait for a journal that does not read.
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

// send sends a record to the journal. A record that is too large for the socket
// is sent as a sealed file in memory. go-systemd sends large records, too, but
// without a deadline (DESIGN.md, decision 58).
func (j *journal) send(record []byte) error {
	_ = j.conn.SetWriteDeadline(time.Now().Add(logPatience)) // without a deadline, the write may block
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
