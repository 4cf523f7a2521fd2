package extensions

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/store"
)

// maxCommandLog is the size in bytes above which CommandExecution.log is cut.
const maxCommandLog = 10 << 20

// say adds a line to the handler's CommandExecution.log, in the folder and
// format of WALinuxAgent, which people and tools expect
// (extensions/SPEC.md §4.8). Secrets are masked.
func (w *work) say(ext, format string, args ...any) {
	name := "CommandExecution.log"
	if ext != "" {
		name = "CommandExecution_" + ext + ".log"
	}
	full := w.name
	if ext != "" {
		full += "." + ext
	}
	line := fmt.Sprintf("%s INFO ExtHandler [%s-%s] %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
		full, w.task.Version, secret.Redact(fmt.Sprintf(format, args...)))
	// A full disk, or something else in place of the log, must not stop a
	// handler.
	d, err := w.m.ownLogFolder(w.name)
	if err == nil {
		err = errors.Join(appendLog(d, name, line), d.Close())
	}
	if err != nil {
		w.m.log.Warn().Err(err).Msg("could not write to the command log")
	}
}

func appendLog(d *host.Dir, name, line string) error {
	cutLog(d, name)
	f, err := d.Append(name, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

// cutLog cuts a log that is too long to its last part, starting with a whole
// line.
func cutLog(d *host.Dir, name string) {
	fi, err := d.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() <= maxCommandLog {
		return
	}
	f, err := d.Open(name)
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
	if d.WriteFileLazy(name, buf, fi.Mode().Perm()) != nil {
		_ = d.Remove(name)
	}
}

// codeLogFolder is a note, not a failure: the agent's log lines about the
// extension are in another folder.
const codeLogFolder = "AZ-EXT-LOGDIR"

// logFolder opens a handler's log folder and creates it and its events folder if
// necessary. The mode of an existing one is not changed. The folder may belong
// to a service account, or may have been replaced by somebody who can write to
// a directory above it, so everything in it is created by descriptor.
func (m *Manager) logFolder(name string) (*host.Dir, error) {
	own := func(string) (host.Make, bool) {
		return host.Make{Perm: 0o755, UID: os.Geteuid(), GID: os.Getegid()}, true
	}
	d, err := m.store.Root.OpenDir(m.store.Logs, own)
	if err == nil {
		var c *host.Dir
		c, err = d.MakeDir(name, 0o755)
		err = errors.Join(err, d.Close())
		d = c
	}
	if err == nil {
		var events *host.Dir
		if events, err = d.MakeDir("events", 0o700); err == nil {
			err = events.Close()
		}
		if errors.Is(err, host.ErrUnsafe) { // made by the handler; not used by the agent
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create log folder: %w", err)
	}
	return d, nil
}

// ownLogFolder opens the folder for the agent's own log lines about a handler:
// the handler's log folder if only root can write to it and to the directory
// above it, and otherwise one that only root can access. The latter is logged
// once.
func (m *Manager) ownLogFolder(name string) (*host.Dir, error) {
	d, err := m.logFolder(name)
	if err == nil {
		if err = m.trustedLogs(d); err == nil {
			m.refused.forget(name)
			return d, nil
		}
		_ = d.Close()
	}
	if !errors.Is(err, host.ErrUnsafe) {
		return nil, err
	}
	instead := m.store.Dir + "/logs/" + name
	if m.refused.first(name) {
		m.log.Warn().Err(err).Str("code", codeLogFolder).Str("handler", name).Str("instead", instead).
			Msg("log folder is not safe: users other than root can change it, or it is not a folder; the agent writes its lines elsewhere")
	}
	if err := m.store.Root.MkdirAll(instead, 0o700); err != nil {
		return nil, err
	}
	return m.store.Root.OpenDir(instead, nil)
}

// trustedLogs returns an error unless only root can write to a handler's log
// folder and replace it.
func (m *Manager) trustedLogs(d *host.Dir) error {
	if err := d.Trusted(); err != nil {
		return err
	}
	above, err := m.store.Root.OpenDir(m.store.Logs, nil)
	if err != nil {
		return err
	}
	return errors.Join(above.Trusted(), above.Close())
}

// refusals are the handlers whose log folder the agent does not write to.
type refusals struct {
	mu    sync.Mutex // guards names
	names map[string]bool
}

func (r *refusals) first(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		r.names = map[string]bool{}
	}
	was := r.names[name]
	r.names[name] = true
	return !was
}

func (r *refusals) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, name)
}

func (r *refusals) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[name]
}

func (w *work) emitNamed(op string, ok bool, message string) {
	w.m.events.Emit(event.Event{
		Kind: event.Operation, Time: time.Now().UTC(), Name: w.name, Version: w.task.Version,
		Op: op, OK: ok, Message: secret.Redact(message),
	})
}

func (m *Manager) auditLog(e store.AuditEntry) {
	if err := m.audit.Write(e); err != nil {
		m.log.Warn().Err(err).Msg("could not write audit log")
	}
}
