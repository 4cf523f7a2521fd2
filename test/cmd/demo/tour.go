package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/sandbox"
)

// tourConfig switches on what the tour shows; all of it is off by default.
const tourConfig = `Metadata.EnvFile=y
Hooks.Enabled=y
UserData.Apply=y
Extensions.GoalStatePeriod=1
`

// tour runs the steps of the tour. Each prints one line.
func (d *demo) tour(ctx context.Context) error {
	d.begun = time.Now()
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"a blank machine", d.tourMachine},
		{"provisioned", d.provision},
		{"log in", d.account},
		{"user data", d.tourUserData},
		{"metadata", d.tourMetadata},
		{"virus scanner", d.tourScanner},
		{"a virus", d.tourVirus},
		{"update", d.tourUpdate},
		{"removed", d.tourRemoval},
		{"locked out", d.tourLockOut},
		{"access restored", d.tourAccess},
		{"healthy", d.tourHealth},
		{"eviction", d.tourEviction}, // the last: the machine is deallocated then
	} {
		start := time.Now()
		d.told = ""
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		fmt.Fprintf(d.out, "%6.1f s  %-16s (%4.1f s)  %s\n", time.Since(d.begun).Seconds(), s.what, time.Since(start).Seconds(), d.told)
	}
	return nil
}

// tell sets what a step of the tour prints.
func (d *demo) tell(format string, args ...any) { d.told = fmt.Sprintf(format, args...) }

// machineHas runs a script in the machine and returns its output, which must
// contain all of the texts.
func (d *demo) machineHas(ctx context.Context, script string, want ...string) (string, error) {
	r, err := d.machine.Run(ctx, "sh", "-c", script)
	if err != nil {
		return "", err
	}
	for _, w := range want {
		if !strings.Contains(r.Stdout, w) {
			return "", fmt.Errorf("%s: printed %q, want %q", script, r.Stdout, w)
		}
	}
	return strings.TrimSpace(r.Stdout), nil
}

// await waits until the platform has seen something.
func (d *demo) await(ctx context.Context, conditions ...string) error {
	return d.beside(ctx, io.Discard, append(append([]string{d.program("fabric"), "await"}, conditions...), "--timeout", patience, "--admin", admin)...)
}

// vm is the command fabric vm.
func (d *demo) vm(ctx context.Context, args ...string) error {
	return d.beside(ctx, io.Discard, append(append([]string{d.program("fabric"), "vm"}, args...), "--admin", admin)...)
}

// The user data of the tour, and what the builder of the image has put beneath it.
const (
	tourImageConfig = `#cloud-config
timezone: Etc/UTC
write_files:
- {path: /etc/motd, content: "a machine of the image's builder\n"}
`
	tourUserConfig = `#cloud-config
timezone: Europe/Berlin
users:
- {name: ada, groups: [users], lock_passwd: true}
runcmd:
- [sh, -c, "id -un ada >/var/tmp/first-boot"]
`
)

// tourMachine makes the medium and the machine, with what the tour needs.
func (d *demo) tourMachine(ctx context.Context) error {
	if err := d.medium(ctx); err != nil {
		return err
	}
	debs, err := sandbox.DebianPackages(ctx, "clamav")
	if err != nil {
		return err
	}
	files := map[string]string{}
	for _, name := range debs {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files[filepath.Base(name)] = string(data)
	}
	for _, b := range bundles.Samples() {
		if b.Name != "Azguest.Samples.Clamav" {
			continue
		}
		if _, err := b.WithDebs(files).Write(d.file("repo")); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.file("user-data"), []byte(tourUserConfig), 0o600); err != nil {
		return err
	}
	if err := d.boot(ctx, "--user-data-file", d.file("user-data")); err != nil {
		return err
	}
	if err := d.vm(ctx, "tag", "stage=test"); err != nil {
		return err
	}
	if _, err := d.machineHas(ctx, "mkdir -p /etc/waagent.conf.d /etc/dpkg/dpkg.cfg.d /etc/azguest/hooks.d/preempt /usr/lib/azguest/vendor-data.d"); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"/etc/waagent.conf.d/tour.conf":                tourConfig,
		"/usr/lib/azguest/vendor-data.d/10-image.yaml": tourImageConfig,
		// The machine is thrown away, so its dpkg does not wait for the disk, and
		// it has no service manager.
		"/etc/dpkg/dpkg.cfg.d/tour": "force-unsafe-io\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/doc/*\n",
	} {
		if err := d.machine.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, script := range map[string]string{
		"/usr/sbin/policy-rc.d":                 "#!/bin/sh\nexit 101\n",
		"/etc/azguest/hooks.d/preempt/10-drain": "#!/bin/sh\necho \"$AZGUEST_EVENT_TYPE, not before $AZGUEST_EVENT_NOT_BEFORE\" >/tmp/drained\n",
	} {
		if err := d.machine.WriteFile(name, []byte(script), 0o755); err != nil {
			return err
		}
	}
	d.tell("no account, no agent; the platform beside it is emulated, and %d Debian packages of clamav wait in its storage", len(debs))
	return nil
}

