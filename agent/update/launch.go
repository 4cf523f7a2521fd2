package update

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
)

// A version that is started for the third time (crashStarts) within crashWindow
// of one boot is rolled back (protocol/SPEC.md §14.3).
const (
	crashWindow = 300 * time.Second
	crashStarts = 3
)

// Self is the running program.
type Self struct {
	Program
	Staged bool // false: it is the installed one
	PID    int
	Ticks  uint64
	Boot   string
}

// Identify identifies the running program. lib is the library directory as the
// kernel names it.
func Identify(version, lib string) (Self, error) {
	exe, err := files.Readlink("/proc/self/exe")
	if err != nil {
		return Self{}, fmt.Errorf("find own binary: %w", err)
	}
	// The file may have been replaced by an upgrade of the package.
	exe = strings.TrimSuffix(exe, " (deleted)")
	if d, err := files.OpenDir(lib, nil); err == nil { // resolve links, as the kernel did
		lib = d.Name()
		_ = d.Close()
	}
	pid := os.Getpid()
	return Self{
		Program: Program{Version: version, Path: exe}, Staged: strings.HasPrefix(exe, filepath.Join(lib, dirPrefix)),
		PID: pid, Ticks: process.StartTicks(pid), Boot: host.BootID(),
	}, nil
}

// begin decides at the start of the installed binary which version to hand over
// to; nil is itself. alive reports whether a process is still the one that had
// this id and start time.
func (s *State) begin(me Self, mode, pin string, now time.Time, alive func(pid int, ticks uint64) bool) *Program {
	s.Installed = me.Program
	if t := s.Trial; t != nil {
		switch {
		case t.Boot == me.Boot && t.PID == me.PID && t.Ticks == me.Ticks && t.To.Path == me.Path:
			return nil // this process is on trial
		case t.Boot == me.Boot && alive(t.PID, t.Ticks):
			return nil // another process is on trial, and holds the lock
		case t.Boot == me.Boot:
			s.rollBack("it exited before the platform accepted a status report", now)
		default:
			if s.Interrupted == nil {
				s.Interrupted = map[string]int{}
			}
			if s.Interrupted[t.To.Version]++; s.Interrupted[t.To.Version] >= 2 {
				s.rollBack("the machine restarted twice during the trial", now)
				break
			}
			s.Last = Last{At: now, Text: fmt.Sprintf("update to %s was interrupted by a restart", t.To.Version)}
			s.Trial = nil
		}
	}
	if mode == Distro {
		s.Active, s.Previous, s.Starts = nil, nil, nil
		return nil
	}
	var recent []Start
	for _, st := range s.Starts {
		if st.Boot == me.Boot && now.Sub(st.At) < crashWindow && !st.At.After(now) {
			recent = append(recent, st)
		}
	}
	s.Starts = recent
	for s.Active != nil {
		p := s.Active
		n := 0
		for _, st := range recent {
			if st.Version == p.Version {
				n++
			}
		}
		_, bad := s.Bad[p.Version]
		switch wanted := mode != Pinned || pin == "" || Compare(p.Version, pin) == 0; {
		case bad:
		case n >= crashStarts-1:
			s.condemn(p.Version, Bad{Kind: RolledBack, Code: codeRollback, Reason: fmt.Sprintf("it exited %d times within %v", n, crashWindow), At: now})
			s.Last = Last{At: now, Code: codeRollback, Text: fmt.Sprintf("version %s rolled back: it exited %d times within %v", p.Version, n, crashWindow)}
		case Compare(p.Version, me.Version) > 0 || mode == Pinned && wanted && p.Version != me.Version:
			s.Starts = append(s.Starts, Start{Version: p.Version, At: now, Boot: me.Boot})
			return p
		}
		s.Active, s.Previous = s.Previous, nil
	}
	return nil
}

