package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
)

// Env is what the checks look at: the files below Root, and what the caller has
// found out.
type Env struct {
	Root      string // prefix of every path; "" is the running system
	Now       time.Time
	Config    *config.Config
	Warnings  []config.Warning
	ConfigErr error
	Snapshot  status.Snapshot
	SnapErr   error // of status.Load
	Life      status.Life
	// Network is what the running agent found when it was asked; nil if it
	// could not be asked.
	Network []Finding

	// Statfs is unix.Statfs; nil means that, too. Tests replace it.
	Statfs func(path string, st *unix.Statfs_t) error
}

// Note is the state of a finding that is worth knowing, and for which nothing has
// to be done: it is no failure.
const Note status.State = "note"

// A Finding is the result of one check. If its State is OK, Evidence says what
// was checked.
type Finding struct {
	Check    string       `json:"check"`
	State    status.State `json:"state"` // OK, Note, Warn, Error, Unknown
	Code     string       `json:"code,omitempty"`
	Evidence string       `json:"evidence"`
	Fix      string       `json:"fix,omitempty"`
}

// A check checks one thing. It returns no findings where it does not apply.
type check struct {
	name string
	run  func(Env) []Finding
}

// checks returns all checks, in the order of the screen.
func checks() []check {
	return []check{
		{"agent", checkAgent},
		{"unit", checkUnit},
		{"binary", checkBinary},
		{"other agent", checkOther},
		{"switch", checkSwitch},
		{"configuration", checkConfig},
		{"lock-downs", checkLocks},
		{"disk", checkDisk},
		{"mounts", checkMounts},
		{"permissions", checkPerm},
		{"clock", checkClock},
		{"route", checkRoute},
		{"names", checkDNS},
		{"cgroups", checkCgroups},
		{"identity", checkIdentity},
		{LoginCheck, checkLogin},
		{"snapshot", checkSnapshot},
	}
}

// LoginCheck is the name of the check whether the person for whom the machine
// was made can log in. The agent makes it, because it asks programs; without
// it, what it found last is shown.
const LoginCheck = "log-in"

func checkLogin(e Env) []Finding {
	l := e.Snapshot.Provisioning.Login
	if l == nil {
		return nil
	}
	var out []Finding
	for _, f := range l.Findings {
		found := warn(f.Code, "%s, when checked at %s", cmp.Or(f.Evidence, "found by the agent"), l.At.Format(time.DateTime))
		if len(f.Shuts) > 0 {
			found.State = status.Error
		}
		found.Fix = f.Fix
		out = append(out, found)
	}
	if len(out) == 0 {
		return one(ok("%s could log in, when checked at %s", l.User, l.At.Format(time.DateTime)))
	}
	return out
}

// Run runs all checks and returns their findings, worst first, else in the
// order of checks.
func Run(ctx context.Context, e Env) []Finding {
	if e.Statfs == nil {
		e.Statfs = unix.Statfs
	}
	var out []Finding
	for _, c := range checks() {
		if ctx.Err() != nil {
			break
		}
		for _, f := range c.run(e) {
			f.Check = cmp.Or(f.Check, c.name)
			if known, ok := Lookup(f.Code); ok && f.Code != "" {
				f.Fix = cmp.Or(f.Fix, known.Fix)
			}
			out = append(out, f)
		}
	}
	out = merge(out, e.Network)
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(rank(a.State), rank(b.State)) })
	return out
}

// NeedsRoot is the finding of a check that this user may not run.
func NeedsRoot() Finding { return note("", "not checked; run as root for this check") }

// merge adds the findings of the agent. They replace those from its snapshot
// about the same endpoint, and about the log-in.
func merge(found, fresh []Finding) []Finding {
	now := map[string]bool{}
	for _, f := range fresh {
		now["endpoint "+f.Check] = true
		now[f.Check] = now[f.Check] || f.Check == LoginCheck
	}
	found = slices.DeleteFunc(found, func(f Finding) bool { return now[f.Check] })
	return append(found, fresh...)
}

func rank(s status.State) int {
	switch s { //nolint:exhaustive // all other states rank last
	case status.Error:
		return 0
	case status.Warn:
		return 1
	case status.Unknown:
		return 2
	case Note:
		return 3
	}
	return 4
}

func ok(format string, a ...any) Finding {
	return Finding{State: status.OK, Evidence: fmt.Sprintf(format, a...)}
}

func warn(code, format string, a ...any) Finding {
	return Finding{State: status.Warn, Code: code, Evidence: fmt.Sprintf(format, a...)}
}

