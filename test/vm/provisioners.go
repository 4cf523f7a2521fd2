package vm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// cloudInit is an image that is provisioned by Debian's cloud-init. The
// additional packages are what its Azure datasource runs; the disk has no
// partition to grow. The host name is kept in /etc/hosts, as in other images,
// because there is no DNS here and sudo would wait for it.
var cloudInit = Variant{
	Name: "cloud-init", Packages: []string{"cloud-init", "eject", "isc-dhcp-client"},
	Files: map[string]string{
		"/etc/cloud/cloud.cfg.d/90-image.cfg": "growpart: {mode: \"off\"}\nresize_rootfs: false\nlocale: C.UTF-8\nmanage_etc_hosts: true\n",
	},
}

// crashing is the same with a mount(8) that kills the cloud-init that calls it,
// which is when it looks for the medium, before its first report.
var crashing = Variant{
	Name: "cloud-init-crashed", Packages: cloudInit.Packages, Files: cloudInit.Files,
	Script: `cat >/usr/local/bin/mount <<'END'
#!/bin/sh
if [ "$(cat /proc/$PPID/comm)" = cloud-init ]; then kill -9 $PPID; exit 1; fi
exec /usr/bin/mount "$@"
END
chmod 755 /usr/local/bin/mount
`,
}

func noDisc(context.Context, *Run) (string, error) { return "", nil }

// malformed returns the platform's medium with a truncated document.
func malformed(_ context.Context, r *Run) (string, error) {
	m := r.Platform.VM.Medium()
	m.Malformed = true
	image, err := m.Image()
	if err != nil {
		return "", err
	}
	name := r.lab.path("dvd.iso")
	return name, os.WriteFile(name, image, 0o600)
}

// minute is the time limit of a failing provisioning, from the first report to
// the last, because the customer waits for it in the portal.
const minute = time.Minute

