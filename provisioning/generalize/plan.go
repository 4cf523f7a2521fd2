// Package generalize removes everything from a machine that belongs to one VM,
// so that its disk can become an image. The classic command for this is called
// deprovision (provisioning/SPEC.md §14). The package also checks whether an
// image still contains such data.
//
// What belongs to one machine is one table (identity.go, [Table]). [Plan] only
// reads: it lists only what needs to be done, so the plan of a clean machine is
// empty and a second run does nothing. [Apply] carries it out, [AtShutdown]
// removes again what running programs have written since, [Verify] checks an
// image. The package imports agent/host, ovf and provisioning, which can
// remove what it has made.
package generalize

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// Kind is what an action does.
type Kind string

const (
	Remove   Kind = "remove"   // a file or a tree
	Empty    Kind = "empty"    // a file becomes empty, with its mode
	Write    Kind = "write"    // a file gets new content
	Edit     Kind = "edit"     // lines of a file are removed
	Command  Kind = "command"  // a program is run
	LockRoot Kind = "lock"     // root's password is locked
	SSHD     Kind = "sshd"     // the agent's settings are removed from sshd's configuration
	DelUser  Kind = "userdel"  // an account with its home
	StopUnit Kind = "stop"     // a service
	Later    Kind = "shutdown" // what is written until the machine is off is removed again
)

// An Action is one thing to do. It is plain data, for --plan and as JSON.
type Action struct {
	Kind    Kind     `json:"kind"`
	Entry   string   `json:"entry,omitempty"` // of the table
	Group   Group    `json:"group,omitempty"`
	Path    string   `json:"path,omitempty"`
	Content string   `json:"content,omitempty"`
	Lines   []string `json:"lines,omitempty"` // that Edit removes
	Args    []string `json:"args,omitempty"`
	Why     string   `json:"why"`

	change  func(text string) string
	tools   [][]string // for Command: those to try, Args first
	returns bool
}

func (a Action) String() string {
	switch a.Kind {
	case Command:
		return "run " + strings.Join(a.Args, " ") + ": " + a.Why
	case DelUser:
		return "delete the account " + a.Path + " and its home"
	case LockRoot:
		return "lock the root password"
	case SSHD:
		return "remove the agent's settings from " + a.Path
	case StopUnit:
		return "stop " + a.Path
	case Write:
		return "write " + a.Path + ": " + a.Why
	case Edit:
		s := "edit " + a.Path + ": " + a.Why
		if len(a.Lines) > 0 {
			s += fmt.Sprintf(" (%q)", a.Lines)
		}
		return s
	case Empty:
		return "empty " + a.Path + ": " + a.Why
	case Later:
		return "remove again at shutdown what running programs write until then"
	case Remove:
	}
	return "remove " + a.Path + ": " + a.Why
}

// A Kept is something of this machine that is not removed: it was configured
// on purpose, or needs the tool of its owner.
type Kept struct {
	Entry string `json:"entry"`
	Group Group  `json:"group"`
	Harm  Harm   `json:"harm"`
	Path  string `json:"path"`
	Why   string `json:"why"`
	Fix   string `json:"fix,omitempty"`
}

func (k Kept) String() string {
	s := k.Path + " is kept: " + k.Why
	if k.Fix != "" {
		s += " (to do: " + k.Fix + ")"
	}
	return s
}

// A Planned is the result of Plan.
type Planned struct {
	Actions  []Action `json:"actions"`
	Kept     []Kept   `json:"kept,omitempty"`
	Warnings []string `json:"warnings,omitempty"` // about what could not be found out
}

// Options selects what is removed.
type Options struct {
	Machine provisioning.Options // paths, DeleteRootPassword
	LogDir  string               // logs of extensions, /var/log/azure
	User    bool                 // the provisioned account as well
	Service string               // the agent's unit, to be stopped first; empty: leave it
	// Program is the absolute name of this program, which removes at shutdown
	// what has been written again. Empty: nothing is done at shutdown.
	Program string

	hostKeys []string // that the sshd of the machine has named
}

// machine returns the machine that is cleaned.
func (o Options) machine(sys *provisioning.System) *provisioning.Machine {
	return provisioning.NewMachine(sys, o.Machine, provisioning.Identity{})
}

