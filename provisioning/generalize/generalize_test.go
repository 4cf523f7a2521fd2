package generalize_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/generalize"
	"github.com/azguest/azguest/test/sandbox"
)

const insideEnv = "GENERALIZE_TEST_INSIDE"

func TestMain(m *testing.M) {
	sandbox.Main()
	if what, ok := os.LookupEnv(insideEnv); ok {
		if err := inside(what); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func opts() generalize.Options {
	return generalize.Options{Machine: provisioning.Options{DeleteRootPassword: true, RegenerateHostKeys: true, ClientAliveInterval: "180"}, User: true}
}

const document = `<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure"><wa:ProvisioningSection><wa:Version>1.0</wa:Version><LinuxProvisioningConfigurationSet xmlns="http://schemas.microsoft.com/windowsazure"><HostName>vm</HostName><UserName>azureuser</UserName></LinuxProvisioningConfigurationSet></wa:ProvisioningSection></Environment>`

func write(t *testing.T, r host.Root, name, text string, perm os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.Path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path(name), []byte(text), perm); err != nil {
		t.Fatal(err)
	}
}

func used(t *testing.T) host.Root {
	t.Helper()
	r := host.Root(t.TempDir())
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/bash\nazureuser:x:1000:1000::/home/azureuser:/bin/bash\nazureuser2:x:1001:1001::/home/b:/bin/bash\n",
		"/etc/shadow": "root:$6$x$y:1:0:99999:7:::\nazureuser:$6$x$y:1::::::\nazureuser2:*:1::::::\n", "/etc/hostname": "vm\n",
		"/etc/hosts": "127.0.0.1 localhost\n127.0.1.1\tvm # azguest\n", "/etc/machine-id": strings.Repeat("a", 32) + "\n", "/etc/resolv.conf": "nameserver 1.1.1.1\n",
		"/etc/ssh/ssh_host_rsa_key": "k", "/etc/ssh/ssh_host_rsa_key.pub": "k", "/etc/ssh/moduli": "m", "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n",
		"/etc/ssh/sshd_config.d/00-azguest.conf": "PasswordAuthentication yes\n",
		"/etc/sudoers.d/waagent":                 "azureuser ALL=(ALL) ALL\nazureuser2 ALL=(ALL) ALL\n",
		"/var/lib/waagent/ovf-env.xml":           document, "/var/lib/waagent/provisioned": "id", "/var/lib/waagent/.hidden": "x", "/var/log/azure/Foo/x.log": "x", "/var/log/waagent.log": "x", "/var/log/waagent.log.1": "x",
		"/var/lib/dhcp/dhclient.leases": "x", "/var/lib/hyperv/.kvp_pool_1": "x", "/var/lib/systemd/random-seed": "x", "/root/.bash_history": "x",
		"/var/lib/cloud/instance/x": "x", "/home/azureuser/.ssh/authorized_keys": "ssh-ed25519 x", "/usr/sbin/azguest": "",
	} {
		write(t, r, name, text, 0o600)
	}
	return r
}

func system(r host.Root, run host.Runner) *provisioning.System {
	return &provisioning.System{Root: r, Run: run, Events: event.Discard{}, Log: zerolog.Nop()}
}

func tools(t *testing.T, r host.Root) *hosttest.Runner {
	return &hosttest.Runner{Answers: map[string]hosttest.Answer{"userdel": {Do: func(c host.Cmd) error {
		name := c.Args[len(c.Args)-1]
		b, err := r.ReadFile("/etc/passwd")
		if err != nil {
			return err
		}
		var out strings.Builder
		for line := range strings.Lines(string(b)) {
			if !strings.HasPrefix(line, name+":") {
				out.WriteString(line)
			}
		}
		write(t, r, "/etc/passwd", out.String(), 0o644)
		return os.RemoveAll(r.Path("/home/" + name))
	}}}}
}

