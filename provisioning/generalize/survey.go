package generalize

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// maxText is the size in bytes up to which files are read: configuration is
// smaller.
const maxText = 1 << 20

// A survey is a root file system that is searched for what the table names.
// Names are opened by descriptor below the root (agent/host), and links are
// followed only if root has made them, within the root.
type survey struct {
	r        host.Root
	o        Options
	m        *provisioning.Machine
	accounts map[string]bool // of /etc/passwd
	doomed   []string        // accounts that the same plan deletes
	homes    []string
	names    []string        // host names of this machine, long and short
	dirs     map[string]bool // directories that were looked for
	places   *strings.Replacer
}

// newSurvey looks at the accounts and the name of the machine. For a plan the
// homes of accounts that it deletes are left out, for an image they are not.
func newSurvey(r host.Root, o Options, plan bool) *survey {
	if o.LogDir == "" {
		o.LogDir = "/var/log/azure"
	}
	s := &survey{r: r, o: o, m: o.machine(&provisioning.System{Root: r}), accounts: map[string]bool{}, dirs: map[string]bool{}}
	mo := s.m.Options
	s.places = strings.NewReplacer("{lib}", mo.Lib, "{log}", o.LogDir, "{ssh}", mo.SSHDir, "{sudoers}", mo.SudoersDir, "{shadow}", mo.Shadow)
	if o.User && plan {
		s.doomed = s.users()
	}
	s.names = ownNames(s.text("/etc/hostname"))
	least := 1000
	if n, err := strconv.Atoi(r.LoginDefs()["UID_MIN"]); err == nil && n > 0 {
		least = n
	}
	seen := map[string]bool{}
	addHome := func(home string) {
		home = path.Clean("/" + home)
		full, err := r.Resolve(home)
		if home == "/" || err != nil || seen[full] || !s.exists(home) {
			return
		}
		seen[full] = true
		s.homes = append(s.homes, home)
	}
	all, err := r.Accounts()
	if err != nil {
		all = nil
	}
	addHome("/root")
	var deleted []string
	for _, a := range all {
		s.accounts[a.Name] = true
		switch {
		case slices.Contains(s.doomed, a.Name):
			deleted = append(deleted, path.Clean(a.Home))
		case a.UID == 0 || a.UID >= least && a.UID != 65534:
			addHome(a.Home)
		}
	}
	others, err := r.Glob("/home/*")
	if err != nil {
		others = nil
	}
	for _, h := range others { // of accounts that are gone, or known elsewhere
		if !slices.Contains(deleted, h) {
			addHome(h)
		}
	}
	return s
}

// gone reports whether no account of the machine has this name, or the plan
// deletes it. Without a readable /etc/passwd nothing is gone.
func (s *survey) gone(name string) bool {
	return len(s.accounts) > 0 && (!s.accounts[name] || slices.Contains(s.doomed, name))
}

// exists reports whether there is a file of this name. Directories are
// remembered, because most of those in the table are missing.
func (s *survey) exists(name string) bool { return s.dir(path.Dir(name)) && s.r.Exists(name) }

func (s *survey) dir(name string) bool {
	if name == "/" {
		return true
	}
	there, known := s.dirs[name]
	if !known {
		there = s.dir(path.Dir(name)) && s.r.Exists(name)
		s.dirs[name] = there
	}
	return there
}

// expand returns the names that exist for a pattern of the table, sorted.
func (s *survey) expand(pattern string) []string {
	if rest, ok := strings.CutPrefix(pattern, "~/"); ok {
		var out []string
		for _, h := range s.homes {
			out = append(out, s.glob(h, rest)...)
		}
		return out
	}
	return s.glob("/", s.place(pattern))
}

// place replaces the names of configured paths in a pattern.
func (s *survey) place(pattern string) string {
	if !strings.HasPrefix(pattern, "{") {
		return pattern
	}
	return s.places.Replace(pattern)
}

// glob expands a pattern below a directory, whose name is not a pattern.
func (s *survey) glob(base, pattern string) []string {
	parts := strings.Split(strings.Trim(pattern, "/"), "/")
	found := []string{base}
	for i, part := range parts {
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(part, `*?[`) {
				if name := path.Join(dir, part); i < len(parts)-1 && s.dir(name) || i == len(parts)-1 && s.exists(name) {
					next = append(next, name)
				}
				continue
			}
			list, err := s.r.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range list {
				if ok, err := path.Match(part, e.Name()); ok && err == nil && !strings.Contains(e.Name(), ".azg-") {
					next = append(next, path.Join(dir, e.Name()))
				}
			}
		}
		found = next
	}
	return found
}

// text reads a regular file; "" if there is none, or it is larger than any
// configuration.
func (s *survey) text(name string) string {
	if !s.exists(name) {
		return ""
	}
	b, err := s.r.ReadBounded(name, maxText)
	if err != nil {
		return ""
	}
	return string(b)
}

// A trace is something of one machine that was found.
type trace struct {
	Entry
	item
	change func(text string) string // the new content, for Edit
	lines  []string                 // that it removes
}

// traces returns what there is of an entry.
func (s *survey) traces(e Entry) []trace {
	keep := e.Act == Keep || len(e.Maker) > 0 && !slices.ContainsFunc(e.Maker, s.exists)
	var out []trace
	add := func(it item) {
		it.keep = it.keep || keep
		if it.why != "" {
			e.Why = it.why
		}
		if !slices.ContainsFunc(out, func(t trace) bool { return t.path == it.path && t.kind == it.kind }) {
			out = append(out, trace{Entry: e, item: it})
		}
	}
	if e.find != nil {
		for _, it := range e.find(s) {
			add(it)
		}
	}
	for _, pattern := range e.Paths {
		for _, name := range s.expand(pattern) {
			switch {
			case e.edit != nil:
				text := s.text(name)
				change := func(text string) string { return e.edit(s, text) }
				next := change(text)
				if next == text {
					continue
				}
				add(item{path: name, kind: Edit})
				if t := &out[len(out)-1]; t.path == name {
					t.change, t.lines = change, without(text, next)
				}
			case e.match != nil:
				if text := s.text(name); text != "" && e.match(s, text) {
					add(item{path: name})
				}
			case e.Act == Blank:
				if fi, err := s.r.Stat(name); err == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
					add(item{path: name})
				}
			default:
				add(item{path: name})
			}
		}
	}
	return out
}

// without returns the lines of a text that are not in another.
func without(text, next string) []string {
	have := map[string]int{}
	for l := range strings.Lines(next) {
		have[strings.TrimSpace(l)]++
	}
	var out []string
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if have[l]--; have[l] < 0 && l != "" {
			out = append(out, l)
		}
	}
	return out
}

// users returns the accounts to delete: those that the document or the agent's
// ledger names, if they exist, and those whose removal was interrupted; never
// root.
func (s *survey) users() []string {
	names := documentUser(s.r, s.m.Options.Lib)
	names = append(names, s.m.OwnUsers()...)
	var out []string
	for _, a := range s.m.HalfRemoved() {
		out = append(out, a.Name)
	}
	for _, n := range names {
		if a, ok, err := s.r.Account(n); err == nil && ok && a.UID != 0 && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
