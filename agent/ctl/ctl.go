package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/agent/version"
)

// Exit codes, see the package comment.
const (
	ExitHealthy  = 0
	ExitDegraded = 1
	ExitFailed   = 2
	ExitDown     = 3
	ExitUnknown  = 4
	ExitUsage    = cli.ExitUsage
	ExitOutput   = cli.ExitOutput
)

// Env is the environment that agentctl runs in.
type Env struct {
	Version string // four numbers
	Build   string // what it was built from
	Stdout  io.Writer
	Stderr  io.Writer
	Root    string // prefix of every path; "" is the running system
	Now     func() time.Time
	TTY     bool // Stdout is a terminal
	NoColor bool
	Width   int                                    // columns of the terminal; 0: unknown
	Exec    func(path string, argv []string) error // replaces this process
}

// System returns the environment of this process. getenv is os.Getenv.
func System(getenv func(string) string) Env {
	fd := int(os.Stdout.Fd())
	e := Env{
		Version: version.Number(), Build: version.Details(), Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now,
		TTY:     term.IsTerminal(fd),
		NoColor: getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" || getenv("TERM") == "",
		Exec:    func(path string, argv []string) error { return unix.Exec(path, argv, os.Environ()) },
	}
	if e.TTY {
		e.Width, _, _ = term.GetSize(fd) // 0 is fine
	}
	return e
}

// exitError ends the program with a code; if err is nil, nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

func exitWith(code int, err error) error { return &exitError{code, err} }

func usage(format string, a ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, a...)}
}

// Main runs one command and returns the exit code.
func Main(ctx context.Context, args []string, env Env) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := cli.NewOutput(env.Stdout, cancel)
	env.Stdout = out
	a := &app{Env: env}
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if werr := out.Err(); werr != nil {
		if !errors.Is(werr, unix.EPIPE) {
			fmt.Fprintf(env.Stderr, "agentctl: %v\n", werr)
		}
		return ExitOutput
	}
	if err == nil {
		return 0
	}
	ee, ours := errors.AsType[*exitError](err)
	if !ours {
		ee = &exitError{ExitUsage, err} // everything else comes from cobra
	}
	if msg := ee.Error(); msg != "" {
		fmt.Fprintf(env.Stderr, "agentctl: %s\n", clean(msg))
		if ee.code == ExitUsage {
			fmt.Fprintln(env.Stderr, "See 'agentctl --help'.")
		}
	}
	return ee.code
}

// app is one run of agentctl.
type app struct {
	Env
	output string // text, json, prometheus
	format string // another name for output
	asJSON bool
	color  string
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "agentctl",
		Short: "Show and control the guest agent",
		Long: `agentctl shows and controls the guest agent of this machine. Most commands
that show something only read files: they work even when the agent is down, and
then say how old the information is. Run as root to see the messages and the
last output of extensions.

Exit codes of status: 0 healthy, 1 degraded or starting, 2 failed, 3 not
running, 4 unknown, 64 wrong usage, 74 the output could not be written.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.checkOutput,
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "text", "output format: text or json")
	f.StringVar(&a.format, "format", "", "same as --output")
	f.BoolVar(&a.asJSON, "json", false, "same as --output json")
	f.StringVar(&a.color, "color", "auto", "use colors: auto, always or never")
	f.StringVar(&a.Root, "root", a.Root, "use this directory as the root of the file system")
	for _, hidden := range []string{"format", "root"} {
		if err := f.MarkHidden(hidden); err != nil {
			panic(err) // a name misspelt two lines above
		}
	}
	root.Version = a.Version
	root.SetVersionTemplate(a.versionLine() + "\n")
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.AddCommand(
		a.statusCmd(), a.versionCmd(), a.doctorCmd(), a.explainCmd(),
		a.extCmd(), a.eventsCmd(), a.dataCmd(), a.logsCmd(), a.diffCmd(), a.inventoryCmd(), a.policyCmd(),
		a.metadataCmd(), a.certsCmd(), a.diskCmd(), a.endpointsCmd(), a.telemetryCmd(), a.configCmd(),
		a.retryCmd(), a.cancelCmd(), a.holdCmd(), a.resumeCmd(), a.reportCmd(),
		a.generalizeCmd(), a.imageCmd(), a.uninstallCmd(),
		a.manCmd(), a.compatCmd(),
	)
	root.SetHelpCommand(helpCmd())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// root returns the root of the file system. Links that users have made do not
// lead agentctl, which may run as root, to other files.
func (a *app) root() host.Root { return host.Root(cmp.Or(a.Root, "/")) }

func (a *app) paths() status.Paths { return status.DefaultPaths(a.Root) }

// text writes to standard output. Main reports write errors.
func (a *app) text(format string, args ...any) { fmt.Fprintf(a.Stdout, format, args...) }

func (a *app) load() (status.Snapshot, status.Life, error) {
	s, err := status.Load(a.paths().Snapshot)
	life := status.Probe(a.paths().Lock, a.Root+"/proc", s)
	if a.output != "json" {
		cleanAll(reflect.ValueOf(&s)) // JSON has escapes of its own
	}
	return s, life, err
}

// snapshot is load for commands that need a snapshot. One of a newer agent is
// used as far as it can be read.
func (a *app) snapshot() (status.Snapshot, error) {
	s, life, err := a.load()
	switch {
	case errors.Is(err, status.ErrSchema):
		fmt.Fprintf(a.Stderr, "agentctl: %v; some information may be missing\n", err)
	case err != nil:
		return s, exitWith(ExitUnknown, noSnapshot(life, err))
	}
	if a.output == "text" && life.Known && !life.Running {
		fmt.Fprintf(a.Stderr, "agentctl: the agent is not running; this information is %s old\n", span(a.Now().Sub(s.WrittenAt)))
	}
	return s, nil
}

func noSnapshot(life status.Life, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		if life.Running {
			return errors.New("the agent is running but has not written a status yet")
		}
		return errors.New("no status: the agent has not run since boot")
	}
	return err
}

func (a *app) config() (*config.Config, []config.Warning, error) {
	p := config.DefaultPaths()
	p.Root = a.Root
	return config.Load(p)
}

// clean makes text from others harmless for a terminal: characters that
// control it, other than newline and tab, become '?'.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && controls(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// controls reports whether a character controls a terminal, or is invisible and
// only changes how other characters are shown (direction, line breaks): it
// could make a line look like the opposite of what it says.
func controls(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// cleanAll cleans every string below v. Names, versions and messages come from
// the platform and from publishers; cleaning all of them at once means that no
// output can miss it.
func cleanAll(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // other kinds hold no strings
	case reflect.Pointer:
		if !v.IsNil() {
			cleanAll(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() { // not into time.Time
				cleanAll(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			cleanAll(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			val := reflect.New(v.Type().Elem()).Elem()
			val.Set(v.MapIndex(k))
			cleanAll(val)
			key := reflect.New(k.Type()).Elem()
			key.Set(k)
			cleanAll(key)
			v.SetMapIndex(k, reflect.Value{})
			v.SetMapIndex(key, val)
		}
	case reflect.String:
		v.SetString(clean(v.String()))
	}
}
