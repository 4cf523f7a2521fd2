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

// CheckHostName returns why a host name cannot be set; nil if it can. Linux
// accepts 64 bytes, DNS 63 for each label. Underscores violate RFC 1123, but
// portals allow them, so they are accepted.
func CheckHostName(name string) error {
	if len(name) > 64 {
		return fmt.Errorf("%d characters, at most 64 are allowed", len(name))
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		switch {
		case label == "":
			return errors.New("has an empty label")
		case len(label) > 63:
			return fmt.Errorf("a label has %d characters, at most 63 are allowed", len(label))
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
	// /etc/hosts is written before /etc/hostname. Afterwards the next boot no
	// longer knows the old name, whose line is replaced here.
	if s.Hosts {
		if err := s.hosts(m, name); err != nil {
			return bad(err)
		}
	}
	if b, err := m.Root.ReadFile("/etc/hostname"); err != nil || string(b) != name+"\n" {
		if err := m.Root.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
			return bad(err)
		}
	}
	if err := m.Root.MkdirAll(path.Dir(s.Record), 0o700); err != nil {
		return bad(err)
	}
	if err := m.Root.WriteFile(s.Record, []byte(name), 0o644); err != nil {
		return bad(err)
	}
	m.restorecon(ctx, s.Restorecon, "/etc/hostname", "/etc/hosts")
	if m.Kernel.SetHostName == nil {
		return nil
	}
	if now, err := m.Kernel.HostName(); err == nil && now == name {
		return nil
	}
	if err := m.Kernel.SetHostName(name); err != nil {
		return bad(err)
	}
	return nil
}

const hostsMark = "# azguest"

func (s SetHostName) hosts(m *Machine, name string) error {
	old, err := m.Root.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read /etc/hosts: %w", err)
	}
	if next := hostsWith(string(old), s.Old, name); next != string(old) {
		return m.Root.WriteFile("/etc/hosts", []byte(next), 0o644)
	}
	return nil
}

// hostsWith adds a line for name to the text of /etc/hosts unless there is
// one. It replaces an earlier line of the agent, and a line 127.0.1.1 with the
// old host name, as Debian's installer writes it.
func hostsWith(text, old, name string) string {
	ours := "127.0.1.1\t" + name
	if short, _, ok := strings.Cut(name, "."); ok {
		ours += " " + short
	}
	ours += " " + hostsMark + "\n"
	var out strings.Builder
	done := false
	for line := range strings.Lines(text) {
		body, _, _ := strings.Cut(line, "#")
		f := strings.Fields(body)
		switch {
		case strings.HasSuffix(strings.TrimSpace(line), hostsMark),
			len(f) > 1 && f[0] == "127.0.1.1" && old != "" && old != name && slices.Contains(f[1:], old):
			if !done {
				out.WriteString(ours)
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
