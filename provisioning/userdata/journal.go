package userdata

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// State is the state of an item, or of everything.
type State string

// The states.
const (
	Pending     State = "pending"
	Doing       State = "doing" // written before it begins, so it remains after a crash
	Done        State = "done"
	Warned      State = "warned" // done, with a warning
	Failed      State = "failed"
	Interrupted State = "interrupted" // a script that is not run again
	Skipped     State = "skipped"     // has run on this disk before

	Refused State = "refused" // of everything: nothing is carried out
)

// over reports whether nothing is left to do.
func (s State) over() bool { return s != Pending && s != Doing && s != "" }

// A Source is a document that was used.
type Source struct {
	Layer Layer  `json:"layer"`
	Name  string `json:"name,omitempty"`
	Bytes int    `json:"bytes"`
	Sum   string `json:"sha256"`
	File  string `json:"file"` // below the state directory, readable by root only
}

// An Entry is one item in the journal.
type Entry struct {
	ID       string    `json:"id"`
	What     string    `json:"what"`
	When     When      `json:"when"`
	State    State     `json:"state"`
	Code     string    `json:"code,omitempty"`
	Error    string    `json:"error,omitempty"`
	Exit     *int      `json:"exit,omitempty"`
	Boot     string    `json:"boot,omitempty"` // in which it ended
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Output   string    `json:"output,omitempty"` // directory of a script's output
}

// A Journal records what was done for one VM. It contains no secret; the
// documents themselves are beside it.
type Journal struct {
	VMID     string    `json:"vmId"`
	Boot     string    `json:"boot,omitempty"`    // the last one for which it is complete
	Fetched  string    `json:"fetched,omitempty"` // the boot in which the documents were fetched
	User     string    `json:"user,omitempty"`    // the account of the order
	State    State     `json:"state"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"` // the first time
	Sources  []Source  `json:"sources"`
	Problems []Problem `json:"problems,omitempty"`
	Foreign  []Place   `json:"foreign,omitempty"`
	Items    []Entry   `json:"items"`
}

func (j *Journal) entry(id string) *Entry {
	if i := slices.IndexFunc(j.Items, func(e Entry) bool { return e.ID == id }); i >= 0 {
		return &j.Items[i]
	}
	return nil
}

// Bad returns the entries that did not end well.
func (j *Journal) Bad() []Entry {
	return slices.DeleteFunc(slices.Clone(j.Items), func(e Entry) bool {
		return e.State != Failed && e.State != Interrupted && e.State != Warned
	})
}

// News returns what is to be reported in a boot: the faults of documents that
// were fetched in it, or that still keep everything from being carried out, and
// the entries of it that did not end well.
func (j *Journal) News(boot string) (faults []Problem, bad []Entry) {
	if j.State == Refused || j.Fetched == boot {
		faults = j.Problems
	}
	return faults, slices.DeleteFunc(j.Bad(), func(e Entry) bool { return e.Boot != boot })
}

// A Store is the state on disk.
type Store struct {
	Root host.Root
	Dir  string // provisioning.Options.Dir
}

// Names below the directory of a store.
const (
	journalName = "data.json"
	onceName    = "data-once.json" // stays on a copy of the disk
	beganName   = "data/began"
	docsName    = "data/documents"
	runsName    = "data/runs"
)

// Runs returns the directory with the output of scripts, a directory for each.
func (s Store) Runs() string { return s.path(runsName) }

// maxJournal is more than a plan with all its problems needs.
const maxJournal = 8 << 20

func (s Store) path(name string) string { return path.Join(s.Dir, name) }

// Journal returns the journal, or a zero one if there is none or it is damaged.
func (s Store) Journal() (Journal, error) {
	var j Journal
	b, err := s.Root.ReadBounded(s.path(journalName), maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return j, fault(CodeState, fmt.Errorf("read journal: %w", err))
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return Journal{}, nil //nolint:nilerr // a power cut has truncated the file
	}
	return j, nil
}

// began reports whether something has been carried out for a VM. Then a journal
// that is not there was lost.
func (s Store) began(vmID string) bool {
	b, err := s.Root.ReadBounded(s.path(beganName), 1024)
	return err == nil && provisioning.SameVM(string(b), vmID)
}

// save writes the journal, synced: a script must not run twice after a power
// cut.
func (s Store) save(j *Journal) error {
	b, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		return fault(CodeState, err)
	}
	return s.write(journalName, append(b, '\n'), 0o600)
}

func (s Store) write(name string, b []byte, perm fs.FileMode) error {
	name = s.path(name)
	// One by one: only the last directory gets the mode.
	for dir := path.Dir(s.Dir); ; {
		if err := s.Root.MkdirAll(dir, 0o700); err != nil {
			return fault(CodeState, err)
		}
		rest := strings.TrimPrefix(path.Dir(name), dir)
		if rest == "" {
			break
		}
		next, _, _ := strings.Cut(rest[1:], "/")
		dir = path.Join(dir, next)
	}
	if err := s.Root.WriteFile(name, b, perm); err != nil {
		return fault(CodeState, err)
	}
	return nil
}

// keep stores documents, which later boots use.
func (s Store) keep(docs []Document) ([]Source, error) {
	if err := s.Root.RemoveAll(s.path(docsName)); err != nil {
		return nil, fault(CodeState, err)
	}
	var out []Source
	for i, d := range docs {
		sum := sha256.Sum256(d.Data)
		src := Source{Layer: d.Layer, Name: d.Name, Bytes: len(d.Data), Sum: hex.EncodeToString(sum[:]), File: path.Join(docsName, fmt.Sprintf("%03d", i))}
		if err := s.write(src.File, d.Data, 0o600); err != nil {
			return nil, err
		}
		out = append(out, src)
	}
	return out, nil
}

// Documents returns the documents of a journal.
func (s Store) Documents(j Journal) ([]Document, error) {
	var out []Document
	for _, src := range j.Sources {
		b, err := s.Root.ReadBounded(s.path(src.File), MaxDocument+1)
		if err != nil {
			return nil, fault(CodeState, fmt.Errorf("read document: %w", err))
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != src.Sum {
			return nil, fault(CodeState, fmt.Errorf("document %s has changed", s.path(src.File)))
		}
		out = append(out, Document{Layer: src.Layer, Name: src.Name, Data: b})
	}
	return out, nil
}

// A once is a script that runs once per disk and has been started.
type once struct {
	What string    `json:"what"`
	At   time.Time `json:"at"`
}

// started returns the scripts that run once per disk and have been started, by
// their content.
func (s Store) started() map[string]once {
	out := map[string]once{}
	b, err := s.Root.ReadBounded(s.path(onceName), maxJournal)
	if err != nil || json.Unmarshal(b, &out) != nil {
		return map[string]once{}
	}
	return out
}

func (s Store) begin(i Item) error {
	all := s.started()
	all[i.sum()] = once{i.what, time.Now().UTC()}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return fault(CodeState, err)
	}
	return s.write(onceName, append(b, '\n'), 0o600)
}

// A coded error has a code.
type coded struct {
	code string
	err  error
}

func (e *coded) Error() string { return e.err.Error() }

func (e *coded) Unwrap() error { return e.err }

// Code is the stable code.
func (e *coded) Code() string { return e.code }

// fault gives an error a code.
func fault(code string, err error) error { return &coded{code, err} }
