package store

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAuditNumbers: lines are numbered without gaps, across restarts, an
// incomplete line and log rotation.
func TestAuditNumbers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "azure", "audit.log")
	if got := NewAuditLog(path).Seq(); got != 0 {
		t.Errorf("without a log: %d", got)
	}
	write := func(a *AuditLog, n int) {
		t.Helper()
		for range n {
			if err := a.Write(AuditEntry{What: "begin", Handler: "P.X", Text: strings.Repeat("x", 100)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(NewAuditLog(path), 3)
	a := NewAuditLog(path)
	if got := a.Seq(); got != 3 {
		t.Errorf("after a restart: %d", got)
	}
	write(a, 1)

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a = NewAuditLog(path)
	if got := a.Seq(); got != 4 {
		t.Errorf("after a torn line: %d", got)
	}
	// The next line must not be appended to it.
	write(a, 1)
	if err := os.Truncate(path, auditMax+1); err != nil {
		t.Fatal(err)
	}
	write(a, 1)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".1", []byte(`{"what":"end","n":6}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a = NewAuditLog(path)
	write(a, 1)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var e AuditEntry
	if err := json.Unmarshal(b, &e); err != nil || e.N != 7 || a.Seq() != 7 {
		t.Errorf("after the change of generations: %d, %d (%v)", e.N, a.Seq(), err)
	}
}

// TestAuditTorn: lines after an incomplete line can be read.
func TestAuditTorn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(`{"what":"end","n":6}`+"\n"+`{"time":"2026-`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewAuditLog(path).Write(AuditEntry{What: "begin"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var e AuditEntry
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil || e.N != 7 {
		t.Errorf("%v in %q", err, b)
	}
}
