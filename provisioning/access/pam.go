package access

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A rule is one line of a file of pam.d(5), includes resolved.
type rule struct {
	kind    string // auth, account, session
	control string
	module  string   // pam_unix.so
	args    []string //
	mayMiss bool     // a missing module is ignored ("-auth")
	sub     []rule   // of a substack, in place of a module
	file    string
}

// stack reads the rules of one kind for a service.
func (c *check) stack(service, kind string) []rule { return c.stackIn(service, kind, 0) }

var pamDirs = []string{"/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d", "/usr/share/pam.d"}

func (c *check) stackIn(service, kind string, depth int) []rule {
	if depth > 16 {
		return nil // libpam's own limit is 32
	}
	for _, dir := range pamDirs {
		file := path.Join(dir, service)
		b, err := c.m.Root.ReadFile(file)
		if err != nil {
			continue
		}
		var out []rule
		for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
			out = append(out, c.ruleIn(file, line, kind, depth)...)
		}
		return out
	}
	if depth == 0 && service != "other" {
		return c.stackIn("other", kind, 1)
	}
	return nil
}

func (c *check) ruleIn(file, line, kind string, depth int) []rule {
	line, _, _ = strings.Cut(line, "#")
	f := pamFields(line)
	if len(f) >= 2 && f[0] == "@include" {
		return c.stackIn(path.Base(f[1]), kind, depth+1)
	}
	if len(f) < 3 {
		return nil
	}
	k, mayMiss := strings.CutPrefix(strings.ToLower(f[0]), "-")
	if k != kind {
		return nil
	}
	r := rule{kind: kind, control: strings.ToLower(f[1]), module: f[2], args: f[3:], mayMiss: mayMiss, file: file}
	switch r.control {
	case "include":
		return c.stackIn(path.Base(f[2]), kind, depth+1)
	case "substack":
		r.sub = c.stackIn(path.Base(f[2]), kind, depth+1)
	}
	return []rule{r}
}

// pamFields splits a line at blanks; a part in brackets is one field.
func pamFields(line string) []string {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " \t\r\n") {
		end := strings.IndexAny(line, " \t\r\n")
		if line[0] == '[' {
			if n := strings.IndexByte(line, ']'); n > 0 {
				out = append(out, line[1:n])
				line = line[n+1:]
				continue
			}
		}
		if end < 0 {
			end = len(line)
		}
		out = append(out, line[:end])
		line = line[end:]
	}
	return out
}

// actions returns what a control does with each result of a module
// (pam.conf(5)).
func (r rule) action(result string) string {
	simple := map[string]string{
		"required":   "success=ok new_authtok_reqd=ok ignore=ignore default=bad",
		"requisite":  "success=ok new_authtok_reqd=ok ignore=ignore default=die",
		"sufficient": "success=done new_authtok_reqd=done default=ignore",
		"optional":   "success=ok new_authtok_reqd=ok default=ignore",
	}
	control := r.control
	if s, ok := simple[control]; ok {
		control = s
	}
	def := "bad" // what libpam does with a result that is not mentioned
	for f := range strings.FieldsSeq(control) {
		k, v, _ := strings.Cut(f, "=")
		switch k {
		case result:
			return v
		case "default":
			def = v
		}
	}
	return def
}

// A walk is a run through a stack as libpam makes it (pam_dispatch.c).
type walk struct {
	j        *judge
	kind     string
	decided  bool // some module has said yes, or no
	refusals []refusal
	unknown  []string // modules that may refuse and are not known here
}

// A refusal is a module that says no.
type refusal struct {
	code, why, fix string
}

// run goes through the rules and reports whether the walk ends here.
func (w *walk) run(rules []rule) {
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		if r.sub != nil || r.control == "substack" {
			w.run(r.sub) // its end is not the end of the whole
			continue
		}
		result, says := w.j.module(w, r)
		switch a := r.action(result); a {
		case "ignore":
		case "reset":
			w.decided, w.refusals = false, nil
		case "ok":
			w.decided = true
		case "done":
			w.decided = true
			if len(w.refusals) == 0 {
				return
			}
		case "bad", "die":
			w.decided = true
			says.why = fmt.Sprintf("%s: %s %s %s: %s", r.file, r.kind, r.control, strings.Join(append([]string{r.module}, r.args...), " "), says.why)
			w.refusals = append(w.refusals, says)
			if a == "die" {
				return
			}
		default:
			n, err := strconv.Atoi(a)
			if err != nil {
				return // not understood: says nothing
			}
			w.decided = w.decided || result == "success"
			i += n
		}
	}
}

// pam walks through the stacks that sshd uses. A log-in with a key does not
// use auth.
func (j *judge) pam() {
	service := "sshd"
	if s := j.a.Value("pamservicename"); s != "" {
		service = s
	}
	for _, s := range []struct {
		kind  string
		shuts []Way
	}{{"account", login}, {"auth", []Way{Password}}, {"session", login}} {
		for _, says := range j.walk(service, s.kind) {
			j.add(says.code, says.fix, s.shuts, "%s", says.why)
		}
	}
}

// walk returns the refusals of a stack, and notes the modules in it of which
// it is not known what they say.
func (j *judge) walk(service, kind string) []refusal {
	j.service = service
	w := &walk{j: j, kind: kind}
	w.run(j.stack(service, kind))
	if len(w.refusals) == 0 && !w.decided && kind != "session" {
		w.refusals = []refusal{{CodePAM, "no module of the " + kind + " stack of " + service + " says yes", "mend /etc/pam.d/" + service}}
	}
	if len(w.unknown) > 0 && len(w.refusals) == 0 {
		j.add(CodePAM, "log in once to see whether they let you in", nil, "the %s stack of %s has modules that may refuse and that this check does not know: %s", kind, service, strings.Join(w.unknown, " "))
	}
	return w.refusals
}

// mayRefuse reports whether a failure of the module would refuse the log-in.
func (r rule) mayRefuse() bool {
	return slices.Contains([]string{"bad", "die"}, r.action("auth_err"))
}
