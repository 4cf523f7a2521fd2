package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// basePackages is the whole guest: what a small Debian cloud image has. A
// change makes a new base image.
var basePackages = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd",
	"linux-image-cloud-amd64", "tiny-initramfs",
	"openssh-server", "sudo", "passwd", "login", "procps", "kmod", "util-linux",
	"iproute2", "nftables", "netbase", "ca-certificates", "lsof", "logrotate",
}

// baseSetup runs in the new tree (its $1) before the kernel is installed. The
// initrd loads what the system disk and the drive need and mounts the disk; it
// needs neither a shell nor udev for that. On the real platform, too, both
// hang on a controller whose driver the initrd has loaded.
const baseSetup = `
mkdir -p "$1/etc/tiny-initramfs"
printf 'AUTO_MODULES=no\nMICROCODE=no\nINCLUDE_MODULES="virtio_pci virtio_blk ext4 ata_piix sr_mod"\n' >"$1/etc/tiny-initramfs/tiny-initramfs.conf"
`

// baseFinish makes the tree an image: no identity in it (no host keys, no
// machine id), networkd with DHCP, nothing periodic in the background, and of
// what Debian starts by default nothing that such a machine has no use for:
// debugging file systems, modules for disks it does not have, a screen.
const baseFinish = `
rm -f "$1"/etc/ssh/ssh_host_*
: >"$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id"
echo localhost >"$1/etc/hostname"
echo '127.0.0.1 localhost' >"$1/etc/hosts"
printf '/dev/vda / ext4 noatime 0 0\n' >"$1/etc/fstab"
mkdir -p "$1/etc/systemd/network"
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' >"$1/etc/systemd/network/10-eth0.network"
chroot "$1" systemctl -q enable systemd-networkd.service
chroot "$1" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \
	dpkg-db-backup.timer logrotate.timer e2scrub_reap.service systemd-networkd-wait-online.service \
	sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
	dev-hugepages.mount systemd-repart.service systemd-pstore.service systemd-network-generator.service \
	modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
	modprobe@fuse.service modprobe@loop.service getty@tty1.service
rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
`

// A Variant is how an image differs from the plain one.
type Variant struct {
	Name string
	// Packages of Debian that the plain image lacks.
	Packages []string
	// Files to write, by absolute path in the guest; mode 0644.
	Files map[string]string
	// Script runs in the tree after our package is installed, with /proc.
	Script string
}

// An Image is a disk that can be booted.
type Image struct {
	Kernel, Initrd string
	Disk           string // raw, one ext4 file system, read by overlays only
}

// Images makes images and keeps them.
type Images struct {
	Dir    string // survives between runs
	Mirror string // a Debian mirror; empty for the usual one
	Log    func(format string, args ...any)
}

