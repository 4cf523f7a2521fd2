package ctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/config"
)

// CompatVersion is the version of the classic agent whose behaviour this agent
// matches. Certification tests and scripts read it from `waagent -version` and
// require a minimum; our own version number would fail them without reason.
const CompatVersion = "2.15.0.1"

// compatUsage is what `waagent -help` prints.
const compatUsage = `usage: waagent [-verbose] [-force] [-configuration-path:<path>] COMMAND

  -help                    show this text (also -usage, -?)
  -version                 show versions
  -show-configuration      show the effective configuration
  -deprovision             prepare the machine for capturing an image
  -deprovision+user        same, and delete the provisioned user
  -register-service        enable the service and start it
  -start, -daemon          run the agent
  -run-exthandlers         same as -daemon
  -collect-logs [-full]    write an archive of logs for support
  -setup-firewall=<IPv4>   set the firewall rules once

Options may start with any number of - or /. This is azguest; see also:
agentctl --help
`

// compat is a parsed classic command line.
type compat struct {
	command  string // canonical spelling, without dashes
	confPath string
	flags    []string // -force and the like, in classic spelling
}

// parseCompat reads a command line of the classic agent (provisioning/SPEC.md
// §16.2): any number of '-' or '/', then the word, case-sensitive; flags
// anywhere; the last command wins. Unlike the classic agent it takes whole
// words only: -deprovisionnow is refused, not half understood.
func parseCompat(args []string) (compat, error) {
	c := compat{command: "help"}
	commands := map[string]string{
		"help": "help", "usage": "help", "?": "help", "serialconsole": "help",
		"version": "version", "show-configuration": "show-configuration",
		"deprovision": "deprovision", "deprovision+user": "deprovision+user",
		"register-service": "register-service", "start": "start", "daemon": "daemon",
		"run-exthandlers": "run-exthandlers", "collect-logs": "collect-logs", "provision": "provision",
	}
	ip := regexp.MustCompile(`^[0-9.]{7,15}$`)
	path := regexp.MustCompile(`^[\w/.\-]+$`)
	for _, arg := range args {
		if arg == "" {
			continue
		}
		word := strings.TrimLeft(arg, "-/")
		switch {
		case commands[word] != "":
			c.command = commands[word]
		case word == "verbose" || word == "force" || word == "debug" || word == "full":
			c.flags = append(c.flags, "-"+word)
		case strings.HasPrefix(word, "configuration-path:"):
			p := strings.TrimPrefix(word, "configuration-path:")
			if !path.MatchString(p) {
				return c, fmt.Errorf("not a path: %q", p)
			}
			c.confPath = p
		case strings.HasPrefix(word, "setup-firewall="):
			if !ip.MatchString(strings.TrimPrefix(word, "setup-firewall=")) {
				return c, fmt.Errorf("not an IPv4 address: %q", arg)
			}
			c.command = word
		default:
			return c, fmt.Errorf("unknown argument %q", arg)
		}
	}
	return c, nil
}

// argv returns the command line in classic spelling, each word once and in a
// fixed order.
func (c compat) argv() []string {
	out := []string{"-" + c.command}
	if c.confPath != "" {
		out = append(out, "-configuration-path:"+c.confPath)
	}
	return append(out, c.flags...)
}

// compatCmd is called by /usr/sbin/waagent. Commands that show something are
// done here; the others are passed to azguest, which takes the same words:
// azguest waagent -deprovision+user -force.
func (a *app) compatCmd() *cobra.Command {
	return &cobra.Command{
		Use: "waagent-compat [ARGUMENT...]", Short: "Run a command of the classic agent (waagent)",
		Hidden: true, DisableFlagParsing: true,
		// The arguments are not parsed by cobra: -output would be a classic
		// argument.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := parseCompat(args)
			if err != nil {
				fmt.Fprintf(a.Stderr, "%s", compatUsage)
				return exitWith(ExitFailed, err)
			}
			if c.confPath != "" {
				if _, err := a.root().Stat(c.confPath); err != nil {
					fmt.Fprintf(a.Stderr, "%s", compatUsage)
					return exitWith(1, err)
				}
			}
			switch c.command {
			case "help":
				a.text("%s", compatUsage)
				return nil
			case "version":
				a.compatVersion()
				return nil
			case "show-configuration":
				return a.compatConfig(c.confPath)
			}
			return a.toAgent(c)
		},
	}
}

// compatVersion prints three lines that scripts parse: the first and the third
// have exactly the classic form.
func (a *app) compatVersion() {
	name, version := a.osRelease()
	a.text("WALinuxAgent-%s running on %s %s\n", CompatVersion, name, version)
	a.text("Python: not needed (azguest %s)\n", a.Version)
	a.text("Goal state agent: %s\n", CompatVersion)
}

// osRelease reads ID and VERSION_ID.
func (a *app) osRelease() (name, version string) {
	data, _ := a.root().ReadBounded("/etc/os-release", 64<<10) // without the file, the defaults below are used
	for l := range strings.Lines(string(data)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "ID":
			name = v
		case "VERSION_ID":
			version = v
		}
	}
	return cmp.Or(name, "linux"), cmp.Or(version, "unknown")
}

func (a *app) compatConfig(path string) error {
	p := config.DefaultPaths()
	p.Root = a.Root
	if path != "" {
		p.Main = []string{path}
	}
	conf, _, err := config.Load(p)
	if err != nil {
		return exitWith(1, err)
	}
	for _, l := range conf.Classic() {
		a.text("%s\n", clean(l))
	}
	return nil
}

// toAgent passes a classic command line to azguest.
func (a *app) toAgent(c compat) error {
	return a.become(append([]string{"waagent"}, c.argv()...))
}

// become replaces this process with azguest, run with args.
func (a *app) become(args []string) error {
	for _, p := range []string{"/usr/bin/azguest", "/usr/sbin/azguest", "/usr/local/bin/azguest"} {
		err := a.Exec(a.root().Path(p), append([]string{"azguest"}, args...))
		if !errors.Is(err, fs.ErrNotExist) {
			return err // nil only in tests: after a successful exec this is not reached
		}
	}
	return exitWith(1, errors.New("azguest is not installed"))
}
