// Package nspawn is the package as it lives under a real systemd: Debian's
// systemd, D-Bus, networkd, dpkg, sshd and cloud-init with its Azure
// datasource, in a container on a network where the emulated platform answers.
//
// A test boots a machine from a copy-on-write tree, in a fraction of a second,
// and looks at it from outside. What a container lacks is put there: DMI, a
// drive with the medium, a way to mount it. Tests skip, and say why, where that
// can't be had: it takes root, namespaces and packages of Debian.
package nspawn

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/vm"
)

const (
	// patience bounds every wait: it is not what is tested, and a slow machine
	// must not meet it.
	patience = 10 * time.Minute

	blobAddress = "10.0.0.1:10000"
	address     = "10.0.0.4" // of the machine
	account     = "azureuser"

	scratchPrefix = "azguest-nspawn-" // then the process id of who made it
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := func() int {
		sweep()
		var err error
		if scratch, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", scratchPrefix, os.Getpid())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}()
	os.Exit(code)
}

// sweep removes what a run left behind that was killed.
func sweep() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+"*"))
	if err != nil {
		return
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(strings.Split(strings.TrimPrefix(filepath.Base(d), scratchPrefix), "-")[0])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(d) // a temporary directory at worst
		}
	}
}

// need skips where machines can't be made, or are not wanted.
func need(t testing.TB) {
	t.Helper()
	switch {
	case testing.Short():
		t.Skip("boots a machine")
	case os.Geteuid() != 0:
		t.Skip("needs root")
	case runtime.GOARCH != "amd64":
		t.Skip("builds packages and trees for amd64 only")
	}
	for program, pkg := range neededPackages {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s, from Debian's %s", program, pkg)
		}
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
}

// order is what a test wants.
type order struct {
	provisioning fabric.Provisioning
	noCloudInit  bool              // switched off, as an administrator does
	config       string            // appended to /etc/waagent.conf
	files        map[string]string // written before the first boot
	packages     []bundles.Bundle
	extension    string // put before the machine is switched on
	asleep       bool   // the agent's unit is not started at boot
	noMedium     bool
}

// A container is one machine with a platform of its own.
type container struct {
	t    testing.TB
	f    *fabric.Fabric
	vm   *fabric.VM
	lab  *vm.Lab
	card string // its network namespace

	dir    string // upper, work, tree, console
	lower  string
	medium string

	nspawn *exec.Cmd
	done   chan struct{}
	leader int
	loop   *os.File
}

// newMachine makes platform and machine, switched off.
func newMachine(t *testing.T, o order) *container {
	t.Helper()
	need(t)
	im := theOneImage(t)
	m := &container{t: t, lower: im.layer + ":" + im.base}
	var err error
	if m.lab, err = vm.NewLab(t.Context(), t.Logf); err != nil {
		t.Skipf("no network for a machine here: %v", err)
	}
	t.Cleanup(m.lab.Close)
	if m.card, err = m.lab.Plug(t.Context()); err != nil {
		t.Skip(err)
	}
	m.dir = m.lab.Dir
	for _, d := range []string{"upper", "work", "tree"} {
		m.must(os.Mkdir(filepath.Join(m.dir, d), 0o755))
	}
	m.platform(o)
	if o.config != "" {
		conf, err := os.ReadFile(filepath.Join(im.layer, "etc/waagent.conf"))
		m.must(err)
		m.write("/etc/waagent.conf", string(conf)+o.config)
	}
	if o.noCloudInit {
		m.write("/etc/cloud/cloud-init.disabled", "")
	}
	if o.asleep {
		m.write("/etc/systemd/system/azguest.service.d/asleep.conf", "[Unit]\nConditionPathExists=/run/wake-azguest\n")
	}
	for name, text := range o.files {
		m.write(name, text)
	}
	t.Cleanup(func() {
		if t.Failed() {
			m.explain()
		}
		m.cut()
	})
	return m
}

// platform opens the platform's addresses in the machine's network.
func (m *container) platform(o order) {
	m.t.Helper()
	p := o.provisioning
	if p.User == "" {
		p.User = account
	}
	if p.HostName == "" {
		p.HostName = "first-light"
	}
	if p.SSHKeys == nil {
		p.SSHKeys = []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBd+tNzZ2lYlyrWRTy9vbPWuaDCDAm4cxdvkGZ0sXq0y customer@example"}
	}
	m.f = fabric.New(m.t, func(fo *fabric.Options) { fo.BlobURL = "http://" + blobAddress })
	for _, b := range o.packages {
		zip, err := b.Zip()
		m.must(err)
		m.must(m.f.AddPackage(b.Name, b.Version, zip))
	}
	m.vm = m.f.CreateVM("vm-01", fabric.Address(address), fabric.Provision(p))
	at := machine.Addresses()
	at[fabric.Blob] = blobAddress
	m.must(machine.Connect(m.lab, m.f, m.vm, at))
	if o.extension != "" {
		m.must(m.vm.PutExtension(o.extension, "1.0", map[string]any{"n": 1}))
	}
	if !o.noMedium {
		medium := m.vm.Medium()
		medium.FS = fabric.ISO9660
		b, err := medium.Image()
		m.must(err)
		m.medium = filepath.Join(m.dir, "dvd.iso")
		m.must(os.WriteFile(m.medium, b, 0o600))
	}
}

