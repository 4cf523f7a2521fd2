// Package kvp writes the pool through which a Hyper-V guest passes key-value
// pairs to its host: a file of fixed-size records that a daemon in the guest
// reads (provisioning/SPEC.md §9.8).
//
// The host collects the pool when it receives the health report, so the pool
// must be synced before the report is posted; every function here does that.
// Begin with [Open]. The package imports only agent/host.
package kvp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// Layout of a record: a key and a value, each UTF-8 and padded with NUL.
const (
	KeySize    = 512
	ValueSize  = 2048
	RecordSize = KeySize + ValueSize
	// MaxRecords is how many records of a pool the daemon reads.
	MaxRecords = 1024
)

// Limits of what reaches the host: the kernel converts the text to UTF-16 and
// silently drops the last unit of each field.
const (
	MaxKey   = 254  // UTF-16 units
	MaxValue = 1022 // UTF-16 units
)

// GuestPool is the pool a guest writes and the host reads.
const GuestPool = "/var/lib/hyperv/.kvp_pool_1"

// ErrNoPool means that there is no directory for the pool: no Hyper-V, or no
// daemon that would read it.
var ErrNoPool = errors.New("no KVP pool on this machine")

// A Record is one key with its value.
type Record struct{ Key, Value string }

// A Pool is a pool file.
type Pool struct {
	root host.Root
	name string
}

// Open returns the guest's pool. The file is made when it is first written.
func Open(r host.Root) *Pool { return &Pool{root: r, name: GuestPool} }

// Set writes values to the pool: the first record of a key is overwritten and
// further ones are removed, or a record is appended. Text that is too long for
// the channel is an error, because the host would receive another value; see
// Fit. If the pool is full, the oldest records make room, see room.
func (p *Pool) Set(ctx context.Context, recs ...Record) error {
	for _, rec := range recs {
		if err := check(rec); err != nil {
			return fmt.Errorf("write KVP %q: %w", rec.Key, err)
		}
	}
	return p.edit(ctx, func(have []Record) ([]Record, error) {
		for _, rec := range recs {
			have = upsert(have, rec)
		}
		have = room(have, recs)
		if len(have) > MaxRecords {
			return nil, fmt.Errorf("%d records, at most %d are allowed", len(have), MaxRecords)
		}
		return have, nil
	})
}

// room drops records until the daemon reads all of the others: the oldest
// events first (cloud-init and azure-init add one for each thing that they do,
// with "|" in its key), then the oldest of any kind. Those in keep stay.
func room(have, keep []Record) []Record {
	excess := len(have) - MaxRecords
	for _, droppable := range []func(Record) bool{
		func(r Record) bool { return strings.Contains(r.Key, "|") },
		func(Record) bool { return true },
	} {
		have = slices.DeleteFunc(have, func(r Record) bool {
			kept := slices.ContainsFunc(keep, func(k Record) bool { return k.Key == r.Key })
			if excess <= 0 || kept || !droppable(r) {
				return false
			}
			excess--
			return true
		})
	}
	return have
}

func upsert(have []Record, rec Record) []Record {
	out := have[:0:len(have)]
	done := false
	for _, h := range have {
		if h.Key != rec.Key {
			out = append(out, h)
		} else if !done {
			out = append(out, rec)
			done = true
		}
	}
	if !done {
		out = append(out, rec)
	}
	return out
}

// Delete removes keys from the pool.
func (p *Pool) Delete(ctx context.Context, keys ...string) error {
	return p.edit(ctx, func(have []Record) ([]Record, error) {
		var out []Record
		for _, h := range have {
			keep := true
			for _, k := range keys {
				keep = keep && h.Key != k
			}
			if keep {
				out = append(out, h)
			}
		}
		return out, nil
	})
}

// DropStale empties the pool if it was written before this boot, because its
// records are obsolete. Called again in the same boot it does nothing, so it
// never removes what another agent has just written.
func (p *Pool) DropStale(ctx context.Context) error {
	boot, err := p.root.BootTime()
	if err != nil {
		return fmt.Errorf("drop stale KVP records: %w", err)
	}
	f, unlock, err := p.lock(ctx, false)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrNoPool) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("drop stale KVP records: %w", err)
	}
	defer unlock()
	// Checked under the lock: another process may have written the pool while
	// this one waited.
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("drop stale KVP records: %w", err)
	}
	if fi.Size() == 0 || !fi.ModTime().Before(boot) {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("drop stale KVP records: %w", err)
	}
	return f.Sync()
}

