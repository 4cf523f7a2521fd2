package generalize

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// Some of what is removed comes back before the machine is off: systemd saves
// the random seed, NetworkManager its leases and key, a shell its history, and
// every service a last line in its log. So a unit removes it a second time. It
// does nothing when it is started. It is stopped at shutdown, after the units
// that it is ordered before, because units are stopped in the reverse order of
// their start (systemd.unit(5)). It is below /run, so it is not in the image.
const shutdownUnit = "/run/systemd/system/azguest-generalize.service"

// lastWriters are ordered before sysinit.target themselves, so that ordering
// the unit before that target is not enough.
var lastWriters = []string{
	"sysinit.target", "systemd-random-seed.service", "systemd-journal-flush.service", "systemd-update-utmp.service", "systemd-networkd.service", "systemd-resolved.service",
	"systemd-timesyncd.service", "NetworkManager.service", "auditd.service", "rsyslog.service", "chronyd.service", "chrony.service", "user.slice", "systemd-user-sessions.service",
	"azguest.service", "tailscaled.service", "zerotier-one.service", "docker.service", "containerd.service", "sssd.service", "fail2ban.service",
}

func unitText(program string) string {
	// Its file systems must still be there when it is stopped.
	return strings.Join([]string{
		"[Unit]",
		"Description=Removal of what belongs to this VM, at shutdown",
		"DefaultDependencies=no",
		"After=local-fs.target boot.mount boot-efi.mount efi.mount",
		"RequiresMountsFor=/etc /var/lib /var/log /var/spool /home /root",
		"Before=" + strings.Join(lastWriters, " "),
		"Conflicts=shutdown.target",
		"Before=shutdown.target",
		"",
		"[Service]",
		"Type=oneshot",
		"RemainAfterExit=yes",
		"ExecStop=" + program + " generalize --at-shutdown",
		"TimeoutStopSec=90",
		"",
	}, "\n")
}

// registerShutdown makes systemd run AtShutdown.
func registerShutdown(ctx context.Context, m *provisioning.Machine, o Options) error {
	err := m.Root.MkdirAll("/run/systemd/system", 0o755)
	if err == nil {
		err = m.Root.WriteFile(shutdownUnit, []byte(unitText(o.Program)), 0o644)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"start", "azguest-generalize.service"}} {
		if err == nil {
			_, err = m.Run.Run(ctx, host.Cmd{Name: "systemctl", Args: args, Timeout: toolTimeout})
		}
	}
	if err != nil {
		// The next run plans it again.
		return errors.Join(err, m.Root.Remove(shutdownUnit))
	}
	return nil
}

// AtShutdown removes again what running programs have written after Apply. It
// runs when they have ended.
func AtShutdown(ctx context.Context, sys *provisioning.System, o Options) error {
	o.Service, o.User, o.Program = "", false, ""
	var again []Action
	for _, a := range Plan(sys.Root, o).Actions {
		if a.returns && a.Kind != Command {
			again = append(again, a)
		}
	}
	err := Apply(ctx, sys, o, again, nil)
	unix.Sync()
	return err
}
