package extensions

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/secret"
)

// maxCommandLog is where CommandExecution.log is cut.
const maxCommandLog = 10 << 20

// say adds a line to the handler's CommandExecution.log, in the folder and
// the form that people and tools know (spec/extensions §1.1).
func (w *work) say(ext, format string, args ...any) {
	name := "CommandExecution.log"
	if ext != "" {
		name = "CommandExecution_" + ext + ".log"
	}
	if err := w.m.logFolders(w.name); err != nil {
		w.m.log.Warn().Err(err).Msg("no command log")
		return
	}
	path := w.m.store.logDir(w.name) + "/" + name
	full := w.name
	if ext != "" {
		full += "." + ext
	}
	line := fmt.Sprintf("%s INFO ExtHandler [%s-%s] %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
		full, w.task.Version, secret.Redact(fmt.Sprintf(format, args...)))
	cutLog(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		w.m.log.Warn().Err(err).Msg("no command log")
		return
	}
	_, _ = f.WriteString(line) // a full disk must not stop a handler
	_ = f.Close()
}

// cutLog cuts a log to its last part, beginning with a whole line.
func cutLog(path string) {
	fi, err := os.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() <= maxCommandLog {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		return
	}
	buf := make([]byte, maxCommandLog/2)
	n, _ := f.ReadAt(buf, fi.Size()-int64(len(buf)))
	_ = f.Close()
	buf = buf[:n]
	if i := bytes.IndexByte(buf, '\n'); i >= 0 {
		buf = buf[i+1:]
	}
	tmp := path + ".tmp"
	if os.WriteFile(tmp, buf, fi.Mode().Perm()) != nil || os.Rename(tmp, path) != nil {
		_ = os.Remove(tmp)
		_ = os.Remove(path)
	}
}

func (w *work) emitNamed(op string, ok bool, message string) {
	w.m.events.Emit(event.Event{
		Kind: event.Operation, Time: time.Now().UTC(), Name: w.name, Version: w.task.Version,
		Op: op, OK: ok, Message: secret.Redact(message),
	})
}

func (m *Manager) auditLog(e AuditEntry) {
	if err := m.audit.write(e); err != nil {
		m.log.Warn().Err(err).Msg("audit log")
	}
}

// signalNumber is the number of a signal's name, 0 if there is none.
func signalNumber(name string) int { return int(unix.SignalNum(name)) }

func signalName(n int) string { return unix.SignalName(unix.Signal(n)) }
