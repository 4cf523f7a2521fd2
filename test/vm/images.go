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

	"github.com/azguest/azguest/test/sandbox"
)

// basePackages is everything in the guest: the packages of a small Debian cloud
// image. A change causes a new base image to be built.
var basePackages = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd",
	"linux-image-cloud-amd64", "tiny-initramfs",
	"openssh-server", "sudo", "passwd", "login", "procps", "kmod", "util-linux",
	"iproute2", "nftables", "netbase", "ca-certificates", "lsof", "logrotate",
}

// baseSetup runs before the kernel is installed; $1 is the new tree. The initrd
// loads the drivers of the system disk and of the CD-ROM drive and mounts the
// disk; it needs neither a shell nor udev for that. On the real platform, too,
// both are attached to a controller whose driver is in the initrd.
const baseSetup = `
mkdir -p "$1/etc/tiny-initramfs"
printf 'AUTO_MODULES=no\nMICROCODE=no\nINCLUDE_MODULES="virtio_pci virtio_blk ext4 ata_piix sr_mod"\n' >"$1/etc/tiny-initramfs/tiny-initramfs.conf"
`

// baseFinish turns the tree into an image: without an identity (host keys,
// machine id), with networkd and DHCP, without periodic jobs, and without
// services that Debian starts by default but that such a machine does not need:
// debugging file systems, modules for absent disks, a screen.
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

// A Variant is a modification of the plain image.
type Variant struct {
	Name string
	// Packages are additional Debian packages.
	Packages []string
	// Files are written to absolute paths in the guest, with mode 0644.
	Files map[string]string
	// Script runs in the tree after the agent's package is installed, with
	// /proc.
	Script string
}

// An Image is a bootable disk.
type Image struct {
	Kernel, Initrd string
	Disk           string // raw, one ext4 file system, read by overlays only
}

// Images builds images and caches them.
type Images struct {
	Dir    string // survives between runs
	Mirror string // a Debian mirror; empty for the usual one
	Log    func(format string, args ...any)
}

// base returns the directory of the base image with the additional packages,
// building it if necessary: root is the tree, kernel and initrd are beside it.
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
	tmp, remove, err := sandbox.BuildDir(im.Dir, "base")
	if err != nil {
		return "", err
	}
	defer remove()
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
	// What it mounts below the tree ends with its namespace, also if it is killed.
	args = append([]string{"--mount", "--propagation", "private", "mmdebstrap"}, args...)
	if out, err := run(ctx, nil, "unshare", args...); err != nil {
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

// installScript installs the package in an overlay of the base tree and turns
// the result into a file system. The mounts are in a mount namespace of their
// own and need no cleanup.
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
// modified by v.
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

// prune keeps the newest images of a kind; each has a few hundred megabytes.
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

// CacheDir returns the directory of images: AZGUEST_CACHE, as in the scripts,
// or the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("AZGUEST_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "azguest"), err
}

// Mirror returns the Debian mirror that this machine is configured to use, so
// that images can be built where only that one is reachable; empty for the
// default.
func Mirror(ctx context.Context) string {
	out, err := run(ctx, nil, "apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Created-By: Packages", "Origin: Debian", "Component: main", "Codename: bookworm")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if strings.Contains(first, "//deb.debian.org/") {
		return "" // mmdebstrap then adds the security archive itself
	}
	return strings.TrimSuffix(first, "/")
}
