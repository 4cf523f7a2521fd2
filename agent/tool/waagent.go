package tool

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning/generalize"
)

// Waagent is a parsed command line of the classic agent.
type Waagent struct {
	Command    string // canonical word without dashes, "help" if there is none
	ConfigFile string // of -configuration-path, "" for the usual one
	Address    string // of setup-firewall=
	Force      bool
	Verbose    bool
	Full       bool
	upload     bool // collect-logs for the upload job: smaller, and idle priority
}

// Runs reports whether the command is to run the agent itself, in the
// foreground.
func (w Waagent) Runs() bool { return w.Command == "daemon" || w.Command == "run-exthandlers" }

// ParseWaagent parses the command line of the classic agent
// (provisioning/SPEC.md §16.2): any number of - or / before each word, flags
// anywhere, the last command wins. agentctl's waagent-compat passes the words
// in one spelling; direct callers may use all of them.
func ParseWaagent(args []string) (Waagent, error) {
	w := Waagent{Command: "help"}
	for _, arg := range args {
		if arg == "" {
			continue
		}
		word := strings.TrimLeft(arg, "-/")
		name, value, _ := strings.Cut(word, "=")
		switch {
		case word == "help", word == "usage", word == "?", word == "serialconsole":
			w.Command = "help"
		case word == "version", word == "show-configuration", word == "deprovision", word == "deprovision+user", word == "register-service",
			word == "start", word == "daemon", word == "run-exthandlers", word == "collect-logs", word == "provision":
			w.Command = word
		case word == "force":
			w.Force = true
		case word == "verbose", word == "debug":
			w.Verbose = true
		case word == "full":
			w.Full = true
		case word == agent.LogsForUpload:
			w.upload = true
		case name == "setup-firewall":
			if a, err := netip.ParseAddr(value); err != nil || !a.Is4() {
				return w, fmt.Errorf("not an IPv4 address: %q", value)
			}
			w.Command, w.Address = name, value
		case strings.HasPrefix(word, "configuration-path:"):
			w.ConfigFile = strings.TrimPrefix(word, "configuration-path:")
		default:
			return w, fmt.Errorf("unknown argument %q", arg)
		}
	}
	return w, nil
}

// Waagent runs the command of a classic command line, except to run the agent
// (see [Waagent.Runs]), and returns the exit status.
func (t *Tool) Waagent(ctx context.Context, w Waagent) int {
	var err error
	switch w.Command {
	case "deprovision", "deprovision+user":
		err = t.deprovision(ctx, generalize.Mode{Force: w.Force}, w.Command == "deprovision+user")
	case "register-service":
		err = t.register(ctx)
	case "start":
		err = t.start(ctx, w)
	case "setup-firewall":
		err = t.firewall(ctx, w.Address)
	case "collect-logs":
		err = t.collect(ctx, w)
	case "provision":
		fmt.Fprintln(t.Err, "azguest: -provision does not exist; use: azguest provision")
		return exitClassic
	default:
		fmt.Fprintf(t.Err, "azguest: -%s is provided by: agentctl waagent-compat -%s\n", w.Command, w.Command)
		return exitClassic
	}
	return t.end(err)
}

// register enables the service and restarts it, in the order of the classic
// agent: enable, stop, start (provisioning/SPEC.md §16.3).
func (t *Tool) register(ctx context.Context) error {
	if err := t.needRoot(); err != nil {
		return err
	}
	fmt.Fprintln(t.Out, "Register "+agent.ServiceName+" service")
	if t.packagedUnit() {
		if _, err := t.Runner.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"enable", agent.ServiceName + ".service"}}); err != nil {
			return fmt.Errorf("enable the service: %w", err)
		}
	} else if err := t.Service("install"); err != nil {
		return err
	}
	fmt.Fprintln(t.Out, "Stop "+agent.ServiceName+" service")
	// It may not be running; a failed stop matters only if the start fails.
	stopped := t.Service("stop")
	fmt.Fprintln(t.Out, "Start "+agent.ServiceName+" service")
	if err := t.Service("start"); err != nil {
		return errors.Join(err, stopped)
	}
	return nil
}

// packagedUnit reports whether the systemd unit is already installed, so that
// it only has to be enabled.
func (t *Tool) packagedUnit() bool {
	if !t.Root.Exists("/run/systemd/system") {
		return false
	}
	for _, dir := range []string{"/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"} {
		if t.Root.Exists(dir + agent.ServiceName + ".service") {
			return true
		}
	}
	return false
}

// start starts the agent in the background: as a service if there is one, else
// as a separate process. The lock ensures that only one agent runs.
func (t *Tool) start(ctx context.Context, w Waagent) error {
	serr := errors.New("a service has its own configuration path")
	if w.ConfigFile == "" {
		if serr = t.Service("start"); serr == nil {
			return nil
		}
	}
	self, err := os.Executable()
	if err != nil {
		return errors.Join(serr, fmt.Errorf("find own executable: %w", err))
	}
	args := []string{"run"}
	if w.ConfigFile != "" {
		args = append(args, "-config", w.ConfigFile)
	}
	if w.Verbose {
		args = append(args, "-verbose")
	}
	if err := t.Detach(ctx, process.Daemon{Path: self, Args: args, Env: host.Root("/").BaseEnvironment()}); err != nil {
		return errors.Join(serr, err)
	}
	return nil
}

// stopAgent stops the agent on machines whose service manager is not systemd,
// because the plan of package generalize can't.
func (t *Tool) stopAgent(ctx context.Context) {
	if t.Root.Exists("/run/systemd/system") {
		return // the plan stops the unit
	}
	paths := status.DefaultPaths(string(t.Root))
	l, err := status.Acquire(ctx, paths.Lock)
	if err == nil {
		_ = l.Release() // no agent is running
		return
	}
	if _, running := errors.AsType[*status.LockedError](err); !running {
		return
	}
	if serr := t.Service("stop"); serr != nil {
		fmt.Fprintf(t.Out, "WARNING! The agent is running and could not be stopped (%v); it may write its state again.\n", serr)
	}
}
