package agent

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/log"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/generalize"
)

// Exit codes of the commands in this file. The classic agent ends with 0
// whatever happened (provisioning/SPEC.md §16.5); scripts that look deserve to
// see a failure.
const (
	exitOK     = 0
	exitFailed = 1  // something was tried and is not done, or the image is not fit
	exitUsage  = 2  // not understood; also what a refused word of the classic grammar gives
	exitFlags  = 64 // wrong flags of generalize and image, as agentctl has it
)

// Waagent is a command line of the classic agent, understood.
type Waagent struct {
	Command    string // canonical word without dashes, "help" if there is none
	ConfigFile string // of -configuration-path, "" for the usual one
	Address    string // of setup-firewall=
	Force      bool
	Verbose    bool
	Full       bool
	upload     bool // collect-logs for the upload job: smaller, and idle priority
}

// Runs says whether the command is the agent itself, in the foreground.
func (w Waagent) Runs() bool { return w.Command == "daemon" || w.Command == "run-exthandlers" }

// forUpload is our own addition to the classic words.
const forUpload = "for-upload"

// ParseWaagent reads the classic words (provisioning/SPEC.md §16.2): any number
// of - or / before each, flags anywhere, the last command wins. agentctl's
// waagent-compat hands them over in one spelling; whoever calls us directly
// gets the same liberty.
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
		case word == forUpload:
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

// A Tool does what is asked for on a command line and ends, beside the agent
// or without it. Every field is required.
type Tool struct {
	Version string
	Config  *config.Config
	Root    host.Root
	Runner  host.Runner
	Kernel  host.Kernel
	// Service is [ControlService], Detach [process.Detach].
	Service func(action string) error
	Detach  func(context.Context, process.Daemon) error
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
}

// Waagent does what the classic command line says, except to run the agent
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
	default:
		fmt.Fprintf(t.Err, "azguest: -%s is provided by: agentctl waagent-compat -%s\n", w.Command, w.Command)
		return exitUsage
	}
	return t.end(err)
}

// end says what went wrong.
func (t *Tool) end(err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(t.Err, "azguest:", err)
	return exitFailed
}

// log is for the few lines that packages below write of their own.
func (t *Tool) log() zerolog.Logger {
	return log.NewText(t.Err).Level(zerolog.WarnLevel)
}

func (t *Tool) system() *provisioning.System {
	return &provisioning.System{Root: t.Root, Run: t.Runner, Kernel: t.Kernel, Events: event.Discard{}, Log: t.log()}
}

// generalizeOptions is what the configuration says about taking a machine
// apart.
func generalizeOptions(cfg *config.Config, user bool) generalize.Options {
	return generalize.Options{
		Machine: machineOptions(cfg), LogDir: cfg.Paths.ExtensionLogs, User: user, Service: ServiceName + ".service",
	}
}

// deprovision stops the agent and takes everything out of the machine that
// belongs to this VM (provisioning/SPEC.md §14.2).
func (t *Tool) deprovision(ctx context.Context, m generalize.Mode, user bool) error {
	if !m.Plan {
		if err := t.needRoot(); err != nil {
			return err
		}
		if m.Force {
			t.stopAgent(ctx)
		}
	}
	return generalize.Deprovision(ctx, t.system(), generalizeOptions(t.Config, user), m, &stopping{ctx, t, t.In}, t.Out)
}

// needRoot: half of it would be done, and that half is the dangerous one.
func (t *Tool) needRoot() error {
	if t.Root == "/" && os.Geteuid() != 0 {
		return errors.New("only root may do this")
	}
	return nil
}

// stopping is the answer to the question: a Ctrl-C ends the waiting for it.
type stopping struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other way
	t   *Tool
	in  io.Reader
}