func note(code, format string, a ...any) Finding {
	return Finding{State: Note, Code: code, Evidence: fmt.Sprintf(format, a...)}
}

func bad(code, format string, a ...any) Finding {
	return Finding{State: status.Error, Code: code, Evidence: fmt.Sprintf(format, a...)}
}

func unknown(format string, a ...any) Finding {
	return Finding{State: status.Unknown, Evidence: fmt.Sprintf(format, a...)}
}

func one(f Finding) []Finding { return []Finding{f} }

func (e Env) path(name string) string { return filepath.Join(e.Root, name) }

func (e Env) root() host.Root { return host.Root(cmp.Or(e.Root, "/")) }

func (e Env) read(name string) (string, error) {
	b, err := e.root().ReadFile(name)
	return strings.TrimSpace(string(b)), err
}

func checkAgent(e Env) []Finding {
	age := e.Now.Sub(e.Snapshot.WrittenAt).Round(time.Second)
	hasSnap := e.SnapErr == nil || errors.Is(e.SnapErr, status.ErrSchema)
	switch {
	case !e.Life.Known:
		return one(unknown("cannot determine whether the agent is running: %s", e.Life.How))
	case !e.Life.Running && e.restarts() >= crashes:
		return one(bad("AZ-AGENT-CRASHLOOP", "%d restarts since boot, currently not running", e.restarts()))
	case !e.Life.Running && hasSnap:
		return one(bad("AZ-AGENT-DOWN", "not running; last status is %s old", age))
	case !e.Life.Running:
		return one(bad("AZ-AGENT-DOWN", "not running (%s)", e.Life.How))
	case hasSnap && e.Snapshot.Stale(e.Now):
		return one(bad("AZ-AGENT-HUNG", "pid %d is running, but its last status is %s old", e.Life.PID, age))
	case e.restarts() >= crashes:
		return one(warn("AZ-AGENT-CRASHLOOP", "%d restarts since boot", e.restarts()))
	case hasSnap:
		return one(ok("running, pid %d, last status %s ago", e.Life.PID, age))
	case errors.Is(e.SnapErr, fs.ErrNotExist):
		return one(ok("running, pid %d, no status yet", e.Life.PID))
	}
	return one(bad("AZ-AGENT-SNAPSHOT", "running, pid %d, but %v", e.Life.PID, e.SnapErr))
}

// crashes is how many unexpected restarts count as a crash loop.
const crashes = 3

// restarts returns how often the agent was restarted since boot without having
// been stopped. An agent that exits early leaves no snapshot, but it has
// counted its start.
func (e Env) restarts() int {
	var l struct {
		Restarts int  `json:"restarts"`
		Running  bool `json:"running"` // it was started and has not stopped regularly
	}
	text, err := e.read("/run/azguest/lives")
	if err != nil || json.Unmarshal([]byte(text), &l) != nil {
		return e.Snapshot.Agent.Restarts
	}
	if l.Running && e.Life.Known && !e.Life.Running {
		l.Restarts++ // the next start will count this exit
	}
	return max(l.Restarts, e.Snapshot.Agent.Restarts)
}

// unitDirs returns the directories in which systemd looks for units; the first
// match wins.
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

func checkUnit(e Env) []Finding {
	if _, err := e.root().Stat("/run/systemd/system"); err != nil {
		return nil // no systemd here
	}
	for _, d := range unitDirs() {
		name := d + "/azguest.service"
		fi, err := e.root().Lstat(name)
		if err != nil {
			continue
		}
		if target, err := e.root().Readlink(name); err == nil && target == "/dev/null" || err != nil && fi.Size() == 0 {
			return one(bad("AZ-AGENT-MASKED", "%s is masked", name))
		}
		wants := "/etc/systemd/system/multi-user.target.wants/azguest.service"
		if _, err := e.root().Lstat(wants); err != nil {
			f := warn("", "%s is installed but not enabled: the agent does not start at boot", name)
			f.Fix = "systemctl enable azguest"
			return one(f)
		}
		return one(ok("%s, enabled", name))
	}
	return one(unknown("azguest.service is not installed"))
}

func checkBinary(e Env) []Finding {
	if !e.Life.Running || e.Life.PID == 0 {
		return nil
	}
	exe, err := e.root().Readlink("/proc/" + strconv.Itoa(e.Life.PID) + "/exe")
	if err != nil {
		return nil // not root
	}
	if old, gone := strings.CutSuffix(exe, " (deleted)"); gone {
		return one(warn("AZ-AGENT-OLDBINARY", "%s was replaced after the agent started", old))
	}
	return one(ok("%s", exe))
}

