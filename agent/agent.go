package agent

import (
	"context"
	"errors"
	"os"
	"path"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/metadata"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// Options has everything that an Agent needs. Every field is required except
// Warnings, DieAfter, Processors, Hung, HangUp with Reload, and Platform.
type Options struct {
	Version  string
	Config   *config.Config
	Warnings []config.Warning // of the configuration, to be logged
	Root     host.Root
	Runner   host.Runner
	Kernel   host.Kernel
	Launcher job.Launcher
	Log      zerolog.Logger
	// DieAfter names the point of provisioning at which the process kills
	// itself (see provisioning.EndAt); only tests of power cuts set it.
	DieAfter string
	// LockFD is the descriptor of the lock if the previous version of the agent
	// passed it on, else 0.
	LockFD int
	// ConfigFile is the classic configuration file if it was named on the
	// command line, else "".
	ConfigFile string
	// Processors is GOMAXPROCS while the agent is busy; while it is idle,
	// GOMAXPROCS is 1. 0 leaves it alone, as it must be where an agent is only
	// a part of the process, for example in a test.
	Processors int
	// Hung ends the process with a dump; an agent that hangs calls it. It is
	// nil if nothing would start the process again; then the agent only reports
	// that it hangs.
	Hung func()
	// HangUp receives SIGHUP. Reload is then called: it reopens the log, reads
	// the configuration again, applies appliedByReload, and returns what it has
	// read.
	HangUp <-chan os.Signal
	Reload func() (*config.Config, []config.Warning, error)
	// Platform changes how the platform is reached; only tests set it.
	Platform func(*platform.Options)
}

// Agent is the guest agent. Make one with New, run it once.
type Agent struct {
	Options
	cfg   *config.Config
	paths status.Paths

	live     *liveStatus
	health   *healthReporter
	platform *platform.Client
	ext      *extensions.Manager
	spool    *event.Spool
	events   event.Sink // the spool; discards events if telemetry is off
	started  time.Time
	dieAt    provisioning.Observer // nil outside of tests

	loop             loop        // what the goal-state job remembers between turns
	inPool           atomic.Bool // a pre-provisioned VM waits for its reprovisioning data
	diskLatch        *latch      // open once the resource disk may be prepared
	provisionedLatch *latch      // open once provisioning has finished or failed
	pulse            pulse
	aside            atomic.Bool // unusable state files were set aside
	used             cpuWindow   // rep.saving guards it
	hangTold         time.Time   // when a hang of the previous process was reported; only begin and the measure job use it
	nextLogs         time.Time   // only the logs job uses it
	logsShipped      bool        // only the logs job uses it
	account          string      // of the provisioning order, once it is known; only boot uses it
	badName          string      // the last invalid name that was logged; only the host name job uses it
	memory           memory
	sshdSeen         time.Time // only the reporter uses it
	rep              reports
	hold             hold
	firewallJob      firewallJob
	overBudget       atomic.Bool // the disk budget was exceeded even after the last cleaning
	startGate        startGate
	jit              jitUsers
	requesters       requesters
	clock            reading // at the last check; only the clock job uses it
	upd              updater
}

// New makes an agent. It reads facts about the machine, such as its VM id and
// host name; nothing is written or sent yet.
func New(o Options) *Agent {
	a := &Agent{Options: o, cfg: o.Config, live: newLiveStatus(), diskLatch: newLatch(), provisionedLatch: newLatch(), loop: newLoop(), jit: newJITUsers(), firewallJob: newFirewallJob(), started: time.Now().UTC(), used: cpuSince(time.Now()), paths: status.DefaultPaths(string(o.Root))}
	a.spool = event.NewSpool(o.Root.Path(a.cfg.Paths.Lib + "/events"))
	a.events = event.Discard{}
	if a.cfg.Telemetry.Enabled {
		a.events = a.spool
	}
	a.platform = a.newPlatform()
	a.health = newHealthReporter(a.sendHealth, a.healthDone)
	a.ext = a.newManager()
	if o.DieAfter != "" {
		die, err := provisioning.EndAt(o.DieAfter, func() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) })
		if err != nil {
			o.Log.Error().Err(err).Msg("power failure test")
		}
		a.dieAt = die
	}
	return a
}

