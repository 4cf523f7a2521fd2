package extlab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/sandbox"
)

// nobody is the id of an unprivileged user that exists on every machine.
const nobody = 65534

// A desk is the working environment of an author: the programs, and a home
// directory.
type desk struct {
	t    *testing.T
	dir  string // readable for all users
	home string // owned by nobody
	attr *syscall.SysProcAttr
}

// fabricFor builds the programs that an author downloads.
func fabricFor(t *testing.T) *desk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run programs as another user")
	}
	azguest := agent(t)
	dir, err := os.MkdirTemp("", "extlab-desk-") //nolint:usetesting // other users can't enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &desk{t: t, dir: dir, home: filepath.Join(dir, "home"), attr: &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Setpgid: true,
	}}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(d.home, 0o700), os.Chown(d.home, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "github.com/azguest/azguest/test/cmd/fabric", "github.com/azguest/azguest/test/cmd/sandbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fabric: %v\n%s", err, out)
	}
	b, err := os.ReadFile(azguest)
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Root(dir).WriteFile("/azguest", b, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

// file creates a file on the desk.
func (d *desk) file(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *desk) bundle(b bundles.Bundle) string {
	d.t.Helper()
	file, err := b.Write(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		d.t.Fatal(err)
	}
	return file
}

func (d *desk) sample(name, version string) string {
	d.t.Helper()
	for _, b := range bundles.Samples() {
		if b.Name == "Azguest.Samples."+name && b.Version == version {
			return d.bundle(b)
		}
	}
	d.t.Fatalf("no sample %s %s", name, version)
	return ""
}

func (d *desk) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(d.t.Context(), args[0], args[1:]...)
	c.Dir = d.home
	c.Env = []string{"PATH=" + sandbox.Path, "HOME=" + d.home, "TMPDIR=" + d.home}
	c.SysProcAttr = d.attr
	return c
}

// fabric runs the program and checks that it leaves nothing behind.
func (d *desk) fabric(args ...string) (string, int) {
	d.t.Helper()
	c := d.command(append([]string{filepath.Join(d.dir, "fabric")}, args...)...)
	out, err := c.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		d.t.Fatal(err)
	}
	if strings.Contains(string(out), sandbox.CodeUserNS) || strings.Contains(string(out), sandbox.CodeOverlay) {
		d.t.Skip(string(out))
	}
	d.clean()
	return string(out), c.ProcessState.ExitCode()
}