// Start must be called before anything else of the agent runs. It returns the
// version to hand over to with Exec, or nil to continue with the running one.
func (s Store) Start(me Self, mode, pin string) (next *Program, err error) {
	if me.Staged {
		return nil, nil
	}
	for {
		err := s.Change(func(st *State) bool {
			if next = st.begin(me, mode, pin, time.Now().UTC(), process.Alive); next != nil {
				p := *next
				next = &p
			}
			return true
		})
		if err != nil || next == nil {
			return nil, err
		}
		bad := next.intact()
		if bad == nil {
			return next, nil
		}
		if err := s.Spoilt(*next, bad); err != nil {
			return nil, err
		}
	}
}

// Spoilt records that a committed version can't be started.
func (s Store) Spoilt(p Program, why error) error {
	return s.Change(func(st *State) bool {
		now := time.Now().UTC()
		st.condemn(p.Version, Bad{Kind: Refused, Code: codeFailed, Reason: why.Error(), At: now})
		st.Last = Last{At: now, Code: codeFailed, Text: fmt.Sprintf("version %s cannot be started: %v", p.Version, why)}
		if st.Active != nil && st.Active.Version == p.Version {
			st.Active, st.Previous = st.Previous, nil
		}
		return true
	})
}

// Stopped is called when the agent was asked to stop, so that this end does not
// count as a crash.
func (s Store) Stopped() error { return s.forgetStarts() }

// Settled is called when the agent has run long enough to count as working.
func (s Store) Settled() error { return s.forgetStarts() }

func (s Store) forgetStarts() error {
	st, err := s.Load()
	if err != nil || len(st.Starts) == 0 {
		return err
	}
	return s.Change(func(st *State) bool {
		st.Starts = nil
		return true
	})
}

// Commit makes the running version the one to use, if it is on trial. It is
// called when the platform has accepted a status document from it.
func (s Store) Commit(me Self) (done bool, err error) {
	st, err := s.Load()
	if err != nil || st.Trial == nil {
		return false, err
	}
	err = s.Change(func(st *State) bool {
		if t := st.Trial; t == nil || t.PID != me.PID || t.Ticks != me.Ticks || t.Boot != me.Boot || Compare(t.To.Version, me.Version) != 0 {
			return false
		}
		st.commit(time.Now().UTC())
		done = true
		return true
	})
	return done, err
}

// GuardArg is the first argument that makes the agent's binary a guard.
const GuardArg = "update-guard"

// Begin saves a trial and starts its guard. After that, the caller has to end
// its work and call Exec.
func (s Store) Begin(ctx context.Context, me Self, t Trial, lock string, env []string) (Trial, error) {
	t.ID, t.Began = rand.Text(), time.Now().UTC()
	t.PID, t.Ticks, t.Boot = me.PID, me.Ticks, me.Boot
	err := s.Change(func(st *State) bool {
		st.Trial = &t
		return true
	})
	if err != nil {
		return t, err
	}
	err = process.Detach(ctx, process.Daemon{
		Path: "/proc/self/exe", Args: []string{GuardArg, string(s.Root), s.Lib, t.ID, lock}, Env: env,
		Log: s.Root.Path(path.Join(s.dir(), "guard.log")), Ready: true,
	})
	if err != nil {
		return t, fmt.Errorf("start update guard: %w", s.Abandon(t, err))
	}
	return t, nil
}

// Abandon ends a trial whose new version was not started, and returns why.
func (s Store) Abandon(t Trial, why error) error {
	if err := s.Change(func(st *State) bool {
		if st.Trial == nil || st.Trial.ID != t.ID {
			return false
		}
		st.Trial = nil
		st.Last = Last{At: time.Now().UTC(), Code: codeFailed, Text: fmt.Sprintf("update to %s not started: %v", t.To.Version, why)}
		return true
	}); err != nil {
		return fmt.Errorf("%w; %w", why, err)
	}
	return why
}

// Exec replaces this program. It returns only if that failed.
func Exec(p Program, args, env []string) error {
	if err := p.intact(); err != nil {
		return err
	}
	if err := process.Exec(p.Path, append([]string{p.Path}, args...), env); err != nil {
		return fmt.Errorf("start version %s: %w", p.Version, err)
	}
	return nil
}