// Run takes the lock and runs all parts of the agent concurrently until the
// context ends, see runParts. Extensions wait for provisioning; status reports
// do not. It returns a *Handover if another version is to take over this
// process.
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	a.showPolicy()
	notify("READY=1")
	service := ctx
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	a.upd.end = end

	a.runParts(life, a.parts()...)
	a.save()
	if h := a.passOn(life); h != nil {
		return h // no STOPPING=1: the service continues in this process
	}
	notify("STOPPING=1")
	if service.Err() != nil {
		if serr := a.upd.store.Stopped(); serr != nil {
			a.Log.Debug().Err(serr).Msg("could not mark clean exit; it will count as a crash")
		}
	}
	return context.Cause(life)
}

// parts returns everything in the agent that runs concurrently. Periodic work
// is in jobs.
func (a *Agent) parts() []part {
	list := []part{
		{name: "health", run: a.health.Run},
		{name: "reporter", run: a.reporter},
		{name: "watchdog", run: a.watchdog},
		{name: "control", run: a.control},
		{name: "reload", run: a.hangUp},
		{name: "events", run: a.spool.Run},
		{name: "access", run: a.runJIT},
		{name: "provisioning", run: a.provisionedLatch.openAfter(a.boot), once: true},
		{name: "platform", run: a.serve},
		{name: "resource disk", run: a.resourceDisk, once: true},
		{name: "firewall", run: a.watchFirewall, once: true},
	}
	if a.cfg.UserData.Apply {
		list = append(list, part{name: "user data", run: a.tidyUserData})
	}
	if a.cfg.Hooks.Enabled {
		list = append(list, part{name: "hooks", run: a.runHooks})
	}
	return list
}

// Provision does only the first boot: it returns when the platform has accepted
// Ready, or with the reason of the failure once that was reported.
func (a *Agent) Provision(ctx context.Context) error {
	unlock, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.runParts(ctx,
		part{name: "health", run: a.health.Run},
		part{name: "reporter", run: a.reporter},
		part{name: "resource disk", run: a.resourceDisk, once: true},
		part{name: "provisioning", once: true, run: func(ctx context.Context) error {
			if err := a.boot(ctx); err != nil {
				return err
			}
			if err = a.health.Flush(ctx); err == nil {
				cancel()
			}
			return err
		}},
	)
	a.save()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if s := a.live.copy(); err == nil && s.Provisioning.State == status.ProvFailed {
		err = errors.New(s.Provisioning.Error)
	}
	return err
}

// begin creates the directories, takes the lock and fills in the first
// snapshot. unlock releases the lock.
func (a *Agent) begin(ctx context.Context) (unlock func(), err error) {
	for _, d := range []struct {
		name string
		perm os.FileMode
	}{{"/run/azguest", 0o755}, {a.cfg.Paths.Lib, 0o700}, {a.cfg.Paths.ExtensionLogs, 0o755}} {
		if err := a.Root.MkdirAll(d.name, d.perm); err != nil {
			// Continue: each part that needs the directory reports its own
			// error.
			a.Log.Error().Err(err).Str("code", codeState).Msg("could not create directory of the agent")
			a.live.problem("directory "+d.name, codeState, fixOf(codeState), err)
			continue
		}
		if err := a.tighten(d.name, d.perm); err != nil {
			a.Log.Warn().Err(err).Msg("could not restrict permissions of the agent's directory")
		}
	}
	lock, err := a.acquire(ctx)
	if err != nil {
		return nil, err
	}
	a.sweep()
	a.checkState()
	if !a.cfg.Metadata.EnvFile {
		if err := a.Root.Remove(metadata.UnitFile); err != nil {
			a.Log.Warn().Err(err).Msg("could not remove old copy of the instance metadata")
		}
	}
	restarts, ended := a.countLife()
	a.live.set(func(s *status.Snapshot) {
		ticks, terr := status.StartTicks("/proc", os.Getpid())
		if terr != nil {
			a.Log.Debug().Err(terr).Msg("could not read own start time")
		}
		s.Agent = status.Agent{
			Version: a.Version, PID: os.Getpid(), StartTicks: ticks, Started: a.started, BootID: a.Root.BootID(),
			Restarts: restarts, Unit: ServiceName + ".service", Update: status.Update{Mode: a.cfg.Update.Mode, Channel: a.cfg.Update.Channel, Pinned: a.cfg.Update.Pin},
		}
		s.VM = a.vm()
		s.Telemetry.Enabled = a.cfg.Telemetry.Enabled
		s.Policy.Mode = a.cfg.Policy.Mode
		s.Firewall = status.Firewall{State: status.Off, Message: a.cfg.FirewallWhy()}
		if a.cfg.OS.EnableFirewall {
			s.Firewall = status.Firewall{State: status.Unknown} // not checked yet
		}
		s.Disk.LibDir = a.cfg.Paths.Lib
	})
	a.recall()
	a.afterHang()
	a.restoreHold()
	a.beginUpdates()
	a.save()
	a.Log.Info().Str("version", a.Version).Str("go", runtime.Version()).Int("pid", os.Getpid()).Msg("agent started")
	for _, w := range a.Warnings {
		if !w.Note {
			a.Log.Warn().Str("at", w.Origin.String()).Str("key", w.Key).Msg("configuration: " + w.Message)
		}
	}
	return func() {
		if a.upd.kept {
			return
		}
		ended()
		if err := lock.Release(); err != nil {
			a.Log.Warn().Err(err).Msg("release lock")
		}
		a.Log.Info().Msg("agent stopped")
	}, nil
}

