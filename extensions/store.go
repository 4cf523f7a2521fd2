package extensions

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/plan"
)

// store is everything the engine keeps on disk. Names are relative to root.
//
//	<lib>/<Name>-<version>/             the handler, as every agent has it
//	<lib>/azguest/ext/records/*.json    Record, one per handler version
//	<lib>/azguest/ext/jobs/<id>/        running and last commands
//	<lib>/azguest/ext/packages/         packages until they are installed
//	<lib>/azguest/ext/saved/<Name-ver>/ status files from before a version change
//	<lib>/azguest/ext/tmp/              being unpacked, being removed
//	<lib>/azguest/ext/gone/             names of handlers removed a short while ago
type store struct {
	root host.Root
	lib  string
	dir  string // <lib>/azguest/ext
	exec string // where packages are unpacked, if not in lib
	logs string // /var/log/azure
	// step is called where a crash would be interesting; tests die there.
	step func(where string)
}

func (s store) at(where string) {
	if s.step != nil {
		s.step(where)
	}
}

// base is the handler's directory as its commands see it.
func (s store) base(name, version string) string {
	return s.root.Path(s.lib + "/" + name + "-" + version)
}

var errNotOurs = errors.New("handler directory was replaced")

// ours says what is wrong with a handler's directory: that it is not there,
// or that there is something else, such as a link a handler has put in its
// place. The link to ExecDir is ours.
func (s store) ours(name, version string) error {
	base := s.base(name, version)
	fi, err := top.Lstat(base)
	switch {
	case err != nil:
		return err
	case fi.IsDir():
		return nil
	}
	if target, err := top.Readlink(base); err == nil && s.exec != "" && target == s.execDir(name, version) {
		return nil
	}
	return fmt.Errorf("%s: %w", base, errNotOurs)
}

func (s store) execDir(name, version string) string {
	return s.root.Path(filepath.Join(s.exec, name+"-"+version))
}

func (s store) logDir(name string) string { return s.root.Path(s.logs + "/" + name) }

func (s store) sub(parts ...string) string {
	return s.root.Path(s.dir + "/" + strings.Join(parts, "/"))
}

func (s store) jobDir(id string) string { return s.sub("jobs", id) }

func (s store) init() error {
	for _, d := range []string{s.lib, s.lib + "/events"} {
		mode := fs.FileMode(0o755)
		if strings.HasSuffix(d, "/events") {
			mode = 0o700
		}
		if err := writable(s.root.MkdirAll(d, mode)); err != nil {
			return fmt.Errorf("prepare extensions: %w", err)
		}
	}
	for _, d := range []string{"records", "jobs", "packages", "saved", "tmp", "gone"} {
		if err := writable(s.root.MkdirAll(s.dir+"/"+d, 0o700)); err != nil {
			return fmt.Errorf("prepare extensions: %w", err)
		}
	}
	for _, dir := range []string{s.lib, s.exec} {
		if dir == "" {
			continue
		}
		if err := writable(s.root.AsideAll(dir)); err != nil {
			return fmt.Errorf("prepare extensions: %w", err)
		}
	}
	s.migrate()
	return nil
}

