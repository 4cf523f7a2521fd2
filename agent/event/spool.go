package event

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

// Limits of the spool (protocol/SPEC.md §11.3; maxBytes is this agent's own).
const (
	MaxFiles  = 1000
	maxBytes  = 8 << 20
	maxFile   = 64 << 10 // largest size that fits into a POST
	maxMemory = 256      // events between Emit and the disk
)

// A Spool keeps events on disk until they are sent: one file each, oldest
// dropped first, so that neither a dead network nor a busy agent fills the
// disk. The directory is shared with handlers, which write files of their own.
//
// Emit only puts the event in memory; Run, or the next Take, writes it to disk.
type Spool struct {
	dir   string
	queue chan *Event // pointers, because it is rarely full

	dropped atomic.Int64
	mu      sync.Mutex // guards the directory and seq
	seq     int64
}

// NewSpool makes a spool in dir, which is made (0700) when first needed.
func NewSpool(dir string) *Spool { return &Spool{dir: dir, queue: make(chan *Event, maxMemory)} }

// Emit implements Sink.
func (s *Spool) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	for {
		select {
		case s.queue <- &e:
			return
		default:
		}
		select { // full: drop the oldest
		case <-s.queue:
			s.dropped.Add(1)
		default:
		}
	}
}

// Dropped returns how many events were lost since the last call.
func (s *Spool) Dropped() int64 { return s.dropped.Swap(0) }

// Run writes events to disk as they come, until the context ends; then it
// writes what is left.
func (s *Spool) Run(ctx context.Context) error {
	for {
		select {
		case e := <-s.queue:
			s.mu.Lock()
			s.write(*e)
			s.mu.Unlock()
		case <-ctx.Done():
			return s.Flush()
		}
	}
}

// Flush writes what is in memory to disk and enforces the limits.
func (s *Spool) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

func (s *Spool) flush() error {
	for {
		select {
		case e := <-s.queue:
			s.write(*e)
			continue
		default:
		}
		return s.trim()
	}
}

// write makes a file. An event that can't be written is dropped and counted,
// not tried again: a full disk must not fill the memory.
func (s *Spool) write(e Event) {
	e.Message = secret.Redact(e.Message) // it may stay on disk until the network is back
	b, err := encodeTLD(e)
	if err != nil || len(b) > maxFile {
		s.dropped.Add(1)
		return
	}
	// The name is the time in µs, made unique and increasing.
	s.seq = max(s.seq+1, time.Now().UnixMicro())
	name := path.Join(s.dir, fmt.Sprintf("%d.waagent.tld", s.seq))
	if err := errors.Join(files.MkdirAll(s.dir, 0o700), files.WriteFileLazy(name, b, 0o600)); err != nil {
		s.dropped.Add(1)
	}
	if s.seq%64 == 0 {
		_ = s.trim()
	}
}

// files opens files by absolute path.
const files = host.Root("")

type spooled struct {
	name string
	size int64
	mod  time.Time
}

// list returns the event files, oldest first, and removes leftovers of
// interrupted writes.
func (s *Spool) list() ([]spooled, error) {
	entries, err := files.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	var out []spooled
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || e.IsDir() {
			continue
		}
		if !strings.HasSuffix(e.Name(), ".tld") {
			if time.Since(fi.ModTime()) > time.Hour {
				_ = files.Remove(path.Join(s.dir, e.Name()))
			}
			continue
		}
		out = append(out, spooled{e.Name(), fi.Size(), fi.ModTime()})
	}
	slices.SortFunc(out, func(a, b spooled) int {
		if c := a.mod.Compare(b.mod); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	return out, nil
}

// trim removes the oldest files beyond the limits.
func (s *Spool) trim() error {
	list, err := s.list()
	if err != nil {
		return err
	}
	var bytes int64
	for i, l := range slices.Backward(list) {
		bytes += l.size
		if len(list)-i > MaxFiles || bytes > maxBytes {
			if files.Remove(path.Join(s.dir, l.name)) == nil {
				s.dropped.Add(1)
			}
		}
	}
	return nil
}

// Take removes up to limit of the oldest events from the spool and returns
// them. They are removed from disk before they are sent, as the protocol
// demands: an event arrives at most once, and one that can't be sent never
// comes back to block the others. A file that is not an event is removed and
// counted as dropped.
func (s *Spool) Take(limit int) ([]Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ferr := s.flush()
	list, err := s.list()
	if err != nil {
		return nil, errors.Join(ferr, err)
	}
	var out []Event
	for _, f := range list {
		if len(out) >= limit {
			break
		}
		name := path.Join(s.dir, f.name)
		b, rerr := files.ReadBounded(name, maxFile)
		if err := files.Remove(name); err != nil {
			ferr = errors.Join(ferr, err)
			continue // a file that can't be removed would be sent again and again
		}
		var e Event
		if rerr == nil {
			e, rerr = decodeTLD(b, strings.HasSuffix(f.name, ".waagent.tld"), f.mod.UTC())
		}
		if rerr != nil {
			s.dropped.Add(1)
			continue
		}
		out = append(out, e)
	}
	return out, ferr
}

// Empty removes all events. It is used when telemetry is off, because handlers
// go on writing theirs.
func (s *Spool) Empty() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case <-s.queue:
			continue
		default:
		}
		break
	}
	list, err := s.list()
	for _, f := range list {
		err = errors.Join(err, files.Remove(path.Join(s.dir, f.name)))
	}
	return err
}

// Size returns how many events wait on disk, and their size in bytes.
func (s *Spool) Size() (events int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := files.ReadDir(s.dir)
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), ".tld") {
			events, bytes = events+1, bytes+fi.Size()
		}
	}
	return events, bytes
}
