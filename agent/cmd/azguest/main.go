// Command azguest is the guest agent. What the agent does is in package agent,
// what the one-shot commands do in agent/tool; here is only the command line,
// and the one place that names the real machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/term"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/log"
	"github.com/azguest/azguest/agent/tool"
	"github.com/azguest/azguest/agent/version"
)

const usage = `usage: azguest <command> [flags]

  run         run the agent in the foreground (used by the service)
  provision   provision the machine, then exit
  install     register the service with the service manager
  uninstall   remove the service
  start       start the service
  stop        stop the service
  firewall    set the firewall rules if they are enabled (used by
              azguest-firewall.service before the network is up)
  cleanup     remove the firewall rules (used when the package is removed)
  version     show the version
  generalize  prepare this machine for capturing an image: --plan [--json], or
              --yes [--shutdown] [--keep-user]
  image       check an image: verify [--profile marketplace|cis|immutable]
              [--json] ROOT
  policy      show whether the policy allows an extension:
              explain [-version V] [-signer S] [-json] EXTENSION
  decrypt     decrypt protected settings: [-cert THUMBPRINT] FILE
  metadata    show the instance metadata: [-json|-shell] [-cached]
              [-wait-change [-was V] [-timeout D] [-every D]] [PATH]
  data        user data and vendor data: show [-origin] [-json], status [-json],
              check [-json] FILE
  hooks       scripts of /etc/azguest/hooks.d: run [-json FILE] HOOK (try them
              now), list [-json], approve EVENT (acknowledge a scheduled
              event), shutdown (used by azguest-shutdown.service)
  waagent     run a command of the classic agent

Exit status: 0 success, 1 failure, 64 wrong usage, 74 the output could not be
written, as with agentctl. image verify ends with 2 if it can't read ROOT.
metadata ends with 1 if there is nothing at PATH, 3 if the service does not
answer, 5 if it printed an older copy, 6 if nothing has changed in time.
waagent has the classic agent's: 2 for what it does not understand.

Flags of run and provision:
`

func main() {
	crash.Private()
	defer crash.Guard()
	out := cli.NewOutput(os.Stdout, nil)
	code := realMain(os.Args[1:], out, os.Stderr)
	if err := out.Err(); err != nil {
		if !errors.Is(err, syscall.EPIPE) {
			fmt.Fprintln(os.Stderr, "azguest:", err)
		}
		code = cli.ExitOutput
	}
	os.Exit(code)
}

// commands are the commands that people use.
var commands = []string{
	"run", "provision", "install", "uninstall", "start", "stop", "firewall", "cleanup", "version",
	"generalize", "image", "policy", "decrypt", "metadata", "data", "hooks", "waagent", "help",
}

// alone are those that have no flags and no arguments.
var alone = []string{"install", "uninstall", "start", "stop", "restart", "firewall", "cleanup", "version", "--version", "-version"}

func realMain(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		flags(&options{}, stderr).PrintDefaults()
		return cli.ExitUsage
	}
	cmd, rest := args[0], args[1:]
	if len(rest) > 0 && slices.Contains(alone, cmd) {
		fmt.Fprintf(stderr, "azguest: unexpected argument %q of %s\nSee 'azguest help'.\n", rest[0], cmd)
		return cli.ExitUsage
	}
	switch cmd {
	case "run", "provision":
		return run(cmd, rest, stderr)
	case "waagent":
		return waagent(rest, stdout, stderr)
	case "generalize", "image":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		t := newTool("", stdout, stderr)
		if cmd == "image" {
			return t.Image(ctx, rest)
		}
		return t.Generalize(ctx, rest)
	case "policy":
		return newTool("", stdout, stderr).Policy(rest)
	case "hooks":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return newTool("", stdout, stderr).Hooks(ctx, rest)
	case "decrypt":
		return newTool("", stdout, stderr).Decrypt(rest)
	case "data":
		return newTool("", stdout, stderr).Data(rest)
	case "metadata":
		return newTool("", stdout, stderr).Metadata(context.Background(), rest)
	case "install", "uninstall", "start", "stop", "restart":
		if err := agent.ControlService(cmd); err != nil {
			fmt.Fprintln(stderr, "azguest:", err)
			return 1
		}
		return 0
	case "firewall":
		return newTool("", stdout, stderr).Firewall(context.Background())
	case "cleanup":
		if err := tool.Cleanup(context.Background(), host.Exec{}); err != nil {
			fmt.Fprintln(stderr, "azguest:", err)
			return 1
		}
		return 0
	case "version", "--version", "-version":
		fmt.Fprintln(stdout, version.Line("azguest"))
		return 0
	case job.SuperviseArg: // started by the agent itself, one for each handler command
		return job.Supervise(context.Background(), rest)
	case agent.UpdateGuardArg: // started by the agent itself when it hands over to another version
		return agent.UpdateGuard(context.Background(), rest, stderr)
	case "help", "-h", "--help", "-help":
		for _, word := range rest {
			if err := cli.OneOf("command", word, commands...); err != nil {
				fmt.Fprintf(stderr, "azguest: %v\nSee 'azguest help'.\n", err)
				return cli.ExitUsage
			}
		}
		fmt.Fprint(stdout, usage)
		flags(&options{}, stdout).PrintDefaults()
		return 0
	default:
		fmt.Fprintf(stderr, "azguest: %v\nSee 'azguest help'.\n", cli.OneOf("command", cmd, append(commands, "--version", "--help")...))
		return cli.ExitUsage
	}
}

