package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/azguest/azguest/agent/host"
)

// maxFile is the largest size of a file, in bytes. The largest published
// waagent.conf has 6 KB.
const maxFile = 1 << 20

// Paths are the paths of the files. Root is put before every path, for tests.
type Paths struct {
	Root string
	Dist string   // directory of the distribution's drop-ins
	Main []string // the classic file: the first that exists
	Dir  string   // directory of the administrator's drop-ins
	Run  string   // directory of drop-ins that are gone after a reboot
}

// DefaultPaths returns the paths of the running system. The second main file is
// Flatcar's, the third Clear Linux's.
func DefaultPaths() Paths {
	return Paths{
		Dist: "/usr/lib/azguest/waagent.conf.d",
		Main: []string{"/etc/waagent.conf", "/usr/share/oem/waagent.conf", "/usr/share/defaults/waagent/waagent.conf"},
		Dir:  "/etc/waagent.conf.d",
		Run:  "/run/azguest/waagent.conf.d",
	}
}

// Origin says where a value came from. The zero Origin is the built-in
// default.
type Origin struct {
	File string `json:"file"` // without Paths.Root
	Line int    `json:"line"`
}

func (o Origin) String() string {
	if o.File == "" {
		return "default"
	}
	return o.File + ":" + strconv.Itoa(o.Line)
}

// A Warning is about something in a file that has no effect or is invalid.
type Warning struct {
	Origin     Origin `json:"origin"`
	Key        string `json:"key,omitempty"`
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"`
	Note       bool   `json:"note,omitempty"` // harmless: an old key, a missing file
	About      About  `json:"-"`
}

// About is what kind of thing a Warning is about.
type About int

// What warnings are about.
const (
	AboutValue   About = iota // what a key is set to
	AboutUnknown              // an unknown key, or a line without effect
	AboutUnread               // a file that can't be read
)

func (w Warning) String() string {
	var b strings.Builder
	if w.Origin.File != "" {
		b.WriteString(w.Origin.File)
		if w.Origin.Line > 0 {
			b.WriteString(":" + strconv.Itoa(w.Origin.Line))
		}
		b.WriteString(": ")
	}
	if w.Key != "" {
		b.WriteString(w.Key + ": ")
	}
	b.WriteString(w.Message)
	if w.Suggestion != "" {
		b.WriteString("; " + w.Suggestion)
	}
	return b.String()
}

// A Value is what a file sets for a key.
type Value struct {
	Text   string
	Origin Origin
	None   bool // "None": same as if the key were not set
}

// Default returns the configuration of a machine without any file.
func Default() *Config {
	c := &Config{}
	c.apply(nil)
	return c
}

// Load reads all files. The Config is never nil: what could not be read or
// understood keeps its default and is named in a Warning. The error names files
// that exist and could not be read, so that a caller that must not continue
// with an incomplete configuration can stop.
func Load(p Paths) (*Config, []Warning, error) {
	var (
		all   []line
		warns []Warning
		errs  []error
	)
	root := host.Root(cmp.Or(p.Root, "/"))
	read := func(name string) bool {
		data, err := root.ReadBounded(name, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			return false
		}
		if err != nil {
			err = trimRoot(err, p.Root)
			errs = append(errs, fmt.Errorf("read configuration: %w", err))
			warns = append(warns, Warning{Origin: Origin{File: name}, About: AboutUnread, Message: "cannot be read: " + err.Error()})
			return true
		}
		lines, w := parse(name, data)
		all = append(all, lines...)
		warns = append(warns, w...)
		return true
	}
	readDir := func(dir string) {
		names, err := dropIns(root, dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("read configuration: %w", trimRoot(err, p.Root)))
		}
		for _, n := range names {
			read(filepath.Join(dir, n))
		}
	}

	readDir(p.Dist)
	if !slices.ContainsFunc(p.Main, read) && len(p.Main) > 0 {
		warns = append(warns, Warning{Origin: Origin{File: p.Main[0]}, Note: true, Message: "no such file, using defaults"})
	}
	readDir(p.Dir)
	readDir(p.Run)

	c, w := build(all)
	return c, append(warns, w...), errors.Join(errs...)
}