// base returns the directory of the base image with these packages besides the
// usual ones, making it if need be: root is the tree, kernel and initrd lie
// beside it.
func (im *Images) base(ctx context.Context, more []string) (string, error) {
	packages := slices.Concat(basePackages, more)
	key := digest(strings.Join(packages, " "), baseSetup, baseFinish)
	dir := filepath.Join(im.Dir, "base-"+key)
	if _, err := os.Stat(filepath.Join(dir, "initrd")); err == nil {
		return dir, nil
	}
	im.Log("building the base image%s from Debian packages (once)", strings.Join(append([]string{""}, more...), " with "))
	if err := os.MkdirAll(im.Dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(im.Dir, ".base-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "root")
	args := []string{
		"--variant=minbase", "--mode=root", "--format=directory",
		"--include=" + strings.Join(packages, ","),
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--essential-hook=" + baseSetup,
		"--customize-hook=" + baseFinish,
		"bookworm", root,
	}
	if im.Mirror != "" {
		args = append(args, im.Mirror)
	}
	if out, err := run(ctx, nil, "mmdebstrap", args...); err != nil {
		return "", fmt.Errorf("build the base image: %w\n%s", err, tail(out, 30))
	}
	for pattern, name := range map[string]string{"vmlinuz-*": "kernel", "initrd.img-*": "initrd"} {
		found, err := filepath.Glob(filepath.Join(root, "boot", pattern))
		if err != nil || len(found) == 0 {
			return "", fmt.Errorf("build the base image: no %s in /boot", pattern)
		}
		slices.Sort(found)
		if err := copyFile(found[len(found)-1], filepath.Join(tmp, name)); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	im.prune("base-*", dir, 2)
	return dir, nil
}

// installScript puts the package into an overlay of the base tree and turns the
// result into a file system. The mounts are in a namespace of their own and
// need no cleaning up.
const installScript = `
base=$1 scratch=$2 deb=$3 disk=$4
mount -t tmpfs -o size=2g tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/tree"
mount -t overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/tree"
cd "$scratch/tree"
mount -t proc proc proc
if [ -n "$deb" ]; then
	cp "$deb" tmp/azguest.deb
	DEBIAN_FRONTEND=noninteractive chroot . dpkg -i /tmp/azguest.deb
	rm tmp/azguest.deb
fi
if [ -s "$5" ]; then cp "$5" tmp/variant; chroot . sh -eu /tmp/variant; rm tmp/variant; fi
umount proc
rm -f "$disk"
truncate -s 2G "$disk"
mke2fs -q -F -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d . "$disk"
`

// Image returns the image with the package deb installed (none if empty),
// changed as v says.
func (im *Images) Image(ctx context.Context, deb string, v Variant) (*Image, error) {
	base, err := im.base(ctx, v.Packages)
	if err != nil {
		return nil, err
	}
	package_ := "none"
	if deb != "" {
		if deb, err = filepath.Abs(deb); err != nil {
			return nil, err
		}
		if package_, err = fileDigest(deb); err != nil {
			return nil, err
		}
	}
	script := v.script()
	disk := filepath.Join(im.Dir, fmt.Sprintf("disk-%s.raw", digest(base, package_, installScript, script)))
	img := &Image{Kernel: filepath.Join(base, "kernel"), Initrd: filepath.Join(base, "initrd"), Disk: disk}
	if _, err := os.Stat(disk); err == nil {
		return img, nil
	}
	scratch, err := os.MkdirTemp(im.Dir, ".install-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	variant, tmp := filepath.Join(scratch, "variant"), filepath.Join(scratch, "disk")
	mnt := filepath.Join(scratch, "mnt")
	if err := errors.Join(os.WriteFile(variant, []byte(script), 0o600), os.Mkdir(mnt, 0o755)); err != nil {
		return nil, err
	}
	out, err := run(ctx, nil, "unshare", "--mount", "--propagation", "private", "sh", "-euc", installScript,
		"install", filepath.Join(base, "root"), mnt, deb, tmp, variant)
	if err != nil {
		return nil, fmt.Errorf("install the package into the image: %w\n%s", err, tail(out, 30))
	}
	if err := os.Rename(tmp, disk); err != nil {
		return nil, err
	}
	im.prune("disk-*.raw", disk, 8)
	return img, nil
}

func (v Variant) script() string {
	var b strings.Builder
	names := make([]string, 0, len(v.Files))
	for name := range v.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "mkdir -p '%s'\ncat >'%s' <<'END-OF-FILE'\n%s\nEND-OF-FILE\n",
			filepath.Dir(name), name, strings.TrimSuffix(v.Files[name], "\n"))
	}
	b.WriteString(v.Script)
	return b.String()
}

// prune keeps the newest images of a kind; each is some hundred megabytes.
func (im *Images) prune(pattern, current string, keep int) {
	found, err := filepath.Glob(filepath.Join(im.Dir, pattern))
	if err != nil || len(found) <= keep {
		return
	}
	age := func(name string) int64 {
		info, err := os.Stat(name)
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(found, func(a, b string) int { return int(max(-1, min(1, age(b)-age(a)))) })
	for _, name := range found[keep:] {
		if name != current {
			_ = os.RemoveAll(name) // the next run tries again
		}
	}
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// CacheDir is where images are kept: AZGUEST_CACHE, as in the scripts, or the
// user's cache.
func CacheDir() (string, error) {
	if dir := os.Getenv("AZGUEST_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "azguest"), err
}

// Mirror is the Debian mirror this machine itself is configured to use, so
// that images can be made where only that one is reachable; empty for the
// usual one.
func Mirror(ctx context.Context) string {
	out, err := run(ctx, nil, "apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Created-By: Packages", "Origin: Debian", "Component: main", "Codename: bookworm")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if strings.Contains(first, "//deb.debian.org/") {
		return "" // mmdebstrap then adds the security archive by itself
	}
	return strings.TrimSuffix(first, "/")
}