// checkOther looks for WALinuxAgent: a process that runs its script, or an
// enabled unit.
func checkOther(e Env) []Finding {
	var out []Finding
	entries, err := e.root().ReadDir("/proc")
	if err != nil {
		out = append(out, unknown("cannot list processes: %v", err))
	}
	for _, d := range entries {
		if pid, err := strconv.Atoi(d.Name()); err != nil || pid == e.Life.PID || pid == os.Getpid() || !status.Believed(e.Root, pid) {
			continue // other agents run as root; a user's process can have any name
		}
		b, err := e.root().ReadFile("/proc/" + d.Name() + "/cmdline")
		if err != nil {
			continue // ended meanwhile, or not readable for this user
		}
		if isWaagent(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")) {
			out = append(out, bad("AZ-AGENT-OTHER", "pid %s runs: %s", d.Name(), strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")))
		}
	}
	for _, u := range []string{"waagent.service", "walinuxagent.service"} {
		name := "/etc/systemd/system/multi-user.target.wants/" + u
		target, err := e.root().Readlink(name)
		// The names may be aliases of this agent's unit. An alias in /etc takes
		// precedence over a unit elsewhere.
		if err == nil && filepath.Base(target) == u && !e.aliasOfOurs(target) && !e.aliasOfOurs("/etc/systemd/system/"+u) {
			out = append(out, warn("AZ-AGENT-OTHER", "%s is enabled", u))
		}
	}
	if len(out) == 0 {
		return one(ok("none"))
	}
	return out
}

func (e Env) aliasOfOurs(unit string) bool {
	target, err := e.root().Readlink(unit)
	return err == nil && filepath.Base(target) == "azguest.service"
}

// isWaagent reports whether a command line is that of the classic agent as a
// service: an interpreter or a script called waagent, or the egg of a
// downloaded agent, with a command that keeps it running.
func isWaagent(argv []string) bool {
	service := slices.ContainsFunc(argv, func(a string) bool {
		a = strings.TrimLeft(a, "-/")
		return a == "daemon" || a == "run-exthandlers"
	})
	return service && slices.ContainsFunc(argv[:min(3, len(argv))], func(a string) bool {
		b := filepath.Base(a)
		return b == "waagent" || strings.HasPrefix(b, "WALinuxAgent-") && strings.HasSuffix(b, ".egg")
	})
}

func checkSwitch(e Env) []Finding {
	name := filepath.Join(e.Config.Paths.Lib, "disable_agent")
	if _, err := e.root().Lstat(name); err == nil {
		return one(bad("AZ-AGENT-DISABLED", "%s exists", name))
	}
	if e.Config.Extensions.Mode == config.ModeOff {
		return one(warn("AZ-EXT-DISABLED", "extensions are disabled (%s)", cmp.Or(e.Config.Origin("Extensions.Mode"), e.Config.Origin("Extensions.Enabled"))))
	}
	return one(ok("provisioning %s, extensions %s", e.Config.Provisioning.Mode, e.Config.Extensions.Mode))
}

func checkConfig(e Env) []Finding {
	var out []Finding
	if errors.Is(e.ConfigErr, fs.ErrPermission) {
		out = append(out, NeedsRoot())
	} else if e.ConfigErr != nil {
		out = append(out, bad("AZ-CONF-READ", "%v", e.ConfigErr))
	}
	for _, w := range e.Warnings {
		switch {
		case w.Note:
		case w.About == config.AboutUnknown:
			out = append(out, warn("AZ-CONF-UNKNOWN", "%s", w))
		case w.About == config.AboutUnread:
			// reported by ConfigErr
		default:
			out = append(out, warn("AZ-CONF-VALUE", "%s", w))
		}
	}
	if len(out) == 0 {
		return one(ok("no problems found"))
	}
	return out
}

// checkLocks reports protections that are not in force although it may look as
// if they were.
func checkLocks(e Env) []Finding {
	var out []Finding
	c := e.Config
	if !c.OS.EnableFirewall {
		out = append(out, warn("AZ-FW-OFF", "%s", c.FirewallWhy()))
	}
	exists := func(name string) bool {
		_, err := e.root().Lstat(name)
		return !errors.Is(err, fs.ErrNotExist)
	}
	_, _, named := c.Said("Policy.PolicyFilePath")
	ordered := c.Because("Extensions.PolicyMode", "Debug.EnableExtensionPolicy")
	switch there := exists(c.Policy.File); {
	case there && c.Policy.Mode == config.PolicyOff:
		out = append(out, warn("AZ-POL-OFF", "%s is not enforced: %s", c.Policy.File, c.PolicyWhy()))
	case there && c.Policy.Mode == config.PolicyAudit:
		out = append(out, warn("AZ-POL-OFF", "%s is audited, not enforced: %s", c.Policy.File, c.PolicyWhy()))
	case !there && named && c.Policy.Mode != config.PolicyOff:
		out = append(out, warn("AZ-POL-NOFILE", "%s (%s) does not exist", c.Policy.File, c.Because("Policy.PolicyFilePath")))
	case !there && ordered != "" && c.Policy.Mode != config.PolicyOff && !exists("/etc/azguest/policy.d"):
		out = append(out, warn("AZ-POL-NOFILE", "%s does not exist, and %s", c.Policy.File, ordered))
	}
	if c.Extensions.SignatureValidation && !e.trusts(c.Extensions.TrustRoots) {
		f := warn("", "signatures are not checked: %s, but %s contains no trusted certificate", c.Because("Debug.EnableSignatureValidation"), c.Extensions.TrustRoots)
		f.Fix = "add the publishers' CA certificates (PEM) to " + c.Extensions.TrustRoots
		out = append(out, f)
	}
	if len(out) == 0 {
		return one(ok("firewall on (%s), policy %s (%s)", c.FirewallWhy(), c.Policy.Mode, c.PolicyWhy()))
	}
	return out
}

// trusts reports whether the directory of root certificates has a file.
func (e Env) trusts(dir string) bool {
	entries, err := e.root().ReadDir(dir)
	return err == nil && len(entries) > 0
}

func checkRoute(e Env) []Finding {
	data, err := e.read("/proc/net/route")
	if err != nil {
		return one(unknown("%v", err))
	}
	dev, found := routeTo(data, 0x10813fa8) // 168.63.129.16 as the kernel writes it on little endian
	if !found {
		return one(bad("AZ-NET-NOROUTE", "no route to 168.63.129.16"))
	}
	return one(ok("168.63.129.16 via %s", dev))
}

// routeTo returns the device of the most specific route in /proc/net/route that
// is up. Addresses there are hexadecimal in the byte order of the machine; all
// supported machines are little endian.
func routeTo(table string, addr uint32) (string, bool) {
	dev, best := "", int64(-1)
	for l := range strings.Lines(table) {
		f := strings.Fields(l)
		if len(f) < 8 {
			continue
		}
		dst, err1 := strconv.ParseUint(f[1], 16, 32)
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		mask, err3 := strconv.ParseUint(f[7], 16, 32)
		if errors.Join(err1, err2, err3) != nil || flags&unix.RTF_UP == 0 || flags&unix.RTF_REJECT != 0 {
			continue
		}
		if uint64(addr)&mask == dst && int64(mask) > best {
			dev, best = f[0], int64(mask)
		}
	}
	return dev, best >= 0
}

func checkDNS(e Env) []Finding {
	data, err := e.read("/etc/resolv.conf")
	if err != nil {
		return one(warn("AZ-NET-DNS", "/etc/resolv.conf: %v", cmp.Or(errors.Unwrap(err), err)))
	}
	for l := range strings.Lines(data) {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "nameserver" {
			return one(ok("nameserver %s", f[1]))
		}
	}
	return one(warn("AZ-NET-DNS", "/etc/resolv.conf has no nameserver line"))
}

func checkCgroups(e Env) []Finding {
	if _, err := e.root().Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return one(ok("version 2"))
	}
	if entries, err := e.root().ReadDir("/sys/fs/cgroup"); err == nil && len(entries) > 0 {
		return one(ok("version 1"))
	}
	return one(note("AZ-CG-MISSING", "/sys/fs/cgroup is empty"))
}

// checkSnapshot repeats the problems that the agent itself reports.
func checkSnapshot(e Env) []Finding {
	if e.SnapErr != nil && !errors.Is(e.SnapErr, status.ErrSchema) {
		if errors.Is(e.SnapErr, fs.ErrNotExist) {
			return one(unknown("no status snapshot"))
		}
		return one(bad("AZ-AGENT-SNAPSHOT", "%v", e.SnapErr))
	}
	var out []Finding
	for _, w := range e.Snapshot.Worries() {
		f := warn(w.Code, "%s", strings.TrimSuffix(w.Message, "\n"))
		f.Check, f.Fix = w.What, w.Fix
		out = append(out, f)
	}
	if len(out) == 0 {
		return one(ok("the agent reports no problems"))
	}
	return out
}