// tighten removes permissions beyond perm from a directory that already
// existed. An administrator may let a group read, for example that of a
// monitoring tool; files with secrets have modes of their own. If everybody has
// access, nobody has chosen the mode, and it becomes perm. Nothing else of the
// directory changes, and nothing below it.
func (a *Agent) tighten(name string, perm os.FileMode) error {
	const groupReads, others = 0o050, 0o007
	fi, err := a.Root.Stat(name)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&others == 0 {
		perm |= groupReads
	}
	if fi.Mode().Perm()&^perm == 0 {
		return nil
	}
	const special = os.ModeSetuid | os.ModeSetgid | os.ModeSticky
	return a.Root.Chmod(name, fi.Mode()&(special|perm))
}

// sweep removes the temporary files of writes and downloads that a kill or a
// power cut interrupted; one of them may be a copy of shadow. No other process
// is writing them, because this one holds the lock.
func (a *Agent) sweep() {
	lib, o := a.cfg.Paths.Lib, a.cfg.OS
	for _, dir := range []string{
		"/etc", "/run/azguest", o.SSHDir, o.SSHDir + "/sshd_config.d", o.SudoersDir, path.Dir(o.PasswordPath),
		lib, lib + "/*/config", lib + "/*/status", lib + "/history/*",
		lib + "/azguest", lib + "/azguest/*", lib + "/azguest/data/documents",
		// Not jobs: the supervisors of commands outlive the agent and write
		// there.
		lib + "/azguest/ext/packages", lib + "/azguest/ext/records", lib + "/azguest/hooks/runs",
	} {
		names, err := a.Root.Glob(dir + "/" + host.TempPattern)
		if err != nil {
			continue // a configured path that is not a valid pattern
		}
		for _, n := range names {
			if err := a.Root.Remove(n); err != nil {
				a.Log.Warn().Err(err).Msg("could not remove leftover temporary file")
			}
		}
	}
}

// vm reads what agentctl shows about the machine.
func (a *Agent) vm() status.VM {
	info := a.osInfo()
	v := status.VM{Name: info.ComputerName, OS: strings.TrimSpace(info.Name + " " + info.Version)}
	if b, err := a.Root.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		v.Kernel = strings.TrimSpace(string(b))
	}
	return v
}

// osInfo returns guestOSInfo of the status document. Names come from
// os-release; no decision depends on them.
func (a *Agent) osInfo() protocol.OSInfo {
	info := protocol.OSInfo{Name: "linux"}
	if name, err := os.Hostname(); err == nil {
		info.ComputerName = name
	}
	for _, file := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := a.Root.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			v = strings.Trim(v, `"'`)
			switch k {
			case "ID":
				info.Name = v
			case "VERSION_ID":
				info.Version = v
			}
		}
		break
	}
	return info
}
