package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
)

// An AuditEntry is one line of the audit log, in JSON. Every execution of a
// command has two, when it begins and when it ends (extensions/SPEC.md §4.8).
// Settings are never logged.
type AuditEntry struct {
	Time      time.Time `json:"time"`
	N         int64     `json:"n"`    // line number; continues after restarts and log rotation
	What      string    `json:"what"` // begin, end, deny, package, remove
	Handler   string    `json:"handler"`
	Version   string    `json:"version,omitempty"`
	Extension string    `json:"extension,omitempty"`
	Op        plan.Op   `json:"op,omitempty"`
	Seq       int       `json:"seq"`
	Why       string    `json:"why,omitempty"`
	GoalState string    `json:"goalState,omitempty"`
	Command   string    `json:"command,omitempty"`
	Digest    string    `json:"sha256,omitempty"`
	Signer    string    `json:"signer,omitempty"`
	Job       string    `json:"job,omitempty"`
	Class     string    `json:"class,omitempty"`
	Code      int       `json:"code"`
	Output    int64     `json:"output,omitempty"` // bytes that the command printed; of much output a part (job.MaxOutput)
	Text      string    `json:"text,omitempty"`
}

const auditMax = 10 << 20

// An AuditLog appends to a log file and keeps one rotated file (.1).
type AuditLog struct {
	dir, name string
	Instead   string     // directory to use while others than root can write to dir; "" for none
	mu        sync.Mutex // one writer at a time; guards the fields below
	n         int64      // number of the last line; -1 while not known
	torn      bool       // the last line may be incomplete
}

// NewAuditLog returns the audit log in a file, which is created when needed.
func NewAuditLog(path string) *AuditLog {
	dir, name := filepath.Split(path)
	return &AuditLog{dir: filepath.Clean(dir), name: name, n: -1, torn: true}
}

// Seq returns the number of the last line, 0 if there is none.
func (a *AuditLog) Seq() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last()
}

// last returns the number of the last line. After a restart of the agent, it
// reads it from the log.
func (a *AuditLog) last() int64 {
	if a.n >= 0 {
		return a.n
	}
	a.n = 0
	for _, dir := range []string{a.dir, a.Instead} {
		d, err := trustedFolder(dir)
		if err != nil {
			continue
		}
		for _, name := range []string{a.name, a.name + ".1"} {
			if n := lastLine(d, name); n > 0 {
				a.n = max(a.n, n)
				break
			}
		}
		_ = d.Close()
	}
	return a.n
}

// lastLine returns the number of the last complete line of a log.
func lastLine(d *host.Dir, name string) int64 {
	f, err := d.Open(name)
	if err != nil {
		return 0
	}
	defer f.Close()
	lines := strings.Split(strings.TrimRight(handler.TailOf(f, auditLine), "\n"), "\n")
	for _, line := range slices.Backward(lines) {
		var e AuditEntry
		// The last line may be incomplete after a power cut.
		if json.Unmarshal([]byte(line), &e) == nil && e.N > 0 {
			return e.N
		}
	}
	return 0
}

// auditLine is how many bytes lastLine reads: enough for several lines, because
// texts in them have at most maxAuditText characters.
const (
	auditLine    = 256 << 10
	maxAuditText = 2048
)

// trustedFolder opens a directory that only root can write to.
func trustedFolder(dir string) (*host.Dir, error) {
	if dir == "" {
		return nil, fs.ErrNotExist
	}
	d, err := folder.Root.OpenDir(dir, nil)
	if err != nil {
		return nil, err
	}
	if err := d.Trusted(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// folder opens the directory for the log. Others must not be able to write to
// it, because they could replace the log.
func (a *AuditLog) folder() (*host.Dir, error) {
	err := folder.Root.MkdirAll(a.dir, 0o755)
	if err == nil {
		var d *host.Dir
		if d, err = trustedFolder(a.dir); err == nil {
			return d, nil
		}
	}
	if a.Instead == "" || !errors.Is(err, host.ErrUnsafe) {
		return nil, err
	}
	if err := folder.Root.MkdirAll(a.Instead, 0o700); err != nil {
		return nil, err
	}
	return trustedFolder(a.Instead)
}

func (a *AuditLog) Write(e AuditEntry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.Time, e.N = time.Now().UTC(), a.last()+1
	// Lines must be shorter than auditLine, so that lastLine finds the number.
	for _, s := range []*string{&e.Command, &e.Text, &e.Why, &e.GoalState, &e.Signer} {
		*s = handler.Clip(*s, maxAuditText)
	}
	line, err := json.Marshal(e)
	if err == nil {
		err = a.append(line)
	}
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	a.n = e.N
	return nil
}

func (a *AuditLog) append(line []byte) error {
	d, err := a.folder()
	if err != nil {
		return err
	}
	defer d.Close()
	if fi, err := d.Lstat(a.name); err == nil && fi.Size() > auditMax {
		_ = d.Rename(a.name, d, a.name+".1") // if it can't be rotated, keep appending
	}
	f, err := d.OpenFile(a.name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if a.torn && !endsLine(f) {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(append(line, '\n'))
	a.torn = err != nil
	return errors.Join(err, f.Close())
}

// endsLine reports whether a file is empty or ends with a newline.
func endsLine(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return true
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], fi.Size()-1)
	return err != nil || b[0] == '\n'
}
