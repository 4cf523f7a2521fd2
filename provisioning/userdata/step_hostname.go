package userdata

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// SetHostName sets the host name of the machine.
type SetHostName struct {
	Set provisioning.SetHostName
}

// ID implements provisioning.Step.
func (SetHostName) ID() string { return "hostname" }

func (s SetHostName) String() string { return s.Set.String() }

// Apply implements provisioning.Step.
func (s SetHostName) Apply(ctx context.Context, m *provisioning.Machine) error {
	if err := s.Set.Apply(ctx, m); err != nil {
		return failed(CodeHostName, "failed to set the host name", err)
	}
	return nil
}

// ManageHosts writes /etc/hosts: the whole file, or only the line of the
// machine's own name.
type ManageHosts struct {
	Whole      bool
	Name, FQDN string
	Restorecon string
}

// ID implements provisioning.Step.
func (ManageHosts) ID() string { return "hosts" }

func (s ManageHosts) String() string {
	if s.Whole {
		return "write /etc/hosts"
	}
	return "write the name of the machine to /etc/hosts"
}

// Apply implements provisioning.Step.
func (s ManageHosts) Apply(ctx context.Context, m *provisioning.Machine) error {
	const name = "/etc/hosts"
	bad := func(err error) error { return failed(CodeHostName, "failed to write /etc/hosts", err) }
	if s.Name == "" {
		return bad(errors.New("the machine has no name"))
	}
	if err := errors.Join(provisioning.CheckHostName(s.Name), provisioning.CheckHostName(s.FQDN)); err != nil {
		return bad(err)
	}
	old, err := readText(m.Root, name)
	if err != nil {
		return bad(err)
	}
	next := s.whole()
	if !s.Whole {
		next = s.local(old)
	}
	if next == old {
		return nil
	}
	if err := m.Root.WriteFile(name, []byte(next), 0o644); err != nil {
		return bad(err)
	}
	m.Restorecon(ctx, s.Restorecon, name)
	return nil
}

func (s ManageHosts) names() []string {
	if s.FQDN == s.Name {
		return []string{s.Name}
	}
	return []string{s.FQDN, s.Name}
}

func (s ManageHosts) whole() string {
	return `# Written by azguest at every boot, because manage_etc_hosts is true in the user
# data of this VM: changes to this file are lost.
127.0.1.1	` + strings.Join(s.names(), " ") + `
127.0.0.1	localhost

::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`
}

// hostsMark is at the end of the line that provisioning writes.
const hostsMark = "# azguest"

// local returns the text with a line for the name of the machine. Lines of
// others stay; one that azguest has written is replaced.
func (s ManageHosts) local(text string) string {
	ours := "127.0.1.1\t" + strings.Join(s.names(), " ") + " " + hostsMark + "\n"
	var out strings.Builder
	done := false
	for line := range strings.Lines(text) {
		body, _, _ := strings.Cut(line, "#")
		f := strings.Fields(body)
		mine := strings.HasSuffix(strings.TrimSpace(line), hostsMark)
		switch {
		case mine && line != ours:
			continue
		case len(f) > 1 && f[0] == "127.0.1.1" && f[1] == s.FQDN && slices.Contains(f[1:], s.Name):
			done = true
		}
		out.WriteString(line)
	}
	next := out.String()
	if done {
		return next
	}
	if next != "" && !strings.HasSuffix(next, "\n") {
		next += "\n"
	}
	return next + ours
}

// names returns the short and the full name of the machine, as cloud-init finds
// them: either may be given by the other.
func names(c Config, now string) (short, full string) {
	short, full = c.HostName, c.FQDN
	if full == "" {
		full = short
		if full == "" {
			full = now
		}
		label, _, _ := strings.Cut(full, ".")
		return label, full
	}
	if short == "" {
		short, _, _ = strings.Cut(full, ".")
	}
	return short, full
}

// hostSteps returns the steps of hostname, fqdn and manage_etc_hosts.
func hostSteps(c Config, f Facts, o Options) []Planned {
	var steps []Planned
	short, full := names(c, f.HostName)
	if c.HostName != "" || c.FQDN != "" {
		name := short
		if c.PreferFQDN {
			name = full
		}
		steps = append(steps, Planned{Step: SetHostName{provisioning.SetHostName{
			Name: name, Old: f.HostName, Hosts: c.Hosts == HostsLeave && !f.ResolvesSelf,
			Record: path.Join(o.Provisioning.Lib, "published_hostname"), Restorecon: f.Restorecon, Unknown: true,
		}}})
	}
	if c.Hosts != HostsLeave {
		steps = append(steps, Planned{EveryBoot: true, Step: ManageHosts{
			Whole: c.Hosts == HostsTemplate, Name: short, FQDN: full, Restorecon: f.Restorecon,
		}})
	}
	return steps
}

// readText reads a file of the machine; one that is not there is empty.
func readText(r host.Root, name string) (string, error) {
	b, err := r.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return string(b), nil
}
