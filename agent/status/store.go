package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

// Paths are the run-time files of the agent.
type Paths struct {
	Dir      string
	Snapshot string // see Save
	Lock     string // see Acquire
	Socket   string // see Serve
}

// DefaultPaths returns the paths in /run/azguest. Tests put prefix before them,
// else it is "".
func DefaultPaths(prefix string) Paths {
	dir := filepath.Join(prefix, "/run/azguest")
	return Paths{
		Dir:      dir,
		Snapshot: filepath.Join(dir, "status.json"),
		Lock:     filepath.Join(dir, "agent.lock"),
		Socket:   filepath.Join(dir, "ctl.sock"),
	}
}

// maxSnapshot is the largest file that Load reads, in bytes.
const maxSnapshot = 16 << 20

// ErrSchema is wrapped by Load for a snapshot of a newer schema. The Snapshot
// is returned all the same, with what could be understood.
var ErrSchema = errors.New("written by a newer agent")

// Save writes the snapshot twice, each atomically: at path for everybody,
// without texts of handlers, and next to it as *.root.json for root. The
// directory must exist. SchemaVersion is set, WrittenAt when it is zero.
func Save(path string, s Snapshot) error {
	s.SchemaVersion = Schema
	if s.WrittenAt.IsZero() {
		s.WrittenAt = time.Now().UTC()
	}
	if n := len(s.History); n > HistoryMax {
		s.History = s.History[n-HistoryMax:]
	}
	if s.Extensions == nil {
		s.Extensions = []Extension{}
	}
	// The private file first, because Load reads it last: who may read both then
	// never finds the public one newer.
	if err := writeJSON(rootPath(path), s, 0o600); err != nil {
		return fmt.Errorf("save status: %w", err)
	}
	if err := writeJSON(path, s.Redact(), 0o644); err != nil {
		return fmt.Errorf("save status: %w", err)
	}
	return nil
}

// Load reads the newest snapshot that the caller may see. The error wraps
// fs.ErrNotExist when there is none.
func Load(path string) (Snapshot, error) {
	// In this order: see Save.
	pub, pubErr := readJSON(path)
	full, fullErr := readJSON(rootPath(path))
	usable := func(err error) bool { return err == nil || errors.Is(err, ErrSchema) }
	switch {
	case usable(fullErr) && (!usable(pubErr) || !full.WrittenAt.Before(pub.WrittenAt)):
		return full, fullErr
	case errors.Is(pubErr, fs.ErrNotExist) && fullErr != nil && !errors.Is(fullErr, fs.ErrNotExist):
		return pub, fmt.Errorf("load status: %w", fullErr)
	case pubErr != nil:
		return pub, fmt.Errorf("load status: %w", pubErr)
	}
	return pub, nil
}

func rootPath(path string) string {
	return strings.TrimSuffix(path, ".json") + ".root.json"
}

func readJSON(path string) (Snapshot, error) {
	var s Snapshot
	data, err := machine.ReadBounded(path, maxSnapshot)
	if err != nil {
		return s, err
	}
	err = json.Unmarshal(data, &s)
	switch {
	case s.SchemaVersion > Schema: // says more than any decoding error
		return s, fmt.Errorf("%s: schema %d, this agentctl supports %d: %w", path, s.SchemaVersion, Schema, ErrSchema)
	case err != nil:
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// writeJSON replaces the file at path atomically.
func writeJSON(path string, v any, perm fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return machine.WriteFile(path, append(data, '\n'), perm)
}

// machine opens files by absolute path.
const machine = host.Root("/")

// publicMessage is how much of a text is in the public file, in bytes.
const publicMessage = 160

// words are the states that a handler can report. It may also write something
// else in their place.
var words = []string{
	StatusTransitioning, StatusSuccess, StatusWarning, StatusError,
	"Ready", "NotReady", "Installing", "Unresponsive",
}

// Redact returns the snapshot for everybody: texts for root are removed, the
// others are shortened to a line (see [Snapshot]). Queries are removed from
// URLs, because a SAS token grants access.
func (s Snapshot) Redact() Snapshot {
	s.Redacted = true
	s.Extensions = slices.Clone(s.Extensions)
	for i, e := range s.Extensions {
		s.Extensions[i].Withheld = e.Message != "" || e.StdoutTail != "" || e.StderrTail != ""
	}
	s.each(func(see, text string) string {
		switch see {
		case "root":
			return ""
		case "url":
			return scrub(secret.Redact(text))
		case "word":
			if !slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, text) }) {
				return ""
			}
			return text
		}
		return publicText(text)
	})
	return s
}

// Clean returns the snapshot for root: secrets are masked in all texts that are
// not the agent's own, whichever part of the agent has stored them.
func (s Snapshot) Clean() Snapshot {
	s.each(func(_, text string) string { return secret.Redact(text) })
	return s
}

// each replaces all texts that are not the agent's own.
func (s *Snapshot) each(put func(see, text string) string) {
	texts(reflect.ValueOf(s).Elem(), "", put)
}

// texts replaces each string below v that is in a field with the tag "see".
// What v shares with another snapshot is copied before.
func texts(v reflect.Value, see string, put func(see, text string) string) {
	switch v.Kind() { //nolint:exhaustive // other kinds hold no such text
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				texts(v.Field(i), f.Tag.Get("see"), put)
			}
		}
	case reflect.Slice:
		if v.Len() == 0 {
			return
		}
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(own, v)
		v.Set(own)
		for i := range v.Len() {
			texts(v.Index(i), see, put)
		}
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		own := reflect.New(v.Type().Elem())
		own.Elem().Set(v.Elem())
		v.Set(own)
		texts(own.Elem(), see, put)
	case reflect.String:
		if see != "" && v.Len() > 0 {
			v.SetString(put(see, v.String()))
		}
	}
}

func publicText(s string) string {
	// Before the text is cut, because a secret may have several lines.
	s, _, _ = strings.Cut(strings.TrimSpace(secret.Redact(s)), "\n")
	for _, mark := range []string{"[stdout]", "[stderr]"} { // CustomScript's
		s, _, _ = strings.Cut(s, mark)
	}
	s = scrub(strings.TrimSpace(s))
	if len(s) <= publicMessage {
		return s
	}
	n := publicMessage
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// scrub removes user name and query from every URL in s. The expressions are
// compiled here, not once, because only the agent calls it: agentctl must start
// fast.
func scrub(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	s = regexp.MustCompile(`://[^/\s@"']*@`).ReplaceAllString(s, "://…@")
	return regexp.MustCompile(`(://[^?\s"']*)\?[^\s"']*`).ReplaceAllString(s, "$1?…")
}
