package userdata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/provisioning"
)

// SetTimeZone sets the time zone of the machine.
type SetTimeZone struct {
	Zone       string
	Name       bool // also in /etc/timezone, which Debian's packages read
	Restorecon string
}

// zones is where the time zones are (tzfile(5)).
const zones = "/usr/share/zoneinfo"

// ID implements provisioning.Step.
func (SetTimeZone) ID() string { return "timezone" }

func (s SetTimeZone) String() string { return "set the time zone to " + s.Zone }

// Apply implements provisioning.Step. /etc/localtime becomes a link, from which
// systemd learns the name of the zone (localtime(5)).
func (s SetTimeZone) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeTimeZone, "failed to set the time zone", err) }
	if path.IsAbs(s.Zone) || slices.Contains(strings.Split(s.Zone, "/"), "..") {
		return bad(fmt.Errorf("%q is no time zone", s.Zone))
	}
	file := path.Join(zones, s.Zone)
	if err := isZone(m, file); err != nil {
		return bad(fmt.Errorf("time zone %q: %w", s.Zone, err))
	}
	const local, name = "/etc/localtime", "/etc/timezone"
	if target, err := m.Root.Readlink(local); err != nil || path.Join("/etc", target) != file && target != file {
		if err := m.Root.Symlink(file, local); err != nil {
			return bad(err)
		}
	}
	if s.Name || m.Root.Exists(name) {
		if err := m.Root.WriteFile(name, []byte(s.Zone+"\n"), 0o644); err != nil {
			return bad(err)
		}
	}
	m.Restorecon(ctx, s.Restorecon, local)
	return nil
}

// isZone reports why a file is no time zone; nil if it is one. The directory
// also has tables.
func isZone(m *provisioning.Machine, file string) error {
	f, err := m.Root.Open(file)
	if err != nil {
		return err
	}
	var magic [4]byte
	_, err = io.ReadFull(f, magic[:])
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if string(magic[:]) != "TZif" {
		return errors.New("not a time zone")
	}
	return nil
}