// Read returns the records, in order. An incomplete record at the end is left
// out.
func (p *Pool) Read(ctx context.Context) ([]Record, error) {
	f, unlock, err := p.lock(ctx, false)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrNoPool) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read KVP: %w", err)
	}
	defer unlock()
	return decodeAll(f)
}

func (p *Pool) edit(ctx context.Context, fn func([]Record) ([]Record, error)) error {
	f, unlock, err := p.lock(ctx, true)
	if err != nil {
		return fmt.Errorf("write KVP: %w", err)
	}
	defer unlock()
	have, err := decodeAll(f)
	if err != nil {
		return fmt.Errorf("write KVP: %w", err)
	}
	before := encodeAll(have)
	want, err := fn(have)
	if err != nil {
		return fmt.Errorf("write KVP: %w", err)
	}
	after := encodeAll(want)
	if bytes.Equal(before, after) {
		return nil
	}
	// In place: the daemon keeps the file open and would not see a renamed
	// one.
	if _, err := f.WriteAt(after, 0); err != nil {
		return fmt.Errorf("write KVP: %w", err)
	}
	if err := f.Truncate(int64(len(after))); err != nil {
		return fmt.Errorf("write KVP: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write KVP: %w", err)
	}
	return nil
}

// lockWait limits how long to wait for another process that holds the lock.
const lockWait = 5 * time.Second

// lock opens the pool and takes both kinds of lock: the daemon uses fcntl,
// other agents flock, and neither excludes the other.
func (p *Pool) lock(ctx context.Context, create bool) (*os.File, func(), error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := p.root.OpenFile(p.name, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) && create {
		return nil, nil, ErrNoPool
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, errors.New("pool is locked by another process"))
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			lk := unix.Flock_t{Type: unix.F_WRLCK}
			if err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err == nil {
				return f, func() { _ = f.Close() }, nil
			}
			_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR) {
			return nil, nil, errors.Join(fmt.Errorf("lock: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, nil, errors.Join(fmt.Errorf("lock: %w", context.Cause(ctx)), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func decodeAll(f *os.File) ([]Record, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, MaxRecords*RecordSize))
	if err != nil {
		return nil, err
	}
	return Decode(b), nil
}

// Decode reads the records of a pool.
func Decode(b []byte) []Record {
	var out []Record
	for len(b) >= RecordSize {
		out = append(out, Record{text(b[:KeySize]), text(b[KeySize:RecordSize])})
		b = b[RecordSize:]
	}
	return out
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func encodeAll(recs []Record) []byte {
	b := make([]byte, len(recs)*RecordSize)
	for i, r := range recs {
		at := b[i*RecordSize:]
		// No NUL is required at the end: a record of another program may fill
		// its fields completely.
		copy(at[:KeySize], r.Key)
		copy(at[KeySize:RecordSize], r.Value)
	}
	return b
}

func check(r Record) error {
	switch {
	case r.Key == "":
		return errors.New("no key")
	case !utf8.ValidString(r.Key) || !utf8.ValidString(r.Value):
		return errors.New("not UTF-8")
	case strings.Contains(r.Key, "\x00") || strings.Contains(r.Value, "\x00"):
		return errors.New("contains NUL")
	}
	if err := fits("key", r.Key, MaxKey, KeySize-1); err != nil {
		return err
	}
	return fits("value", r.Value, MaxValue, ValueSize-1)
}

// fits checks one text of a record against both of its limits.
func fits(what, s string, maxUnits, maxBytes int) error {
	if n := units(s); n > maxUnits {
		return fmt.Errorf("%s has %d UTF-16 units, at most %d are allowed", what, n, maxUnits)
	}
	if len(s) > maxBytes {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", what, len(s), maxBytes)
	}
	return nil
}

// units returns the length of a text in UTF-16 units.
func units(s string) int {
	n := 0
	for _, c := range s {
		n += utf16.RuneLen(c)
	}
	return n
}

// Fit shortens a text to fit a value: valid UTF-8 without NUL, cut between
// runes, at most limit UTF-16 units and less than ValueSize bytes.
func Fit(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	n := 0
	for i, c := range s {
		if n += utf16.RuneLen(c); n > limit || i+utf8.RuneLen(c) >= ValueSize {
			return s[:i]
		}
	}
	return s
}

// Split cuts a text into pieces that each fit a value, between runes, for
// events that span several records.
func Split(s string, limit int) []string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	var out []string
	for {
		head := Fit(s, limit)
		if head == "" {
			return out
		}
		out = append(out, head)
		s = s[len(head):]
	}
}
