package extensions

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An AuditEntry is one line of the audit log: every execution has two, one
// when it begins and one when it ends (asks S6). It contains no settings.
type AuditEntry struct {
	Time      time.Time `json:"time"`
	N         int64     `json:"n"`    // grows by one with each line, across restarts and generations
	What      string    `json:"what"` // begin, end, deny, package, remove
	Handler   string    `json:"handler"`
	Version   string    `json:"version,omitempty"`
	Extension string    `json:"extension,omitempty"`
	Op        Op        `json:"op,omitempty"`
	Seq       int       `json:"seq"`
	Why       string    `json:"why,omitempty"`
	GoalState string    `json:"goalState,omitempty"`
	Command   string    `json:"command,omitempty"`
	Digest    string    `json:"sha256,omitempty"`
	Signer    string    `json:"signer,omitempty"`
	Job       string    `json:"job,omitempty"`
	Class     string    `json:"class,omitempty"`
	Code      int       `json:"code"`
	Text      string    `json:"text,omitempty"`
}

const auditMax = 10 << 20

// audit appends to the log and keeps one older generation.
type audit struct {
	path string
	mu   sync.Mutex // one writer at a time; guards what follows
	n    int64      // of the last line, once it is known; -1 before
	torn bool       // the last line may lack its end
}

func newAudit(path string) *audit { return &audit{path: path, n: -1, torn: true} }

// seq is the number of the last line, 0 if there is none.
func (a *audit) seq() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last()
}

// last finds out where an earlier life of the agent has stopped.
func (a *audit) last() int64 {
	if a.n >= 0 {
		return a.n
	}
	a.n = 0
	for _, path := range []string{a.path, a.path + ".1"} {
		lines := strings.Split(strings.TrimRight(tail(path, auditLine), "\n"), "\n")
		for _, line := range slices.Backward(lines) {
			var e AuditEntry
			// A power cut may have torn the last one.
			if json.Unmarshal([]byte(line), &e) == nil && e.N > 0 {
				a.n = e.N
				return a.n
			}
		}
	}
	return a.n
}

// auditLine is more than a few lines.
const auditLine = 64 << 10

func (a *audit) write(e AuditEntry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.Time, e.N = time.Now().UTC(), a.last()+1
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	if fi, err := os.Lstat(a.path); err == nil && fi.Size() > auditMax {
		_ = os.Rename(a.path, a.path+".1") // a log that can't be rotated still grows
	}
	if err := os.MkdirAll(filepath.Dir(a.path), 0o755); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	f, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	if a.torn && !endsLine(f) {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(append(line, '\n'))
	a.torn = err != nil
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	a.n = e.N
	return nil
}

// endsLine says that nothing stands before the next line.
func endsLine(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return true
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], fi.Size()-1)
	return err != nil || b[0] == '\n'
}