func (s *stopping) Read(b []byte) (int, error) {
	type answer struct {
		b   []byte
		err error
	}
	c := make(chan answer, 1)
	go func() {
		own := make([]byte, len(b)) // the read may outlive the call
		n, err := s.in.Read(own)
		c <- answer{own[:n], err}
	}()
	select {
	case a := <-c:
		if len(a.b) > 0 && (a.b[0] == 'y' || a.b[0] == 'Y') {
			s.t.stopAgent(s.ctx)
		}
		return copy(b, a.b), a.err
	case <-s.ctx.Done():
		return 0, fmt.Errorf("interrupted, nothing changed: %w", context.Cause(s.ctx))
	}
}

// register makes the agent start with the machine, and now: the classic
// order is enable, stop, start (provisioning/SPEC.md §16.3).
func (t *Tool) register(ctx context.Context) error {
	if err := t.needRoot(); err != nil {
		return err
	}
	fmt.Fprintln(t.Out, "Register "+ServiceName+" service")
	if t.packagedUnit() {
		if _, err := t.Runner.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"enable", ServiceName + ".service"}}); err != nil {
			return fmt.Errorf("enable the service: %w", err)
		}
	} else if err := t.Service("install"); err != nil {
		return err
	}
	fmt.Fprintln(t.Out, "Stop "+ServiceName+" service")
	// It may not run; what counts is that it starts.
	stopped := t.Service("stop")
	fmt.Fprintln(t.Out, "Start "+ServiceName+" service")
	if err := t.Service("start"); err != nil {
		return errors.Join(err, stopped)
	}
	return nil
}

// packagedUnit: with it there is nothing to install, only to enable.
func (t *Tool) packagedUnit() bool {
	if !t.Root.Exists("/run/systemd/system") {
		return false
	}
	for _, dir := range []string{"/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"} {
		if t.Root.Exists(dir + ServiceName + ".service") {
			return true
		}
	}
	return false
}

// start is "in the background": as a service where there is one, else as a
// process of its own. The lock sees to it that there is one agent.
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
	if err := t.Detach(ctx, process.Daemon{Path: self, Args: args, Env: []string{"PATH=" + host.DefaultPath, "LANG=C.UTF-8"}}); err != nil {
		return errors.Join(serr, err)
	}
	return nil
}

// Firewall is "azguest firewall": the rules as the agent would set them, for
// the time before it runs.
func (t *Tool) Firewall(ctx context.Context) int {
	if !wanted(t.Root, t.Config) {
		return exitOK
	}
	address := "168.63.129.16"
	if b, err := t.Root.ReadFile(path.Join(t.Config.Paths.Lib, "WireServerEndpoint")); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil && a.Is4() {
			address = a.String()
		}
	}
	return t.end(t.firewall(ctx, address))
}

// firewall sets the rules once, as the boot unit of the classic agent does.
func (t *Tool) firewall(ctx context.Context, address string) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("set firewall rules: %w", err)
	}
	backend, _, err := firewall.New(addr, wirePort, t.Runner).Apply(ctx)
	if err == nil {
		fmt.Fprintf(t.Out, "Firewall rules for %s are set (%s)\n", addr, backend)
	}
	return err
}

// Generalize is "azguest generalize": plan, or do it, with the agent's own
// account of what it made.
func (t *Tool) Generalize(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("azguest generalize", flag.ContinueOnError)
	f.SetOutput(t.Err)
	plan := f.Bool("plan", false, "show what would be done without changing anything")
	yes := f.Bool("yes", false, "do not ask for confirmation")
	keep := f.Bool("keep-user", false, "keep the provisioned account")
	asJSON := f.Bool("json", false, "with -plan: as JSON")
	shutdown := f.Bool("shutdown", false, "power off the machine when done")
	if code, ok := parseFlags(f, args); !ok {
		return code
	}
	if f.NArg() > 0 || (*plan && (*yes || *shutdown)) || (*asJSON && !*plan) {
		fmt.Fprintln(t.Err, "usage: azguest generalize [--plan [--json]] [--yes [--shutdown]] [--keep-user]")
		return exitFlags
	}
	err := t.deprovision(ctx, generalize.Mode{Plan: *plan, Force: *yes, JSON: *asJSON}, !*keep)
	if err != nil || !*shutdown {
		return t.end(err)
	}
	return t.end(t.powerOff(ctx))
}

