package nspawn

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/azguest/azguest/test/sandbox"
	"github.com/azguest/azguest/test/vm"
)

// basePackages is everything in the machine: a small Debian cloud image without
// a kernel. A change causes a new base tree to be built.
var basePackages = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd",
	"openssh-server", "sudo", "passwd", "login", "procps", "kmod", "util-linux",
	"iproute2", "nftables", "netbase", "ca-certificates", "lsof",
	"eject", "isc-dhcp-client", "cloud-init", "fuseiso", "fuse",
}

// neededPackages are the packages that the tests need on this machine, by one
// of their programs.
var neededPackages = map[string]string{
	"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "dnsmasq": "dnsmasq-base",
	"ip": "iproute2", "nsenter": "util-linux", "losetup": "util-linux", "dpkg-deb": "dpkg",
}

// layerScript turns the tree $1 into an image: it removes its identity,
// installs the agent's package, and makes the container look like a machine of
// the platform.
//
//   - This kernel has no iso9660: mount(8) calls /sbin/mount.iso9660, which is
//     fuseiso.
//   - systemd-detect-virt prints the same as on the platform; cloud-init does
//     nothing in what it takes for a container.
//   - Process 1 is started by a script that mounts DMI over /sys and creates the
//     node of the drive.
const layerScript = `
tree=$1 deb=$2
cd "$tree"
rm -f etc/ssh/ssh_host_* var/lib/dbus/machine-id
: >etc/machine-id
echo localhost >etc/hostname
echo '127.0.0.1 localhost' >etc/hosts
: >etc/fstab
mkdir -p etc/systemd/network
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' >etc/systemd/network/50-eth0.network
chroot . systemctl -q enable systemd-networkd.service
chroot . systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer \
	e2scrub_reap.service systemd-networkd-wait-online.service systemd-journal-flush.service \
	console-getty.service getty.target getty-static.service systemd-ask-password-console.path systemd-ask-password-wall.path \
	dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
printf '#!/bin/sh\nexec fuseiso "$1" "$2"\n' >sbin/mount.iso9660
mv usr/bin/systemd-detect-virt usr/bin/systemd-detect-virt.real
cat >usr/bin/systemd-detect-virt <<'END'
#!/bin/sh
for a; do case $a in -q|--quiet) exec >/dev/null ;; -c|--container) echo none; exit 1 ;; esac; done
echo microsoft
END
# What an image builder sets: nothing to grow here.
printf 'growpart: {mode: "off"}\nresize_rootfs: false\nlocale: C.UTF-8\n' >etc/cloud/cloud.cfg.d/90-image.cfg
# Since 255 systemd itself tells generators that this is a container.
sed -i '2i unset SYSTEMD_VIRTUALIZATION' usr/lib/systemd/system-generators/cloud-init-generator
# Where a test has cloud-init killed: see crash in harness_test.go.
# Of ip(8), where it takes its temporary address back: Ready is said then.
for program in mount ssh-keygen ip; do
	cat >usr/local/bin/$program <<END
#!/bin/sh
case $program:\$* in ip:*" del "* | mount:* | ssh-keygen:*) ;; *) exec /usr/bin/$program "\$@" ;; esac
if [ -e /etc/crash-$program ] && [ "\$(cat /proc/\$PPID/comm)" = cloud-init ]; then
	kill -9 \$PPID
	exit 1
fi
exec /usr/bin/$program "\$@"
END
done
mkdir -p testbed/real testbed/sys/dmi/id
printf 'Microsoft Corporation\n' >testbed/sys/dmi/id/sys_vendor
printf 'Virtual Machine\n' >testbed/sys/dmi/id/product_name
printf '7783-7084-3265-9085-8269-3286-77\n' >testbed/sys/dmi/id/chassis_asset_tag
cat >testbed/init <<'END'
#!/bin/sh
# init VM-ID [minor number of the loop device with the medium]
echo "$1" >/testbed/sys/dmi/id/product_uuid
chmod 400 /testbed/sys/dmi/id/product_uuid
# nspawn's /sys shows the network cards of the machine it was started on.
mount -t sysfs -o ro sysfs /testbed/real
mount --bind /testbed/real/devices /sys/devices
mount -t overlay -o ro,lowerdir=/testbed/sys:/testbed/real/class overlay /sys/class
if [ -n "$2" ]; then mknod -m 660 /dev/sr0 b 7 "$2"; fi
# nspawn leaves systemd no controller; that of the CPU is the machine's own.
mount -o remount,bind,rw /sys/fs/cgroup/cpu || :
unset container container_uuid
exec /lib/systemd/systemd
END
chmod 755 sbin/mount.iso9660 usr/bin/systemd-detect-virt usr/local/bin/* testbed/init
mount -t proc proc proc
cp "$deb" tmp/azguest.deb
DEBIAN_FRONTEND=noninteractive chroot . dpkg -i /tmp/azguest.deb
rm tmp/azguest.deb
umount proc
`