// Parse is Load for the bytes of a single file.
func Parse(name string, data []byte) (*Config, []Warning) {
	lines, warns := parse(name, data)
	c, w := build(lines)
	return c, append(warns, w...)
}

func build(lines []line) (*Config, []Warning) {
	values, warns := collect(lines)
	c := &Config{}
	return c, append(warns, c.apply(values)...)
}

// trimRoot removes a test's root from the path of an error.
func trimRoot(err error, root string) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok && root != "" {
		return &fs.PathError{Op: pe.Op, Path: strings.TrimPrefix(pe.Path, root), Err: pe.Err}
	}
	return err
}

// dropIns returns the names of *.conf in a directory, sorted; none if there is
// no directory. Names with a leading dot are leftovers of editors.
func dropIns(root host.Root, dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := root.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); strings.HasSuffix(n, ".conf") && !strings.HasPrefix(n, ".") {
			names = append(names, n)
		}
	}
	return names, nil
}

// A line is one assignment.
type line struct {
	key    string
	value  string
	origin Origin
}

// parse parses one file into assignments (provisioning/SPEC.md §15.2): '#' in
// the first column is a comment, the key ends at the first '=', the value ends
// at the first '#', quotes and blanks around it are removed.
func parse(name string, data []byte) ([]line, []Warning) {
	var (
		lines []line
		warns []Warning
	)
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, []Warning{{Origin: Origin{File: name}, Message: "empty file"}}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark, from Windows editors
	n := 0
	for raw := range strings.SplitSeq(string(data), "\n") {
		n++
		at := Origin{File: name, Line: n}
		if strings.HasPrefix(raw, "#") {
			continue
		}
		key, value, ok := strings.Cut(raw, "=")
		key = strings.TrimSpace(key)
		if !ok {
			// For the classic parser, a '#' after blanks is not a comment, but
			// without '=' the line is ignored as well.
			if key != "" && !strings.HasPrefix(key, "#") {
				warns = append(warns, Warning{Origin: at, About: AboutUnknown, Message: "line without '=' is ignored", Suggestion: "write Key=value"})
			}
			continue
		}
		if key == "" {
			warns = append(warns, Warning{Origin: at, About: AboutUnknown, Message: "line without a key is ignored"})
			continue
		}
		cut, _, comment := strings.Cut(value, "#")
		if comment && cut != "" && !endsBlank(cut) && !strings.HasPrefix(key, "#") {
			warns = append(warns, Warning{Origin: at, Key: key, Message: "the value ends before '#': a value cannot contain it"}) // what follows may be the rest of a password
		}
		lines = append(lines, line{key: key, value: trimValue(cut), origin: at})
	}
	return lines, warns
}

// keyForm is the form of a key that a warning may repeat.
var keyForm = regexp.MustCompile(`^[A-Za-z]{1,32}(\.[A-Za-z]{1,48})+$`)

func endsBlank(s string) bool { return strings.TrimRightFunc(s, unicode.IsSpace) != s }

func trimValue(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r == '"' || unicode.IsSpace(r) })
}