func TestDeprovision(t *testing.T) {
	t.Parallel()
	r := used(t)
	run := tools(t, r)
	var out strings.Builder
	if err := generalize.Deprovision(t.Context(), system(r, run), opts(), generalize.Mode{}, strings.NewReader("Yes\n"), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "Do you want to proceed (y/n)") || !strings.Contains(out.String(), "WARNING! This will delete the account azureuser and its home") {
		t.Errorf("said\n%s", out.String())
	}
	got := map[string]string{}
	err := filepath.WalkDir(string(r), func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, rerr := os.ReadFile(p)
			got[strings.TrimPrefix(p, string(r))] = string(b)
			return rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/etc/passwd":   "root:x:0:0::/root:/bin/bash\nazureuser2:x:1001:1001::/home/b:/bin/bash\n",
		"/etc/shadow":   "root:*:1:0:99999:7:::\nazureuser2:*:1::::::\n",
		"/etc/hostname": "localhost.localdomain\n", "/etc/hosts": "127.0.0.1 localhost\n", "/etc/machine-id": "", "/etc/resolv.conf": "",
		"/etc/ssh/moduli": "m", "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n", "/etc/sudoers.d/waagent": "azureuser2 ALL=(ALL) ALL\n",
		"/var/lib/hyperv/.kvp_pool_1": "", "/usr/sbin/azguest": "", "/etc/.pwd.lock": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if actions := generalize.Plan(r, opts()).Actions; len(actions) != 0 {
		t.Errorf("a second run would do %v", actions)
	}
}

func TestDeprovisionAsksAndShows(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		mode   generalize.Mode
		answer string
		err    error
		gone   bool
	}{
		{"no", generalize.Mode{}, "n\n", generalize.ErrDeclined, false},
		{"nothing typed", generalize.Mode{}, "", generalize.ErrDeclined, false},
		{"y without newline", generalize.Mode{}, "y", nil, true},
		{"force", generalize.Mode{Force: true}, "", nil, true},
		{"plan", generalize.Mode{Plan: true}, "y\n", nil, false},
		{"plan beats force", generalize.Mode{Plan: true, Force: true}, "", nil, false},
		{"plan as JSON", generalize.Mode{Plan: true, JSON: true}, "", nil, false},
	} {
		r := used(t)
		var out strings.Builder
		err := generalize.Deprovision(t.Context(), system(r, tools(t, r)), opts(), tc.mode, strings.NewReader(tc.answer), &out)
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		}
		if gone := !r.Exists("/var/lib/waagent/provisioned"); gone != tc.gone {
			t.Errorf("%s: gone %v, want %v", tc.name, gone, tc.gone)
		}
		if tc.mode.JSON && !strings.HasPrefix(out.String(), "{\n  \"actions\": [") {
			t.Errorf("%s: %s", tc.name, out.String())
		}
	}
}

func TestDeprovisionContinuesAfterFailure(t *testing.T) {
	t.Parallel()
	r := used(t)
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"userdel": {Code: 8, Stderr: "user is logged in"}}}
	err := generalize.Deprovision(t.Context(), system(r, run), opts(), generalize.Mode{Force: true}, nil, &strings.Builder{})
	if err == nil || !strings.Contains(err.Error(), "user is logged in") {
		t.Errorf("error %v", err)
	}
	if r.Exists("/var/lib/waagent/provisioned") {
		t.Error("the other actions were not done")
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r := used(t)
	write(t, r, "/home/b/key.pem", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", 0o600)
	write(t, r, "/etc/fstab", "# x\n/swapfile none swap sw 0 0\n", 0o644)
	got, err := generalize.Verify(r, opts(), generalize.Marketplace)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(got)
	for _, want := range []string{"/home/b/key.pem: contains a private key", "/home/azureuser/.ssh/authorized_keys: allows logins", "ssh_host_rsa_key", "azureuser has the same password", "/etc/fstab: swap", "ovf-env.xml"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing about %q", want)
		}
	}
	if _, err := generalize.Verify(r, opts(), "nonsense"); err == nil {
		t.Error("Verify with an unknown profile: no error")
	}
	if _, err := generalize.Verify(host.Root(t.TempDir()), opts(), generalize.CIS); err == nil {
		t.Error("Verify of an empty directory: no error")
	}
}