// tourUserData checks what the cloud-config has done.
func (d *demo) tourUserData(ctx context.Context) error {
	for {
		r, err := d.machine.Run(ctx, "sh", "-c", "agentctl data status -o json")
		// Each item has a state, too.
		var j struct{ State string }
		if err == nil && json.Unmarshal([]byte(r.Stdout), &j) == nil && j.State == "done" {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the user data was not carried out: %s%s", r.Stdout, r.Stderr)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if _, err := d.machineHas(ctx, "cat /var/tmp/first-boot /etc/motd; readlink -f /etc/localtime", "ada\n", "image's builder", "Europe/Berlin"); err != nil {
		return err
	}
	shown, err := d.machineHas(ctx, "agentctl data show --origin | grep -e timezone -e motd", "Europe/Berlin # user data", "10-image.yaml")
	if err != nil {
		return err
	}
	d.tell("account ada, a command and the time zone of the user, a file of the image's builder; %s", strings.TrimSpace(strings.Split(shown, "\n")[0]))
	return nil
}

// nobody runs a command as an ordinary user.
const nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups "

// tourMetadata reads a value as an ordinary user, and waits for a change.
func (d *demo) tourMetadata(ctx context.Context) error {
	id, err := d.machineHas(ctx, nobody+"agentctl metadata compute/vmId", "-")
	if err != nil {
		return err
	}
	if _, err := d.machineHas(ctx, `eval "$(`+nobody+`agentctl metadata --shell compute)"; echo "$AZ_COMPUTE_NAME $AZ_COMPUTE_TAGS_STAGE"`, vmName+" test"); err != nil {
		return err
	}
	changed := make(chan error, 1)
	go func() {
		_, err := d.machineHas(ctx, nobody+"agentctl metadata --wait-change compute/tags/stage --was test --every 1s --timeout "+patience, "live")
		changed <- err
	}()
	if err := d.vm(ctx, "tag", "stage=live"); err != nil {
		return err
	}
	if err := <-changed; err != nil {
		return err
	}
	d.tell("any user: vmId %s…; the tag stage was waited for, and changed from test to live", id[:min(8, len(id))])
	return nil
}

// tourEviction announces an eviction; a script runs, and it is acknowledged.
func (d *demo) tourEviction(ctx context.Context) error {
	start := time.Now()
	if err := d.vm(ctx, "simulate-eviction"); err != nil {
		return err
	}
	if err := d.await(ctx, "event=Preempt"); err != nil {
		return err
	}
	took := time.Since(start)
	said, err := d.machineHas(ctx, "cat /tmp/drained", "Preempt")
	if err != nil {
		return err
	}
	d.tell("announced with 30 s of notice; 10-drain ran (%q), and it was acknowledged after %.1f s", said, took.Seconds())
	return nil
}

// An extension as the control plane shows it.
type resource struct {
	Properties struct {
		ProvisioningState string
		InstanceView      struct {
			TypeHandlerVersion    string
			Statuses, Substatuses []struct{ Code, DisplayStatus, Message string }
		}
	}
}

// put creates an extension through the control plane, and waits for it.
func (d *demo) put(ctx context.Context, name, kind, version string, settings, protected map[string]any) error {
	body, err := json.Marshal(map[string]any{"location": "westeurope", "properties": map[string]any{
		"publisher": "Azguest.Samples", "type": kind, "typeHandlerVersion": version, "autoUpgradeMinorVersion": false,
		"settings": settings, "protectedSettings": protected,
	}})
	if err != nil {
		return err
	}
	if err := d.curl(ctx, io.Discard, "PUT", "/extensions/"+name+apiVersion, body); err != nil {
		return err
	}
	return d.await(ctx, "extension="+name)
}

// get returns an extension.
func (d *demo) get(ctx context.Context, name string) (r resource, err error) {
	var got bytes.Buffer
	if err := d.curl(ctx, &got, "GET", "/extensions/"+name+strings.Replace(apiVersion, "?", "?$expand=instanceView&", 1), nil); err != nil {
		return r, err
	}
	if err := json.Unmarshal(got.Bytes(), &r); err != nil {
		return r, fmt.Errorf("parse the answer of the control plane: %w: %.200s", err, got.String())
	}
	if len(r.Properties.InstanceView.Statuses) == 0 {
		return r, errors.New("the extension has no status: " + got.String())
	}
	return r, nil
}

func (d *demo) curl(ctx context.Context, out io.Writer, method, path string, body []byte) error {
	args := []string{"curl", "-sS", "--fail-with-body", "-X", method, "-H", "Content-Type: application/json", vmURL + path}
	_, err := d.machine.RunBeside(ctx, sandbox.Cmd{Args: append(args, "-d", "@-"), Stdin: bytes.NewReader(body), Stdout: out})
	return err
}

// tourScanner installs the virus scanner.
func (d *demo) tourScanner(ctx context.Context) error {
	if err := d.put(ctx, "clamav", "Clamav", "1.0", map[string]any{"path": "/home", "period": 1}, nil); err != nil {
		return err
	}
	if err := d.await(ctx, "handler=Azguest.Samples.Clamav:Ready"); err != nil {
		return err
	}
	r, err := d.get(ctx, "clamav")
	if err != nil {
		return err
	}
	d.tell("Clamav %s: %s", r.Properties.InstanceView.TypeHandlerVersion, r.Properties.InstanceView.Statuses[0].Message)
	return nil
}

// eicar prints the public test file for virus scanners. It is in two parts here,
// so that no scanner takes this program for one.
const eicar = `printf '%s%s' 'X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-' 'STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'`

// tourVirus puts the test file into the home directory; the next scan finds it.
func (d *demo) tourVirus(ctx context.Context) error {
	if _, err := d.machineHas(ctx, eicar+" >/home/"+d.who.user+"/invoice.com"); err != nil {
		return err
	}
	if err := d.await(ctx, "says=Azguest.Test.EICAR found in"); err != nil {
		return err
	}
	return d.tellFindings(ctx)
}

// tellFindings tells the status and the substatuses of the scanner.
func (d *demo) tellFindings(ctx context.Context) error {
	r, err := d.get(ctx, "clamav")
	if err != nil {
		return err
	}
	v := r.Properties.InstanceView
	if len(v.Substatuses) == 0 {
		return errors.New("the scanner has no substatus: " + v.Statuses[0].Message)
	}
	d.tell("%s; substatus %s", v.Statuses[0].Message, v.Substatuses[0].Code)
	return nil
}

// tourUpdate updates the scanner; the new version moves the file away.
func (d *demo) tourUpdate(ctx context.Context) error {
	if err := d.put(ctx, "clamav", "Clamav", "1.1", map[string]any{"path": "/home", "period": 1, "action": "quarantine"}, nil); err != nil {
		return err
	}
	if _, err := d.machineHas(ctx, "test ! -e /home/"+d.who.user+"/invoice.com"); err != nil {
		return err
	}
	return d.tellFindings(ctx)
}

// tourRemoval removes the extension, which removes the packages.
func (d *demo) tourRemoval(ctx context.Context) error {
	if err := d.curl(ctx, io.Discard, "DELETE", "/extensions/clamav"+apiVersion, nil); err != nil {
		return err
	}
	if err := d.await(ctx, "handler=Azguest.Samples.Clamav:gone"); err != nil {
		return err
	}
	if _, err := d.machineHas(ctx, "! command -v clamscan && ! pgrep -f '[h]andler.sh watch' && test ! -e /var/lib/azguest-clamav"); err != nil {
		return fmt.Errorf("something is left of the scanner: %w", err)
	}
	d.tell("the extension, its background process and clamav are gone")
	return nil
}

// login logs in with the first key. sshd, which has been told to read its
// configuration again, refuses connections for a moment.
func (d *demo) login(ctx context.Context) error {
	_, err := d.machineHas(ctx, "ssh -i /tmp/"+d.who.keys[0].name+" -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR -o ConnectionAttempts=20 -o ConnectTimeout=5 "+d.who.user+"@127.0.0.1 sudo -n id -un", "root")
	return err
}

// tourLockOut loses the keys, the password and the right to become root.
func (d *demo) tourLockOut(ctx context.Context) error {
	if _, err := d.machineHas(ctx, "rm /home/"+d.who.user+"/.ssh/authorized_keys /etc/sudoers.d/waagent; passwd -l "+d.who.user); err != nil {
		return err
	}
	if d.login(ctx) == nil {
		return errors.New("the log-in still works")
	}
	d.tell("authorized_keys and the sudo rule of %s are gone, and the password is locked", d.who.user)
	return nil
}

// tourAccess gives the access back.
func (d *demo) tourAccess(ctx context.Context) error {
	if err := d.put(ctx, "access", "Access", "1.0", nil, map[string]any{"username": d.who.user, "ssh_key": d.who.keys[0].public, "reset_ssh": true}); err != nil {
		return err
	}
	if err := d.login(ctx); err != nil {
		return err
	}
	r, err := d.get(ctx, "access")
	if err != nil {
		return err
	}
	d.tell("%s; %s logs in again and becomes root", r.Properties.InstanceView.Statuses[0].Message, d.who.user)
	return nil
}

// tourHealth ends the tour.
func (d *demo) tourHealth(ctx context.Context) error {
	text, err := d.machineHas(ctx, "agentctl status --wait=converged --timeout "+patience, "HEALTHY")
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(text, "\n")
	d.tell("%s", strings.Join(strings.Fields(line), " "))
	return nil
}
