package userdata

import (
	"context"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// Facts is what configSteps needs to know about the machine.
type Facts struct {
	provisioning.Facts

	Packager Packager // empty if there is none that is known
	Dpkg     bool     // a system with Debian's packages, which has /etc/timezone
	Clock    ClockFacts
}

// ClockFacts says which programs that keep the time are installed.
type ClockFacts struct {
	Chrony    string // chronyd; empty if it is not installed
	Timesyncd string // systemd-timesyncd, the same
}

// gatherFacts reads the facts.
func gatherFacts(ctx context.Context, m *provisioning.Machine) (Facts, error) {
	p, err := m.Gather(ctx)
	f := Facts{Facts: p}
	if err != nil {
		return f, err
	}
	f.Packager = findPackager(m.Root)
	f.Dpkg = m.Root.Exists("/var/lib/dpkg/status")
	f.Clock = findClock(m.Root)
	return f, nil
}

// findClock looks for programs that keep the time.
func findClock(r host.Root) ClockFacts {
	f := ClockFacts{Chrony: provisioning.Which(r, "chronyd")}
	for _, p := range []string{"/usr/lib/systemd/systemd-timesyncd", "/lib/systemd/systemd-timesyncd"} {
		if r.Exists(p) {
			f.Timesyncd = p
			break
		}
	}
	return f
}
