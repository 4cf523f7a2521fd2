package hook

import (
	"encoding/json"
	"errors"
	"path"
	"slices"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
)

// A Store has the records of runs, and the jobs of their scripts.
type Store struct {
	Root host.Root
	Lib  string // Lib.Dir
}

func (s Store) dir() string { return path.Join(s.Lib, status.HookDir) }

// Jobs is the directory with one directory for each script that was started.
func (s Store) Jobs() string { return path.Join(s.dir(), "jobs") }

func (s Store) record(key string) string { return path.Join(s.dir(), "runs", key+".json") }

// job is the complete path of a script's job.
func (s Store) job(id string) string { return s.Root.Path(path.Join(s.Jobs(), id)) }

// Open makes the directories.
func (s Store) Open() error {
	for _, d := range []string{s.dir(), path.Join(s.dir(), "runs"), s.Jobs()} {
		if err := s.Root.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Save writes a record, all or nothing.
func (s Store) Save(r status.HookRun) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return s.Root.WriteFile(s.record(r.Key), append(b, '\n'), 0o600)
}

// Load reads a record; ok is false if there is none that can be used.
func (s Store) Load(key string) (r status.HookRun, ok bool) {
	b, err := s.Root.ReadFile(s.record(key))
	if err != nil || json.Unmarshal(b, &r) != nil || r.Key != key {
		return status.HookRun{}, false
	}
	return r, true
}

// List reads all records, the oldest first.
func (s Store) List() ([]status.HookRun, error) { return status.LoadHookRuns(s.Root, s.Lib) }

// Changed returns when a record was last written, zero if there is none.
func (s Store) Changed() time.Time {
	fi, err := s.Root.Stat(path.Join(s.dir(), "runs"))
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

// Limits of what is kept: records that have ended, and jobs of the newest of
// them. A record without its jobs still says what became of its scripts.
const (
	keptRuns    = 40
	keptForeign = 20 // of events of other machines, which run nothing
	keptJobs    = 40
	keptFor     = 90 * 24 * time.Hour
)

// Prune removes what is beyond the limits, and jobs that no record names. The
// records that say that this boot has had its startup or shutdown scripts stay
// whatever their age: without them the scripts would run again.
func (s Store) Prune(now time.Time) error {
	// Jobs first: the record of a job is on disk before its directory, so that
	// of a script that another process starts meanwhile is not removed.
	jobs, jerr := s.Root.ReadDir(s.Jobs())
	runs, err := s.List()
	errs := []error{jerr, err}
	boot := s.Root.BootID()
	slices.Reverse(runs) // the newest first
	keep := map[string]bool{}
	kept := map[bool]int{} // by whether it is another machine's event
	limit := map[bool]int{false: keptRuns, true: keptForeign}
	for _, r := range runs {
		foreign := r.Foreign()
		kept[foreign]++
		once := r.Boot == boot && (r.Key == Startup+"-"+boot || r.Key == Shutdown+"-"+boot)
		if ended := !r.Ended.IsZero(); ended && !once && (kept[foreign] > limit[foreign] || now.Sub(r.Seen) > keptFor) {
			errs = append(errs, s.Root.Remove(s.record(r.Key)))
			continue
		}
		for _, sc := range r.Scripts {
			if sc.Job != "" && (len(keep) < keptJobs || sc.State == status.HookRunning) {
				keep[sc.Job] = true
			}
		}
	}
	if err != nil {
		return errors.Join(errs...) // a record that cannot be read may name a job
	}
	for _, e := range jobs {
		if !keep[e.Name()] {
			errs = append(errs, s.Root.RemoveAll(path.Join(s.Jobs(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// New makes the record of a run that begins now. What is wrong with the
// directory of the scripts is in it.
func (s Store) New(key, hook, vm, boot string, scripts []Script, err error) status.HookRun {
	r := status.HookRun{Key: key, Hook: hook, VM: vm, Boot: boot, Seen: time.Now().UTC()}
	if err != nil {
		r.Refused = err.Error()
	}
	for _, sc := range scripts {
		h := status.HookScript{Name: sc.Name, State: status.HookPending}
		if sc.Err != nil {
			h.State, h.Exit, h.Error, h.Code = status.HookRefused, -1, sc.Err.Error(), CodeFile
		}
		r.Scripts = append(r.Scripts, h)
	}
	return r
}
