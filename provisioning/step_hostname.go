package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxHostName is how many bytes the kernel takes (HOST_NAME_MAX).
const maxHostName = 64

// CheckHostName returns why a host name cannot be set; nil if it can. The rules
// are those of the kernel and of the platform: 64 bytes, one more than DNS
// allows for a label. Underscores violate RFC 1123, but portals allow them, so
// they are accepted.
func CheckHostName(name string) error {
	name = strings.TrimSuffix(name, ".") // of a name with its root domain; it is not set
	if len(name) > maxHostName {
		return fmt.Errorf("%d characters, at most %d are allowed", len(name), maxHostName)
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errors.New("has an empty label")
		case strings.HasPrefix(label, "-"), strings.HasSuffix(label, "-"):
			return errors.New("a label begins or ends with a hyphen")
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("contains %q", c)
			}
		}
	}
	return nil
}

// SetHostName sets the host name: in the kernel, in /etc/hostname and, if
// nothing else resolves it, by a line in /etc/hosts so that sudo does not wait
// for DNS. No interface is touched, because restarting one would cut off
// programs that use the network.
type SetHostName struct {
	Name, Old  string
	Hosts      bool
	Record     string // published_hostname
	Restorecon string
	// Unknown means that the platform has not given the name: it is not
	// recorded as published, so that it is sent to the DHCP server.
	Unknown bool
}

// ID implements Step.
func (SetHostName) ID() string { return StepHostName }

func (s SetHostName) String() string { return "set the host name to " + printable(s.Name) }

// Apply implements Step.
func (s SetHostName) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodeHostName, "failed to provision hostname", err, Pair{"hostname", printable(s.Name)})
	}
	// An invalid name is an error of this step and not of the plan, so that
	// the user is still created.
	if err := CheckHostName(s.Name); err != nil {
		return bad(err)
	}
	name := strings.TrimSuffix(s.Name, ".")
	// One place that cannot be written is no reason to leave out the others.
	var errs []error
	// /etc/hosts is written before /etc/hostname. Afterwards the next boot no
	// longer knows the old name, whose line is replaced here; if that fails, a
	// file keeps it.
	if s.Hosts {
		errs = append(errs, s.hosts(m, name))
	}
	if b, err := m.Root.ReadFile("/etc/hostname"); err != nil || string(b) != name+"\n" {
		errs = append(errs, m.Root.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644))
	}
	if !s.Unknown {
		errs = append(errs, m.Root.MkdirAll(path.Dir(s.Record), 0o700), m.Root.WriteFile(s.Record, []byte(name), 0o644))
	}
	m.Restorecon(ctx, s.Restorecon, "/etc/hostname", "/etc/hosts")
	if m.Kernel.SetHostName != nil {
		if now, err := m.Kernel.HostName(); err != nil || now != name {
			errs = append(errs, m.Kernel.SetHostName(name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return bad(err)
	}
	return nil
}

const hostsMark = "# azguest"

func (s SetHostName) hosts(m *Machine, name string) error {
	old, err := m.Root.ReadFile("/etc/hosts")
	if errors.Is(err, fs.ErrNotExist) {
		// Without a file, glibc resolves localhost only if a module of
		// nsswitch.conf does. A file without localhost would be worse than none.
		old, err = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"), nil
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read /etc/hosts: %w", err), s.keepFormer(m, s.Old))
	}
	former := s.Old
	if b, err := m.Root.ReadFile(s.formerName()); err == nil {
		former = string(b)
	}
	if next := hostsWith(string(old), former, name); next != string(old) {
		if err := m.Root.WriteFile("/etc/hosts", []byte(next), 0o644); err != nil {
			return errors.Join(err, s.keepFormer(m, former))
		}
	}
	return m.Root.Remove(s.formerName())
}

func (s SetHostName) formerName() string {
	return path.Join(path.Dir(s.Record), "azguest/former_hostname")
}

// keepFormer records the name whose line in /etc/hosts is still to be replaced.
func (s SetHostName) keepFormer(m *Machine, former string) error {
	if former == "" {
		return nil
	}
	return m.put(s.formerName(), []byte(former), 0o600)
}

// hostsWith adds a line for name to the text of /etc/hosts unless there is
// one. It replaces an earlier line of the agent, and a line 127.0.1.1 with the
// old host name, as Debian's installer writes it; other names in that line are
// somebody's and stay.
func hostsWith(text, old, name string) string {
	ours := "127.0.1.1\t" + name
	if short, _, ok := strings.Cut(name, "."); ok {
		ours += " " + short
	}
	ours += " " + hostsMark + "\n"
	var out strings.Builder
	kept := ownHostsLine(text, name)
	done := kept != ""
	for line := range strings.Lines(text) {
		body, _, _ := strings.Cut(line, "#")
		f := strings.Fields(body)
		mine := strings.HasSuffix(strings.TrimSpace(line), hostsMark)
		switch {
		case mine && line == kept:
			kept = "" // once
		case mine, len(f) > 1 && f[0] == "127.0.1.1" && old != "" && old != name && slices.Contains(f[1:], old):
			if !done {
				out.WriteString(ours)
			}
			if rest := slices.DeleteFunc(f[min(1, len(f)):], isName(old, name)); !mine && len(rest) > 0 {
				out.WriteString("127.0.1.1\t" + strings.Join(rest, " ") + "\n")
			}
			done = true
			continue
		case len(f) > 1 && slices.Contains(f[1:], name):
			done = true
		}
		out.WriteString(line)
	}
	if !done {
		if t := out.String(); t != "" && !strings.HasSuffix(t, "\n") {
			out.WriteString("\n")
		}
		out.WriteString(ours)
	}
	return out.String()
}

// ownHostsLine returns the agent's line that has the name already, perhaps after
// a full name that user data gave; empty if there is none.
func ownHostsLine(text, name string) string {
	for line := range strings.Lines(text) {
		if f := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), hostsMark)); strings.HasSuffix(strings.TrimSpace(line), hostsMark) && len(f) > 1 && slices.Contains(f[1:], name) {
			return line
		}
	}
	return ""
}

// isName returns a function that reports whether a word is one of the names of
// a machine: with its domain or without.
func isName(names ...string) func(string) bool {
	label := func(s string) string { first, _, _ := strings.Cut(s, "."); return strings.ToLower(first) }
	return func(word string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return label(n) == label(word) })
	}
}
