// Package nspawn tests the package under a real systemd: Debian's systemd,
// D-Bus, networkd, dpkg, sshd and cloud-init with its Azure datasource, in a
// container on a network where the emulated platform answers.
//
// A test boots a machine from a copy-on-write tree, in a fraction of a second,
// and checks it from outside. What a container lacks is added: DMI, a drive
// with the medium, a way to mount it. Tests are skipped, with the reason, where
// that is not possible: it needs root, namespaces and Debian packages.
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
	"github.com/azguest/azguest/test/sandbox"
	"github.com/azguest/azguest/test/vm"
)

const (
	// patience is the time limit of every wait. It only ends tests that hang,
	// so it is longer than any slow machine needs.
	patience = 10 * time.Minute

	blobAddress = "10.0.0.1:10000"
	address     = "10.0.0.4" // of the machine
	account     = "azureuser"

	scratchPrefix = "azguest-nspawn-" // followed by the process id of its creator
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

// sweep removes what killed runs have left behind.
func sweep() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+"*"))
	if err != nil {
		return
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(strings.Split(strings.TrimPrefix(filepath.Base(d), scratchPrefix), "-")[0])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = sandbox.RemoveTree(d) // a temporary directory at worst
		}
	}
}

// need skips the test where machines can't be created, or are not wanted.
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

// order is the configuration of a machine.
type order struct {
	provisioning fabric.Provisioning
	noCloudInit  bool              // disabled as by an administrator
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

// newMachine creates a platform and a machine, switched off.
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

// platform listens on the platform's addresses in the machine's network.
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

// write writes a file to the disk of a machine that is off.
func (m *container) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, "upper", name)
	m.must(os.MkdirAll(filepath.Dir(path), 0o755))
	m.must(os.WriteFile(path, []byte(text), 0o644))
}

// bootScript runs in a mount namespace and a process namespace of its own,
// because the container ends with the latter, not with nspawn. Each container
// has a cgroup of its own; otherwise several systemds would use the same.
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

// on boots the machine and returns when its process 1 is running.
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
		_ = m.nspawn.Wait() // whatever its exit status
		close(m.done)
	}()
	m.await("process 1", func() bool {
		m.alive()
		m.leader = initOf(m.nspawn.Process.Pid)
		return m.leader != 0
	})
}

// initOf returns the process 1 among the descendants of a container manager.
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

// insert attaches the medium to a loop device, which exists as long as its file
// is held open, and returns its minor number.
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

// cut turns the power off, without a shutdown.
func (m *container) cut() {
	if m.nspawn != nil {
		_ = m.nspawn.Process.Kill() // it may have ended
		<-m.done
		m.nspawn, m.leader = nil, 0
		m.dropCgroups()
	}
	if m.loop != nil {
		_ = m.loop.Close()
		m.loop = nil
	}
}

// name is the name of the container and of its cgroups.
func (m *container) name() string {
	return "m" + strings.TrimPrefix(filepath.Base(m.dir), "azguest-vm-")
}

// dropCgroups removes the cgroups that the killed systemd of the container has
// left, once their processes have ended.
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

// off shuts the machine down.
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

// await waits until ok returns true, at an interval that allows for the cost of
// starting processes in the machine.
func (m *container) await(what string, ok func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	m.must(machine.Until(ctx, 100*time.Millisecond, what, func() (bool, error) { return ok(), nil }))
}

// reports returns the health reports of this machine in order, as State or
// State/SubStatus, and the sender of each.
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

// ready waits for a Ready report.
func (m *container) ready() {
	m.t.Helper()
	m.await("Ready", func() bool {
		m.alive()
		return m.vm.Health().State == "Ready"
	})
}

// oneReady asserts that this boot reported Ready once, by who, and nothing
// after it.
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

// booted is a command that succeeds when systemd has finished the boot.
const booted = `systemctl is-system-running 2>/dev/null | grep -q -e running -e degraded`

// settled waits until the boot has ended and the agent has finished its work.
func (m *container) settled() {
	m.t.Helper()
	m.settledWith("")
}

// settledWith is settled for a machine that keeps a problem, given by its code.
func (m *container) settledWith(problem string) {
	m.t.Helper()
	m.await("the end of the boot", func() bool {
		m.alive()
		if !m.holds(booted) {
			return false
		}
		if problem != "" {
			return m.problem() == problem
		}
		return m.holds(`agentctl status >/dev/null`) || m.status().Provisioning.State == "failed"
	})
}

// problem returns the codes of the problems that agentctl status shows.
func (m *container) problem() string {
	var codes []string
	for _, p := range m.status().Problems {
		codes = append(codes, p.Code)
	}
	return strings.Join(codes, " ")
}

// status returns the output of agentctl status; empty while there is none.
func (m *container) status() machine.Status {
	out, _ := m.try("agentctl status -o json")
	s, _ := machine.ParseStatus([]byte(out)) // no output yet
	return s
}

// current waits until the status is that of the agent which is running.
func (m *container) current() {
	m.t.Helper()
	m.await("the status of the agent", func() bool {
		m.alive()
		pid, _ := m.try("systemctl show -P MainPID azguest")
		return pid != "" && pid != "0" && itoa(m.status().Agent.PID) == pid
	})
}

// provisioned waits until provisioning has ended, and returns the status.
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

// explain prints what helps to find the cause of a failure.
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
