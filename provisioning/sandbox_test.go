package provisioning_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/peak"
	"github.com/azguest/azguest/test/sandbox"
)

// With insideEnv the test binary provisions the machine on which it runs,
// which is a sandbox. Its value is "", "list" to print the steps, or
// "step:state", at which the binary kills itself.
const (
	insideEnv = "PROVISIONING_TEST_INSIDE"
	keyEnv    = "PROVISIONING_TEST_KEY"
	rsaEnv    = "PROVISIONING_TEST_RSA"   // an RSA host key to use instead of generating one
	aloneEnv  = "PROVISIONING_TEST_ALONE" // see insideBox
	jitEnv    = "PROVISIONING_TEST_JIT"   // the short-lived accounts that are wanted
)

func TestMain(m *testing.M) {
	sandbox.Main()
	if names, ok := os.LookupEnv(jitEnv); ok {
		if err := runJIT(names); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if at, ok := os.LookupEnv(insideEnv); ok {
		if err := inside(at, os.Getenv(keyEnv)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if inMemory("/dev/shm") {
		_ = os.Setenv("TMPDIR", "/dev/shm") // if this fails, the tests only take longer
	}
	os.Exit(m.Run())
}

// inMemory reports whether a directory is in memory, with room for what the
// tests write. The synthetic machines are written and synced file by file,
// which takes several times as long on a disk.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return err == nil && st.Type == unix.TMPFS_MAGIC && unix.Access(dir, unix.W_OK) == nil &&
		st.Bavail*uint64(st.Bsize) >= 256<<20 && st.Ffree >= 200_000
}

func sandboxInput(key string) provisioning.Input {
	in := input()
	in.Keys[0].Value = key
	return in
}

func inside(at, key string) error {
	ctx := context.Background()
	start := time.Now()
	o := options()
	o.ExecuteCustomData = true
	sys := provisioning.NewMachine(&provisioning.System{
		Root: "/", Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.New(os.Stdout),
		HostKeys: provisioning.MakeHostKeys(provisioning.HostKeyTypes(false)),
	}, o, provisioning.Identity{ID: vmID})
	if key := os.Getenv(rsaEnv); key != "" {
		sys.HostKeys.Give("rsa", []byte(key))
	}
	f, err := sys.Gather(ctx)
	if err != nil {
		return err
	}
	steps, err := provisioning.Plan(sandboxInput(key), f, o)
	if err != nil {
		return err
	}
	if at == "list" {
		for _, s := range steps {
			fmt.Println(s.ID())
		}
		return nil
	}
	j, err := sys.OpenJournal()
	if err != nil {
		return err
	}
	observe := func(p provisioning.Progress) {
		if p.Step.ID()+":"+string(p.State) == at {
			_ = sys.Kernel.Signal(os.Getpid(), 9)
			select {}
		}
		if p.Took > 0 {
			fmt.Printf("%-16s %-8s %v %v\n", p.Step.ID(), p.State, p.Took.Round(time.Microsecond), p.Err)
		}
	}
	now, later := provisioning.Split(steps)
	res, err := sys.Apply(ctx, now, j, observe)
	fmt.Println("ready after", time.Since(start).Round(time.Millisecond), res.Warnings)
	if err != nil {
		return err
	}
	res, err = sys.Apply(ctx, later, j, observe)
	fmt.Println("all after", time.Since(start).Round(time.Millisecond), res.Warnings)
	return err
}

type box struct {
	*sandbox.Sandbox
	t      *testing.T
	key    string
	rsa    string // the RSA host key to use; empty: provisioning makes one
	signer ssh.Signer
}

// givenRSA is one RSA key for all tests that do not test host keys: making one
// takes longer than all the rest.
var givenRSA = sync.OnceValue(func() string {
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		panic(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(block))
})

// insideBox runs a whole test in one process in a sandbox. In that process it
// returns true. In the process of "go test" it starts the other one, reports
// the result, and returns false.
func insideBox(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	b := newBox(t, sandbox.Options{})
	cmd := sandbox.Cmd{
		Args: []string{"/usr/local/bin/provisioning.test", "-test.v", "-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"},
		Env:  []string{aloneEnv + "=" + t.Name()},
	}
	res, err := b.RunCmd(t.Context(), cmd)
	if err != nil || !strings.Contains(res.Stdout, "--- PASS: "+t.Name()+" ") {
		t.Errorf("in the sandbox: %v\n%s%s", err, res.Stdout, res.Stderr)
	} else {
		t.Log(res.Stdout)
	}
	return false
}

// sh runs a script on the machine on which this process runs.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func newBox(t *testing.T, o sandbox.Options) *box {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	s, err := sandbox.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(exe, "/usr/local/bin/provisioning.test", 0o755); err != nil {
		t.Fatal(err)
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return &box{Sandbox: s, t: t, key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), signer: signer}
}