// waagent runs a command line of the classic agent.
func waagent(args []string, stdout, stderr io.Writer) int {
	w, err := tool.ParseWaagent(args)
	if err != nil {
		fmt.Fprintln(stderr, "azguest:", err)
		return 2
	}
	if w.ConfigFile != "" {
		if _, err := os.Stat(w.ConfigFile); err != nil { //nolint:forbidigo // the caller names the file, relative to their working directory
			fmt.Fprintln(stderr, "azguest:", err)
			return 1
		}
	}
	if w.Runs() {
		var flags []string
		if w.ConfigFile != "" {
			flags = append(flags, "-config", w.ConfigFile)
		}
		if w.Verbose {
			flags = append(flags, "-verbose")
		}
		return run("run", flags, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return newTool(w.ConfigFile, stdout, stderr).Waagent(ctx, w)
}

// newTool returns the Tool for all commands that do not run the agent.
func newTool(conf string, stdout, stderr io.Writer) *tool.Tool {
	// Collecting logs must cost a machine with problems next to nothing (at
	// most 16 MB, the program's own pages included).
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(8 << 20)
	syscall.Umask(0o022)
	paths := config.DefaultPaths()
	if conf != "" {
		paths.Main = []string{conf}
	}
	cfg, _, err := config.Load(paths)
	if err != nil {
		fmt.Fprintln(stderr, "azguest: configuration incomplete, using defaults:", err)
	}
	return &tool.Tool{
		Version: version.Number(), Config: cfg, Root: "/", Runner: host.Exec{}, Kernel: host.LinuxKernel(),
		Service: agent.ControlService, Detach: process.Detach, In: os.Stdin, Out: stdout, Err: stderr,
		Terminal: term.IsTerminal(int(os.Stdout.Fd())),
	}
}

// options are the flags of run and provision.
type options struct {
	root, config, media, endpoint, hostga, imds string
	verbose                                     bool
}

func flags(o *options, out io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("azguest", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.root, "root", "/", "`directory` to use as / for files; commands still run on this machine")
	f.StringVar(&o.config, "config", "", "classic configuration `file` instead of /etc/waagent.conf")
	f.StringVar(&o.media, "media", "", "device, image file or directory to read the provisioning document from, instead of searching")
	f.StringVar(&o.endpoint, "endpoint", "", "`host[:port]` of the WireServer instead of 168.63.129.16")
	f.StringVar(&o.hostga, "hostga", "", "`host:port` of the HostGAPlugin instead of port 32526 of the endpoint")
	f.StringVar(&o.imds, "imds", "", "`host[:port]` of the metadata service instead of 169.254.169.254")
	f.BoolVar(&o.verbose, "verbose", false, "log at debug level")
	return f
}

// run runs the agent: for the service (cmd "run"), or for the first boot only.
func run(cmd string, args []string, stderr io.Writer) int {
	o, code, ok := parseRun(args, stderr)
	if !ok {
		return code
	}
	// First, because the default of SIGHUP is to end the agent. SIGPIPE would end
	// it when nobody reads its stderr any more, the others at a resource limit.
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	process.Swallow(syscall.SIGPIPE, syscall.SIGXFSZ, syscall.SIGXCPU)
	notNormal := prepareProcess()
	cfg, warnings, cfgErr := loadConfig(o)
	logFile := cfg.Logs.File
	if logFile != "" {
		logFile = host.Root(o.root).Path(logFile)
	}
	logger, output := log.New(logFile, o.verbose || cfg.Logs.Verbose)
	defer func() { _ = output.Close() }()
	if notNormal != nil {
		logger.Warn().Err(notNormal).Msg("signals that the agent ignores or blocks are ignored or blocked by what it starts, too")
	}

	lockFD := 0
	if cmd == "run" {
		process.AdoptChildren()
		process.SetTimerSlack(process.ExactTimers)              // the previous version may have been idle
		lockFD, _ = strconv.Atoi(os.Getenv(agent.LockVariable)) // absent: 0
		_ = os.Unsetenv(agent.LockVariable)
		if h := agent.StartVersion(version.Number(), cfg, host.Root(o.root), os.Args[1:], logger); h != nil {
			logger.Error().Err(h.Exec(os.Environ())).Str("code", "AZ-UPD-FAILED").Msg("start of the update failed, running the installed version")
		}
	}
	a := agent.New(agent.Options{
		Hung:       hung(),
		Version:    version.Number(),
		Config:     cfg,
		Warnings:   warnings,
		Root:       host.Root(o.root),
		Runner:     host.Exec{},
		Kernel:     host.LinuxKernel(),
		Processors: runtime.GOMAXPROCS(0),
		Launcher:   job.SelfLauncher(),
		Log:        logger,
		DieAfter:   os.Getenv("AZGUEST_TEST_DIE_AFTER"),
		LockFD:     lockFD,
		HangUp:     hangUp,
		Reload: func() (*config.Config, []config.Warning, error) {
			cfg, warnings, err := loadConfig(o)
			err = errors.Join(err, output.Reopen())
			if err == nil {
				output.SetVerbose(o.verbose || cfg.Logs.Verbose)
			}
			return cfg, warnings, err
		},

		ConfigFile: o.config,
	})
	if cfgErr != nil {
		logger.Error().Err(cfgErr).Msg("configuration incomplete, using defaults")
	}
	if err := live(cmd, a); err != nil && !errors.Is(err, context.Canceled) {
		logger.Error().Err(err).Msg("agent failed")
		return 1
	}
	return 0
}

// live runs the agent to its end, and starts the version to which it hands
// over.
func live(cmd string, a *agent.Agent) (err error) {
	if cmd == "provision" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = a.Provision(ctx)
	} else {
		err = agent.RunService(a.Run)
	}
	if h, ok := errors.AsType[*agent.Handover](err); ok {
		err = h.Exec(os.Environ())
	}
	return err
}

// parseRun returns ok false and the exit status if the flags are wrong or ask
// for help.
func parseRun(args []string, stderr io.Writer) (o options, code int, ok bool) {
	f := flags(&o, stderr)
	if code, ok = cli.ParseFlags(f, args, stderr); !ok {
		return o, code, false
	}
	if f.NArg() > 0 {
		fmt.Fprintf(stderr, "azguest: unexpected argument %q\nSee 'azguest help'.\n", f.Arg(0))
		return o, cli.ExitUsage, false
	}
	return o, 0, true
}

// prepareProcess sets limits of the whole process, and undoes what it has
// inherited. After an error, what the agent starts inherits signals that are
// ignored or blocked here.
func prepareProcess() error {
	// The agent waits most of the time; a small heap that is collected often
	// costs it nothing. Above the limit, it is collected as often as needed:
	// reading the largest documents of the platform takes some 20 MiB more.
	debug.SetGCPercent(agent.BusyGC)
	debug.SetMemoryLimit(32 << 20)
	return process.Normalize()
}

// loadConfig reads the configuration; flags override it. A file that can't be
// read leaves defaults and is among the warnings: an agent that refuses to start
// over it could not be repaired from outside.
func loadConfig(o options) (*config.Config, []config.Warning, error) {
	paths := config.DefaultPaths()
	paths.Root = o.root
	if o.config != "" {
		paths.Main = []string{o.config}
	}
	cfg, warnings, err := config.Load(paths)
	override(&cfg.Provisioning.Media, o.media)
	override(&cfg.Protocol.Endpoint, o.endpoint)
	override(&cfg.Protocol.HostGA, o.hostga)
	override(&cfg.Protocol.IMDS, o.imds)
	return cfg, warnings, err
}

// hung returns a function that ends a process that hangs: the runtime prints
// the stacks of all goroutines, and the service manager starts it again. It is
// nil if there is no service manager.
func hung() func() {
	if !agent.Managed() {
		return nil
	}
	return func() {
		debug.SetTraceback("all")
		_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
	}
}

func override(field *string, value string) {
	if value != "" {
		*field = value
	}
}
