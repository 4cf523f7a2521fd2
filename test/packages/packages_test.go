// Package packages tests what scripts/package builds: what is in the packages,
// that they are reproducible, and what package managers do with them, in a
// sandbox. The programs in them are stand-ins; test/nspawn tests the package
// with the real ones under systemd.
package packages

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

// Versions of the packages under test.
const (
	older = "3.0.0.100"
	newer = "3.0.0.200"
)

// scratch is a folder for the whole run.
var scratch string

func TestMain(m *testing.M) {
	sandbox.Main()
	flag.Parse()
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "azguest-packages-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		defer release.Remove()
		return m.Run()
	}())
}

// programs skips the test unless all programs are installed.
func programs(t *testing.T, names ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds packages")
	}
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skip(err)
		}
	}
}

// output runs a command in this machine and returns what it prints.
func output(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s%s", args[0], err, out, stderr.Bytes())
	}
	return string(out), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// standIns returns a folder with programs that do nothing, but have what
// scripts/package asks of them.
func standIns() (string, error) {
	dir := filepath.Join(scratch, "bin")
	for name, text := range map[string]string{
		"azguest":  "#!/bin/sh\n[ \"$1\" != help ] || echo 'usage: azguest <command>'\n",
		"agentctl": "#!/bin/sh\necho \"$@\"\n",
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(file, []byte(text), 0o644), os.Chmod(file, 0o755)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// pack runs scripts/package of a checkout with a version and returns the folder
// with the packages.
func pack(ctx context.Context, top, version, out string, env ...string) (string, error) {
	bin, err := standIns()
	if err != nil {
		return "", err
	}
	env = append([]string{"AZGUEST_VERSION=" + version, "SOURCE_DATE_EPOCH=1700000000"}, env...)
	_, err = output(ctx, top, env, "scripts/package", "--arch", "amd64", "--bin", bin, "--out", out)
	return out, err
}

var both = sync.OnceValues(func() (map[string]string, error) {
	dirs := map[string]string{}
	for _, v := range []string{older, newer} {
		dir, err := pack(context.Background(), "../..", v, filepath.Join(scratch, v))
		if err != nil {
			return nil, err
		}
		dirs[v] = dir
	}
	return dirs, nil
})

// packages returns the folders with the packages of both versions, built once.
func packages(t *testing.T) map[string]string {
	t.Helper()
	dirs, err := both()
	must(t, err)
	return dirs
}

// one returns the only file that matches a pattern.
func one(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q", pattern, found)
	}
	return found[0]
}

// TestTOOL1PayloadsHaveRelativeNames: whoever unpacks a package in a folder
// changes nothing outside of it, whatever program they use.
func TestTOOL1PayloadsHaveRelativeNames(t *testing.T) {
	t.Parallel()
	programs(t, "rpm2cpio", "cpio", "dpkg-deb", "tar")
	dir := packages(t)[older]
	for name, script := range map[string]string{
		"rpm": `rpm2cpio "$1" | cpio -t --quiet`,
		"deb": `dpkg-deb --fsys-tarfile "$1" | tar -t`,
		"tar": `tar -tzf "$1"`,
	} {
		pattern := map[string]string{"rpm": "*.rpm", "deb": "*.deb", "tar": "*.tar.gz"}[name]
		list, err := output(t.Context(), "", nil, "sh", "-c", script, name, one(t, filepath.Join(dir, pattern)))
		must(t, err)
		names := strings.Fields(list)
		if len(names) < 15 {
			t.Errorf("%s has %d entries: %q", name, len(names), names)
		}
		for _, n := range names {
			if !filepath.IsLocal(strings.TrimPrefix(n, "./")) && n != "./" {
				t.Errorf("%s has an entry that is not below the folder it is unpacked in: %s", name, n)
			}
			if strings.HasSuffix(n, "/") && name != "deb" {
				t.Errorf("%s has the directory %s; its mode is not the package's to set", name, n)
			}
		}
	}
	modes, err := output(t.Context(), "", nil, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -tv | grep '^d' | grep -v '^drwxr-xr-x root/root'; :`, "deb", one(t, filepath.Join(dir, "*.deb")))
	must(t, err)
	if modes != "" {
		t.Errorf("directories of the deb have other modes:\n%s", modes)
	}
}

// TestTOOL1ArchiveOverARoot unpacks the archive over a root file system, as
// provisioning/SPEC.md §17.1 says: directories and links that are there stay as
// they are, and so does an edited configuration.
func TestTOOL1ArchiveOverARoot(t *testing.T) {
	t.Parallel()
	programs(t, "tar", "busybox")
	archive := one(t, filepath.Join(packages(t)[older], "*.tar.gz"))
	for _, tool := range []string{"tar", "busybox tar"} {
		root := t.TempDir()
		script := `set -e; umask 022; cd "$1"
mkdir -m 711 usr usr/bin; mkdir -m 700 etc; echo mine >etc/waagent.conf; ln -s bin usr/sbin; echo x >usr/bin/useradd
` + tool + ` -xzf "$2"
` + tool + ` -xzf "$2"
stat -c '%n %F %a' usr usr/bin usr/sbin etc; ls usr/sbin/useradd usr/bin/azguest; cat etc/waagent.conf`
		out, err := output(t.Context(), "", nil, "sh", "-c", script, "unpack", root, archive)
		must(t, err)
		const want = `usr directory 711
usr/bin directory 711
usr/sbin symbolic link 777
etc directory 700
usr/bin/azguest
usr/sbin/useradd
mine
`
		if out != want {
			t.Errorf("after %s -x:\n%swant:\n%s", tool, out, want)
		}
	}
}

// TestTOOL6SamePackagesOnOtherHosts builds the same version on a host with
// another name, by a user with other settings, in another place.
func TestTOOL6SamePackagesOnOtherHosts(t *testing.T) {
	t.Parallel()
	programs(t, "unshare")
	if os.Geteuid() != 0 {
		t.Skip("needs root, to change a host name in a namespace")
	}
	here := packages(t)[older]
	there := filepath.Join(t.TempDir(), "a checkout")
	for _, name := range []string{"scripts", "agent/azguest.service", "agent/azguest-firewall.service", "agent/version", "CHANGELOG.md", "LICENSE"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(there, name)), 0o755))
		_, err := output(t.Context(), "", nil, "cp", "-r", filepath.Join("../..", name), filepath.Join(there, name))
		must(t, err)
	}
	bin, err := standIns()
	must(t, err)
	_, err = output(t.Context(), there, []string{
		"AZGUEST_VERSION=" + older, "SOURCE_DATE_EPOCH=1700000000", "TZ=Asia/Tokyo", "LC_ALL=de_DE.UTF-8", "GOFLAGS=-tags=other", "GZIP_OPT=-1", "USER=builder",
	}, "unshare", "--uts", "sh", "-euc", `hostname other-host; umask 077; exec scripts/package --arch amd64 --bin "$1" --out out`, "build", bin)
	must(t, err)
	for _, pattern := range []string{"*.rpm", "*.deb", "*.tar.gz"} {
		a, b := one(t, filepath.Join(here, pattern)), one(t, filepath.Join(there, "out", pattern))
		if filepath.Base(a) != filepath.Base(b) || !same(t, a, b) {
			t.Errorf("%s differs from %s", b, a)
		}
	}
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	must(t, err)
	y, err := os.ReadFile(b)
	must(t, err)
	return bytes.Equal(x, y)
}

// machine returns a sandbox with the packages in /p.
func machine(t *testing.T, dirs map[string]string, others ...string) *sandbox.Sandbox {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	s, err := sandbox.New(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	_, err = s.Run(t.Context(), "mkdir", "/p")
	must(t, err)
	for version, dir := range dirs {
		for _, pattern := range []string{"*.rpm", "*.deb"} {
			must(t, s.Install(one(t, filepath.Join(dir, pattern)), "/p/azguest-"+version+filepath.Ext(pattern), 0o644))
		}
	}
	for _, o := range others {
		must(t, s.Install(o, "/p/classic"+filepath.Ext(o), 0o644))
	}
	return s
}

// inCopy runs the script $1 in a copy of the machine that ends with it.
const inCopy = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/tree
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/tree
mount --rbind /proc /mnt/tree/proc
mount --rbind /dev /mnt/tree/dev
exec chroot /mnt/tree sh -c "$1"`

// A sequence is what an administrator does, and what must hold afterwards.
type sequence struct {
	name  string
	steps string // a script; the functions of its prelude are the steps
	want  string // what state prints
	says  string // the steps print this; empty for nothing about azguest
	long  bool   // only with scripts/test --long: a second case of a rule that another sequence tests
}

// play runs the sequences, each in a copy of one machine.
func play(t *testing.T, prelude string, list []sequence, classic string) {
	t.Helper()
	s := machine(t, packages(t), classic)
	for _, q := range list {
		t.Run(q.name, func(t *testing.T) {
			if q.long && os.Getenv("AZGUEST_LONG") == "" {
				t.Skip("only with scripts/test --long")
			}
			script := "exec 3>&1 4>&2 >/tmp/log 2>&1\ntrap 'cat /tmp/log >&4' EXIT\n" + prelude + "\nset -ex\n" + q.steps + "\nset +ex\nstate >&3\n"
			r, err := s.Run(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inCopy, "copy", script)
			if err != nil {
				t.Fatalf("%v\n%s", err, r.Stderr)
			}
			if got := strings.TrimSpace(r.Stdout); got != q.want {
				t.Errorf("after %s:\n%s\nwant:\n%s\nlog:\n%s", q.name, got, q.want, r.Stderr)
			}
			switch {
			case q.says != "" && !strings.Contains(r.Stderr, q.says):
				t.Errorf("does not print %q:\n%s", q.says, r.Stderr)
			case q.says == "" && strings.Contains(r.Stderr, "\nazguest: "):
				t.Errorf("prints a message without need:\n%s", r.Stderr)
			}
		})
	}
}