// collect keeps the last value of each key and warns about keys that are
// unknown, without effect, or set twice in one file.
func collect(lines []line) (map[string]Value, []Warning) {
	byName := map[string]Key{}
	for _, k := range Keys() {
		byName[k.Name] = k
	}
	values := map[string]Value{}
	var warns []Warning
	warn := func(l line, note bool, msg, suggestion string) {
		warns = append(warns, Warning{Origin: l.origin, Key: l.key, Message: msg, Suggestion: suggestion, Note: note})
	}
	direct := map[string]bool{} // set under its own name, which takes precedence over an alias
	for _, l := range lines {
		k, known := byName[l.key]
		name := l.key
		switch {
		case strings.HasPrefix(l.key, "#"):
			continue // meant as a comment, and works as one
		case !known:
			near := suggest(l.key)
			if near == "" && !keyForm.MatchString(l.key) {
				l.key = "" // it may be anything, such as a password on a line of its own
			}
			warn(l, false, "unknown key, ignored", near)
			warns[len(warns)-1].About = AboutUnknown
			continue
		case k.Kind == Ignored:
			// Until version 2.2.45, the classic agent did not provision if this
			// was n. Without Provisioning.Agent, the administrator may rely on
			// it.
			lost := l.key == "Provisioning.Enabled" && strings.EqualFold(l.value, "n") &&
				!slices.ContainsFunc(lines, func(o line) bool { return o.key == "Provisioning.Agent" })
			warn(l, !lost, "has no effect", k.Doc)
			continue
		case k.Alias != "":
			warn(l, true, "is an alias of "+k.Alias, "write "+k.Alias)
			name = k.Alias
			if direct[name] {
				continue
			}
		default:
			direct[name] = true
		}
		if k.Inert {
			_, instead, _ := strings.Cut(k.Doc, "no effect")
			warn(l, true, "has no effect", strings.TrimLeft(instead, ":; "))
		}
		if old, ok := values[name]; ok && old.Origin.File == l.origin.File && old.Text != l.value {
			warn(l, true, "set twice; line "+strconv.Itoa(old.Origin.Line)+" has no effect", "")
		}
		values[name] = Value{Text: l.value, Origin: l.origin, None: l.value == "None"}
	}
	return values, warns
}

// apply sets the fields: defaults, then values, then what depends on other
// keys.
func (c *Config) apply(values map[string]Value) []Warning {
	var warns []Warning
	c.values = values
	set := map[string]bool{} // has a usable value
	for _, k := range Keys() {
		if k.Kind == Ignored || k.Alias != "" {
			continue
		}
		v, given := values[k.Name]
		if given && !v.None {
			text, err := k.check(v.Text)
			if err != nil {
				w := Warning{Origin: v.Origin, Key: k.Name, Message: err.Error()}
				if ce, ok := errors.AsType[*clampedError](err); ok {
					w.Suggestion = "using: " + ce.used
				} else {
					w.Suggestion = "using the default: " + cmp.Or(k.Default, "None")
				}
				warns = append(warns, w)
			}
			if err == nil && k.judge != nil && text != "" {
				if fault := k.judge(text); fault != "" {
					warns = append(warns, Warning{Origin: v.Origin, Key: k.Name, Message: fault})
				}
			}
			if text != "" || err == nil {
				set[k.Name] = true
				k.store(c, text)
				continue
			}
		}
		k.store(c, k.Default)
	}
	return append(warns, c.derive(set)...)
}

// derive sets the keys whose default is that of another key.
func (c *Config) derive(set map[string]bool) []Warning {
	var warns []Warning
	note := func(key, msg, suggestion string) {
		warns = append(warns, Warning{Origin: c.values[key].Origin, Key: key, Message: msg, Suggestion: suggestion})
	}
	if !set["Extensions.InitialGoalStatePeriod"] {
		c.Extensions.InitialPeriod = c.Extensions.Period
	}
	if !set["Extensions.Mode"] {
		c.Extensions.Mode = pick(c.Extensions.Enabled, ModeOn, ModeOff)
	}
	if !set["Extensions.After"] {
		wait := set["Extensions.WaitForCloudInit"] && strings.EqualFold(c.values["Extensions.WaitForCloudInit"].Text, "y")
		c.Extensions.After = pick(wait, AfterFinal, AfterNone)
	}
	if !set["AutoUpdate.UpdateToLatestVersion"] {
		c.Update.ToLatest = c.Update.Enabled
	}
	if v, ok := strings.CutPrefix(c.Update.Mode, UpdatePinned+":"); ok {
		c.Update.Mode, c.Update.Pin = UpdatePinned, v
	}
	if !set["AutoUpdate.Mode"] {
		switch {
		case !c.Update.ToLatest: // the newer flag decides; its default is AutoUpdate.Enabled

			c.Update.Mode = UpdateOff
		case set["AutoUpdate.Enabled"] || set["AutoUpdate.UpdateToLatestVersion"]:
			c.Update.Mode = UpdateChannel
		default:
			c.Update.Mode = UpdateDistro
		}
	}
	if c.Update.Mode == UpdatePinned && c.Update.Pin == "" {
		note("AutoUpdate.Mode", "pinned without a version; the agent is not updated", "set AutoUpdate.Pin")
	}
	if !set["Extensions.PolicyMode"] {
		c.Policy.Mode = pick(c.Policy.Enabled, PolicyEnforce, PolicyOff)
	}
	if c.UserData.Apply && c.Provisioning.ExecuteCustomData {
		note("Provisioning.ExecuteCustomData", "has no effect while UserData.Apply=y, which runs custom data", "")
		c.Provisioning.ExecuteCustomData = false
	}
	if c.UserData.Apply && c.Provisioning.Mode != ModeOn {
		note("UserData.Apply", "has no effect while Provisioning.Mode="+c.Provisioning.Mode, "")
	}
	for _, key := range []string{"UserData.VendorData", "UserData.ScriptTimeout"} {
		if set[key] && !c.UserData.Apply {
			note(key, "has no effect while UserData.Apply=n", "")
		}
	}
	if c.Provisioning.ExecuteCustomData || c.UserData.Apply {
		c.Provisioning.DecodeCustomData = true
	}
	if c.Provisioning.Agent == "azguest" {
		c.Provisioning.Agent = AgentSelf
	}
	if c.Logs.File == "off" {
		c.Logs.File = ""
	}
	if c.ResourceDisk.EnableSwap && !c.ResourceDisk.Format {
		note("ResourceDisk.EnableSwap", "has no effect while ResourceDisk.Format=n", "")
	}
	if c.ResourceDisk.EnableSwap && c.ResourceDisk.Format && c.ResourceDisk.SwapSizeMB == 0 {
		note("ResourceDisk.EnableSwap", "has no effect while ResourceDisk.SwapSizeMB=0", "")
	}
	return warns
}