func (m *container) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// write puts a file on the disk of a machine that is off.
func (m *container) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, "upper", name)
	m.must(os.MkdirAll(filepath.Dir(path), 0o755))
	m.must(os.WriteFile(path, []byte(text), 0o644))
}

// bootScript runs in a mount namespace of its own, and in a process namespace:
// the container does not end with nspawn, but with that. Each container has a
// cgroup of its own, or several systemds would take one for theirs.
const bootScript = `
for h in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup/cpu; do
	[ -e "$h/cgroup.procs" ] || continue
	mkdir -p "$h/$3"
	echo 0 >"$h/$3/cgroup.procs"
done
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=755 tmpfs /run/systemd/nspawn
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/tree"
ip netns exec "${4##*/}" ip address flush dev eth0
ip netns exec "${4##*/}" ip link set eth0 down
exec systemd-nspawn --register=no --keep-unit --directory="$1/tree" --machine="$3" \
	--network-namespace-path="$4" --capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_MODULE,CAP_SYSLOG --resolv-conf=off --timezone=off \
	--link-journal=no --console=pipe --bind=/dev/fuse /testbed/init "$5" "$6"
`

// on boots the machine and returns when its process 1 runs.
func (m *container) on() {
	m.t.Helper()
	minor := ""
	if m.medium != "" {
		minor = m.insert()
	}
	console, err := os.OpenFile(filepath.Join(m.dir, "console"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	m.must(err)
	defer console.Close()
	name := m.name()
	m.nspawn = exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "sh", "-euc", bootScript,
		"boot", m.dir, m.lower, name, m.card, m.vm.ID(), minor)
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	m.must(m.nspawn.Start())
	m.done = make(chan struct{})
	go func() {
		_ = m.nspawn.Wait() // however it ends, it is off
		close(m.done)
	}()
	m.await("process 1", func() bool {
		m.alive()
		m.leader = initOf(m.nspawn.Process.Pid)
		return m.leader != 0
	})
}

// initOf is the process 1 among the descendants of a container manager.
func initOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	for field := range strings.FieldsSeq(string(b)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child)); err == nil && strings.HasSuffix(exe, "/lib/systemd/systemd") {
			return child
		}
		if found := initOf(child); found != 0 {
			return found
		}
	}
	return 0
}

// insert attaches the medium to a loop device, which lives as long as we
// hold it open, and returns its minor number.
func (m *container) insert() string {
	m.t.Helper()
	out, err := exec.CommandContext(m.t.Context(), "losetup", "--find", "--show", "--read-only", m.medium).Output()
	m.must(err)
	name := strings.TrimSpace(string(out))
	m.loop, err = os.Open(name)
	m.must(errors.Join(err, command(m.t.Context(), "losetup", "--detach", name)))
	var st unix.Stat_t
	m.must(unix.Fstat(int(m.loop.Fd()), &st))
	return strconv.FormatUint(uint64(unix.Minor(st.Rdev)), 10)
}

// alive fails the test if the machine is off.
func (m *container) alive() {
	m.t.Helper()
	select {
	case <-m.done:
		m.t.Fatalf("the machine went off by itself: %v", m.nspawn.ProcessState)
	default:
	}
}

// cut takes the power away.
func (m *container) cut() {
	if m.nspawn != nil {
		_ = m.nspawn.Process.Kill() // gone already, at worst
		<-m.done
		m.nspawn, m.leader = nil, 0
		m.dropCgroups()
	}
	if m.loop != nil {
		_ = m.loop.Close()
		m.loop = nil
	}
}

// name of the container, and of its cgroups.
func (m *container) name() string {
	return "m" + strings.TrimPrefix(filepath.Base(m.dir), "azguest-vm-")
}

// dropCgroups removes what the container's systemd has left, which was killed.
// Its processes take a moment to go.
func (m *container) dropCgroups() {
	for range 50 {
		left := 0
		for _, h := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu"} {
			var dirs []string
			_ = filepath.WalkDir(filepath.Join(h, m.name()), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			slices.Reverse(dirs)
			for _, d := range dirs {
				if os.Remove(d) != nil {
					left++
				}
			}
		}
		if left == 0 {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	m.t.Log("a cgroup of the machine is left")
}

// off shuts the machine down in order.
func (m *container) off() {
	m.t.Helper()
	m.must(syscall.Kill(m.leader, 34+4)) // SIGRTMIN+4: poweroff.target
	select {
	case <-m.done:
	case <-time.After(patience):
		m.t.Fatal("the machine does not shut down")
	}
	m.cut()
}

// try runs a script in the machine.
func (m *container) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"--", "/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "sh", "-c", script)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%q: %w: %s", script, err, stderr.String())
	}
	return strings.TrimSpace(out.String()), err
}

