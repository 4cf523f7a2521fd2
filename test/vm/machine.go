package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Machine is one virtual machine: a disk of its own on top of an image, a
// CD-ROM drive, and a QEMU process while it is switched on.
type Machine struct {
	lab   *Lab
	image *Image
	vmID  string
	Media string // file in the CD-ROM drive; empty for an empty drive
	disc  string // the medium that the platform attached at first

	Started time.Time // when it was last switched on
	printed int       // size of the console output before that
	qemu    *process
	key     string // private key for Run
	user    string
}

// NewMachine creates a machine, switched off.
func (l *Lab) NewMachine(ctx context.Context, image *Image, vmID, media string) (*Machine, error) {
	m := &Machine{lab: l, image: image, vmID: vmID, disc: media}
	return m, m.Blank(ctx)
}

// Blank gives a machine that is switched off a new disk and the platform's
// medium, so that its next boot is a first boot.
func (m *Machine) Blank(ctx context.Context) error {
	m.Media = m.disc
	if out, err := run(ctx, nil, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", m.image.Disk, m.disk()); err != nil {
		return fmt.Errorf("create the disk: %w: %s", err, out)
	}
	// A new disk has other host keys.
	if err := os.Remove(m.knownHosts()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (m *Machine) knownHosts() string { return m.lab.path("known_hosts") }

func (m *Machine) disk() string    { return m.lab.path("disk.qcow2") }
func (m *Machine) console() string { return m.lab.path("console.log") }

// On switches the machine on. Its SMBIOS has the manufacturer and asset tag by
// which guests recognize the platform.
func (m *Machine) On() error {
	drive := "if=none,id=cd,media=cdrom,readonly=on"
	if m.Media != "" {
		drive += ",format=raw,file=" + m.Media
	}
	m.Started, m.printed = time.Now(), len(m.Console())
	qemu, err := m.lab.startInside("qemu.log", "qemu-system-x86_64",
		// KVM is not used: stock guest kernels hang under nested KVM.
		// Five-level page tables make emulation slower without any use; for
		// emulated cryptography and virtualization features the guest would
		// load and test drivers.
		"-M", "pc", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-hypervisor,-la57,-svm,-aes,-pclmulqdq,-vaes,-vpclmulqdq",
		"-smp", "2", "-m", "1024", "-nodefaults", "-display", "none",
		"-chardev", "file,id=console,append=on,path="+m.console(), "-serial", "chardev:console",
		"-qmp", "unix:"+m.lab.path("qmp")+",server=on,wait=off",
		"-kernel", m.image.Kernel, "-initrd", m.image.Initrd,
		// All emulated processors read one clock, but the kernel's test of the
		// TSC does not trust it; the clock that it would use instead is a
		// hundred times slower to read. The kernel's test of the timer counts
		// ticks in a busy wait; on a busy host they arrive too late, and when
		// its last try fails it panics ("IO-APIC + timer doesn't work!").
		"-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.show_status=0 mitigations=off tsc=reliable no_timer_check",
		"-smbios", "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,version=Hyper-V UEFI Release v4.1,uuid="+m.vmID,
		"-smbios", "type=3,asset=7783-7084-3265-9085-8269-3286-77",
		"-drive", "if=virtio,format=qcow2,cache=unsafe,file="+m.disk(),
		"-drive", drive, "-device", "ide-cd,drive=cd",
		"-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no",
		"-device", "virtio-net-pci,romfile=,netdev=net,mac="+guestMAC,
		"-device", "virtio-rng-pci")
	m.qemu = qemu
	return err
}

// Cut turns the power off, without a shutdown.
func (m *Machine) Cut() {
	if m.qemu != nil {
		m.qemu.stop(syscall.SIGKILL)
		m.qemu = nil
	}
}

// File reads a file from the disk of a machine that is switched off, even if it
// was never possible to log in.
func (m *Machine) File(ctx context.Context, name string) (string, error) {
	raw := m.lab.path("disk.raw")
	defer func() { _ = os.Remove(raw) }() // in the scratch directory
	if out, err := run(ctx, nil, "qemu-img", "convert", "-O", "raw", m.disk(), raw); err != nil {
		return "", fmt.Errorf("read the disk: %w: %s", err, out)
	}
	// After a power cut the file system's journal must be replayed first.
	_, _ = run(ctx, nil, "e2fsck", "-p", "-E", "journal_only", raw)
	out, err := run(ctx, nil, "debugfs", "-R", "cat "+name, raw)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return out, nil
}

// Processor returns the processor time that the emulation has used. It measures
// the cost of a boot independently of other load on the host.
func (m *Machine) Processor() time.Duration {
	if m.qemu == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.qemu.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// After the name: utime and stime, in hundredths of a second.
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, uerr := strconv.Atoi(f[11])
	system, serr := strconv.Atoi(f[12])
	if uerr != nil || serr != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// Died returns an error if QEMU has ended, or if the guest's kernel has
// panicked, after which it waits forever.
func (m *Machine) Died() error {
	if m.qemu == nil {
		return errors.New("the machine is switched off")
	}
	console := m.Console()
	_, panicked, found := strings.Cut(console[min(m.printed, len(console)):], "Kernel panic")
	if found {
		line, _, _ := strings.Cut(panicked, "\n")
		return errors.New("the guest's kernel panicked" + strings.TrimRight(line, "\r"))
	}
	return m.qemu.died()
}

// Console returns the machine's output on its serial console.
func (m *Machine) Console() string {
	b, _ := os.ReadFile(m.console())
	return string(b)
}

// As sets the account and private key for SSH.
func (m *Machine) As(user, key string) { m.user, m.key = user, key }

func (m *Machine) ssh(args ...string) []string {
	return m.lab.inside(append([]string{
		"ssh", "-F", "none", "-i", m.key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + m.knownHosts(),
		"-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR", m.user + "@" + guestAddress,
	}, args...)...)
}

// Run runs a shell command line as the provisioned user and returns its output.
// A refused connection is an error at once: a machine that has reported Ready
// must accept logins.
func (m *Machine) Run(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	all := m.ssh("export SUDO_ASKPASS=$HOME/.ask; sudo() { command sudo -A \"$@\"; }\n" + command)
	out, err := run(ctx, nil, all[0], all[1:]...)
	out = strings.TrimRight(out, "\n")
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return out, fmt.Errorf("%q: exit %d: %s", command, exit.ExitCode(), tail(out, 5))
		}
		return out, fmt.Errorf("%q: %w", command, err)
	}
	return out, nil
}

// RunAll runs several command lines over one connection, each in a subshell,
// and returns their outputs. A command that fails is not an error.
func (m *Machine) RunAll(ctx context.Context, commands ...string) ([]string, error) {
	const mark = "\x1e" // a record separator, which no command here prints
	var script strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&script, "(\n%s\n) 2>&1; printf '\\036'\n", c)
	}
	out, err := m.Run(ctx, script.String())
	if err != nil {
		return nil, err
	}
	parts := strings.Split(out, mark)
	if len(parts) != len(commands)+1 {
		return nil, fmt.Errorf("ran %d commands, got %d outputs: %q", len(commands), len(parts)-1, out)
	}
	for i := range parts {
		parts[i] = strings.TrimRight(parts[i], "\n ")
	}
	return parts[:len(commands)], nil
}

// Hint returns a command line that reaches the control plane from this host
// while the machine runs.
func (m *Machine) Hint() string {
	return fmt.Sprintf("nsenter --net=%s/%s curl -s 'http://%s%s/instanceView%s'", netnsDir, m.lab.ns, armAddress, vmPath, armVersion)
}

// Shell connects the terminal to a login shell on the machine.
func (m *Machine) Shell() error {
	all := m.ssh()
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// Reboot restarts the guest from inside and waits until the new boot answers
// ssh.
func (m *Machine) Reboot(ctx context.Context) error {
	const bootID = "cat /proc/sys/kernel/random/boot_id"
	before, err := m.Run(ctx, bootID)
	if err != nil {
		return err
	}
	// The connection may break before the command returns.
	_, _ = m.Run(ctx, "sudo systemctl reboot")
	m.Started = time.Now()
	return until(ctx, "the machine after its reboot", func() (bool, error) {
		if err := m.Died(); err != nil {
			return false, err
		}
		now, err := m.Run(ctx, bootID)
		return err == nil && now != before, ctx.Err()
	})
}
