package userdata

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// SetNTP configures the program that keeps the time to use these servers only,
// and installs it if it is missing. Without servers and pools its configuration
// stays as the distribution has made it.
type SetNTP struct {
	Client         NTPClient // chrony or systemd-timesyncd
	Servers, Pools []string
	Install        Packages // with the package of the client; without one it is installed
	Systemctl      string   // only if systemd runs
	Restorecon     string
}

// ID implements provisioning.Step.
func (SetNTP) ID() string { return "ntp" }

func (s SetNTP) String() string {
	return fmt.Sprintf("set %d time servers and pools for %s", len(s.Servers)+len(s.Pools), s.Client)
}

// Apply implements provisioning.Step.
func (s SetNTP) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeNTP, "failed to configure the time servers", err) }
	for _, name := range append(append([]string{}, s.Servers...), s.Pools...) {
		if name == "" || strings.ContainsAny(name, " \t\n#!;%\"'") {
			return bad(fmt.Errorf("%q is no server", name))
		}
	}
	if len(s.Install.Names) > 0 {
		if _, err := s.Install.run(ctx, m); err != nil {
			return bad(fmt.Errorf("install %s: %w", s.Client, err))
		}
	}
	if len(s.Servers)+len(s.Pools) == 0 {
		return nil
	}
	changed, err := s.configure(ctx, m)
	if err != nil {
		return bad(err)
	}
	if !changed || s.Systemctl == "" {
		return nil
	}
	_, err = m.Run.Run(ctx, host.Cmd{Name: s.Systemctl, Args: []string{"restart", s.unit(m.Root)}, Timeout: toolTimeout})
	if err != nil {
		return bad(err)
	}
	return nil
}

func (s SetNTP) configure(ctx context.Context, m *provisioning.Machine) (changed bool, err error) {
	name, text := timesyncdFile, s.timesyncd()
	if s.Client == NTPChrony {
		name = chronyFile(m.Root)
		if name == "" {
			return false, errors.New("chrony has no configuration file")
		}
	}
	old, err := readText(m.Root, name)
	if err != nil {
		return false, err
	}
	if s.Client == NTPChrony {
		text = s.chrony(old)
	}
	if text == old {
		return false, nil
	}
	if err := makeDirs(m.Root, path.Dir(name)); err != nil {
		return false, err
	}
	if err := m.Root.WriteFile(name, []byte(text), 0o644); err != nil {
		return false, err
	}
	m.Restorecon(ctx, s.Restorecon, name)
	return true, nil
}

// timesyncdFile is a drop-in of timesyncd.conf(5).
const timesyncdFile = "/etc/systemd/timesyncd.conf.d/azguest.conf"

func (s SetNTP) timesyncd() string {
	return "# Written by azguest from the user data of this VM.\n[Time]\nNTP=" + strings.Join(append(append([]string{}, s.Servers...), s.Pools...), " ") + "\n"
}

// chronyFile returns the configuration that chronyd reads: Debian's, or that of
// the others.
func chronyFile(r host.Root) string {
	for _, name := range []string{"/etc/chrony/chrony.conf", "/etc/chrony.conf"} {
		if r.Exists(name) {
			return name
		}
	}
	return ""
}

// Lines around ours in chrony's configuration, and what stands before lines
// that ours replace.
const (
	chronyBegin    = "# Time servers of this VM's user data, written by azguest:"
	chronyEnd      = "# End of the time servers of this VM's user data."
	chronyReplaced = "#azguest: "
)

// chrony returns the configuration with our servers and pools instead of its
// own, and of those that DHCP and other files add (chrony.conf(5)). Other lines
// stay: a clock of the host (refclock) is often the better source.
func (s SetNTP) chrony(text string) string {
	var out strings.Builder
	for line := range strings.Lines(provisioning.WithoutBlock(text, chronyBegin, chronyEnd)) {
		if f := strings.Fields(line); len(f) > 0 {
			switch strings.ToLower(f[0]) {
			case "server", "pool", "peer", "sourcedir":
				out.WriteString(chronyReplaced)
			}
		}
		out.WriteString(line)
	}
	if t := out.String(); t != "" && !strings.HasSuffix(t, "\n") {
		out.WriteByte('\n')
	}
	out.WriteString(chronyBegin + "\n")
	for _, p := range s.Pools {
		out.WriteString("pool " + p + " iburst\n")
	}
	for _, p := range s.Servers {
		out.WriteString("server " + p + " iburst\n")
	}
	out.WriteString(chronyEnd + "\n")
	return out.String()
}

// unit returns the unit of the client. Debian names chrony's without a d.
func (s SetNTP) unit(r host.Root) string {
	if s.Client != NTPChrony {
		return "systemd-timesyncd.service"
	}
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if r.Exists(path.Join(dir, "chrony.service")) {
			return "chrony.service"
		}
	}
	return "chronyd.service"
}

// ntpLimit bounds the step, which may have to install a package.
const ntpLimit = lockWait + installLimit + 2*time.Minute

// ntpStep decides which client is used: the one that is asked for, else the one
// that is there, else chrony.
func ntpStep(n NTP, f Facts, o Options) SetNTP {
	s := SetNTP{Client: n.Client, Servers: n.Servers, Pools: n.Pools, Systemctl: f.Systemctl, Restorecon: f.Restorecon}
	if s.Client != NTPChrony && s.Client != NTPTimesyncd {
		s.Client = NTPChrony
		if f.Clock.Chrony == "" && f.Clock.Timesyncd != "" {
			s.Client = NTPTimesyncd
		}
	}
	missing := s.Client == NTPChrony && f.Clock.Chrony == "" || s.Client == NTPTimesyncd && f.Clock.Timesyncd == ""
	if missing {
		s.Install = Packages{Packager: f.Packager, Update: true, Names: []PackageName{{Name: string(s.Client)}}, Runs: runs(f, o, "ntp")}
	}
	return s
}