// powerOff does not wait: the caller may be an extension that the shutdown
// stops.
func (t *Tool) powerOff(ctx context.Context) error {
	tries := []host.Cmd{{Name: "poweroff"}, {Name: "shutdown", Args: []string{"-h", "now"}}}
	if t.Root.Exists("/run/systemd/system") {
		tries = append([]host.Cmd{{Name: "systemctl", Args: []string{"--no-block", "poweroff"}}}, tries...)
	}
	var errs []error
	for _, c := range tries {
		if _, err := t.Runner.Run(ctx, c); err != nil {
			errs = append(errs, err)
			continue
		}
		return nil
	}
	return fmt.Errorf("shut down after generalizing: %w", errors.Join(errs...))
}

// parseFlags returns ok false with the exit status when the flags are wrong,
// or were a question for help.
func parseFlags(f *flag.FlagSet, args []string) (code int, ok bool) {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, false
	case err != nil:
		return exitFlags, false
	}
	return 0, true
}

// Image is "azguest image verify ROOT": whether a root file system may be
// published as an image. It exits with 1 if not.
func (t *Tool) Image(_ context.Context, args []string) int {
	f := flag.NewFlagSet("azguest image verify", flag.ContinueOnError)
	f.SetOutput(t.Err)
	profile := f.String("profile", string(generalize.Marketplace), "marketplace, cis or immutable")
	asJSON := f.Bool("json", false, "as JSON")
	var names []string
	for rest := args; ; {
		if code, ok := parseFlags(f, rest); !ok {
			return code
		}
		if f.NArg() == 0 {
			break
		}
		names, rest = append(names, f.Arg(0)), f.Args()[1:]
	}
	if len(names) != 2 || names[0] != "verify" {
		fmt.Fprintln(t.Err, "usage: azguest image verify [--profile marketplace|cis|immutable] [--json] ROOT")
		return exitFlags
	}
	dir, err := filepath.Abs(names[1])
	if err != nil {
		return t.end(err)
	}
	found, err := generalize.Verify(host.Root(dir), generalizeOptions(t.Config, true), generalize.Profile(*profile))
	if err != nil {
		fmt.Fprintln(t.Err, "azguest:", err)
		return exitUsage
	}
	fatal := 0
	for _, x := range found {
		if x.Fatal {
			fatal++
		}
	}
	if *asJSON {
		if found == nil {
			found = []generalize.Finding{}
		}
		enc := json.NewEncoder(t.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(struct {
			Root     string               `json:"root"`
			Profile  string               `json:"profile"`
			Fit      bool                 `json:"fit"`
			Findings []generalize.Finding `json:"findings"`
		}{dir, *profile, fatal == 0, found})
	} else {
		for _, x := range found {
			fmt.Fprintln(t.Out, x)
		}
		fmt.Fprintf(t.Out, "%s: %d problems, %d notes (profile %s)\n", dir, fatal, len(found)-fatal, *profile)
	}
	if err != nil || fatal > 0 {
		return exitFailed
	}
	return exitOK
}

// stopAgent is for machines whose service manager is not systemd: what the
// plan cannot say has to be done before it.
func (t *Tool) stopAgent(ctx context.Context) {
	if t.Root.Exists("/run/systemd/system") {
		return // the plan stops the unit
	}
	paths := status.DefaultPaths(string(t.Root))
	l, err := status.Acquire(ctx, paths.Lock)
	if err == nil {
		_ = l.Release() // nobody runs
		return
	}
	if _, running := errors.AsType[*status.LockedError](err); !running {
		return
	}
	if serr := t.Service("stop"); serr != nil {
		fmt.Fprintf(t.Out, "WARNING! The agent is running and could not be stopped (%v); it may write its state again.\n", serr)
	}
}

// machineOptions is what the configuration says about provisioning.
func machineOptions(cfg *config.Config) provisioning.Options {
	return (&Agent{cfg: cfg}).provisioningOptions()
}