// image is what machines boot from: two read-only layers.
type image struct {
	base, layer string
	deb         string
}

var (
	imageOnce sync.Once
	theImage  image
	errImage  error
	scratch   string // of the whole run; TestMain removes it
)

// theOneImage returns the image, which is built once per run.
func theOneImage(t testing.TB) image {
	t.Helper()
	imageOnce.Do(func() { theImage, errImage = makeImage(t) })
	if errors.Is(errImage, errNoBase) {
		t.Skip(errImage)
	}
	if errImage != nil {
		t.Fatal(errImage)
	}
	return theImage
}

// errNoBase means that Debian's packages can't be downloaded on this machine.
var errNoBase = errors.New("no Debian tree")

func makeImage(t testing.TB) (im image, err error) {
	ctx := context.WithoutCancel(t.Context()) // other tests use it too
	if im.base, err = baseTree(ctx, t.Logf); err != nil {
		return im, fmt.Errorf("%w: %w", errNoBase, err)
	}
	if im.deb, err = debianPackage(ctx); err != nil {
		return im, err
	}
	im.layer = filepath.Join(scratch, "layer")
	dirs := []string{im.layer, filepath.Join(scratch, "work"), filepath.Join(scratch, "tree")}
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			return im, err
		}
	}
	script := `mount -t overlay -o "lowerdir=$3,upperdir=$4,workdir=$5" overlay "$1"` + layerScript
	if err := command(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "layer",
		dirs[2], im.deb, im.base, dirs[0], dirs[1]); err != nil {
		return im, fmt.Errorf("make the image: %w", err)
	}
	return im, nil
}

// baseTree returns the cached tree of Debian's packages, of the release that
// AZGUEST_DEBIAN names, or of 12.
func baseTree(ctx context.Context, logf func(string, ...any)) (string, error) {
	cache, err := vm.CacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "nspawn")
	release := cmp.Or(os.Getenv("AZGUEST_DEBIAN"), "bookworm")
	sum := sha256.Sum256([]byte(release + " " + strings.Join(basePackages, " ")))
	dir := filepath.Join(cache, "base-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, remove, err := sandbox.BuildDir(cache, "base")
	if err != nil {
		return "", err
	}
	defer remove()
	logf("building the base tree from Debian packages (once)")
	args := []string{
		"--variant=minbase", "--mode=root", "--format=directory", "--include=" + strings.Join(basePackages, ","),
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
		release, filepath.Join(tmp, "root"),
	}
	if mirror := vm.Mirror(ctx); mirror != "" {
		args = append(args, mirror)
	}
	// What it mounts below the tree ends with its namespace, also if it is killed.
	args = append([]string{"--mount", "--propagation", "private", "mmdebstrap"}, args...)
	if err := command(ctx, "unshare", args...); err != nil {
		return "", fmt.Errorf("build the base tree: %w", err)
	}
	if err := os.Rename(filepath.Join(tmp, "root"), dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// debianPackage returns the agent's package: the one AZGUEST_DEB names, or a
// new one.
func debianPackage(ctx context.Context) (string, error) {
	if deb := os.Getenv("AZGUEST_DEB"); deb != "" {
		return filepath.Abs(deb)
	}
	out := filepath.Join(scratch, "packages")
	if err := command(ctx, "../../scripts/package", "--arch", "amd64", "--format", "deb", "--out", out); err != nil {
		return "", fmt.Errorf("build the package: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(out, "azguest_*_amd64.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("build the package: found %q", found)
	}
	return found[0], nil
}

// newer builds the package again with a higher version.
func newer(t testing.TB, deb, version string) string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "newer.deb")
	if err := command(t.Context(), "sh", "-euc", `dpkg-deb -R "$1" "$2/x"
sed -i "s/^Version:.*/Version: $4/" "$2/x/DEBIAN/control"
dpkg-deb --root-owner-group -Znone -b "$2/x" "$3"`, "newer", deb, dir, out, version); err != nil {
		t.Fatal(err)
	}
	return out
}

// command runs a command to its end; an error contains its output.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: %w: %s", name, err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	return nil
}
