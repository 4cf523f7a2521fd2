package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/azguest/azguest/test/sandbox"
)

const (
	admin  = "127.0.0.1:8170" // where the emulator's control plane listens, in the sandbox's network
	vmName = "vm-01"
	vmURL  = "http://" + admin + "/subscriptions/00000000-0000-4000-8000-00000000f00d/resourceGroups/rg" +
		"/providers/Microsoft.Compute/virtualMachines/" + vmName
	apiVersion = "?api-version=2024-07-01"
)

// run runs all steps of the demo in order.
func (d *demo) run(ctx context.Context) error {
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"provisioning medium", d.medium},
		{"blank machine", func(ctx context.Context) error { return d.boot(ctx) }},
		{"start to Ready", d.provision},
		{"account", d.account},
		{"extension", d.extension},
		{"agentctl", d.status},
	} {
		if err := d.step(s.what, func() error { return s.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// medium makes up a customer, and builds the DVD and the extension packages
// with the emulator.
func (d *demo) medium(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "azguest-demo-"); err != nil {
		return err
	}
	if d.who, err = newIdentity(); err != nil {
		return err
	}
	var keys strings.Builder
	for _, k := range d.who.keys {
		fmt.Fprintln(&keys, k.public)
	}
	for name, data := range map[string][]byte{"keys.pub": []byte(keys.String()), "custom-data": d.who.customData} {
		if err := os.WriteFile(d.file(name), data, 0o600); err != nil {
			return err
		}
	}
	d.say("user %s with a password, an Ed25519 key and an RSA key; host name %s; %d bytes of custom data", d.who.user, d.who.hostname, len(d.who.customData))
	if err := d.local(ctx, append([]string{"dvd", "--out", d.file("dvd.img")}, d.wishes()...)...); err != nil {
		return err
	}
	if err := d.local(ctx, "bundles", "--out", d.file("repo")); err != nil {
		return err
	}
	if d.packages != "" {
		if err := os.CopyFS(d.file("repo"), os.DirFS(d.packages)); err != nil {
			return err
		}
	}
	fi, err := os.Stat(d.file("dvd.img"))
	if err != nil {
		return err
	}
	d.say("DVD image: UDF, %d KiB", fi.Size()/1024)
	return nil
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// wishes returns the customer's requests as flags of the emulator.
func (d *demo) wishes() []string {
	return []string{
		"--user", d.who.user, "--password", d.who.password, "--host-name", d.who.hostname,
		"--ssh-key-file", d.file("keys.pub"), "--custom-data-file", d.file("custom-data"),
	}
}

// local runs the emulator's program outside the sandbox.
func (d *demo) local(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, d.program("fabric"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fabric %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// boot creates the sandbox and starts the emulator in its network.
// more are further flags of fabric serve.
func (d *demo) boot(ctx context.Context, more ...string) error {
	layer, err := sandbox.DebianLayer(ctx, sandbox.SSHServer()...)
	if err != nil {
		return err
	}
	d.machine, err = sandbox.New(ctx, sandbox.Options{
		DVD: d.file("dvd.img"), PlainDVD: d.plain, Layers: []string{layer}, Hostname: "blank", Log: &d.fabLog,
	})
	if err != nil {
		return err
	}
	for path, name := range map[string]string{"azguest": "/usr/sbin/azguest", "agentctl": "/usr/bin/agentctl"} {
		if err := d.machine.Install(d.program(path), name, 0o755); err != nil {
			return err
		}
	}
	if err := d.machine.PrepareSSHD(ctx); err != nil {
		return err
	}
	r, w := io.Pipe()
	args := append([]string{d.program("fabric"), "serve", "--admin", admin, "--repo", d.file("repo"), "--journal", d.file("journal"), "--vm", vmName}, d.wishes()...)
	args = append(args, more...)
	d.fabric, err = d.machine.Beside(sandbox.Cmd{Args: args, Stdout: w, Stderr: &d.fabLog})
	if err != nil {
		return err
	}
	go func() {
		<-d.fabric.Done()
		_ = w.CloseWithError(errors.New("fabric serve has exited"))
	}()
	ready := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(r).ReadString('\n')
		ready <- err
		_, _ = io.Copy(io.Discard, r) // discard any further output
	}()
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("fabric serve: %w", err)
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d.say("platform: WireServer %s:80, HostGAPlugin %s:32526, IMDS %s:80, control plane %s", sandbox.WireServer, sandbox.WireServer, sandbox.IMDS, admin)
	return d.show(ctx, "hostname; ls -l /dev/sr0; getent passwd "+d.who.user+" || echo 'no account "+d.who.user+"'")
}

// provision starts the agent and waits until the platform has received Ready.
func (d *demo) provision(ctx context.Context) error {
	var out io.Writer = &d.agentLog
	if d.verbose {
		out = io.MultiWriter(out, os.Stderr)
	}
	var err error
	d.say("# azguest run")
	if d.agent, err = d.machine.Start(sandbox.Cmd{Args: []string{"/usr/sbin/azguest", "run"}, Stdout: out, Stderr: out}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-d.agent.Done():
			cancel(fmt.Errorf("the agent exited with code %d", d.agent.Code()))
		case <-ctx.Done():
		}
	}()
	if err := d.beside(ctx, nil, d.program("fabric"), "await", "ready", "--timeout", patience, "--admin", admin); err != nil {
		return err
	}
	d.say("the platform received Ready")
	d.tell("host name %s, account %s with a password and %d keys; the platform received Ready", d.who.hostname, d.who.user, len(d.who.keys))
	return nil
}

// account checks that the customer's requests were applied.
func (d *demo) account(ctx context.Context) error {
	if err := d.show(ctx, "hostname", "getent passwd "+d.who.user, "chage -l "+d.who.user, "sudo -l -U "+d.who.user+" | tail -n 2"); err != nil {
		return err
	}
	if r, err := d.machine.Run(ctx, "hostname"); err != nil || strings.TrimSpace(r.Stdout) != d.who.hostname {
		return fmt.Errorf("wrong host name %q: %w", strings.TrimSpace(r.Stdout), err)
	}
	if _, err := d.machine.Start(sandbox.Cmd{Args: []string{"/usr/sbin/sshd", "-D", "-e"}, Stderr: &d.agentLog}); err != nil {
		return err
	}
	// sudo asks an account with a password for it, which shows that the
	// password is right.
	if err := d.machine.WriteFile("/tmp/password", []byte(d.who.password+"\n"), 0o600); err != nil {
		return err
	}
	for _, k := range d.who.keys {
		file := "/tmp/" + k.name
		if err := d.machine.WriteFile(file, k.private, 0o600); err != nil {
			return err
		}
		ssh := "ssh -i " + file + " -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR -o ConnectionAttempts=20 -o ConnectTimeout=5 " +
			d.who.user + "@127.0.0.1 'id -un; hostname; sudo -S -p \"\" id -un' </tmp/password"
		got, err := d.output(ctx, ssh)
		if err != nil {
			return err
		}
		if want := d.who.user + "\n" + d.who.hostname + "\nroot\n"; got != want {
			return fmt.Errorf("ssh with the %s key printed %q, want %q", k.name, got, want)
		}
	}
	d.tell("with each of the keys; sudo asks for the password, and takes it")
	return nil
}

// extension creates the sample extension through the control plane.
func (d *demo) extension(ctx context.Context) error {
	body, err := json.Marshal(map[string]any{"location": "westeurope", "properties": map[string]any{
		"publisher": "Azguest.Samples", "type": "Hello", "typeHandlerVersion": "1.0",
		"autoUpgradeMinorVersion": true,
		"settings":                map[string]any{"greeting": "hello " + d.who.user},
		"protectedSettings":       map[string]any{"secret": d.who.hostname},
	}})
	if err != nil {
		return err
	}
	url := vmURL + "/extensions/hello" + apiVersion
	d.say("$ curl -sS --fail-with-body -X PUT -H 'Content-Type: application/json' -d '%s' '%s'", body, url)
	if err := d.beside(ctx, io.Discard, "curl", "-sS", "--fail-with-body", "-X", "PUT", "-H", "Content-Type: application/json", "-d", string(body), url); err != nil {
		return err
	}
	if err := d.beside(ctx, nil, d.program("fabric"), "await", "extension=hello", "--timeout", patience, "--admin", admin); err != nil {
		return err
	}
	url = vmURL + "/extensions/hello" + strings.Replace(apiVersion, "?", "?$expand=instanceView&", 1)
	d.say("$ curl -sS '%s'", url)
	var got bytes.Buffer
	if err := d.beside(ctx, &got, "curl", "-sS", "--fail-with-body", url); err != nil {
		return err
	}
	var r resource
	if err := json.Unmarshal(got.Bytes(), &r); err != nil {
		return fmt.Errorf("parse the answer of the control plane: %w: %.200s", err, got.String())
	}
	p := r.Properties
	d.say("%s %s: %s", "Azguest.Samples.Hello", p.InstanceView.TypeHandlerVersion, p.ProvisioningState)
	for _, s := range p.InstanceView.Statuses {
		d.say("  %s: %s", s.Code, s.Message)
	}
	if p.ProvisioningState != "Succeeded" {
		return fmt.Errorf("provisioning state of the extension: %s", p.ProvisioningState)
	}
	return nil
}

// status runs agentctl in the machine.
func (d *demo) status(ctx context.Context) error { return d.show(ctx, "agentctl status") }

// show runs commands in the machine and prints them with their output.
func (d *demo) show(ctx context.Context, scripts ...string) error {
	for _, s := range scripts {
		if _, err := d.output(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// output is show for one command, and returns its output.
func (d *demo) output(ctx context.Context, script string) (string, error) {
	d.say("# %s", script)
	r, err := d.machine.Run(ctx, "sh", "-c", script)
	if err != nil {
		return "", err
	}
	d.say("%s", r.Stdout)
	return r.Stdout, nil
}

// beside runs a program of this machine in the sandbox's network.
func (d *demo) beside(ctx context.Context, out io.Writer, args ...string) error {
	_, err := d.machine.RunBeside(ctx, sandbox.Cmd{Args: args, Stdout: out})
	return err
}
