package provisioning

import (
	"context"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
)

// SSHDUp makes sure that one can log in when Ready is reported. An sshd that
// was started before the last change gets one signal to reload; an sshd that
// gave up because it had no keys is started; then the step waits until sshd
// listens, for a limited time. Later changes must not reload sshd, because it
// closes its port for a moment while it reads its configuration.
//
// An sshd that is not enabled is not started. If sshd does not come up, this
// is only a warning: the platform has other ways to access the machine.
type SSHDUp struct {
	Systemctl string // only if systemd runs
	PidFile   string // as configured; empty for the usual places, or "none"
}

// sshdPatience is how long the step waits for sshd.
const sshdPatience = 15 * time.Second

// systemd is asked whether sshd has failed after askSoon, then every askAgain.
// In a fast boot sshd is up before that.
const (
	askSoon  = 300 * time.Millisecond
	askAgain = 2 * time.Second
)

// ID implements Step.
func (SSHDUp) ID() string { return StepSSHDUp }

func (SSHDUp) String() string { return "make sure that sshd listens" }

// A listener is an sshd that accepts connections. sshd writes its pid file
// after it has opened its port, and removes it before it closes the port.
type listener struct {
	pid     int
	started time.Duration // by bootClock
	file    fileID
}

// fileID distinguishes a file from one that replaced it under the same name.
type fileID struct {
	inode   uint64
	changed time.Time
}

func idOf(fi fs.FileInfo) fileID {
	id := fileID{changed: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		id.inode = st.Ino
	}
	return id
}

// Apply implements Step.
func (s SSHDUp) Apply(ctx context.Context, m *Machine) error {
	units := s.units(m.Root)
	if s.PidFile == "none" {
		// Without a pid file it cannot be observed: it is reloaded and not
		// waited for.
		if unit := units.running(m.Root); unit != "" && m.sshdChanged > 0 {
			s.systemctl(ctx, m, "reload", unit)
		}
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, sshdPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var told fileID
	var kicked bool
	ask := time.After(askSoon)
	for {
		l, up := s.listener(m.Root)
		switch {
		case up && (l.started > m.sshdChanged || told != fileID{} && l.file != told):
			return nil // it listens with the current configuration
		case up && told == fileID{}:
			told = l.file
			if m.Kernel.Signal == nil || m.Kernel.Signal(l.pid, unix.SIGHUP) != nil {
				return nil // it has just ended, or cannot be signalled
			}
		case up:
			// It has not handled the signal yet.
		case units.enabled == nil && told == fileID{}:
			return nil
		case !kicked:
			unit := units.gaveUp(m.Root)
			select {
			case <-ask:
				ask = time.After(askAgain)
				if unit == "" {
					unit = s.failed(ctx, m, units)
				}
			default:
			}
			if unit != "" {
				kicked = true
				s.systemctl(ctx, m, "reset-failed", unit)
				s.systemctl(ctx, m, "start", unit)
			}
		}
		select {
		case <-wait.Done():
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return warn(CodeSSHD, "sshd is not listening after %v", sshdPatience)
		case <-tick.C:
		}
	}
}

// listener finds the sshd that is named by its pid file.
func (s SSHDUp) listener(r host.Root) (listener, bool) {
	files := []string{"/run/sshd.pid", "/var/run/sshd.pid"}
	if s.PidFile != "" {
		files = []string{s.PidFile}
	}
	for _, name := range files {
		fi, err := r.Stat(name)
		if err != nil {
			continue
		}
		b, err := r.ReadFile(name)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || pid <= 1 {
			continue
		}
		// A pid file from before may name another process.
		stat, err := r.ReadFile(path.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue
		}
		i, j := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		if i < 0 || j < i || !process.Believed(string(r), pid) || !strings.HasPrefix(string(stat[i+1:j]), "sshd") {
			continue
		}
		l := listener{pid: pid, file: idOf(fi)}
		if f := strings.Fields(string(stat[j+1:])); len(f) > 19 {
			if ticks, err := strconv.ParseInt(f[19], 10, 64); err == nil {
				l.started = time.Duration(ticks) * (time.Second / 100) // USER_HZ, the same everywhere
			}
		}
		return l, true
	}
	return listener{}, false
}

// sshdUnits are the units of systemd that start sshd.
type sshdUnits struct {
	enabled []string // services that are started at boot
}

func (s SSHDUp) units(r host.Root) sshdUnits {
	var u sshdUnits
	if s.Systemctl == "" {
		return u
	}
	for _, unit := range []string{"ssh.service", "sshd.service"} {
		if target, _ := r.Readlink("/etc/systemd/system/" + unit); target == "/dev/null" {
			continue // masked
		}
		for _, dir := range []string{"/etc/systemd/system/", "/usr/lib/systemd/system/"} {
			// These are links into /usr, which may lead out of a test's root.
			if r.Exists(dir+"multi-user.target.wants/"+unit) && !slices.Contains(u.enabled, unit) {
				u.enabled = append(u.enabled, unit)
			}
		}
	}
	return u
}

// running returns the unit in which a process runs; empty if there is none.
func (u sshdUnits) running(r host.Root) string {
	for _, unit := range []string{"ssh.service", "sshd.service"} {
		if populated(r, unit) {
			return unit
		}
	}
	return ""
}

// gaveUp returns an enabled unit that systemd has tried to start and that has
// no process now: it waits for its next attempt. When systemd has given up for
// good, that file is removed, and only systemd knows: see failed.
func (u sshdUnits) gaveUp(r host.Root) string {
	for _, unit := range u.enabled {
		if r.Exists("/run/systemd/units/invocation:"+unit) && !populated(r, unit) {
			return unit
		}
	}
	return ""
}

// failed returns an enabled unit that systemd has given up, which takes only
// seconds without a host key. A VM that is provisioned later than that finds
// it so.
func (s SSHDUp) failed(ctx context.Context, m *Machine, units sshdUnits) string {
	if s.Systemctl == "" {
		return ""
	}
	for _, unit := range units.enabled {
		res, err := m.Run.Run(ctx, host.Cmd{Name: s.Systemctl, Args: []string{"show", "--property=ActiveState", unit}, Timeout: toolTimeout})
		if err == nil && strings.TrimSpace(string(res.Stdout)) == "ActiveState=failed" {
			return unit
		}
	}
	return ""
}

func populated(r host.Root, unit string) bool {
	for _, tree := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/systemd/", "/sys/fs/cgroup/unified/"} {
		if b, err := r.ReadFile(tree + "system.slice/" + unit + "/cgroup.procs"); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return true
		}
	}
	return false
}

func (s SSHDUp) systemctl(ctx context.Context, m *Machine, verb, unit string) {
	if s.Systemctl == "" {
		return
	}
	// --no-block: the unit may be ordered after the agent's unit.
	if _, err := m.Run.Run(ctx, host.Cmd{Name: s.Systemctl, Args: []string{"--no-block", verb, unit}, Timeout: toolTimeout}); err != nil {
		m.Log.Debug().Err(err).Str("unit", unit).Str("verb", verb).Msg("systemctl failed")
	}
}

// bootClock returns the time since the machine started, including suspend. The
// kernel reports the start of processes by the same clock.
func bootClock() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 1 // early, but not 0, which means never
	}
	return time.Duration(ts.Nano())
}