// provision runs the test binary in the sandbox and returns its output and
// exit code, which is negative if it was killed.
func (b *box) provision(at string) (string, int) {
	b.t.Helper()
	res, err := b.RunCmd(b.t.Context(), sandbox.Cmd{Args: []string{"/usr/local/bin/provisioning.test"}, Env: []string{insideEnv + "=" + at, keyEnv + "=" + b.key, rsaEnv + "=" + b.rsa}})
	if err != nil && res.Code >= 0 && at == "" {
		b.t.Errorf("provision: %v\n%s%s", err, res.Stdout, res.Stderr)
	}
	return res.Stdout, res.Code
}

func (b *box) sh(script string) string {
	b.t.Helper()
	res, err := b.Run(b.t.Context(), "sh", "-c", script)
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(res.Stdout)
}

// state returns everything on the machine that provisioning decides, without
// random parts, as reported by the machine's own tools.
func (b *box) state() string {
	b.t.Helper()
	return b.sh(`
getent passwd azureuser; id azureuser; grep -H azureuser /etc/group /etc/gshadow /etc/subuid /etc/subgid; hostname; cat /etc/hostname /etc/hosts
getent shadow | sed 's/\$6\$[^:]*/HASH/; s/:[0-9]*:/:DAY:/' | grep -v '^_' | sort
sudo -l -U azureuser
cd /; find /home/azureuser /etc/ssh /etc/sudoers.d /var/lib/waagent -printf '%M %u %g %p %l\n' | grep -v azguest/ | sort
cat /home/azureuser/.ssh/authorized_keys /etc/ssh/sshd_config.d/00-azguest.conf /etc/sudoers.d/waagent /var/lib/waagent/provisioned
cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf - | awk '{print $1, $NF}'
for k in /etc/ssh/ssh_host_*_key; do read -r type body rest <$k.pub; set -- $(ssh-keygen -y -f $k); [ "$1 $2" = "$type $body" ] || echo "$k: not its public key"; done
ls /etc/*.lock /etc/.*.azg* 2>/dev/null; true`)
}

func TestARealMachineIsProvisioned(t *testing.T) {
	t.Parallel()
	b := newBox(t, sandbox.Options{})
	b.sh("rm -f /etc/ssh/ssh_host_*")
	out, _ := b.provision("")
	t.Logf("\n%s", out)

	hash := strings.Split(b.sh("getent shadow azureuser"), ":")[1]
	salt := strings.Split(hash, "$")[2]
	if len(salt) != 16 {
		t.Errorf("salt of %d characters", len(salt))
	}
	res, err := b.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"openssl", "passwd", "-6", "-salt", salt, "-stdin"}, Stdin: strings.NewReader(passwd + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(res.Stdout); got != hash {
		t.Errorf("openssl hashes the password to %s, the machine has %s", got, hash)
	}
	for _, tc := range []struct{ script, want string }{
		{"hostname", "vm-01"},
		{"stat -c '%a %U' /home/azureuser/.ssh /home/azureuser/.ssh/authorized_keys", "700 azureuser\n600 azureuser"},
		{"stat -c %a /etc/sudoers.d/waagent /var/lib/waagent /var/lib/waagent/provisioned /var/lib/waagent/CustomData", "440\n700\n600\n600"},
		{"visudo -c >/dev/null && echo fine", "fine"},
		{"sshd -T -C user=azureuser,host=x,addr=1.1.1.1 | grep -E '^(passwordauthentication|kbdinter|clientalivei)' | sort", "clientaliveinterval 180\nkbdinteractiveauthentication yes\npasswordauthentication yes"},
		{"grep -c ^ssh- /home/azureuser/.ssh/authorized_keys", "1"},
		{"passwd -S root | cut -d' ' -f2", "L"},
		{"cat /var/lib/waagent/azguest/custom-data.log | grep -x hi", "hi"},
		{"sudo -u azureuser sudo -n true 2>&1 | grep -c 'password is required'", "1"},
	} {
		if got := b.sh(tc.script); got != tc.want {
			t.Errorf("%s\ngot  %q\nwant %q", tc.script, got, tc.want)
		}
	}
	before := b.state()
	b.provision("")
	if diff := cmp.Diff(before, b.state()); diff != "" {
		t.Errorf("a second run changed something (-first +second):\n%s", diff)
	}
	b.login()
}