func emptyDir(dir string) error {
	entries, err := top.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, top.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// save writes a record, or deletes it when there is nothing left to know.
func (s store) save(r Record) error {
	name := s.dir + "/records/" + r.Name + "-" + r.Version + ".json"
	if r.State == plan.Absent && r.Doing == nil && r.Report.Status == "" {
		return s.root.Remove(name)
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	if err := s.root.WriteFile(name, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	return nil
}

// saveFiles writes config/HandlerState and HandlerStatus, if the handler has
// a directory. The old agent can take over from there at any time.
func (s store) saveFiles(r Record) error {
	base := s.base(r.Name, r.Version)
	if s.ours(r.Name, r.Version) != nil {
		return nil //nolint:nilerr // the record is enough
	}
	if err := realDirs(base); err != nil {
		return fmt.Errorf("write handler state: %w", err)
	}
	if err := writeBeside(base, base+"/config/HandlerState", []byte(r.onDisk()), 0o600); err != nil {
		return err
	}
	if r.Report.Status != "" {
		if err := writeBeside(base, base+"/config/HandlerStatus", handlerStatusFile(r.Name, r.Version, r.Report, r.Multi), 0o600); err != nil {
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
		if err := writeBeside(base, base+"/config/"+name+".HandlerState", []byte(state), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// load finds every handler version on disk: by its record, by its
// HandlerState, or both. HandlerState wins about how far it has come, since
// another agent may have been at work meanwhile; a directory without one is
// somebody else's (extensions/SPEC.md §4.2). What of it can't be used is left out,
// set aside if it is a record, and returned as bad: one handler's files keep no
// other from being managed.
func (s store) load() (recs []Record, bad []error, err error) {
	byDir := map[string]Record{}
	saved := map[string]time.Time{}
	files, err := s.root.Glob(s.dir + "/records/*.json")
	if err != nil {
		return nil, nil, fmt.Errorf("load records: %w", err)
	}
	for _, f := range files {
		r, err := s.record(f)
		if err != nil {
			// What is in the handler's directory tells the rest.
			bad = append(bad, fmt.Errorf("load records: %w", s.root.SetAside(f, err)))
			continue
		}
		byDir[r.Name+"-"+r.Version] = r
		if fi, err := s.root.Stat(f); err == nil {
			saved[r.Name+"-"+r.Version] = fi.ModTime()
		}
	}
	entries, err := s.root.ReadDir(s.lib)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, bad, fmt.Errorf("load records: %w", err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		name, version, ok := plan.SplitDir(e.Name())
		if !ok {
			continue
		}
		base := s.base(name, version)
		if s.ours(name, version) != nil {
			continue
		}
		b, fi, err := readOwn(base+"/config/HandlerState", 1024)
		if err != nil {
			continue
		}
		seen[e.Name()] = true
		r, known := byDir[e.Name()]
		if !known {
			r = Record{Name: name, Version: version, State: plan.Absent}
		}
		switch text := strings.TrimSpace(string(b)); {
		case known && text == r.onDisk():
		case known && (!fi.ModTime().After(saved[e.Name()]) || !slices.Contains(handlerStates(), text)):
			// We died between the record and the files, which follow now. Or
			// the power did, and left bytes that no agent writes.
			if err := writable(s.saveFiles(r)); err != nil {
				bad = append(bad, err)
			}
		default:
			r = s.adoptExts(adopt(r, text), base)
		}
		if r.Report.Status == "" {
			if b, _, err := readOwn(base+"/config/HandlerStatus", maxHeartbeat); err == nil {
				r.Report, _ = parseHandlerStatus(b)
			}
		}
		if r.State.Installed() && emptied(base+"/"+manifestName) {
			r.State = plan.Broken // and so is the rest of the package, maybe: fetch it again
		}
		byDir[e.Name()] = r
	}
	var out []Record
	for dir, r := range byDir {
		if !seen[dir] && r.State != plan.Absent {
			if r.Doing == nil || r.Doing.Task.Op != plan.Uninstall {
				// Its directory is gone: nothing can be run any more.
				r = Record{Name: r.Name, Version: r.Version, State: plan.Absent, Report: r.Report, FailKey: r.FailKey, FailBoot: r.FailBoot}
			}
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(a.Name+a.Version, b.Name+b.Version) })
	return out, bad, nil
}

// maxRecord is the largest record that is read.
const maxRecord = 8 << 20

// record reads one record.
func (s store) record(file string) (r Record, err error) {
	b, err := s.root.ReadBounded(file, maxRecord)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Name == "" || r.Version == "" || strings.ContainsAny(r.Name+r.Version, "/\x00")) {
		err = errors.New("no handler name or version")
	}
	return r, err
}

// handlerStates are the words that agents write into HandlerState.
func handlerStates() []string {
	return []string{"NotInstalled", "Installed", "Enabled", "FailedUpgrade"}
}

// emptied says that nothing but NULs is left of a file, as after a power cut.
func emptied(path string) bool {
	b, _, err := readSafely(path, maxManifest)
	return err == nil && len(bytes.Trim(b, "\x00")) == 0
}

// adopt takes over the state that another agent left.
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
		r.State = plan.Broken // something half done: fetch it again
	}
	return r
}

// adoptExts finds the multi-config extensions that another agent enabled.
func (s store) adoptExts(r Record, base string) Record {
	entries, err := listFolder(base + "/config")
	if err != nil {
		return r
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".HandlerState")
		if !ok || name == "" {
			continue
		}
		r.Multi = true
		b, _, err := readOwn(base+"/config/"+e.Name(), 64)
		if err == nil && strings.TrimSpace(string(b)) == "enabled" && r.State == plan.Enabled {
			r = r.setExt(name, ExtRecord{ExtFact: plan.ExtFact{Enabled: true, Seq: -1}})
		}
	}
	return r
}

// migrate moves what very old agents kept in handler_state/ to where it is
// looked for now. Nothing here is worth failing for (extensions/SPEC.md §4.6).
func (s store) migrate() {
	old := s.root.Path(s.lib + "/handler_state")
	entries, err := top.ReadDir(old)
	if err != nil {
		return
	}
	for _, e := range entries {
		config := s.root.Path(s.lib+"/"+e.Name()) + "/config"
		for from, to := range map[string]string{"state": "HandlerState", "status": "HandlerStatus"} {
			if _, err := top.Lstat(config + "/" + to); err == nil {
				continue
			}
			_ = top.Rename(old+"/"+e.Name()+"/"+from, config+"/"+to)
		}
	}
	_ = top.RemoveAll(old)
}

// tidyJobs deletes jobs that nobody refers to and that are older than age,
// and cuts the output of those that background processes still write to.
func (s store) tidyJobs(keep map[string]bool, age time.Duration) {
	entries, err := top.ReadDir(s.sub("jobs"))
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := s.jobDir(e.Name())
		fi, err := e.Info()
		if err != nil {
			continue
		}
		if !keep[e.Name()] && time.Since(fi.ModTime()) > age {
			_ = top.RemoveAll(dir)
			continue
		}
		for _, name := range []string{job.Stdout, job.Stderr} {
			cutOutput(filepath.Join(dir, name))
		}
	}
}

// maxOutput is how much output of one command stays on disk; the end of it
// is what is of interest.
const maxOutput = 8 << 20

// cutOutput shortens a file that somebody may be appending to: writers use
// O_APPEND, so after the cut they go on at the new end.
func cutOutput(path string) {
	fi, err := top.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() <= maxOutput {
		return
	}
	keep := tail(path, 1<<20)
	f, err := top.OpenFile(path, os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0)
	if err != nil {
		return
	}
	_, _ = f.WriteString("... [TRUNCATED]\n" + keep)
	_ = f.Close()
}

// randomID names a job or a temporary file. It must not contain the name of a
// handler: some of them kill everything whose command line does.
func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x", b)
}

var errManifestLoad = errors.New("Failed to load manifest file") //nolint:staticcheck // tools look for this sentence

// readManifest reads the manifest of an unpacked package.
func (s store) readManifest(name, version string) (HandlerManifest, error) {
	path := s.base(name, version) + "/" + manifestName
	if err := s.ours(name, version); err != nil {
		return HandlerManifest{}, fmt.Errorf("%w (%s): %w", errManifestLoad, path, err)
	}
	data, _, err := readSafely(path, maxManifest)
	if err != nil {
		return HandlerManifest{}, fmt.Errorf("%w (%s): %w", errManifestLoad, path, err)
	}
	hm, err := ParseHandlerManifest(data)
	if err != nil {
		return HandlerManifest{}, fmt.Errorf("Malformed manifest file (%s): %w", path, err) //nolint:staticcheck // tools look for this sentence
	}
	return hm, nil
}

func manifestCode(err error) int {
	if errors.Is(err, errManifestLoad) {
		return codeManifestLoad
	}
	return codeManifestParse
}
