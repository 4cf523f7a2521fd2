package store

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
)

// A Store is the engine's data on disk. Paths are relative to Root.
//
//	<lib>/<Name>-<version>/             the handler, as with every agent
//	<lib>/azguest/ext/records/*.json    Record, one per handler version
//	<lib>/azguest/ext/jobs/<id>/        running and last commands
//	<lib>/azguest/ext/packages/         packages until they are installed
//	<lib>/azguest/ext/tmp/              packages being unpacked, trash
//	<lib>/azguest/ext/gone/             names of handlers removed recently
type Store struct {
	Root host.Root
	Lib  string
	Dir  string // <lib>/azguest/ext
	exec string // where packages are unpacked, if not in Lib
	Logs string // /var/log/azure
	// Step is called by At, if it is not nil. Tests simulate crashes with it.
	Step func(where string)
}

// New returns a store below the directory lib. Packages are unpacked in exec if
// that is not "", and the log folders of handlers are in logs.
func New(root host.Root, lib, exec, logs string) Store {
	return Store{Root: root, Lib: lib, Dir: lib + "/azguest/ext", exec: exec, Logs: logs}
}

// At marks a point at which tests simulate a crash.
func (s Store) At(where string) {
	if s.Step != nil {
		s.Step(where)
	}
}

// Base returns the path of a handler's directory as its commands see it.
func (s Store) Base(name, version string) string {
	return s.Root.Path(s.Lib + "/" + name + "-" + version)
}

var errNotOurs = errors.New("handler directory was replaced")

// CheckBase returns an error if a handler's directory does not exist, or if it
// is something else, such as a link that a handler has put in its place. The
// agent's own link to ExecDir is allowed.
func (s Store) CheckBase(name, version string) error {
	base := s.Base(name, version)
	fi, err := folder.Root.Lstat(base)
	switch {
	case err != nil:
		return err
	case fi.IsDir():
		return nil
	}
	if target, err := folder.Root.Readlink(base); err == nil && s.exec != "" && target == s.execDir(name, version) {
		return nil
	}
	return fmt.Errorf("%s: %w", base, errNotOurs)
}

func (s Store) execDir(name, version string) string {
	return s.Root.Path(filepath.Join(s.exec, name+"-"+version))
}

// LogDir returns the path of a handler's log folder.
func (s Store) LogDir(name string) string { return s.Root.Path(s.Logs + "/" + name) }

// Sub returns the complete path of something below Dir.
func (s Store) Sub(parts ...string) string {
	return s.Root.Path(s.Dir + "/" + strings.Join(parts, "/"))
}

// JobDir returns the path of a job's directory.
func (s Store) JobDir(id string) string { return s.Sub("jobs", id) }

// Init creates the directories of the store.
func (s Store) Init() error {
	for _, d := range []string{s.Lib, s.Lib + "/events"} {
		mode := fs.FileMode(0o755)
		if strings.HasSuffix(d, "/events") {
			mode = 0o700
		}
		if err := writable(s.Root.MkdirAll(d, mode)); err != nil {
			return fmt.Errorf("prepare extensions: %w", err)
		}
	}
	for _, d := range []string{"records", "jobs", "packages", "tmp", "gone"} {
		if err := writable(s.Root.MkdirAll(s.Dir+"/"+d, 0o700)); err != nil {
			return fmt.Errorf("prepare extensions: %w", err)
		}
	}
	for _, dir := range []string{s.Lib, s.exec} {
		if dir == "" {
			continue
		}
		if err := writable(s.Root.AsideAll(dir)); err != nil {
			return fmt.Errorf("prepare extensions: %w", err)
		}
	}
	s.migrate()
	return nil
}