// sh runs a script in the machine, which must succeed.
func (m *container) sh(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// holds reports whether a script succeeds.
func (m *container) holds(script string) bool {
	_, err := m.try(script)
	return err == nil
}

// await waits until ok. Each question to a machine starts a few processes.
func (m *container) await(what string, ok func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	m.must(machine.Until(ctx, 100*time.Millisecond, what, func() (bool, error) { return ok(), nil }))
}

// reports are the health reports of this machine in order, as State or
// State/SubStatus, and who sent each.
func (m *container) reports() (states, by []string) {
	for _, e := range m.f.Journal(fabric.Query{Kind: fabric.Health}) {
		state, _, _ := strings.Cut(after(e.Body, "<State>"), "<")
		if sub, _, _ := strings.Cut(after(e.Body, "<SubStatus>"), "<"); sub != "" {
			state += "/" + sub
		}
		states = append(states, state)
		who := "azguest"
		if strings.HasPrefix(e.Header["User-Agent"], "Cloud-Init/") {
			who = "cloud-init"
		}
		by = append(by, who)
	}
	return states, by
}

func itoa(n int) string { return strconv.Itoa(n) }

func or(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

func after(s, mark string) string {
	_, rest, _ := strings.Cut(s, mark)
	return rest
}

// ready waits for Ready.
func (m *container) ready() {
	m.t.Helper()
	m.await("Ready", func() bool {
		m.alive()
		return m.vm.Health().State == "Ready"
	})
}

// oneReady asserts what the platform was told in this boot: Ready once, by
// who, and nothing after it.
func (m *container) oneReady(who string) {
	m.t.Helper()
	states, by := m.reports()
	n := 0
	for i, s := range states {
		if s == "Ready" {
			if n++; by[i] != who {
				m.t.Errorf("Ready was reported by %s, want %s", by[i], who)
			}
		} else if n > 0 {
			m.t.Errorf("%s was reported after Ready", s)
		}
	}
	if n != 1 {
		m.t.Errorf("Ready was reported %d times, want once: %v by %v", n, states, by)
	}
}

// booted holds when systemd has nothing left to start.
const booted = `systemctl is-system-running 2>/dev/null | grep -q -e running -e degraded`

// settled waits until the machine has done all there is to do at a boot.
func (m *container) settled() {
	m.t.Helper()
	m.await("the end of the boot", func() bool {
		m.alive()
		return m.holds(booted+` && agentctl status >/dev/null; [ $? = 0 ]`) || m.status().Provisioning.State == "failed" && m.holds(booted)
	})
}

// status is what agentctl says; empty while it can't say anything.
func (m *container) status() machine.Status {
	out, _ := m.try("agentctl status -o json")
	s, _ := machine.ParseStatus([]byte(out)) // nothing yet
	return s
}

// provisioned waits until the agent says that provisioning has ended, and how.
func (m *container) provisioned() machine.Status {
	m.t.Helper()
	var s machine.Status
	m.await("the end of provisioning in agentctl status", func() bool {
		m.alive()
		s = m.status()
		return s.Provisioning.State == "done" || s.Provisioning.State == "failed" || s.Provisioning.State == "disabled"
	})
	return s
}

// explain shows what one would look at first after a failure.
func (m *container) explain() {
	for _, e := range m.f.Journal(fabric.Query{Kind: fabric.Health}) {
		m.t.Logf("health %s %s %s", e.Time.Format(time.TimeOnly), e.Header["User-Agent"], e.Body)
	}
	if m.leader != 0 {
		for _, script := range []string{
			"systemctl list-jobs --no-legend; systemctl --failed --no-legend",
			"journalctl -b -u azguest --no-pager -o short-precise | tail -n 40",
			"journalctl -b -u 'cloud-*' --no-pager -o cat | tail -n 20",
			"cat /run/cloud-init/status.json /run/cloud-init/result.json", "cat /run/cloud-init/ds-identify.log | tail -30", "grep -a 'WARN\\|ERR\\|Traceback' /var/log/cloud-init.log | tail -n 20",
			"agentctl status",
		} {
			out, err := m.try(script)
			m.t.Logf("--- %s: %v\n%s", script, err, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(m.dir, "console")); err == nil {
		lines := strings.Split(string(b), "\n")
		m.t.Logf("--- console\n%s", strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}
