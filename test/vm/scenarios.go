package vm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// A Scenario is a sequence of steps and checks on one machine, seen from
// outside.
type Scenario struct {
	Name  string
	About string
	Image Variant
	// Medium creates the provisioning DVD and returns its file name; an empty
	// name is an empty drive. Nil is the platform's own medium, in UDF.
	Medium func(ctx context.Context, r *Run) (string, error)
	// Play switches the machine on, and runs the steps and checks.
	Play func(ctx context.Context, r *Run) error
}

// Lives returns how many first boots a scenario has beyond one.
func (s Scenario) Lives(o Options) int {
	if s.Name == "power-cut" {
		return o.Cuts
	}
	return 0
}

// Scenarios returns the table of all scenarios.
func Scenarios() []Scenario {
	return []Scenario{
		{
			Name:  "first-boot",
			About: "blank image: provision once, log in, install an extension, and check that a reboot changes nothing",
			Play:  firstBoot,
		},
		{
			Name:  "no-udf",
			About: "hardened image: provision although the kernel can mount neither udf nor iso9660",
			Image: Variant{Name: "no-udf", Files: map[string]string{
				"/etc/modprobe.d/hardening.conf": "install udf /bin/false\ninstall isofs /bin/false\nblacklist udf\nblacklist isofs\n",
			}},
			Play: func(ctx context.Context, r *Run) error {
				return steps(ctx, r, powerOn, ready, login, noMedium, system)
			},
		},
		{
			Name:   "metadata-only",
			About:  "empty drive: provision from the instance metadata alone",
			Medium: noDisc,
			Play: func(ctx context.Context, r *Run) error {
				return steps(ctx, r, powerOn, ready, inTime, login, system, halfOrder)
			},
		},
		{
			Name:   "malformed",
			About:  "truncated ovf-env.xml: report the failure within a minute, and still run extensions",
			Medium: malformed,
			Play: func(ctx context.Context, r *Run) error {
				return steps(ctx, r, powerOn, failed)
			},
		},
		{
			Name:  "cloud-init",
			About: "Debian's cloud-init provisions and reports Ready; extensions start after it",
			Image: cloudInit,
			Play: func(ctx context.Context, r *Run) error {
				return steps(ctx, r, powerOn, ready, loginLater, beside, system, control, restart, loginLater, beside, system)
			},
		},
		{
			Name:  "cloud-init-crashed",
			About: "cloud-init is killed before its first report: the agent takes over",
			Image: crashing,
			Play: func(ctx context.Context, r *Run) error {
				return steps(ctx, r, powerOn, ready, login, takenOver, accounts, control)
			},
		},
		{
			Name:  "power-cut",
			About: "cut the power at random moments of first boots (--cuts times); the next boot completes each of them",
			Play:  powerCuts,
		},
		{
			Name:  "data-and-events",
			About: "carry out user data above the image's vendor data, run startup and shutdown scripts and those for a preemption",
			Image: eventful,
			Play:  dataAndEvents,
		},
		{
			Name:   "removal",
			About:  "provision from an ISO 9660 medium with Joliet, as attached by other clouds with this protocol; purge the package: no file of it is left, and the machine still boots",
			Medium: asISO9660,
			Play: func(ctx context.Context, r *Run) error {
				return steps(ctx, r, powerOn, ready, login, system, control, purge, restart, gone)
			},
		},
	}
}

// A step is an action or a check; it returns a text for the report.
type step struct {
	name string
	do   func(ctx context.Context, r *Run) (string, error)
}