func pick(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// clampedError means that another value than the given one is used.
type clampedError struct{ msg, used string }

func (e *clampedError) Error() string { return e.msg }

// check returns the text to store. With an error, an empty text means that the
// default is used.
func (k Key) check(text string) (string, error) {
	if text == "" && k.Default != "" && (k.Kind == String || k.Kind == Path) {
		return "", errors.New("empty") // an empty Lib.Dir would be the current directory
	}
	switch k.Kind {
	case Switch:
		switch strings.ToLower(text) {
		case "y", "n":
			return strings.ToLower(text), nil
		}
		return "", fmt.Errorf("%q is neither y nor n", text)
	case Int, Seconds:
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange) || n > maxNumber:
			return "", fmt.Errorf("%s is too large", text)
		case err != nil:
			return "", fmt.Errorf("%q is not a number", text)
		case n < k.Min:
			return "", fmt.Errorf("%d is less than %d", n, k.Min)
		case k.Max > 0 && n > k.Max:
			used := strconv.FormatInt(k.Max, 10)
			return used, &clampedError{fmt.Sprintf("%d is more than %d", n, k.Max), used}
		}
		return strconv.FormatInt(n, 10), nil
	case Enum:
		for _, c := range k.Choices {
			if strings.EqualFold(c, text) {
				return c, nil
			}
		}
		if k.Name == "AutoUpdate.Mode" && strings.HasPrefix(strings.ToLower(text), UpdatePinned+":") {
			return UpdatePinned + text[len(UpdatePinned):], nil
		}
		return "", fmt.Errorf("%q is not one of %s", text, strings.Join(k.Choices, ", "))
	case Path:
		if text != "" && !strings.HasPrefix(text, "/") && !(k.Name == "Logs.File" && text == "off") {
			return "", fmt.Errorf("%q is not an absolute path", text)
		}
		return text, nil
	case String, Ignored:
	}
	return text, nil
}

// maxNumber keeps seconds well inside a time.Duration.
const maxNumber = 1 << 32

// store sets the field from a checked text. "" is the zero value.
func (k Key) store(c *Config, text string) {
	if k.at == nil {
		return
	}
	n, _ := strconv.ParseInt(text, 10, 64) // checked, or empty
	switch p := k.at(c).(type) {
	case *bool:
		*p = text == "y"
	case *string:
		*p = text
	case *int:
		*p = int(n)
	case *int64:
		*p = n
	case *time.Duration:
		*p = time.Duration(n) * time.Second
	}
}