// login starts the machine's sshd and logs in with the key and the password.
func (b *box) login() {
	b.t.Helper()
	t := b.t
	if err := b.PrepareSSHD(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := b.Start(sandbox.Cmd{Args: []string{"/usr/sbin/sshd", "-D", "-e", "-o", "ListenAddress=127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Kill() }()
	for name, auth := range map[string]ssh.AuthMethod{
		"key":      ssh.PublicKeys(b.signer),
		"password": ssh.Password(passwd),
	} {
		err := b.ssh(auth)
		if err != nil {
			t.Errorf("log in with the %s: %v", name, err)
		}
	}
}

func (b *box) ssh(auth ssh.AuthMethod) error {
	conn, err := b.dial()
	if err != nil {
		return err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, "127.0.0.1:22", &ssh.ClientConfig{
		User: "azureuser", Auth: []ssh.AuthMethod{auth}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 5 * time.Minute,
	})
	if err != nil {
		return err
	}
	client := ssh.NewClient(c, chans, reqs)
	defer func() { _ = client.Close() }()
	sess, err := client.NewSession()
	if err != nil {
		return err
	}
	out, err := sess.Output("id -un")
	if err == nil && string(out) != "azureuser\n" {
		err = fmt.Errorf("logged in as %q", out)
	}
	return err
}

// dial waits for sshd to listen.
func (b *box) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Minute)
	defer cancel()
	for {
		conn, err := b.Dial(ctx, "tcp", "127.0.0.1:22")
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestKillNineOnARealMachineConverges(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	ref := newBox(t, sandbox.Options{})
	ref.rsa = givenRSA()
	list, _ := ref.provision("list")
	ref.provision("")
	want := strings.ReplaceAll(ref.state(), ref.key, "KEY")
	for id := range strings.FieldsSeq(list) {
		t.Run(id, func(t *testing.T) {
			b := newBox(t, sandbox.Options{})
			b.rsa = givenRSA()
			// "planned" is right after the step and before the journal is
			// written.
			out, code := b.provision(id + ":planned")
			if code >= 0 && id != provisioning.StepLateKeys {
				t.Fatalf("not killed, exit %d:\n%s", code, out)
			}
			if err := b.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.provision("")
			if diff := cmp.Diff(want, strings.ReplaceAll(b.state(), b.key, "KEY")); diff != "" {
				t.Errorf("differs from an undisturbed run (-want +got):\n%s", diff)
			}
		})
	}
}

func ctxBackground() context.Context { return context.Background() }

// answerIf makes a command fail while a condition holds.
func answerIf(cond func() bool, stderr string) hosttest.Answer {
	return hosttest.Answer{Do: func(c host.Cmd) error {
		if cond() {
			return &host.ExitError{Cmd: c.Name, Code: 255, Stderr: stderr}
		}
		return nil
	}}
}

func mkfifo(name string) error { return unix.Mkfifo(name, 0o600) }

// TestPowerCutWithinUseradd: useradd writes six files and then the home. The
// power is cut after each of them, and the next boot must complete the
// account.
func TestPowerCutWithinUseradd(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("boots twenty machines")
	}
	ref := newBox(t, sandbox.Options{})
	ref.rsa = givenRSA()
	ref.provision("")
	want := strings.ReplaceAll(ref.state(), ref.key, "KEY")
	files := []string{"passwd", "shadow", "group", "gshadow", "subuid", "subgid"}
	cuts := map[string]string{
		"before anything":    undo(files) + "rm -r /home/azureuser\n",
		"before the home":    "rm -r /home/azureuser\n",
		"the home is root's": "rm -r /home/azureuser; mkdir -m 700 /home/azureuser\n",
		"half the skeleton":  "rm /home/azureuser/.profile; chown root: /home/azureuser/.bashrc; : >/home/azureuser/.bashrc\n",
		"after everything":   "",
	}
	for i, name := range files[:len(files)-1] {
		cuts["after "+name] = undo(files[i+1:]) + "rm -r /home/azureuser\n"
	}
	for name, script := range cuts {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, sandbox.Options{})
			b.rsa = givenRSA()
			b.sh("cat >/usr/local/sbin/useradd <<'EOF'\n#!/bin/sh\n/usr/sbin/useradd \"$@\" || exit\n" + script +
				"for f in " + strings.Join(files, " ") + "; do printf 4194000 >/etc/$f.lock; done\nkill -9 $PPID\nEOF\nchmod 755 /usr/local/sbin/useradd")
			if out, code := b.provision("cut"); code >= 0 {
				t.Fatalf("not killed, exit %d:\n%s", code, out)
			}
			if err := b.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.sh("rm /usr/local/sbin/useradd")
			b.provision("")
			if diff := cmp.Diff(want, strings.ReplaceAll(b.state(), b.key, "KEY")); diff != "" {
				t.Errorf("(-undisturbed +cut):\n%s", diff)
			}
		})
	}
}

// undo returns a script that removes the account from files in /etc.
func undo(files []string) string {
	return "sed -i /^azureuser:/d " + "/etc/" + strings.Join(files, " /etc/") + "\n"
}