// steps runs steps in order, up to the first error.
func steps(ctx context.Context, r *Run, all ...step) error {
	for _, s := range all {
		began := time.Now()
		said, err := s.do(ctx, r)
		took := time.Since(began).Round(10 * time.Millisecond)
		if err != nil {
			r.say("FAIL %-22s %8s  %v", s.name, took, err)
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.say("ok   %-22s %8s  %s", s.name, took, said)
	}
	return nil
}

func firstBoot(ctx context.Context, r *Run) error {
	return steps(ctx, r, powerOn, ready, login, system, criticalChain, medium, accounts, hostKeys, control, agentctl,
		reboot, alive, system, unchanged)
}

var (
	powerOn = step{"power on", func(_ context.Context, r *Run) (string, error) {
		return "", r.Machine.On()
	}}

	ready = step{"Ready", func(ctx context.Context, r *Run) (string, error) {
		when, err := r.Platform.AwaitReady(ctx, r.Machine)
		if err != nil {
			return "", err
		}
		r.readyAt, r.ToReady = when, when.Sub(r.Machine.Started)
		return fmt.Sprintf("power on to Ready received: %.1f s; CPU time of the emulation %.1f s, load %s",
			r.ToReady.Seconds(), r.Machine.Processor().Seconds(), load()), nil
	}}

	// login reports how long after Ready the first login succeeded, because
	// customers expect to be able to log in at that time.
	login = step{"ssh", func(ctx context.Context, r *Run) (string, error) {
		r.Machine.As(r.User, r.keyFile("ed25519"))
		err := until(ctx, "ssh to answer", func() (bool, error) {
			out, err := r.Machine.Run(ctx, "true")
			if err != nil && !strings.Contains(out, "Connection refused") {
				return false, err
			}
			return err == nil, r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		after := time.Since(r.readyAt).Seconds()
		for _, kind := range []string{"rsa", "ed25519"} {
			r.Machine.As(r.User, r.keyFile(kind))
			if err := r.same(ctx, check{"id -un; hostname", r.User + "\n" + r.HostName}); err != nil {
				return "", fmt.Errorf("log in with the %s key: %w", kind, err)
			}
		}
		// sudo asks an account with a password for it.
		_, err = r.Machine.Run(ctx, "umask 077; echo '"+r.Password+"' >~/.pw; printf '#!/bin/sh\\ncat ~/.pw\\n' >~/.ask; chmod 700 ~/.ask")
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s@%s with both keys; first login %.1f s after Ready", r.User, r.HostName, after), nil
	}}

	// bootDone waits for the end of the boot and reports failed units.
	bootDone = check{"systemctl is-system-running --wait || systemctl --failed --no-legend", "running"}

	system = step{"system", func(ctx context.Context, r *Run) (string, error) {
		return "running, no failed units; the agent is active, also under its classic names", r.same(ctx,
			bootDone,
			check{"systemctl is-active azguest waagent walinuxagent ssh | sort -u", "active"},
			check{"systemctl show -P Slice azguest", "azure.slice"},
			check{"stat -c %a /sys/class/dmi/id/product_uuid", "444"},
		)
	}}

	medium = step{"medium", func(ctx context.Context, r *Run) (string, error) {
		if err := r.same(ctx, check{"findmnt -rno SOURCE,TARGET -t udf,iso9660", ""}); err != nil {
			return "", err
		}
		ejected, err := r.Machine.Ejected(ctx)
		if err != nil {
			return "", err
		}
		if !ejected {
			return "", errors.New("the medium was not ejected after provisioning")
		}
		return "unmounted and ejected", nil
	}}

	noMedium = step{"no mount", func(ctx context.Context, r *Run) (string, error) {
		return "provisioned without mounting the medium", r.same(ctx, check{"lsmod | grep -E '^(udf|isofs) '", ""})
	}}

	accounts = step{"account", func(ctx context.Context, r *Run) (string, error) {
		return "sudo, password hash, keys, custom data and modes are right; the password is not stored in clear", r.same(ctx,
			check{"command sudo -n id -un", "sudo: a password is required"},
			check{"sudo id -un", "root"},
			check{"sudo getent shadow " + r.User + " | cut -d: -f2 | cut -c1-3", "$6$"},
			check{"sudo getent shadow root | cut -d: -f2 | grep -c '^[!*]'", "1"},
			check{"stat -c '%U %a' ~/.ssh ~/.ssh/authorized_keys", r.User + " 700\n" + r.User + " 600"},
			check{"grep -c ' customer@example$' ~/.ssh/authorized_keys", "2"},
			check{"sudo stat -c %a /var/lib/waagent", "700"},
			check{"sudo base64 -d /var/lib/waagent/CustomData", r.CustomData},
			// Telemetry files that are sent during the search disappear.
			check{"sudo grep -rslFf ~/.pw /var/lib/waagent /var/log /run/azguest /run/log /etc", ""},
		)
	}}

	hostKeys = step{"host keys", func(ctx context.Context, r *Run) (string, error) {
		if err := r.remember(ctx); err != nil {
			return "", err
		}
		n := strings.Count(r.before["host keys"], "ssh_host_")
		if n < 3 {
			return "", fmt.Errorf("want at least 3 new host keys, got %d:\n%s", n, r.before["host keys"])
		}
		return fmt.Sprintf("%d generated", n), nil
	}}

	control = step{"extension", func(ctx context.Context, r *Run) (string, error) {
		if err := r.Platform.PutExtension(ctx, sample); err != nil {
			return "", err
		}
		return r.viewed(ctx)
	}}

	agentctl = step{"agentctl", func(ctx context.Context, r *Run) (string, error) {
		out, err := r.Machine.Run(ctx, "sudo agentctl status --output json")
		if err != nil {
			return "", err
		}
		if !json.Valid([]byte(out)) {
			return "", fmt.Errorf("not JSON: %s", out)
		}
		if !strings.Contains(out, sample.Publisher+"."+sample.Type) {
			return "", fmt.Errorf("the output lacks the extension: %s", out)
		}
		return fmt.Sprintf("%d bytes of JSON, with the extension", len(out)), nil
	}}

	reboot = step{"reboot", func(ctx context.Context, r *Run) (string, error) {
		if err := r.remember(ctx); err != nil {
			return "", err
		}
		r.reports = len(r.Platform.health())
		if n := len(r.Platform.Ready()); n != 1 {
			return "", fmt.Errorf("received Ready %d times in the first boot, want once", n)
		}
		return "Ready received exactly once in the first boot", r.Machine.Reboot(ctx)
	}}

	restart = step{"restart", func(ctx context.Context, r *Run) (string, error) {
		return "", r.Machine.Reboot(ctx)
	}}

	// alive waits for a Ready report and a status document after the reboot.
	alive = step{"status after reboot", func(ctx context.Context, r *Run) (string, error) {
		if _, err := r.Platform.AwaitReady(ctx, r.Machine); err != nil {
			return "", err
		}
		err := until(ctx, "a status report of the agent", func() (bool, error) {
			all := r.Platform.Fabric.Journal(fabric.Query{Kind: fabric.Status, VM: vmName, Limit: 1})
			return len(all) > 0 && all[0].Time.After(r.Machine.Started), r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		// extensions/SPEC.md §10.4: a reboot calls enable once more, with the
		// same sequence number, and no other command.
		const want = "install\nenable\nenable"
		err = until(ctx, "the handler to be enabled again", func() (bool, error) {
			got, err := r.Machine.Run(ctx, "cat /var/lib/azguest-sample-commands")
			if err == nil && !strings.HasPrefix(want, got) {
				err = fmt.Errorf("wrong order of handler commands: %q", got)
			}
			return got == want, err
		})
		if err != nil {
			return "", err
		}
		return r.viewed(ctx)
	}}

	unchanged = step{"unchanged", func(ctx context.Context, r *Run) (string, error) {
		now, err := r.facts(ctx)
		if err != nil {
			return "", err
		}
		for name, was := range r.before {
			if now[name] != was {
				err = errors.Join(err, fmt.Errorf("%s changed:\n%s\n-- before:\n%s", name, now[name], was))
			}
		}
		// Ready must be reported once per boot. After the first boot nothing
		// else about provisioning may be reported: the classic agent reports
		// nothing then, so a lost Ready is never repeated.
		if n := len(r.Platform.Ready()); n != 2 {
			err = errors.Join(err, fmt.Errorf("received Ready %d times in two boots, want once in each", n))
		}
		if n := len(r.Platform.health()); n != r.reports+1 {
			err = errors.Join(err, fmt.Errorf("received %d health reports after the reboot, want one", n-r.reports))
		}
		return "account, host keys, host name and packages have not changed; Ready received once per boot", err
	}}

	purge = step{"purge", func(ctx context.Context, r *Run) (string, error) {
		if out, err := r.Machine.Run(ctx, "sudo dpkg --purge azguest 2>&1"); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return r.leftovers(ctx)
	}}

	gone = step{"gone", func(ctx context.Context, r *Run) (string, error) {
		if err := r.same(ctx, bootDone); err != nil {
			return "", err
		}
		return r.leftovers(ctx)
	}}
)

// asUDF returns the platform's own medium.
func asUDF(_ context.Context, r *Run) (string, error) {
	image, err := r.Platform.VM.Medium().Image()
	if err != nil {
		return "", err
	}
	name := r.lab.path("dvd.iso")
	return name, os.WriteFile(name, image, 0o600)
}

// asISO9660 copies the files of the medium to a plain ISO 9660 image, made by a
// tool that is not part of this project.
func asISO9660(ctx context.Context, r *Run) (string, error) {
	files, err := r.Platform.VM.Medium().Files()
	if err != nil {
		return "", err
	}
	dir, image := r.lab.path("dvd"), r.lab.path("dvd.iso")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", err
		}
	}
	if out, err := run(ctx, nil, "genisoimage", "-quiet", "-J", "-V", "rd_rdfe", "-o", image, dir); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return image, nil
}

// A check is a command and its expected output, without trailing white space.
type check struct{ command, want string }

// same returns an error unless every command prints the expected output.
func (r *Run) same(ctx context.Context, checks ...check) error {
	commands := make([]string, len(checks))
	for i, c := range checks {
		commands[i] = c.command
	}
	got, err := r.Machine.RunAll(ctx, commands...)
	if err != nil {
		return err
	}
	for i, c := range checks {
		if got[i] != strings.TrimRight(c.want, "\n ") {
			err = errors.Join(err, fmt.Errorf("%s\n  printed %q\n  want    %q", c.command, got[i], c.want))
		}
	}
	return err
}

// becomes waits until every command prints the expected output.
func (r *Run) becomes(ctx context.Context, checks ...check) error {
	var last error
	err := until(ctx, "the expected output", func() (bool, error) {
		last = r.same(ctx, checks...)
		return last == nil, r.Machine.Died()
	})
	return errors.Join(err, last)
}

// facts returns the values that must survive a reboot, by name.
func (r *Run) facts(ctx context.Context) (map[string]string, error) {
	ask := []struct{ name, command string }{
		{"host keys", "sudo sh -c 'sha256sum /etc/ssh/ssh_host_*_key'"},
		{"account", "sudo getent passwd " + r.User + "; sudo getent shadow " + r.User + "; id " + r.User},
		{"keys", "sha256sum ~/.ssh/authorized_keys"},
		{"host name", "hostname; cat /etc/hostname"},
		{"sudoers", "sudo sh -c 'cd /etc/sudoers.d && sha256sum *'"},
		{"sshd", "sudo sshd -T | sort"},
		{"machine id", "cat /etc/machine-id"},
		{"handlers", "sudo sh -c 'cd /var/lib/waagent && ls -d *.*-[0-9]*'"},
	}
	commands := make([]string, len(ask))
	for i, a := range ask {
		commands[i] = a.command
	}
	said, err := r.Machine.RunAll(ctx, commands...)
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for i, a := range ask {
		got[a.name] = said[i]
	}
	// Another download of a package would mean another installation of its
	// handler.
	got["packages fetched"] = fmt.Sprint(r.Platform.fetched())
	return got, nil
}

func (r *Run) remember(ctx context.Context) (err error) {
	r.before, err = r.facts(ctx)
	return err
}

// viewed returns the status of the sample extension in the instance view.
func (r *Run) viewed(ctx context.Context) (string, error) {
	view, err := r.Platform.View(ctx)
	if err != nil {
		return "", err
	}
	for _, e := range view.Extensions {
		if !strings.EqualFold(e.Name, sample.Name) {
			continue
		}
		for _, s := range e.Statuses {
			if strings.HasPrefix(s.Code, "ProvisioningState/succeeded") {
				return strings.TrimSpace(s.DisplayStatus + " " + s.Message), nil
			}
		}
		return "", fmt.Errorf("the instance view shows %+v", e.Statuses)
	}
	return "", fmt.Errorf("the instance view shows no extension: %+v", view)
}

// leftovers returns an error if anything of the package is left on the machine.
// The customer's account with its sudo rights and keys must stay.
func (r *Run) leftovers(ctx context.Context) (string, error) {
	err := r.same(ctx,
		check{"sudo find / -xdev \\( -iname '*azguest*' -o -iname 'azure*.slice*' -o -name 'waagent*' \\) " +
			"-not -path '/proc/*' -not -path '/etc/sudoers.d/*' -not -path '/etc/ssh/*' " +
			// Files of the sample extension do not belong to the package.
			"-not -name 'azguest-sample-*'", ""},
		check{"systemctl list-units --all --no-legend 'azguest*' 'azure*' 'wa*agent*'", ""},
		check{"sudo nft list tables", ""},
		check{"sudo find /etc/systemd /run/systemd -xtype l | grep -Ei 'az|wa.*agent'", ""},
	)
	if err != nil {
		return "", err
	}
	return "no file, unit, slice or firewall table is left", nil
}

// load returns the load of this machine, which is needed to judge the measured
// times.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
