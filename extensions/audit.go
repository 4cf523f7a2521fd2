package extensions

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An AuditEntry is one line of the audit log: every execution has two, one
// when it begins and one when it ends (asks S6). It contains no settings.
type AuditEntry struct {
	Time      time.Time `json:"time"`
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
	mu   sync.Mutex // one writer at a time
}

func newAudit(path string) *audit { return &audit{path: path} }

func (a *audit) write(e AuditEntry) error {
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if fi, err := os.Lstat(a.path); err == nil && fi.Size() > auditMax {
		_ = os.Rename(a.path, a.path+".1") // a log that can't be rotated still grows
	}
	if err := os.MkdirAll(filepath.Dir(a.path), 0o755); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	f, err := os.OpenFile(a.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}