var (
	// inTime measures between the guest's own reports, so that a slow boot of
	// the emulation does not count.
	inTime = step{"in time", func(_ context.Context, r *Run) (string, error) {
		all := r.Platform.health()
		took := all[len(all)-1].Time.Sub(all[0].Time).Round(10 * time.Millisecond)
		if took > minute {
			return "", fmt.Errorf("%s from the first report to the last, want at most %s", took, minute)
		}
		return fmt.Sprintf("%s from the first report to the last", took), nil
	}}

	// failed waits for the report of a failure, after which nobody can log in.
	failed = step{"reported failure", func(ctx context.Context, r *Run) (string, error) {
		err := until(ctx, "a report of the failure", func() (bool, error) {
			if len(r.Platform.Ready()) > 0 {
				return false, errors.New("the guest reports Ready")
			}
			return r.Platform.VM.Health().SubStatus == "ProvisioningFailed", r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		all := r.Platform.health()
		r.ToReady = all[len(all)-1].Time.Sub(r.Machine.Started)
		took := all[len(all)-1].Time.Sub(all[0].Time).Round(10 * time.Millisecond)
		said := r.Platform.VM.Health().Description
		if took > minute {
			return "", fmt.Errorf("failure reported %s after the first report, want at most %s: %s", took, minute, said)
		}
		if !strings.Contains(said, "reason=error parsing ovf-env.xml") || strings.Contains(said, r.Password) {
			return "", fmt.Errorf("wrong description of the failure: %q", said)
		}
		// It must be possible to repair the machine with extensions.
		if err := r.Platform.PutExtension(ctx, sample); err != nil {
			return "", err
		}
		return fmt.Sprintf("after %s: %q; extensions can be installed", took, said), nil
	}}

	// halfOrder checks what a machine lacks that was provisioned from the
	// metadata only, and that the agent logs it.
	halfOrder = step{"metadata only", func(ctx context.Context, r *Run) (string, error) {
		return "no password, sudo without a password; missing custom data is logged", r.same(ctx,
			check{"sudo getent shadow " + r.User + " | cut -d: -f2 | tr -d '!*'", ""},
			check{"command sudo -n id -un", "root"},
			check{"sudo ls /var/lib/waagent/CustomData 2>&1 | grep -c 'No such'", "1"},
			check{"sudo journalctl -b -u azguest -o cat --no-pager | grep -c 'custom data.*could not be read'", "1"},
		)
	}}

	// loginLater also waits for the account: cloud-init reports Ready before it
	// creates one.
	loginLater = step{"ssh", func(ctx context.Context, r *Run) (string, error) {
		began := time.Now()
		r.Machine.As(r.User, r.keyFile("ed25519"))
		soon, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no login within 2 minutes"))
		defer cancel()
		err := until(soon, "ssh to answer", func() (bool, error) {
			out, err := r.Machine.Run(soon, "hostname")
			return err == nil && out == r.HostName, r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("after %.1f s", time.Since(began).Seconds()), nil
	}}

	// beside checks what agent and cloud-init have done together, and which of
	// them reported to the platform.
	beside = step{"cloud-init", func(ctx context.Context, r *Run) (string, error) {
		err := until(ctx, "the end of the boot", func() (bool, error) {
			out, err := r.Machine.Run(ctx, "systemctl is-system-running || true")
			return err == nil && out != "starting" && out != "initializing", r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		err = r.same(ctx,
			check{"cloud-init status | tail -n 1", "status: done"},
			check{"command sudo -n id -un", "root"},
			check{"sudo getent shadow " + r.User + " | cut -d: -f2 | cut -c1-3", "$6$"},
			check{"grep -c ' customer@example$' ~/.ssh/authorized_keys", "2"},
			check{"sudo cat /var/lib/cloud/instance/user-data.txt", strings.TrimSpace(r.CustomData)},
			check{"sudo agentctl status -o json | grep -o '\"by\": *\"[a-z-]*\"'", `"by": "cloud-init"`},
			check{"sudo agentctl status --wait ready --timeout 60s >/dev/null; [ $? -le 1 ] && echo ready", "ready"},
			check{"sudo journalctl -b -t useradd -o cat --no-pager | grep -c 'new user: name=" + r.User + "' || true", r.accountsMade()},
		)
		for _, e := range r.Platform.health() {
			if agent := e.Header["User-Agent"]; !strings.HasPrefix(agent, "Cloud-Init/") {
				err = errors.Join(err, fmt.Errorf("unexpected report from %s: %s", agent, e.Body))
			}
		}
		if n := len(r.Platform.Ready()); n != 1 {
			err = errors.Join(err, fmt.Errorf("received Ready %d times, want once", n))
		}
		return "done; Ready received once, from cloud-init", err
	}}

	takenOver = step{"taken over", func(ctx context.Context, r *Run) (string, error) {
		err := r.same(ctx,
			check{"sudo journalctl -b -u azguest -o cat --no-pager | grep -c 'taking over'", "1"},
			check{"sudo journalctl -b -t useradd -o cat --no-pager | grep -c 'new user: name=" + r.User + "'", "1"},
		)
		if n := len(r.Platform.Ready()); n != 1 {
			err = errors.Join(err, fmt.Errorf("received Ready %d times, want once", n))
		}
		return "the agent provisioned; Ready received once", err
	}}
)

// criticalChain checks how long the boot waits for the agent: at most half a
// second. On a busy host everything takes longer, so a longer wait only fails
// if it is also a large part of the boot. If nothing waits for the agent, its
// start takes as long as the other services leave it.
var criticalChain = step{"critical chain", func(ctx context.Context, r *Run) (string, error) {
	const micros = "ExecMainStartTimestampMonotonic ActiveEnterTimestampMonotonic"
	got, err := r.Machine.RunAll(ctx,
		"for p in "+micros+"; do systemctl show -P $p azguest; done; systemctl show -P UserspaceTimestampMonotonic; systemctl show -P ActiveEnterTimestampMonotonic multi-user.target",
		"systemd-analyze critical-chain --no-pager multi-user.target | grep '@[0-9]' | sed 's/^[^a-z]*//' | head -n 4 | tr '\\n' ';'",
		"systemd-analyze critical-chain --no-pager multi-user.target | grep -c azguest",
	)
	if err != nil {
		return "", err
	}
	var began, ready, user, whole int64
	if _, err := fmt.Sscan(got[0], &began, &ready, &user, &whole); err != nil {
		return "", fmt.Errorf("parse systemd's time stamps: %w: %q", err, got[0])
	}
	agent, boot := time.Duration(ready-began)*time.Microsecond, time.Duration(whole-user)*time.Microsecond
	waited := got[2] != "0"
	said := fmt.Sprintf("agent took %s to start, of %s in user space; boot waited for it: %v (%s)", agent.Round(time.Millisecond), boot.Round(time.Millisecond), waited, got[1])
	if waited && agent > time.Second/2 && agent > boot/4 {
		return "", errors.New(said)
	}
	return said, nil
}}

// accountsMade is how often the account must have been created in this boot.
func (r *Run) accountsMade() string {
	if r.before == nil {
		r.before = map[string]string{}
		return "1"
	}
	return "0"
}

// powerCuts cuts the power at random moments of first boots. Moments are
// measured in processor time of the emulation, which does not depend on the
// load of the host. Each boot after a cut must end in the normal state.
func powerCuts(ctx context.Context, r *Run) error {
	if err := steps(ctx, r, powerOn, ready); err != nil {
		return err
	}
	whole := r.Machine.Processor()
	toReady := r.ToReady
	for n := range r.cuts {
		r.Machine.Cut()
		if err := r.Machine.Blank(ctx); err != nil {
			return err
		}
		r.before = nil
		// The start of the kernel is skipped; some cuts come after Ready, when
		// the medium may be ejected already.
		at := time.Duration((0.35 + 0.8*rand.Float64()) * float64(whole))
		if err := steps(ctx, r, powerOn, cutAt(n+1, at), powerOn, ready, login, accounts, hostKeys); err != nil {
			return err
		}
	}
	r.ToReady = toReady
	return nil
}

func cutAt(n int, at time.Duration) step {
	return step{fmt.Sprintf("power cut %d", n), func(ctx context.Context, r *Run) (string, error) {
		began := r.Machine.Started
		err := until(ctx, "the moment of the power cut", func() (bool, error) {
			// An idle machine uses no processor time.
			done := false
			for _, t := range r.Platform.Ready() {
				done = done || t.After(began) && time.Since(t) > 5*time.Second
			}
			return done || r.Machine.Processor() >= at, r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		said := "before the first report"
		for _, e := range r.Platform.Fabric.Journal(fabric.Query{Kind: fabric.Health, VM: vmName}) {
			if e.Time.After(began) {
				said = "after NotReady"
				if strings.Contains(e.Body, "<State>Ready</State>") {
					said = "after Ready"
				}
			}
		}
		// The platform has removed a medium that the guest ejected.
		if gone, eerr := r.Machine.Ejected(ctx); eerr == nil && gone {
			r.Machine.Media = ""
			if said != "after Ready" {
				err = fmt.Errorf("the medium was ejected %s", said)
			}
			said += ", medium ejected"
		}
		r.Machine.Cut()
		return fmt.Sprintf("at %.1f s of CPU time, %s", at.Seconds(), said), err
	}}
}