// clean checks that no files and processes are left.
func (d *desk) clean() {
	d.t.Helper()
	left, err := os.ReadDir(d.home)
	if err != nil || len(left) > 0 {
		d.t.Errorf("left in the temporary folder: %v %v", left, err)
	}
	deadline := time.Now().Add(5 * time.Minute)
	for {
		out := d.running()
		if out == "" {
			return
		}
		if time.Now().After(deadline) {
			d.t.Errorf("still running: %s", out)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// running returns the processes of the desk's programs, and those in their
// sandboxes.
func (d *desk) running() string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is valid
	for _, exe := range all {
		to, err := os.Readlink(exe)
		if err == nil && strings.HasPrefix(to, d.dir) {
			out = append(out, filepath.Dir(exe)+" "+to)
		}
	}
	return strings.Join(out, ", ")
}

// careful is a typical handler: a shell script with protected settings that
// writes to directories of root.
const careful = `#!/bin/sh
set -e
cd "$(dirname "$0")"
case $1 in
enable)
	thumb=$(sed -n 's/.*"protectedSettingsCertThumbprint" *: *"\([0-9A-Fa-f]*\)".*/\1/p' config/$ConfigSequenceNumber.settings)
	sed -n 's/.*"protectedSettings" *: *"\([^"]*\)".*/\1/p' config/$ConfigSequenceNumber.settings | base64 -d |
		openssl smime -inform DER -decrypt -recip /var/lib/waagent/$thumb.crt -inkey /var/lib/waagent/$thumb.prv >/run/plain
	size=$(wc -c </run/plain)
	id -u; cat /sys/class/dmi/id/chassis_asset_tag; stat -c %U /etc/hosts /usr/bin /var/lib
	echo '127.0.0.1 careful' >>/etc/hosts
	echo 1 >/usr/local/bin/careful; rm /usr/local/bin/careful
	rm -rf /opt/careful; mkdir /opt/careful
	test ! -s /etc/shadow || ! grep -v ':[*!]' /etc/shadow
	mount -t tmpfs none /mnt
	echo '[{"version":1.0,"timestampUTC":"2026-01-01T00:00:00Z","status":{"operation":"Enable","status":"success","code":0,"formattedMessage":{"lang":"en","message":"'$size' bytes"}}}]' >status/$ConfigSequenceNumber.status
	;;
esac
`

// TestRootless: without root everything works that needs only one user; for the
// rest, the output explains why it does not.
func TestRootless(t *testing.T) {
	d := fabricFor(t)
	settings, protected := d.file("s.json", `{"greeting":"hi"}`), d.file("p.json", `{"secret":"CANARY-9f3e"}`)
	script := good()
	script.Files = map[string]string{"run.sh": careful}
	needy := func(name, command string) string {
		b := good()
		b.Name = "Pub." + name
		b.Files = map[string]string{"run.sh": "#!/bin/sh\n" + command + "\n"}
		return d.bundle(b)
	}
	hello := d.sample("Hello", "1.0.0")
	ranged := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}, {ContainerID: 1, HostID: 200000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}, {ContainerID: 1, HostID: 200000, Size: 65536}},
		Credential:  &syscall.Credential{Uid: 0, Gid: 0}, GidMappingsEnableSetgroups: true,
	}
	for _, tc := range []struct {
		name string
		attr *syscall.SysProcAttr // default: runs as nobody
		args []string
		code int
		want []string
	}{
		{name: "lint", args: []string{"lint", hello}, want: []string{"0 errors"}},
		{name: "sample", args: []string{"run", hello, "--settings", settings, "--protected", protected, "--seq", "3"}, want: []string{
			"without root: ", "status: success, code 0, sequence number 3: hi from 1.0.0; protected settings decrypted", "Succeeded",
		}},
		{name: "script", args: []string{"run", d.bundle(script), "--settings", settings, "--protected", protected}, want: []string{
			"stdout | 0\n", "stdout | 7783-7084", "stdout | root\n             stdout | root\n             stdout | root\n", ": 24 bytes", "Succeeded",
		}},
		{name: "update", args: []string{"run", d.sample("Hello", "1.1.0"), "--update-from", hello, "--settings", settings}, want: []string{"update    1.1.0", "Succeeded"}},
		{name: "chown", args: []string{"run", needy("Chown", "chown 1000 /etc/hosts")}, code: 1, want: []string{"Invalid argument", "hint: the handler needs root", "one user", "sudo"}},
		{name: "mount", args: []string{"run", needy("Mount", "mount /dev/vda1 /mnt")}, code: 1, want: []string{"hint: the handler needs root", "sudo"}},
		{name: "range", attr: ranged, args: []string{"run", needy("Range", "[ $1 = enable ] || exit 0; useradd -m bob && chown bob /etc/hosts && su bob -c 'echo I am $(whoami)' && id azureuser")}, want: []string{"/etc/subuid", "I am bob", "(azureuser)", "Succeeded"}},
		{name: "range mount", attr: ranged, args: []string{"run", needy("Mount", "mount /dev/vda1 /mnt")}, code: 1, want: []string{"hint: the handler needs root", "sudo"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mine := *d
			mine.t = t
			if tc.attr != nil {
				mine.attr = tc.attr
			}
			out, code := mine.fabric(append([]string{"ext"}, tc.args...)...)
			if code != tc.code {
				t.Errorf("exit status %d, want %d", code, tc.code)
			}
			for _, w := range tc.want {
				if !strings.Contains(out, w) {
					t.Errorf("%q is not in the output", w)
				}
			}
			if strings.Contains(out, "CANARY") {
				t.Error("a secret is in the output")
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
	// The sandboxed agent must replace one that is installed on the machine.
	t.Run("in place of the machine's", func(t *testing.T) {
		mine := *d
		mine.t = t
		out, err := mine.command(d.dir+"/sandbox", "-install", d.file("new", "new\n")+":/usr/bin/env", "sh", "-c", "cat /usr/bin/env; echo x >>/usr/bin/env && id -u").CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "new\n0\n") {
			t.Errorf("%v: %s", err, out)
		}
		mine.clean()
	})
	t.Run("conformance", func(t *testing.T) {
		mine := *d
		mine.t = t
		out, code := mine.fabric("ext", "conformance", d.sample("Hello", "1.1.0"), "--update-from", hello, "--settings", settings, "--protected", protected)
		if code != 0 || strings.Count(out, "pass") != 18 {
			t.Errorf("exit status %d\n%s", code, out)
		}
	})
}

// TestRootlessForbidden: where users may not create namespaces, the author gets
// instructions. The limit is set in a user namespace of the test.
func TestRootlessForbidden(t *testing.T) {
	d := fabricFor(t)
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	d.attr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true}
	c := d.command("sh", "-c", fmt.Sprintf("echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --reuid=%d --regid=%d --clear-groups %s/fabric ext run %s",
		nobody, nobody, d.dir, d.sample("Hello", "1.0.0")))
	out, err := c.CombinedOutput()
	if code := c.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit status %d (%v), want 3", code, err)
	}
	for _, w := range []string{sandbox.CodeUserNS, "user.max_user_namespaces is 0: sudo sysctl user.max_user_namespaces=", "run it as root: sudo"} {
		if !strings.Contains(string(out), w) {
			t.Errorf("%q is not in\n%s", w, out)
		}
	}
	d.clean()
}

