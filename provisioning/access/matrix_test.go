package access_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/access"
	"github.com/azguest/azguest/test/sandbox"
)

const (
	insideEnv = "ACCESS_TEST_CELL"
	user      = "azureuser"
	passwd    = "Correct-Horse-7"
	self      = "10.0.0.4" // the machine's address
	vmID      = "11111111-2222-3333-4444-555555555555"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	if spec, ok := os.LookupEnv(insideEnv); ok {
		var c cell
		err := json.Unmarshal([]byte(spec), &c)
		if err == nil {
			err = c.inside(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// An image is a machine before its first boot, as hardening guides and
// distributions make it.
type image struct {
	name  string
	sshd  string // in front of sshd_config, after its Include
	drop  string // /etc/ssh/sshd_config.d/50-image.conf
	build string // a script that makes the image
	late  string // a script that runs after provisioning: what the check is to find, and steps would mend
	tally bool   // failures of the name in faillock's tally, after provisioning
	shut  map[access.Way]string
	only  map[access.Way]string // shut for persons who have nothing else
	near  bool                  // a person from a private network gets in nevertheless
	no    []string              // codes that no finding may have
}

const existing = "useradd -m -s /bin/bash azureuser; "

var (
	closed = func(code string) map[access.Way]string {
		return map[access.Way]string{access.Key: code, access.Password: code}
	}
	keyOut   = func(code string) map[access.Way]string { return map[access.Way]string{access.Key: code} }
	passOut  = func(code string) map[access.Way]string { return map[access.Way]string{access.Password: code} }
	rootOut  = map[access.Way]string{access.Root: access.CodeRoot}
	account  = "sed -i '/^account *required *pam_nologin/i account required %s' /etc/pam.d/sshd"
	sudoFile = func(name, text string) string {
		return fmt.Sprintf("printf '%s\\n' >/etc/sudoers.d/%s; chmod 440 /etc/sudoers.d/%s", text, name, name)
	}
)

func images() []image {
	return []image{
		{name: "plain"},
		{name: "AllowGroups", sshd: "AllowGroups ssh-users\n", shut: closed(access.CodeDenied)},
		{name: "AllowUsers", drop: "AllowUsers deploy\n", shut: closed(access.CodeDenied)},
		{name: "DenyUsers pattern", sshd: "DenyUsers azure*\n", shut: closed(access.CodeDenied)},
		{name: "DenyGroups", sshd: "DenyGroups azureuser\n", shut: closed(access.CodeDenied)},
		{name: "AllowUsers from the bastion", sshd: "AllowUsers *@10.0.0.0/8\n", shut: closed(access.CodeDenied), near: true},
		{name: "Match of the Internet", sshd: "Match Address *,!10.0.0.0/8\n PubkeyAuthentication no\n PasswordAuthentication no\nMatch all\n", shut: closed(access.CodeMethod), near: true},
		{name: "PubkeyAuthentication no", sshd: "PubkeyAuthentication no\n", shut: keyOut(access.CodeMethod)},
		{name: "Match User without passwords", sshd: "Match User azureuser\n PasswordAuthentication no\nMatch all\n", shut: passOut(access.CodeMethod)},
		{name: "two factors", sshd: "AuthenticationMethods publickey,password\n", only: passOut(access.CodeMethod)}, // with a key only, sshd refuses the configuration, and provisioning fails with its words
		{name: "AuthenticationMethods publickey", sshd: "AuthenticationMethods publickey\n", shut: passOut(access.CodeMethod)},
		{name: "Match of a local port", sshd: "Match LocalPort 2222\n PasswordAuthentication no\nMatch all\n"},
		{name: "no key files", sshd: "AuthorizedKeysFile none\n", shut: keyOut(access.CodeKeyFile)},
		{name: "key file of a Match", late: "sed -i '1i Match Group azureuser\\n AuthorizedKeysFile /etc/ssh/keys-%u\\nMatch all' /etc/ssh/sshd_config", shut: keyOut(access.CodeKeyFile)},
		{name: "one key file for all", late: "sed -i '1i AuthorizedKeysFile /etc/ssh/authorized_keys' /etc/ssh/sshd_config", shut: keyOut(access.CodeKeyFile)},
		{name: "a tilde in the key file", late: "sed -i '1i AuthorizedKeysFile ~/.ssh/authorized_keys' /etc/ssh/sshd_config", shut: keyOut(access.CodeKeyFile)},
		{name: "a closed folder of keys", late: "sed -i '1i AuthorizedKeysFile /etc/ssh/keys/%u' /etc/ssh/sshd_config; mkdir -m 700 /etc/ssh/keys; cp /home/azureuser/.ssh/authorized_keys /etc/ssh/keys/azureuser 2>/dev/null; chmod 644 /etc/ssh/keys/* 2>/dev/null; true", shut: keyOut(access.CodeKeyFile)},
		{name: "UMASK 002", build: "sed -i 's/^UMASK.*/UMASK 002/; s/^HOME_MODE.*//' /etc/login.defs"},
		{name: "a home that all may write to", late: "chmod 777 /home/azureuser", shut: keyOut(access.CodeKeyFile)},
		{name: "a key with a command", late: "sed -i 's/^ssh-/command=\"exit 3\" ssh-/' /home/azureuser/.ssh/authorized_keys 2>/dev/null; true", shut: keyOut(access.CodeSession)},
		{name: "RevokedKeys is missing", sshd: "RevokedKeys /etc/ssh/revoked_keys\n", shut: keyOut(access.CodeRevoked)},
		{name: "the key is revoked", sshd: "RevokedKeys /etc/ssh/revoked_keys\n", build: "ssh-keygen -q -t ed25519 -N '' -f /tmp/other; cat /tmp/other.pub /tmp/id.pub >/etc/ssh/revoked_keys", shut: keyOut(access.CodeRevoked)},
		{name: "the key is in a KRL", sshd: "RevokedKeys /etc/ssh/revoked_keys\n", build: "ssh-keygen -q -k -f /etc/ssh/revoked_keys /tmp/id.pub", shut: keyOut(access.CodeRevoked)},
		{name: "another key is in a KRL", sshd: "RevokedKeys /etc/ssh/revoked_keys\n", build: "ssh-keygen -q -t ed25519 -N '' -f /tmp/other; ssh-keygen -q -k -f /etc/ssh/revoked_keys /tmp/other.pub", no: []string{access.CodeRevoked}},
		{name: "RevokedKeys is no list", sshd: "RevokedKeys /etc/ssh/revoked_keys\n", build: "echo none >/etc/ssh/revoked_keys", shut: keyOut(access.CodeRevoked)},
		{name: "a key that has expired", late: "sed -i 's/^ssh-/expiry-time=\"20200101\" ssh-/' /home/azureuser/.ssh/authorized_keys 2>/dev/null; true", shut: keyOut(access.CodeKeyFile)},
		{name: "a key for other addresses", late: "sed -i 's/^ssh-/from=\"10.0.0.0\\/8,192.168.*\" ssh-/' /home/azureuser/.ssh/authorized_keys 2>/dev/null; true", shut: keyOut(access.CodeKeyFile), near: true},
		{name: "/run/nologin that stays", late: "echo going down >/run/nologin", shut: closed(access.CodeNologin)},
		{name: "algorithms of keys", sshd: "PubkeyAcceptedAlgorithms rsa-sha2-512,ecdsa-sha2-nistp256\n", shut: keyOut(access.CodeKeyType)},
		{name: "ForceCommand", sshd: "ForceCommand internal-sftp\n", shut: closed(access.CodeSession)},
		{name: "ChrootDirectory", sshd: "ChrootDirectory %h\n", shut: closed(access.CodeSession)},
		{name: "host keys elsewhere", sshd: "HostKey /var/lib/sshkeys/ed25519\n", build: "mkdir -p /var/lib/sshkeys; ssh-keygen -q -t ed25519 -N '' -f /var/lib/sshkeys/ed25519"},
		{name: "CIS", sshd: "MaxAuthTries 4\nLoginGraceTime 60\nClientAliveInterval 15\nClientAliveCountMax 3\nPermitRootLogin no\nHostbasedAuthentication no\nIgnoreRhosts yes\nAllowTcpForwarding no\nMaxStartups 10:30:60\nMaxSessions 10\n" +
			"Ciphers aes256-gcm@openssh.com,aes256-ctr\nMACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com\nKexAlgorithms curve25519-sha256,ecdh-sha2-nistp384\nBanner /etc/issue.net\n"},
		{name: "STIG ages", build: "sed -i 's/^PASS_MAX_DAYS.*/PASS_MAX_DAYS 60/; s/^PASS_MIN_DAYS.*/PASS_MIN_DAYS 1/' /etc/login.defs; sed -i 's/^# *INACTIVE.*//' /etc/default/useradd; echo INACTIVE=35 >>/etc/default/useradd", no: []string{access.CodeChange, access.CodeAccount}},
		{name: "accounts expire by default", build: "echo EXPIRE=2024-12-31 >>/etc/default/useradd", no: []string{access.CodeAccount}},
		{name: "an expired account of the image", build: existing + "chage -E 1 azureuser", no: []string{access.CodeAccount}},
		{name: "an account that must change its password", build: existing + "chage -d 0 azureuser", no: []string{access.CodeChange}},
		{name: "an account of the image that is locked and has no shell", build: existing + "usermod -s /usr/sbin/nologin azureuser; echo azureuser:old | chpasswd; passwd -l azureuser", sshd: "UsePAM no\n", no: []string{access.CodeShell, access.CodeLocked}},
		{name: "a home that others may write", build: existing + "chmod 777 /home/azureuser", no: []string{access.CodeKeyFile}},
		{name: "expired later", late: "chage -E 1 azureuser", shut: closed(access.CodeAccount)},
		{name: "no shell later", late: "usermod -s /usr/sbin/nologin azureuser", shut: closed(access.CodeShell)},
		{name: "/etc/nologin", build: "echo maintenance >/etc/nologin", shut: closed(access.CodeNologin)},
		{name: "access.conf", build: fmt.Sprintf(account, "pam_access.so") + "; echo '-:ALL EXCEPT root (wheel):ALL' >>/etc/security/access.conf", shut: closed(access.CodePAM)},
		{name: "access.conf that lets in", build: fmt.Sprintf(account, "pam_access.so") + "; printf '+:azureuser:203.0.113.0/24\\n-:ALL:ALL\\n' >>/etc/security/access.conf"},
		{name: "pam_listfile", build: fmt.Sprintf(account, "pam_listfile.so item=user sense=allow file=/etc/ssh/sshd.allow onerr=fail") + "; echo deploy >/etc/ssh/sshd.allow", shut: closed(access.CodePAM)},
		{name: "pam_succeed_if", build: fmt.Sprintf(account, "pam_succeed_if.so quiet user ingroup admins"), shut: closed(access.CodePAM)},
		{name: "pam_shells", build: "sed -i '1i auth required pam_shells.so' /etc/pam.d/sshd", late: "sed -i /bash/d /etc/shells", shut: passOut(access.CodePAM)},
		{name: "a module that is not there", build: fmt.Sprintf(account, "pam_oslogin_admin.so"), shut: closed(access.CodePAM)},
		{name: "faillock", build: "sed -i '1i auth required pam_faillock.so preauth silent deny=3 unlock_time=0' /etc/pam.d/sshd", tally: true, shut: passOut(access.CodeLocked)},
		{name: "TCP wrappers", build: "echo 'ALL: ALL' >/etc/hosts.deny; : >/etc/hosts.allow", shut: closed(access.CodeDenied)},
		{name: "TCP wrappers but for a network", build: "echo 'sshd: ALL' >/etc/hosts.deny; echo 'ALL: LOCAL 10.0.0.0/255.0.0.0' >/etc/hosts.allow", shut: closed(access.CodeDenied), near: true},
		{name: "no passwords in nsswitch.conf", build: "sed -i 's/^shadow:.*/shadow: ldap/' /etc/nsswitch.conf", shut: closed(access.CodeName)},
		{name: "maxlogins", build: "printf '* hard maxlogins 10\\n@azureuser hard maxlogins 0\\n' >/etc/security/limits.d/50.conf", shut: closed(access.CodePAM)},
		{name: "start-up files that end the shell", build: "sed -i '1i exit 1' /etc/bash.bashrc", shut: closed(access.CodeShell)},
		{name: "no host key that fits", sshd: "HostKeyAlgorithms rsa-sha2-512\nHostKey /etc/ssh/ssh_host_ed25519_key\n", shut: closed(access.CodeServer)},
		{name: "UsePAM no", sshd: "UsePAM no\n"},
		{name: "ostree", build: "mv /home /var/home; ln -s var/home /home"},
		{name: "SLES targetpw", build: sudoFile("10-suse", "Defaults targetpw\\nALL ALL=(ALL) ALL")},
		{name: "a later file wants a password", build: sudoFile("zz-hardening", "ALL ALL=(ALL) PASSWD: ALL\\nDefaults requiretty")},
		{name: "sudo without setuid", build: "chmod 0755 /usr/bin/sudo", shut: rootOut},
		{name: "sudo for a group only", build: "groupadd -f wheel; chgrp wheel /usr/bin/sudo; chmod 4750 /usr/bin/sudo", shut: rootOut},
		{name: "a PAM stack of sudo that refuses", build: "sed -i '1i auth requisite pam_deny.so' /etc/pam.d/sudo", shut: rootOut},
		{name: "sudo of a group in PAM", build: "sed -i '1i auth requisite pam_succeed_if.so quiet service = sudo user ingroup wheel' /etc/pam.d/sudo", shut: rootOut},
		{name: "another service of PAM for sudo", build: sudoFile("10-pam", "Defaults pam_service=admin") + "; cp /etc/pam.d/sudo /etc/pam.d/admin; sed -i '1i auth requisite pam_deny.so' /etc/pam.d/sudo"},
		{name: "no sudo", build: "rm -f /usr/bin/sudo /usr/bin/sudoedit /usr/sbin/visudo", shut: rootOut},
	}
}

// A cell is one image and what the person is given.
type cell struct {
	Image string
	Mode  string // key, password, both
}

// outcome is what happened in a cell.
type outcome struct {
	Report access.Report
	Login  map[string]string // "key" or "password", "@near" for the private network: why it failed
	Root   string
	Took   string
}

// TestIN1IN5Matrix boots each image with each kind of document, lets the check
// judge it, and then really logs in: what the check calls open must be open,
// and for what is shut a finding names the cause.
func TestIN1IN5Matrix(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("boots machines")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	if n := len(images()); n < 30 {
		t.Fatalf("%d images", n)
	}
	for _, img := range images() {
		for _, mode := range img.modes() {
			t.Run(img.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				img.compare(t, mode, bootCell(t, cell{img.name, mode}))
			})
		}
	}
}

// modes returns what the person is given. With both, each is tried by itself,
// so all three are tried where having only one makes a difference to the image
// or to what provisioning does; with AZGUEST_LONG (scripts/test --long) always.
func (img image) modes() []string {
	switch {
	case img.only != nil:
		return []string{"password", "both"}
	case os.Getenv("AZGUEST_LONG") != "":
		return []string{"key", "password", "both"}
	case img.no != nil:
		return []string{"key"}
	case strings.Contains(img.build, "/etc/sudoers.d/"):
		return []string{"key", "both"}
	}
	return []string{"both"}
}

func bootCell(t *testing.T, c cell) outcome {
	t.Helper()
	s, err := sandbox.New(t.Context(), sandbox.Options{Addresses: []string{self, provisioning.FromInternet, provisioning.FromNetwork}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(exe, "/usr/local/bin/access.test", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.PrepareSSHD(t.Context()); err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"/usr/local/bin/access.test"}, Env: []string{insideEnv + "=" + string(spec)}})
	if err != nil {
		t.Fatalf("%v\n%s", err, res.Stdout)
	}
	var o outcome
	if err := json.Unmarshal([]byte(res.Stdout), &o); err != nil {
		t.Fatalf("%v\n%s", err, res.Stdout)
	}
	return o
}

func (img image) compare(t *testing.T, mode string, o outcome) {
	t.Helper()
	t.Log(o.Took)
	for _, f := range o.Report.Findings {
		t.Logf("%s shuts %v from %q: %s; fix: %s", f.Code, f.Shuts, f.From, f.Evidence, f.Fix)
		if slices.Contains(img.no, f.Code) {
			t.Errorf("finding %s: provisioning should have mended it", f.Code)
		}
	}
	expect := map[access.Way]string{}
	maps.Copy(expect, img.shut)
	if mode != "both" {
		maps.Copy(expect, img.only)
	}
	for name, why := range o.Login {
		way, near := strings.CutSuffix(name, "@near")
		from := provisioning.FromInternet
		if near {
			from = provisioning.FromNetwork
		}
		img.compareWay(t, o.Report, access.Way(way), from, why, expect[access.Way(way)])
	}
	if o.in() {
		img.compareWay(t, o.Report, access.Root, provisioning.FromInternet, o.Root, expect[access.Root])
	}
}

// in reports whether some log-in succeeded: only then there is somebody who
// can become root.
func (o outcome) in() bool {
	for _, failure := range o.Login {
		if failure == "" {
			return true
		}
	}
	return false
}

func (img image) compareWay(t *testing.T, r access.Report, w access.Way, from, failure, code string) {
	t.Helper()
	if from == provisioning.FromNetwork && img.near {
		code = ""
	}
	if open := r.Open(w, from); open != (failure == "") {
		t.Errorf("%s from %s: the check says open=%v, and it failed with %q", w, from, open, failure)
	}
	if (code != "") != (failure != "") {
		t.Errorf("%s from %s: failed with %q, want a failure: %v", w, from, failure, code != "")
	}
	named := slices.ContainsFunc(r.Findings, func(f access.Finding) bool {
		return f.Code == code && slices.Contains(f.Shuts, w) && f.Evidence != "" && f.Fix != ""
	})
	if code != "" && !named {
		t.Errorf("%s: no finding %s names the cause: %v", w, code, r.Codes())
	}
}

// inside makes the image of this machine, which is a sandbox, provisions it,
// checks it and logs in. The result goes to stdout.
func (c cell) inside(ctx context.Context) error {
	i := slices.IndexFunc(images(), func(img image) bool { return img.name == c.Image })
	if i < 0 {
		return fmt.Errorf("no image %q", c.Image)
	}
	img := images()[i]
	start := time.Now()
	took := ""
	lap := func(what string) { took += fmt.Sprintf("%s %v ", what, time.Since(start).Round(time.Millisecond)) }
	pub, err := img.make(ctx)
	if err != nil {
		return err
	}
	lap("image")
	m := machine()
	p := access.Person{Name: user, Key: c.Mode != "password", Password: c.Mode != "key"}
	if p.Key {
		p.Keys = []string{pub}
	}
	if err := provision(ctx, m, p); err != nil {
		return err
	}
	lap("provisioned")
	if err := img.later(ctx); err != nil {
		return err
	}
	end, err := startSSHD(ctx)
	if err != nil {
		return err
	}
	defer end()
	lap("sshd")
	o := outcome{Report: access.Check(ctx, m, p, false), Login: map[string]string{}}
	lap("checked")
	for _, w := range []string{"key", "password"} {
		if c.Mode != w && c.Mode != "both" {
			continue
		}
		o.Login[w] = tryLogin(ctx, w, c.Mode, provisioning.FromInternet)
		if img.near {
			o.Login[w+"@near"] = tryLogin(ctx, w, c.Mode, provisioning.FromNetwork)
		}
	}
	lap("logged in")
	if out, err := exec.CommandContext(ctx, "setpriv", "--reuid="+user, "--regid="+user, "--init-groups", "sh", "-c", tryRoot(p.Password)).CombinedOutput(); err != nil {
		o.Root = fmt.Sprintf("%v: %s", err, out)
	}
	lap("root")
	o.Took = took
	return json.NewEncoder(os.Stdout).Encode(o)
}

// tryRoot is a script that becomes root.
func tryRoot(password bool) string {
	if password {
		return "echo '" + passwd + "' | sudo -S -p '' true"
	}
	return "sudo -n true"
}

func run(ctx context.Context, script string) error {
	if out, err := exec.CommandContext(ctx, "sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

// make makes the image and the person's key pair.
func (img image) make(ctx context.Context) (pub string, err error) {
	main, err := os.ReadFile("/etc/ssh/sshd_config")
	if err != nil {
		return "", err
	}
	text := "Include /etc/ssh/sshd_config.d/*.conf\n" + img.sshd + strings.ReplaceAll(string(main), "\nInclude ", "\n#Include ")
	err = errors.Join(
		os.WriteFile("/etc/ssh/sshd_config", []byte(text), 0o644),
		os.MkdirAll("/etc/ssh/sshd_config.d", 0o755),
		os.WriteFile("/etc/ssh/sshd_config.d/50-image.conf", []byte(img.drop), 0o644),
		run(ctx, "rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; ssh-keygen -q -t ed25519 -N '' -f /tmp/id; printf '#!/bin/sh\\necho "+passwd+"\\n' >/tmp/askpass; chmod 755 /tmp/askpass; : >/etc/resolv.conf; "+img.build),
	)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/tmp/id.pub")
	return strings.TrimSpace(string(b)), err
}

func machine() *provisioning.Machine {
	sys := &provisioning.System{Root: "/", Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.Nop()}
	return provisioning.NewMachine(sys, provisioning.Options{}, provisioning.Identity{ID: vmID})
}

func provision(ctx context.Context, m *provisioning.Machine, p access.Person) error {
	in := provisioning.Input{UserName: user, VMID: vmID, HostName: "vm-01"}
	for _, k := range p.Keys {
		in.Keys = append(in.Keys, provisioning.Key{Value: k})
	}
	if p.Password {
		in.Password = host.NewSecret(passwd)
	}
	f, err := m.Gather(ctx)
	if err != nil {
		return err
	}
	steps, err := provisioning.Plan(in, f, m.Options)
	if err != nil {
		return err
	}
	steps = slices.DeleteFunc(steps, func(s provisioning.Step) bool { return s.ID() == provisioning.StepSSHDUp })
	j, err := m.OpenJournal()
	if err != nil {
		return err
	}
	now, _ := provisioning.Split(steps)
	_, err = m.Apply(ctx, now, j, nil)
	return err
}

func (img image) later(ctx context.Context) error {
	if img.late != "" {
		if err := run(ctx, img.late); err != nil {
			return err
		}
	}
	if !img.tally {
		return nil
	}
	// struct tally of pam_faillock (faillock.h), three times.
	var b []byte
	for range 3 {
		b = append(b, make([]byte, 52)...)
		b = binary.NativeEndian.AppendUint16(b, 0)
		b = binary.NativeEndian.AppendUint16(b, 1) // valid
		b = binary.NativeEndian.AppendUint64(b, uint64(time.Now().Unix()))
	}
	return errors.Join(os.MkdirAll("/var/run/faillock", 0o755), os.WriteFile("/var/run/faillock/"+user, b, 0o600))
}

// startSSHD starts sshd and waits until it listens.
func startSSHD(ctx context.Context) (end func(), err error) {
	cmd := exec.CommandContext(ctx, "/usr/sbin/sshd", "-D", "-E", "/tmp/sshd.log")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", self+":22")
		if err == nil {
			return end, conn.Close()
		}
		select {
		case <-ctx.Done():
			end()
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tryLogin logs in with OpenSSH's client and runs a command. Persons who have
// both use both, the one in question first.
func tryLogin(ctx context.Context, way, mode, from string) (failure string) {
	args := []string{
		"-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "NumberOfPasswordPrompts=1",
		"-o", "IdentitiesOnly=yes", "-b", from,
	}
	methods := map[string]string{"key": "publickey", "password": "password,keyboard-interactive"}[way]
	if mode == "both" && twoFactors() {
		methods = "publickey,password"
	}
	args = append(args, "-o", "PreferredAuthentications="+methods)
	if strings.Contains(methods, "publickey") {
		args = append(args, "-i", "/tmp/id")
	}
	cmd := exec.CommandContext(ctx, "ssh", append(args, user+"@"+self, "echo", "I am in")...)
	cmd.Env = append(os.Environ(), "SSH_ASKPASS=/tmp/askpass", "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
	out, err := cmd.CombinedOutput()
	if err == nil && strings.Contains(string(out), "I am in") {
		return ""
	}
	log, _ := os.ReadFile("/tmp/sshd.log") // only for the message
	return fmt.Sprintf("%v: %s (log: %s)", err, strings.TrimSpace(string(out)), log)
}

// twoFactors reports whether the image wants a key and a password.
func twoFactors() bool {
	b, err := os.ReadFile("/etc/ssh/sshd_config")
	return err == nil && strings.Contains(string(b), "AuthenticationMethods publickey,password")
}
