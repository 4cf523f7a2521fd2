package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// copyLayer copies a tree into the upper layer. A folder of the root file
// system cannot be a layer of an overlay of that file system ("too many
// levels"), and these trees are small.
//
// Where the machine has a symlink to a folder (/lib) and the tree has a folder,
// the files are copied to the target of the link, as dpkg does.
func copyLayer(from *os.Root, upper string) error {
	return fs.WalkDir(from.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		dir, err := onMachine(filepath.Join("/", filepath.Dir(name)))
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		target := filepath.Join(dir, filepath.Base(name))
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return layerDir(upper, target, fi)
		case d.Type() == fs.ModeSymlink:
			return layerLink(from, name, upper, target)
		case d.Type().IsRegular():
			return layerFile(from, name, upper, target, fi)
		}
		return nil
	})
}

// onMachine resolves the symlinks of the machine in the name of a folder, as
// far as the folder exists there.
func onMachine(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
		return real, err
	}
	parent, err := onMachine(filepath.Dir(dir))
	return filepath.Join(parent, filepath.Base(dir)), err
}

func layerDir(upper, target string, fi fs.FileInfo) error {
	if st, err := os.Stat(target); err == nil && st.IsDir() {
		if real, err := filepath.EvalSymlinks(target); err == nil {
			target = real
		}
		return copyDir(upper, target)
	}
	if err := os.MkdirAll(filepath.Join(upper, target), 0o755); err != nil {
		return err
	}
	return os.Chmod(filepath.Join(upper, target), fi.Mode().Perm())
}

func layerLink(from *os.Root, name, upper, target string) error {
	if st, err := os.Stat(target); err == nil && st.IsDir() {
		return nil // /lib and the like: keep the machine's link
	}
	to, err := from.Readlink(name)
	if err != nil {
		return err
	}
	path := filepath.Join(upper, target)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(to, path)
}

func layerFile(from *os.Root, name, upper, target string, fi fs.FileInfo) error {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	path := filepath.Join(upper, target)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return errors.Join(err, dst.Close())
	}
	if err := dst.Close(); err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, fi.Mode())
}

// DebianLayer returns a folder for Options.Layers with the files of Debian
// packages and their dependencies, unpacked but not installed. Packages that
// the machine has are left out; if it has all of them, the result is "".
// Downloads are kept in the user's cache folder.
func DebianLayer(ctx context.Context, packages ...string) (string, error) {
	want, err := missing(ctx, packages)
	if err != nil {
		return "", err
	}
	return cached("layers", want, func(tree string) error {
		debs, err := os.MkdirTemp(filepath.Dir(tree), ".debs-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(debs)
		if err := download(ctx, debs, want); err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(debs, "*.deb"))
		if err != nil {
			return err
		}
		slices.Sort(found)
		for _, deb := range found {
			if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, tree).CombinedOutput(); err != nil {
				return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, out)
			}
		}
		return nil
	})
}

// DebianPackages returns the files of Debian packages and of their dependencies,
// without those that the machine has. Downloads are kept in the user's cache
// folder.
func DebianPackages(ctx context.Context, packages ...string) ([]string, error) {
	want, err := missing(ctx, packages)
	if err != nil {
		return nil, err
	}
	dir, err := cached("debs", want, func(dir string) error { return download(ctx, dir, want) })
	if err != nil || dir == "" {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

// cached returns the folder of this kind for a list of packages in the user's
// cache, which fill fills if it is not there; "" for none.
func cached(kind string, packages []string, fill func(dir string) error) (string, error) {
	if len(packages) == 0 {
		return "", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	// The list may be too long for a file name, so it is hashed.
	sum := sha256.Sum256([]byte(strings.Join(packages, " ")))
	key := packages[0] + "-" + hex.EncodeToString(sum[:6])
	dir := filepath.Join(cache, "azguest", kind, key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("%s %s: %w", kind, key, err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", kind, key, err)
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	if err := fill(tree); err != nil {
		return "", fmt.Errorf("%s %s: %w", kind, key, err)
	}
	if err := os.Rename(tree, dir); err != nil {
		if _, serr := os.Stat(dir); serr == nil {
			return dir, nil // another process was faster
		}
		return "", err
	}
	return dir, nil
}

// missing lists the packages that apt would install here, as NAME=VERSION, by a
// simulation that changes nothing.
func missing(ctx context.Context, packages []string) ([]string, error) {
	known := true
	for _, p := range packages {
		out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f=${db:Status-Status}", p).Output()
		known = known && err == nil && string(out) == "installed"
	}
	if known {
		return nil, nil
	}
	simulate := func() ([]byte, error) {
		c := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-s", "-o", "Debug::NoLocking=1", "install", "--no-install-recommends"}, packages...)...)
		c.Env = append(os.Environ(), "LC_ALL=C")
		return c.CombinedOutput()
	}
	out, err := simulate()
	if err != nil {
		if up, uerr := exec.CommandContext(ctx, "apt-get", "-q", "update").CombinedOutput(); uerr != nil {
			return nil, fmt.Errorf("apt-get update: %w: %s", uerr, lastLine(up))
		}
		if out, err = simulate(); err != nil {
			return nil, fmt.Errorf("apt-get install (simulated) %s: %w: %s", strings.Join(packages, " "), err, lastLine(out))
		}
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		// Inst libnsl2 (1.3.0-2 Debian:12.5/stable [amd64])
		// Inst openssh-client [1:9.2p1-1] (1:9.2p1-2 Debian:12.5/stable [amd64])
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "Inst" {
			continue
		}
		_, version, _ := strings.Cut(line, "(")
		version, _, _ = strings.Cut(version, " ")
		want = append(want, f[1]+"="+version)
	}
	slices.Sort(want)
	return want, nil
}

func download(ctx context.Context, dir string, packages []string) error {
	// As root: apt's own user can't write to a private folder.
	c := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", strings.Join(packages, " "), err, lastLine(out))
	}
	return nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// SSHServer returns the packages of an SSH server and sudo, for machines
// without them.
func SSHServer() []string { return []string{"openssh-server", "sudo"} }

// PrepareSSHD does the part of the installation of openssh-server and sudo that
// unpacking does not: account, configuration and host keys. Nothing is started.
func (s *Sandbox) PrepareSSHD(ctx context.Context) error {
	_, err := s.Run(ctx, "sh", "-ec", `
test -x /usr/sbin/sshd || { echo "no sshd on this machine" >&2; exit 1; }
getent passwd sshd >/dev/null || useradd --system --no-create-home --home-dir /run/sshd --shell /usr/sbin/nologin sshd
test -e /etc/ssh/sshd_config || cp /usr/share/openssh/sshd_config /etc/ssh/sshd_config
mkdir -p /etc/ssh/sshd_config.d /run/sshd
test ! -e /etc/sudoers || chmod 0440 /etc/sudoers
ssh-keygen -q -A`)
	return err
}