// Plan lists what has to be done, in order.
func Plan(r host.Root, o Options) Planned {
	s := newSurvey(r, o, true)
	var p Planned
	systemd := r.Exists("/run/systemd/system")
	if o.Service != "" && systemd {
		p.Actions = append(p.Actions, Action{Kind: StopUnit, Group: Identity, Path: o.Service, Why: "it would write the state again"})
	}
	if o.User && len(s.doomed) == 0 {
		p.Warnings = append(p.Warnings, "no provisioned account found: neither "+s.m.Options.Lib+"/ovf-env.xml nor the agent's records name an existing account")
	}
	stops := len(p.Actions)
	tool := ""
	for _, t := range s.all() {
		if t.keep {
			p.Kept = append(p.Kept, Kept{Entry: t.Name, Group: t.Group, Harm: t.Harm, Path: t.path, Why: t.Why, Fix: t.Fix})
			continue
		}
		if have := s.installed(t.Tools); len(have) > 0 && tool != t.Name {
			tool = t.Name
			p.Actions = append(p.Actions, Action{Kind: Command, Entry: t.Name, Group: t.Group, Args: have[0], Why: t.Why, tools: have})
		}
		p.Actions = append(p.Actions, t.action())
	}
	switch {
	case len(p.Actions) == stops || o.Program == "" || r.Exists(shutdownUnit):
	case systemd:
		p.Actions = append(p.Actions, Action{Kind: Later, Group: Identity, Path: shutdownUnit, Why: "programs that run write some of it again"})
	default:
		p.Warnings = append(p.Warnings, "without systemd nothing is removed at shutdown: check the disk with \"image verify\" when the machine is off")
	}
	return p
}

func (t trace) action() Action {
	kind := t.kind
	if kind == "" {
		kind = map[Act]Kind{Drop: Remove, Blank: Empty, Amend: Edit}[t.Act]
	}
	return Action{Kind: kind, Entry: t.Name, Group: t.Group, Path: t.path, Content: t.content, Lines: t.lines, Why: t.Why, change: t.change, returns: t.Returns}
}

// installed returns the commands whose program is installed.
func (s *survey) installed(tools [][]string) [][]string {
	return slices.DeleteFunc(slices.Clone(tools), func(args []string) bool {
		return !slices.ContainsFunc([]string{"/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/bin/", "/sbin/"}, func(dir string) bool { return s.exists(dir + args[0]) })
	})
}

// all returns the traces of all entries, in the order of the table. What an
// earlier entry removes is not listed again.
func (s *survey) all() []trace {
	removed := map[string]bool{}
	var out []trace
	for _, e := range Table() {
		for _, t := range s.traces(e) {
			if removed[t.path] {
				continue
			}
			out = append(out, t)
			removed[t.path] = !t.keep && (t.kind == Remove || t.kind == "" && t.Act == Drop)
		}
	}
	return out
}

// JSON encodes the plan.
func (p Planned) JSON() ([]byte, error) {
	if p.Actions == nil {
		p.Actions = []Action{}
	}
	b, err := json.MarshalIndent(p, "", "  ")
	return append(b, '\n'), err
}

// WriteTo prints the plan for people: the actions, then what is kept, by group.
func (p Planned) WriteTo(w io.Writer) (int64, error) {
	var out strings.Builder
	for _, text := range p.Warnings {
		fmt.Fprintln(&out, "WARNING! "+text)
	}
	byGroup(&out, p.Actions, func(a Action) Group { return a.Group }, "This will:")
	byGroup(&out, p.Kept, func(k Kept) Group { return k.Group }, "This is kept, and gets into the image:")
	if len(p.Actions) == 0 {
		fmt.Fprintln(&out, "Nothing to do.")
	}
	n, err := io.WriteString(w, out.String())
	return int64(n), err
}

func byGroup[T fmt.Stringer](out *strings.Builder, list []T, group func(T) Group, title string) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(out, title)
	list = slices.Clone(list)
	order := map[Group]int{}
	for _, x := range list {
		if _, ok := order[group(x)]; !ok {
			order[group(x)] = len(order)
		}
	}
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(order[group(a)], order[group(b)]) })
	last := Group("")
	for _, x := range list {
		if g := group(x); g != last {
			fmt.Fprintf(out, "\n%s\n", g)
			last = g
		}
		fmt.Fprintf(out, "  %s\n", x)
	}
	fmt.Fprintln(out)
}
