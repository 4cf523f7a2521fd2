package sandbox

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// bootConfig is the configuration that the supervisor passes to the boot
// process.
type bootConfig struct {
	Options Options
	Base    string
	Loop    int // number of the loop device behind /dev/sr0, -1 for none
	// Only for root of a user namespace: the directories that have an overlay
	// each, and those that are hidden by a mount.
	Lowers, Covers []string
}

// bootMain is process 1 of the sandboxed machine: it sets up the machine,
// reports "ok" or the error, and from then on only reaps processes.
func bootMain(report *os.File) error {
	unix.CloseOnExec(int(report.Fd()))
	var c bootConfig
	err := json.Unmarshal([]byte(os.Getenv("SANDBOX_BOOT")), &c)
	if err == nil {
		err = c.boot()
	}
	if err != nil {
		fmt.Fprintln(report, err)
		return err
	}
	fmt.Fprintln(report, "ok")
	if err := report.Close(); err != nil {
		return err
	}
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		<-child
	}
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (c bootConfig) boot() error {
	root := filepath.Join(c.Base, "root")
	// Mounts of this boot must not reach the supervisor.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	show := c.mountRoot
	if rootless() {
		show = c.mountLowers
	}
	if err := show(root); err != nil {
		return err
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := mountAll(root, []mount{
		{"proc", "proc", "proc", quiet, ""},
		{"sysfs", "sys", "sysfs", quiet | unix.MS_RDONLY, ""},
		{"dev", "dev", "tmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"run", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmp", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	})
	if err != nil {
		return err
	}
	if c.Options.Disk != "" {
		place := filepath.Join(root, c.Options.Disk)
		if err := os.MkdirAll(place, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(filepath.Join(c.Base, diskName), place, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", c.Options.Disk, err)
		}
	}
	if err := c.bootID(root); err != nil {
		return err
	}
	// Kernel settings that are not per namespace are read-only.
	for _, name := range []string{"proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus"} {
		if err := readOnly(filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"proc/kcore", "proc/timer_list"} {
		if err := unix.Mount("/dev/null", filepath.Join(root, name), "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide /%s: %w", name, err)
		}
	}
	if err := c.dev(filepath.Join(root, "dev")); err != nil {
		return err
	}
	if err := c.sys(root); err != nil {
		return err
	}
	for _, d := range []string{"run/lock", "run/sshd"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := c.hostname(root); err != nil {
		return err
	}
	return pivot(root)
}

// bootID gives every boot of the machine its own boot id, by which programs
// detect a reboot.
func (c bootConfig) bootID(root string) error {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	file := filepath.Join(c.Base, "boot_id")
	text := fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	// A new file, because the old one may still be mounted.
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(file, []byte(text), 0o444); err != nil {
		return err
	}
	if err := unix.Mount(file, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("set boot id: %w", err)
	}
	return nil
}

// hostname sets the host name from /etc/hostname, as a machine's boot does.
func (c bootConfig) hostname(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "etc/hostname"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name := strings.TrimSpace(string(b))
	if name == "" {
		name = "localhost"
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return nil
}

func mountAll(root string, list []mount) error {
	for _, m := range list {
		if err := unix.Mount(m.source, filepath.Join(root, m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount /%s: %w", m.target, err)
		}
	}
	return nil
}

func readOnly(path string) error {
	err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

type node struct {
	name         string
	kind         uint32
	major, minor uint32
}

// make creates the node, or bind-mounts the machine's: only real root can
// create nodes.
func (n node) make(dev string) error {
	path := filepath.Join(dev, n.name)
	if !rootless() {
		return unix.Mknod(path, n.kind, int(unix.Mkdev(n.major, n.minor)))
	}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return err
	}
	return unix.Mount("/dev/"+n.name, path, "", unix.MS_BIND, "")
}

// dev sets up a minimal /dev.
func (c bootConfig) dev(dev string) error {
	unix.Umask(0)
	defer unix.Umask(0o022)
	nodes := []node{
		{"null", unix.S_IFCHR | 0o666, 1, 3},
		{"zero", unix.S_IFCHR | 0o666, 1, 5},
		{"full", unix.S_IFCHR | 0o666, 1, 7},
		{"random", unix.S_IFCHR | 0o666, 1, 8},
		{"urandom", unix.S_IFCHR | 0o666, 1, 9},
		{"tty", unix.S_IFCHR | 0o666, 5, 0},
	}
	if c.Options.Fuse {
		nodes = append(nodes, node{"fuse", unix.S_IFCHR | 0o666, 10, 229})
	}
	for _, n := range nodes {
		if err := n.make(dev); err != nil {
			return fmt.Errorf("make /dev/%s: %w", n.name, err)
		}
	}
	for _, d := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, d), 0o755); err != nil {
			return err
		}
	}
	terminals := "newinstance,ptmxmode=0666,mode=0620,gid=5"
	if CurrentRights() == Single {
		terminals = strings.TrimSuffix(terminals, ",gid=5") // group 5 does not exist in the namespace
	}
	err := mountAll(dev, []mount{
		{"devpts", "pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, terminals},
		{"shm", "shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	})
	if err != nil {
		return err
	}
	links := [][2]string{
		{"pts/ptmx", "ptmx"},
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
	}
	for _, l := range links {
		if err := os.Symlink(l[0], filepath.Join(dev, l[1])); err != nil {
			return err
		}
	}
	if c.Options.DVD == "" {
		return nil
	}
	sr0 := filepath.Join(dev, "sr0")
	if c.Loop >= 0 {
		// A node, not a bind mount of /dev/loopN: after a bind mount the device
		// would look as if it were mounted already.
		if err := unix.Mknod(sr0, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(c.Loop)))); err != nil {
			return fmt.Errorf("make /dev/sr0: %w", err)
		}
		return nil
	}
	b, err := os.ReadFile(filepath.Join(c.Base, "sr0"))
	if err != nil {
		return err
	}
	return os.WriteFile(sr0, b, 0o660)
}

// sys mounts the hardware of the options over /sys.
func (c bootConfig) sys(root string) error {
	files := map[string]string{}
	if d := c.Options.DMI; d != nil {
		files["class/dmi/id/product_uuid"] = d.UUID
		files["class/dmi/id/chassis_asset_tag"] = d.AssetTag
		files["class/dmi/id/sys_vendor"] = d.Vendor
		files["class/dmi/id/product_name"] = d.Product
	}
	if c.Options.CDROM && c.Options.DVD != "" {
		files["block/sr0/device/type"] = "5"
		files["block/sr0/removable"] = "1"
	}
	if len(files) == 0 {
		return nil
	}
	fake := filepath.Join(c.Base, "sys")
	for name, text := range files {
		path := filepath.Join(fake, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o444); err != nil {
			return err
		}
	}
	// The real DMI of this machine must not be visible.
	data := ""
	if c.Options.DMI != nil {
		err := opaque(filepath.Join(fake, "class/dmi"))
		if rootless() && err == nil {
			data = ",userxattr"
		} else if err != nil && !rootless() {
			return err
		}
	}
	sys := filepath.Join(root, "sys")
	if err := unix.Mount("overlay", sys, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "lowerdir="+fake+":"+sys+data); err != nil {
		return fmt.Errorf("overlay of /sys: %w", err)
	}
	return nil
}

// opaque makes a directory of an upper layer hide everything in lower layers.
func opaque(dir string) error {
	name := "trusted.overlay.opaque"
	if rootless() {
		name = "user.overlay.opaque"
	}
	if err := unix.Setxattr(dir, name, []byte("y"), 0); err != nil {
		return fmt.Errorf("hide %s: %w", dir, err)
	}
	return nil
}

// mountRoot mounts the machine as one overlay of its root.
func (c bootConfig) mountRoot(string) error { return mountOverlay(c.Base) }

// pivot makes root the root of this mount namespace and unmounts the old one.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	return unix.Chdir("/")
}

// hiddenDirs are directories of the machine that are empty in the sandbox:
// secrets, and files of another agent or an earlier provisioning.
var hiddenDirs = []string{
	"/root", "/home", "/var/lib/waagent", "/var/lib/azure", "/var/lib/cloud", "/var/lib/azguest",
	"/var/log/azure", "/etc/waagent.conf.d", "/etc/azguest", "/etc/sudoers.d",
}

// hiddenFiles do not exist in the sandbox; names may be patterns.
var hiddenFiles = []string{
	"/.dockerenv", "/etc/waagent.conf", "/var/log/waagent*", "/etc/ssh/ssh_host_*",
	"/etc/ssh/sshd_config.d/*azguest*", "/etc/ssh/sshd_config.d/*cloud*", "/etc/sudoers.d/waagent",
	"/etc/shadow-", "/etc/gshadow-", "/etc/krb5.keytab",
}

// prepareUpper makes the upper layer hide what is specific to this machine. It
// returns directories that have to be hidden in another way.
func prepareUpper(upper, hostname string, more []string) ([]string, error) {
	var covers []string
	if err := os.Mkdir(upper, 0o755); err != nil {
		return nil, err
	}
	dirs, files := append([]string{}, hiddenDirs...), append([]string{}, hiddenFiles...)
	for _, name := range more {
		if fi, err := os.Stat(name); err == nil && fi.IsDir() {
			dirs = append(dirs, name)
		} else {
			files = append(files, name)
		}
	}
	for _, name := range dirs {
		fi, err := os.Lstat(name)
		if err != nil || !fi.IsDir() {
			continue
		}
		if err := copyDir(upper, name); err != nil {
			return nil, err
		}
		if err := opaque(filepath.Join(upper, name)); errors.Is(err, unix.ENOTSUP) && rootless() {
			covers = append(covers, name)
		} else if err != nil {
			return nil, err
		}
	}
	for _, pattern := range files {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			if err := copyDir(upper, filepath.Dir(name)); err != nil {
				return nil, err
			}
			err := unix.Mknod(filepath.Join(upper, name), unix.S_IFCHR, 0)
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("hide %s: %w", name, err)
			}
		}
	}
	if err := lockPasswords(upper); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"hostname": hostname + "\n",
		// The real machine's name servers can't be reached. Each program that
		// asks for a name, as sudo does for the host's, would wait for them.
		// Nothing listens at this address, so the answer comes at once.
		"resolv.conf": "nameserver 127.0.0.53\n",
	} {
		if err := os.WriteFile(filepath.Join(upper, "etc", name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return covers, nil
}

// copyDir creates a directory of the machine in the upper layer, with its
// parents, their modes and owners.
func copyDir(upper, name string) error {
	if name == "/" {
		return nil
	}
	if err := copyDir(upper, filepath.Dir(name)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	path := filepath.Join(upper, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	uid, gid := owner(st.Uid, st.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return unix.Chmod(path, st.Mode&0o7777)
}

// lockPasswords writes a shadow file into the upper layer in which no account
// has a password.
func lockPasswords(upper string) error {
	if rootless() {
		return replaceSecrets(upper)
	}
	b, err := os.ReadFile("/etc/shadow")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat("/etc/shadow", &st); err != nil {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		f := strings.Split(line, ":")
		if len(f) > 2 && f[1] != "" && !strings.HasPrefix(f[1], "!") && f[1] != "*" {
			f[1] = "*"
		}
		out.WriteString(strings.Join(f, ":"))
	}
	if err := copyDir(upper, "/etc"); err != nil {
		return err
	}
	path := filepath.Join(upper, "etc/shadow")
	if err := os.WriteFile(path, []byte(out.String()), 0o600); err != nil {
		return err
	}
	if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(path, st.Mode&0o7777)
}
