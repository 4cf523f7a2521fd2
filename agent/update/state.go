package update

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol"
)

// A Program is one version on the disk.
type Program struct {
	Version string `json:"version"`
	Path    string `json:"path"`             // of the binary
	SHA256  string `json:"sha256,omitempty"` // of the binary; the installed one has none
}

// Trial is a hand-over that is not committed yet.
type Trial struct {
	ID   string  `json:"id"`
	To   Program `json:"to"`
	From string  `json:"from"`
	By   string  `json:"by"` // what asked for it
	// Withdraw the old version once the new one is committed.
	Withdraw bool `json:"withdraw,omitempty"`

	// The process that becomes the new version, in this boot.
	PID   int    `json:"pid"`
	Ticks uint64 `json:"ticks"`
	Boot  string `json:"boot"`

	Began   time.Time     `json:"began"`
	Health  time.Duration `json:"health"` // time for the first accepted report
	Managed bool          `json:"managed"`
	Args    []string      `json:"args"` // of the agent, after its name
}

// A Start is one time that the installed binary handed over at its start.
type Start struct {
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	Boot    string    `json:"boot"`
}

// Last is the result of the last update, as users see it.
type Last struct {
	At   time.Time `json:"at,omitzero"`
	Text string    `json:"text,omitempty"`
	Code string    `json:"code,omitempty"` // empty if all is well
	// Told: it was shown and reported.
	Told bool `json:"told,omitempty"`
}

// Tries is how often staging failed for a transient reason, and when to try
// again.
type Tries struct {
	N    int       `json:"n"`
	Next time.Time `json:"next"`
}

// Due reports whether it is time to try again. No pause is longer than
// refusedFor: then the clock was set back meanwhile.
func (t Tries) Due(now time.Time) bool {
	return !now.Before(t.Next) || t.Next.Sub(now) > refusedFor
}

// State is what must survive restarts, crashes and reboots.
type State struct {
	// Installed is the binary that boots start; it is never removed.
	Installed Program  `json:"installed"`
	Active    *Program `json:"active,omitempty"`   // the committed version, if it is not Installed
	Previous  *Program `json:"previous,omitempty"` // the one before
	Trial     *Trial   `json:"trial,omitempty"`

	Bad map[string]Bad `json:"bad,omitempty"`
	// Interrupted counts trials that a reboot ended: not the version's
	// fault, unless it happens again.
	Interrupted map[string]int   `json:"interrupted,omitempty"`
	Tries       map[string]Tries `json:"tries,omitempty"`
	Starts      []Start          `json:"starts,omitempty"`
	Plan        Plan             `json:"plan,omitzero"`
	Last        Last             `json:"last,omitzero"`
}

// maxBad is the largest number of bad versions that are remembered.
const maxBad = 20

// condemn records why a version is not used; the oldest record may be dropped.
func (s *State) condemn(version string, b Bad) {
	if s.Bad == nil {
		s.Bad = map[string]Bad{}
	}
	s.Bad[version] = b
	for len(s.Bad) > maxBad {
		oldest := ""
		for v, o := range s.Bad {
			if oldest == "" || o.At.Before(s.Bad[oldest].At) {
				oldest = v
			}
		}
		delete(s.Bad, oldest)
	}
}

// rollBack ends the trial and marks its version as bad.
func (s *State) rollBack(reason string, now time.Time) {
	t := s.Trial
	s.Trial = nil
	s.condemn(t.To.Version, Bad{Kind: RolledBack, Code: codeRollback, Reason: reason, At: now})
	s.Last = Last{At: now, Code: codeRollback, Text: fmt.Sprintf("update to %s rolled back: %s; still running %s", t.To.Version, reason, t.From)}
}

// commit makes the version on trial the one to run.
func (s *State) commit(now time.Time) {
	t := s.Trial
	s.Trial = nil
	if t.Withdraw {
		s.condemn(t.From, Bad{Kind: Withdrawn, Code: codeRefused, Reason: "the platform requested " + t.To.Version + " instead", At: now})
	}
	delete(s.Bad, t.To.Version)
	delete(s.Interrupted, t.To.Version)
	delete(s.Tries, t.To.Version)
	old := s.Active
	if t.To.Path == s.Installed.Path {
		s.Active, s.Previous = nil, nil
	} else {
		to := t.To
		s.Active = &to
		if old == nil || old.Path != to.Path {
			s.Previous = old
		}
	}
	s.Starts, s.Plan = nil, Plan{}
	s.Last = Last{At: now, Text: fmt.Sprintf("updated from %s to %s", t.From, t.To.Version)}
}

// Note records why a version could not be staged. If its package is at fault,
// it is not tried again for a day; otherwise it is tried again with growing
// pauses, or as soon as the requests that failed are due, which have a pace of
// their own.
func (s *State) Note(version string, why error, code, text string, now time.Time) {
	s.Last = Last{At: now, Code: code, Text: text}
	if Final(why) {
		s.condemn(version, Bad{Kind: Refused, Code: CodeOf(why), Reason: why.Error(), At: now})
		delete(s.Tries, version)
		return
	}
	n := s.Tries[version].N + 1
	// Only one version is wanted at a time; the others are forgotten.
	next := now.Add(min(firstRetry<<min(n-1, 10), refusedFor))
	if at := protocol.NextTry(why); !at.IsZero() && at.Before(next) {
		next = at
	}
	s.Tries = map[string]Tries{version: {N: n, Next: next}}
}

// firstRetry is the wait after the first transient failure.
const firstRetry = time.Minute

// The lock is held only while a file is written. A process that holds it longer
// must not keep an agent from starting.
const (
	lockPatience = 10 * time.Second
	lockTry      = 10 * time.Millisecond
)

// Store is the state on disk. Its methods may be called by several
// processes at once: the agent, the guard, an agent that starts.
type Store struct {
	Root host.Root
	Lib  string // library directory below Root
}

func (s Store) dir() string  { return path.Join(s.Lib, "azguest") }
func (s Store) file() string { return path.Join(s.dir(), "update.json") }

// Load reads the state; without a file it is empty.
func (s Store) Load() (State, error) {
	var st State
	b, err := s.Root.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, fmt.Errorf("read update state: %w", err)
	}
	if len(bytes.Trim(b, "\x00\n ")) == 0 {
		return st, nil // empty after a power cut
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return State{}, fmt.Errorf("read update state: %w", err)
	}
	return st, nil
}

// Change reads, changes and writes the state under a lock. A state that can't
// be parsed is replaced: that costs only a download. If change returns false,
// nothing is written.
func (s Store) Change(change func(*State) bool) error {
	if err := s.Root.MkdirAll(s.dir(), 0o700); err != nil {
		return fmt.Errorf("save update state: %w", err)
	}
	f, err := s.Root.OpenFile(path.Join(s.dir(), "update.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("save update state: %w", err)
	}
	defer f.Close() // releases the lock
	for end := time.Now().Add(lockPatience); ; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
		<-time.After(lockTry) // wait: for a moment, and lockPatience bounds them all
	}
	if err != nil {
		return fmt.Errorf("save update state: lock: %w", err)
	}
	st, err := s.Load()
	if _, unreadable := errors.AsType[*fs.PathError](err); unreadable {
		return err
	}
	if !change(&st) {
		return nil
	}
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("save update state: %w", err)
	}
	return s.Root.WriteFile(s.file(), append(b, '\n'), 0o600)
}