// TestRootlessInterrupted: nothing is left behind, whatever ends the program.
func TestRootlessInterrupted(t *testing.T) {
	d := fabricFor(t)
	b := good()
	b.Files = map[string]string{"run.sh": "#!/bin/sh\n[ $1 = enable ] || exit 0\nsleep 1000 &\nexec sleep 1001\n"}
	pkg := d.bundle(b)
	for name, end := range map[string]func(c *exec.Cmd) error{
		"Ctrl-C":     func(c *exec.Cmd) error { return syscall.Kill(-c.Process.Pid, syscall.SIGINT) },
		"terminated": func(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGTERM) },
		"killed":     func(c *exec.Cmd) error { return c.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			mine := *d
			mine.t = t
			c := mine.command(filepath.Join(d.dir, "fabric"), "ext", "run", pkg)
			var out bytes.Buffer
			c.Stdout, c.Stderr = &out, &out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(5 * time.Minute); !sleeping(); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					_ = c.Process.Kill()
					_ = c.Wait()
					if strings.Contains(out.String(), "AZ-LAB-") {
						t.Skip(out.String())
					}
					t.Fatalf("the handler did not start\n%s", &out)
				}
			}
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err == nil {
				t.Error("exit status 0")
			}
			for deadline := time.Now().Add(5 * time.Minute); sleeping() || mine.running() != "" || !empty(d.home); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					break
				}
			}
			mine.clean()
			if sleeping() {
				t.Error("the handler is still running")
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

// sleeping reports whether the test's handler is running.
func sleeping() bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is valid
	for _, name := range all {
		if b, err := os.ReadFile(name); err == nil && string(b) == "sleep\x001001\x00" {
			return true
		}
	}
	return false
}

func empty(dir string) bool {
	left, err := os.ReadDir(dir)
	return err == nil && len(left) == 0
}