// EmptyDir removes everything in a directory.
func EmptyDir(dir string) error {
	entries, err := folder.Root.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, folder.Root.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// Save writes a record, or deletes it if the handler is absent and there is
// nothing to report about it.
func (s Store) Save(r Record) error {
	name := s.Dir + "/records/" + r.Name + "-" + r.Version + ".json"
	if r.Blank() {
		return s.Root.Remove(name)
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	if err := s.Root.WriteFile(name, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	return nil
}

// SaveFiles writes config/HandlerState and HandlerStatus, if the handler has
// a directory. With them WALinuxAgent can take over at any time.
func (s Store) SaveFiles(r Record) error {
	base := s.Base(r.Name, r.Version)
	if s.CheckBase(r.Name, r.Version) != nil {
		return nil //nolint:nilerr // without a usable directory, the record alone is enough
	}
	if err := folder.MakeAll(base); err != nil {
		return fmt.Errorf("write handler state: %w", err)
	}
	if err := folder.Write(base, base+"/config/HandlerState", []byte(r.OnDisk()), 0o600); err != nil {
		return err
	}
	if r.Report.Status != "" {
		if err := folder.Write(base, base+"/config/HandlerStatus", handler.StatusRecord(r.Name, r.Version, r.Report, r.Multi), 0o600); err != nil {
			return err
		}
	}
	for name, e := range r.Exts {
		if name == "" {
			continue
		}
		state := "disabled"
		if e.Enabled {
			state = "enabled"
		}
		if err := folder.Write(base, base+"/config/"+name+".HandlerState", []byte(state), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Load returns all handler versions on disk, found by their record, by their
// HandlerState, or both. If the two differ, a newer HandlerState decides about
// the state, because another agent may have written it. Directories without
// HandlerState are not handlers (extensions/SPEC.md §4.2). Records that can't be
// read are set aside. Such errors are returned as bad, so that one handler's
// files do not prevent managing the others.
func (s Store) Load() (recs []Record, bad []error, err error) {
	byDir, saved, bad, err := s.loadRecords()
	if err != nil {
		return nil, nil, fmt.Errorf("load records: %w", err)
	}
	entries, err := s.Root.ReadDir(s.Lib)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, bad, fmt.Errorf("load records: %w", err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		name, version, ok := plan.SplitDir(e.Name())
		if !ok || s.CheckBase(name, version) != nil {
			continue
		}
		text, fi, err := folder.ReadOwn(s.Base(name, version)+"/config/HandlerState", 1024)
		if err != nil {
			continue
		}
		seen[e.Name()] = true
		r, known := byDir[e.Name()]
		if !known {
			r = Record{Name: name, Version: version, State: plan.Absent}
		}
		older := known && !fi.ModTime().After(saved[e.Name()])
		r, err = s.withState(r, known, older, strings.TrimSpace(string(text)))
		if err != nil {
			bad = append(bad, err)
		}
		byDir[e.Name()] = r
	}
	for dir, r := range byDir {
		if !seen[dir] && r.State != plan.Absent && (r.Doing == nil || r.Doing.Task.Op != plan.Uninstall) {
			// Its directory is gone, so it has no commands to run.
			r = Record{Name: r.Name, Version: r.Version, State: plan.Absent, Report: r.Report, FailKey: r.FailKey, FailBoot: r.FailBoot, Awaited: r.Awaited}
		}
		recs = append(recs, r)
	}
	slices.SortFunc(recs, func(a, b Record) int { return strings.Compare(a.Name+a.Version, b.Name+b.Version) })
	return recs, bad, nil
}

// loadRecords reads all records. The maps have the record, and the time at which
// it was saved, by the name of the handler's directory.
func (s Store) loadRecords() (byDir map[string]Record, saved map[string]time.Time, bad []error, err error) {
	byDir, saved = map[string]Record{}, map[string]time.Time{}
	files, err := s.Root.Glob(s.Dir + "/records/*.json")
	if err != nil {
		return nil, nil, nil, err
	}
	for _, f := range files {
		r, err := s.record(f)
		if err != nil {
			// The state is then taken from the handler's directory.
			bad = append(bad, fmt.Errorf("load records: %w", s.Root.SetAside(f, err)))
			continue
		}
		byDir[r.Name+"-"+r.Version] = r
		if fi, err := s.Root.Stat(f); err == nil {
			saved[r.Name+"-"+r.Version] = fi.ModTime()
		}
	}
	return byDir, saved, bad, nil
}

// withState brings a record and the handler's HandlerState into agreement. known
// reports whether there was a record, older whether HandlerState is not newer
// than the record; text is the content of HandlerState.
func (s Store) withState(r Record, known, older bool, text string) (_ Record, err error) {
	base := s.Base(r.Name, r.Version)
	switch {
	case known && text == r.OnDisk():
	case known && (older || !slices.Contains(handlerStates(), text)):
		// The agent ended between writing the record and the files, or a power
		// cut left invalid content: write the files now.
		err = writable(s.SaveFiles(r))
	default:
		r = s.adoptExts(adopt(r, text), base)
	}
	if r.Report.Status == "" {
		if b, _, err := folder.ReadOwn(base+"/config/HandlerStatus", handler.MaxHeartbeat); err == nil {
			r.Report, _ = handler.ParseStatusRecord(b)
		}
	}
	if r.State.Installed() && emptied(base+"/"+handler.ManifestName) {
		r.State = plan.Broken // other files may be damaged, too: fetch the package again
	}
	return r, err
}

// maxRecord is the maximum size of a record in bytes.
const maxRecord = 8 << 20

// record reads one record.
func (s Store) record(file string) (r Record, err error) {
	b, err := s.Root.ReadBounded(file, maxRecord)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Name == "" || r.Version == "" || strings.ContainsAny(r.Name+r.Version, "/\x00")) {
		err = errors.New("no handler name or version")
	}
	return r, err
}

// handlerStates are the values that agents write into HandlerState.
func handlerStates() []string {
	return []string{"NotInstalled", "Installed", "Enabled", "FailedUpgrade"}
}

// emptied reports whether a file is empty or has only NULs, as after a power cut.
func emptied(path string) bool {
	b, _, err := folder.Read(path, handler.MaxManifest)
	return err == nil && len(bytes.Trim(b, "\x00")) == 0
}

// adopt sets the state to the HandlerState that another agent has written.
func adopt(r Record, text string) Record {
	r.Exts, r.Change, r.FailedUpgrade, r.Doing = nil, nil, false, nil
	switch text {
	case "Enabled":
		r.State = plan.Enabled
	case "Installed":
		r.State = plan.Installed
	case "FailedUpgrade":
		r.State, r.FailedUpgrade = plan.Broken, true
	default:
		r.State = plan.Broken // an incomplete installation: fetch it again
	}
	return r
}

// adoptExts adds the multi-config extensions that another agent has enabled.
func (s Store) adoptExts(r Record, base string) Record {
	entries, err := folder.List(base + "/config")
	if err != nil {
		return r
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".HandlerState")
		if !ok || name == "" {
			continue
		}
		r.Multi = true
		b, _, err := folder.ReadOwn(base+"/config/"+e.Name(), 64)
		if err == nil && strings.TrimSpace(string(b)) == "enabled" && r.State == plan.Enabled {
			r = r.SetExt(name, ExtRecord{ExtFact: plan.ExtFact{Enabled: true, Seq: -1}})
		}
	}
	return r
}

// migrate moves the state files that very old agents kept in handler_state/ to
// the handlers' config folders (extensions/SPEC.md §4.6), and removes the status
// files that earlier versions of this agent saved. Errors are ignored.
func (s Store) migrate() {
	_ = folder.Root.RemoveAll(s.Sub("saved"))
	old := s.Root.Path(s.Lib + "/handler_state")
	entries, err := folder.Root.ReadDir(old)
	if err != nil {
		return
	}
	for _, e := range entries {
		config := s.Root.Path(s.Lib+"/"+e.Name()) + "/config"
		for from, to := range map[string]string{"state": "HandlerState", "status": "HandlerStatus"} {
			if _, err := folder.Root.Lstat(config + "/" + to); err == nil {
				continue
			}
			_ = folder.Root.Rename(old+"/"+e.Name()+"/"+from, config+"/"+to)
		}
	}
	_ = folder.Root.RemoveAll(old)
}

// TidyJobs deletes jobs that are older than age and not in keep. The output of
// the others is kept within limits by a job.Keeper.
func (s Store) TidyJobs(keep map[string]bool, age time.Duration) {
	entries, err := folder.Root.ReadDir(s.Sub("jobs"))
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := s.JobDir(e.Name())
		fi, err := e.Info()
		if err != nil {
			continue
		}
		if !keep[e.Name()] && time.Since(fi.ModTime()) > age {
			_ = folder.Root.RemoveAll(dir)
			continue
		}
	}
}

// NewID returns a random name for a job or a temporary file. It must not contain
// the name of a handler: some handlers kill all processes with their name in the
// command line.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x", b)
}

var errManifestLoad = errors.New("Failed to load manifest file") //nolint:staticcheck // tools look for this sentence

// Manifest reads the manifest of an unpacked package.
func (s Store) Manifest(name, version string) (handler.Manifest, error) {
	path := s.Base(name, version) + "/" + handler.ManifestName
	if err := s.CheckBase(name, version); err != nil {
		return handler.Manifest{}, fmt.Errorf("%w (%s): %w", errManifestLoad, path, err)
	}
	data, _, err := folder.Read(path, handler.MaxManifest)
	if err != nil {
		return handler.Manifest{}, fmt.Errorf("%w (%s): %w", errManifestLoad, path, err)
	}
	hm, err := handler.ParseManifest(data)
	if err != nil {
		return handler.Manifest{}, fmt.Errorf("Malformed manifest file (%s): %w", path, err) //nolint:staticcheck // tools look for this sentence
	}
	return hm, nil
}

// ManifestCode returns the code to report for an error of Store.Manifest.
func ManifestCode(err error) int {
	if errors.Is(err, errManifestLoad) {
		return fault.CodeManifestLoad
	}
	return fault.CodeManifestParse
}