func inside(what string) error {
	ctx, r := context.Background(), host.Root("/")
	sys := &provisioning.System{Root: r, Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.Nop()}
	o := opts()
	switch what {
	case "provision":
		m := provisioning.NewMachine(sys, o.Machine, provisioning.Identity{ID: "x"})
		f, err := m.Gather(ctx)
		if err != nil {
			return err
		}
		in := provisioning.Input{VMID: "x", HostName: "vm", UserName: "azureuser", Password: host.NewSecret("secret-canary"), Copy: []byte(document)}
		steps, err := provisioning.Plan(in, f, o.Machine)
		if err != nil {
			return err
		}
		j, err := m.OpenJournal()
		if err != nil {
			return err
		}
		_, err = m.Apply(ctx, steps, j, nil)
		return err
	case "deprovision":
		return generalize.Deprovision(ctx, sys, o, generalize.Mode{Force: true}, nil, os.Stdout)
	}
	actions := generalize.Plan(r, o).Actions
	fmt.Println(len(actions), "left", actions)
	return nil
}

func TestARealMachineIsGeneralized(t *testing.T) {
	t.Parallel()
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	s, err := sandbox.New(t.Context(), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(exe, "/usr/local/bin/g.test", 0o755); err != nil {
		t.Fatal(err)
	}
	do := func(what string) string {
		t.Helper()
		res, err := s.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"/usr/local/bin/g.test"}, Env: []string{insideEnv + "=" + what}})
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", what, err, res.Stdout, res.Stderr)
		}
		return res.Stdout
	}
	sh := func(script string) string {
		res, _ := s.Run(t.Context(), "sh", "-c", script)
		return strings.TrimSpace(res.Stdout)
	}
	before := sh("cd /etc && cat passwd group ssh/sshd_config; ls ssh/sshd_config.d sudoers.d")
	do("provision")
	if sh("getent passwd azureuser") == "" {
		t.Fatal("not provisioned")
	}
	do("deprovision")
	if diff := cmp.Diff(before, sh("cd /etc && cat passwd group ssh/sshd_config; ls ssh/sshd_config.d sudoers.d")); diff != "" {
		t.Errorf("not as before (-before +after):\n%s", diff)
	}
	if got := do("plan"); !strings.HasPrefix(got, "0 left") {
		t.Errorf("a second run would do %s", got)
	}
	if got := sh("ls /home/azureuser /var/lib/waagent/* /etc/ssh/ssh_host* 2>/dev/null; getent shadow azureuser"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// TestARunThatIsCutOffIsCompleted interrupts a run after each action, and in
// the middle of one; a second run must do the rest.
func TestARunThatIsCutOffIsCompleted(t *testing.T) {
	t.Parallel()
	left := func(r host.Root) string {
		b, err := exec.Command("sh", "-c", `cd "$1" && find . -type f ! -name .pwd.lock | sort | xargs cksum; find home var/lib/waagent`, "sh", string(r)).CombinedOutput()
		if err != nil {
			t.Fatal(err, string(b))
		}
		return string(b)
	}
	r := used(t)
	actions := generalize.Plan(r, opts()).Actions
	if err := generalize.Apply(t.Context(), system(r, tools(t, r)), opts(), actions, nil); err != nil {
		t.Fatal(err)
	}
	want := left(r)
	for n := range len(actions) + 1 {
		r := used(t)
		run := tools(t, r)
		ctx, cut := context.WithCancel(t.Context())
		if n == len(actions) { // in the middle of the tool
			n = slices.IndexFunc(actions, func(a generalize.Action) bool { return a.Kind == generalize.DelUser })
			run.Answers["userdel"] = hosttest.Answer{Do: func(host.Cmd) error {
				cut()
				write(t, r, "/etc/passwd", "root:x:0:0::/root:/bin/bash\nazureuser2:x:1001:1001::/home/b:/bin/bash\n", 0o644)
				return context.Canceled
			}}
		}
		_ = generalize.Apply(ctx, system(r, run), opts(), actions, func(a generalize.Action, _ error) {
			if a.String() == actions[n].String() {
				cut()
			}
		})
		second := generalize.Plan(r, opts())
		if err := generalize.Apply(t.Context(), system(r, tools(t, r)), opts(), second.Actions, nil); err != nil {
			t.Errorf("cut in action %d: %v", n, err)
		}
		if diff := cmp.Diff(want, left(r)); diff != "" {
			t.Errorf("cut in action %d, second plan %v %v (-undisturbed +cut):\n%s", n, second.Actions, second.Warnings, diff)
		}
	}
}
