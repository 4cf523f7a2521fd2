package tool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/hook"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/platform"
)

const hooksUsage = "run, list, approve, shutdown"

const hooksHelp = `azguest hooks works with the scripts of ` + hook.Dir + `/HOOK/, where HOOK is
%s.

  azguest hooks list [-json]            show all scripts, and what is refused; ends with 1 if anything is
  azguest hooks run [-json FILE] HOOK   run the scripts of a hook now, with a made-up event or that of FILE
  azguest hooks approve EVENT           acknowledge a scheduled event, so that it starts now
  azguest hooks shutdown                used by azguest-shutdown.service
`

// Hooks is the command "azguest hooks": it runs, lists and checks the scripts of
// /etc/azguest/hooks.d.
func (t *Tool) Hooks(ctx context.Context, args []string) int {
	if len(args) == 0 {
		return t.usage(fmt.Errorf("hooks: a command is missing (%s)", hooksUsage))
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		fmt.Fprintf(t.Out, hooksHelp, strings.Join(hook.Names(), ", "))
		return exitOK
	}
	if err := cli.OneOf("command", args[0], strings.Split(hooksUsage, ", ")...); err != nil {
		return t.usage(err)
	}
	switch args[0] {
	case "list":
		return t.listHooks(args[1:])
	case "approve":
		return t.approve(ctx, args[1:])
	case "shutdown":
		if len(args) > 1 {
			return t.usage(fmt.Errorf("unexpected argument %q", args[1]))
		}
		return t.end(t.shutdownHooks(ctx))
	}
	return t.tryHooks(ctx, args[1:])
}

func (t *Tool) hookRunner() hook.Runner {
	return hook.Runner{Store: hook.Store{Root: t.Root, Lib: t.Config.Paths.Lib}, Launcher: job.SelfLauncher(), Log: t.log()}
}

// bootAndVM returns the ids of this boot and of this virtual machine, "" if the
// agent has not run in this boot.
func (t *Tool) bootAndVM() (boot, vm string) {
	s, err := status.Load(status.DefaultPaths(string(t.Root)).Snapshot)
	if err == nil {
		vm = s.VM.ID
	}
	return t.Root.BootID(), vm
}

// shutdownHooks runs the shutdown scripts, once in each boot and only while the
// system goes down: the unit is also stopped when the package is removed.
func (t *Tool) shutdownHooks(ctx context.Context) error {
	// How it ends and what it prints are not independent: "stopping" has exit
	// status 1.
	res, _ := t.Runner.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"is-system-running"}, Timeout: 10 * time.Second})
	if !t.Config.Hooks.Enabled || strings.TrimSpace(string(res.Stdout)) != "stopping" {
		return nil
	}
	until := time.Now().Add(t.Config.Hooks.ShutdownTimeout)
	scripts, err := hook.Find(t.Root, hook.Shutdown)
	if err == nil && len(scripts) == 0 {
		return nil
	}
	x := t.hookRunner()
	if oerr := x.Store.Open(); oerr != nil {
		return oerr
	}
	boot, vm := t.bootAndVM()
	key := hook.Shutdown + "-" + boot
	if _, known := x.Store.Load(key); known {
		return nil // nothing is repeated
	}
	r := x.Store.New(key, hook.Shutdown, vm, boot, scripts, err)
	r.Event = t.shutdownEvent(ctx)
	if err := x.Store.Save(r); err != nil {
		return err
	}
	r, err = x.All(ctx, r, t.Config.Hooks.Timeout, until, t.sayScript(map[string]bool{}))
	if err != nil {
		return err
	}
	if _, failed := r.Failed(); failed {
		return fmt.Errorf("not all shutdown scripts have succeeded; agentctl events show %s", key)
	}
	return nil
}

// shutdownEvent says what kind of shutdown this is, as far as systemd knows.
func (t *Tool) shutdownEvent(ctx context.Context) *status.HookEvent {
	e := &status.HookEvent{Type: "shutdown", DurationS: -1, Here: true}
	res, err := t.Runner.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"list-jobs", "--plain", "--no-legend"}, Timeout: 10 * time.Second})
	if err != nil {
		return e
	}
	for line := range strings.Lines(string(res.Stdout)) {
		for word := range strings.FieldsSeq(line) {
			kind, is := strings.CutSuffix(word, ".target")
			switch kind {
			case "reboot", "poweroff", "halt", "kexec", "soft-reboot":
				if is {
					e.Type = kind
				}
			}
		}
	}
	return e
}

// sayScript returns a function that prints how each script has ended, once.
func (t *Tool) sayScript(said map[string]bool) func(status.HookRun) {
	return func(r status.HookRun) {
		for _, s := range r.Scripts {
			if said[s.Name] || s.State == status.HookPending || s.State == status.HookRunning {
				continue
			}
			said[s.Name] = true
			line := s.Name + ": " + s.State
			if s.Error != "" {
				line += " (" + s.Error + ")"
			}
			if s.Job != "" && !s.Finished.IsZero() {
				line += fmt.Sprintf(", %.1f s", s.Finished.Sub(s.Started).Seconds())
			}
			fmt.Fprintln(t.Out, line)
			t.sayOutput(s)
		}
	}
}

// maxSaid is how much of a script's output is printed.
const maxSaid = 64 << 10

func (t *Tool) sayOutput(s status.HookScript) {
	for _, name := range []string{job.Stdout, job.Stderr} {
		if s.Dir == "" {
			continue
		}
		b, err := t.Root.ReadBounded(path.Join(s.Dir, name), job.MaxOutput)
		if err != nil || len(b) == 0 {
			continue
		}
		b = b[max(0, len(b)-maxSaid):]
		for line := range strings.Lines(strings.ToValidUTF8(string(b), "?")) {
			fmt.Fprintf(t.Out, "  %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// listHooks is "azguest hooks list": the scripts that would be run.
func (t *Tool) listHooks(args []string) int {
	f := flag.NewFlagSet("azguest hooks list", flag.ContinueOnError)
	asJSON := f.Bool("json", false, "as JSON")
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return code
	}
	if f.NArg() > 0 {
		return t.usage(fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	type script struct {
		Hook    string `json:"hook"`
		Name    string `json:"name,omitempty"`
		Path    string `json:"path,omitempty"`
		Refused string `json:"refused,omitempty"`
	}
	list, bad := []script{}, false
	strangers, err := hook.Strangers(t.Root)
	if err != nil {
		return t.end(err)
	}
	for _, h := range strangers {
		why := "no hook has this name"
		if near := cli.Nearest(h, hook.Names()); near != "" {
			why += "; did you mean " + near + "?"
		}
		list, bad = append(list, script{Hook: safe(h), Refused: why}), true
	}
	for _, h := range hook.Names() {
		scripts, err := hook.Find(t.Root, h)
		if err != nil {
			list, bad = append(list, script{Hook: h, Refused: err.Error()}), true
		}
		for _, s := range scripts {
			row := script{Hook: h, Name: s.Name, Path: s.Path}
			if s.Err != nil {
				row.Path, row.Refused, bad = "", s.Err.Error(), true
			}
			list = append(list, row)
		}
	}
	if *asJSON {
		if err := t.json(list); err != nil {
			return t.end(err)
		}
	}
	for _, s := range list {
		if !*asJSON {
			fmt.Fprintf(t.Out, "%-10s %-20s %s\n", s.Hook, cmp.Or(s.Name, "-"), cmp.Or(prefixed("refused: ", s.Refused), s.Path))
		}
	}
	if !*asJSON && len(list) == 0 {
		fmt.Fprintln(t.Out, "no scripts in "+hook.Dir)
	}
	if bad {
		return exitFailed
	}
	return exitOK
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// tryHooks is "azguest hooks run HOOK": it runs the scripts of a hook now, with a
// made-up event, or with that of a file.
func (t *Tool) tryHooks(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("azguest hooks run", flag.ContinueOnError)
	file := f.String("json", "", "file with the event, as scripts get it; - for standard input")
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return code
	}
	if f.NArg() != 1 {
		return t.usage(errors.New("hooks run: the name of one hook is needed (" + strings.Join(hook.Names(), ", ") + ")"))
	}
	name := f.Arg(0)
	if err := cli.OneOf("hook", name, hook.Names()...); err != nil {
		return t.usage(err)
	}
	if err := t.needRoot(); err != nil {
		return t.end(err)
	}
	e, err := t.madeUp(name, *file)
	if err != nil {
		return t.end(err)
	}
	scripts, ferr := hook.Find(t.Root, name)
	if ferr != nil {
		return t.end(ferr)
	}
	if len(scripts) == 0 {
		fmt.Fprintf(t.Out, "no scripts in %s/%s\n", hook.Dir, name)
		return exitOK
	}
	x := t.hookRunner()
	if err := x.Store.Open(); err != nil {
		return t.end(err)
	}
	boot, vm := t.bootAndVM()
	r := x.Store.New(fmt.Sprintf(status.TrialKey+"%s-%d", name, time.Now().UnixNano()), name, vm, boot, scripts, nil)
	r.Event = e
	if err := x.Store.Save(r); err != nil {
		return t.end(err)
	}
	say := t.sayScript(map[string]bool{})
	if r, err = x.All(ctx, r, t.Config.Hooks.Timeout, time.Time{}, say); err != nil {
		if ctx.Err() != nil { // nobody else goes on with it
			r, err = x.Abort(ctx, r)
			say(r)
			err = errors.Join(err, errors.New("interrupted"))
		}
		return t.end(err)
	}
	if _, failed := r.Failed(); failed {
		return exitFailed
	}
	return exitOK
}

// maxEventFile is the largest event that is read from a file.
const maxEventFile = 64 << 10

const (
	madeUpID   = "00000000-0000-0000-0000-000000000000"
	madeUpText = "made up by azguest hooks run"
)

// madeUp returns the event for a trial.
func (t *Tool) madeUp(name, file string) (*status.HookEvent, error) {
	if file == "" {
		if name == hook.Startup || name == hook.Shutdown {
			return nil, nil //nolint:nilnil // these have no event
		}
		if name == hook.Ended {
			return &status.HookEvent{
				ID: madeUpID, Type: "Freeze", Status: "Started", Source: "User", DurationS: 5, Here: true,
				Description: madeUpText, Gone: time.Now().UTC(), Outcome: status.OutcomeCompleted,
			}, nil
		}
		return &status.HookEvent{
			ID: madeUpID, Type: strings.ToUpper(name[:1]) + name[1:], Status: "Scheduled", Source: "User", DurationS: -1,
			NotBefore: time.Now().UTC().Add(15 * time.Minute).Truncate(time.Second), Description: madeUpText, Here: true,
		}, nil
	}
	in := t.In
	if file != "-" {
		f, err := os.Open(file) //nolint:forbidigo // the caller names the file, and it may be a pipe
		if err != nil {
			return nil, err
		}
		defer f.Close() // read only
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxEventFile+1))
	if err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	if err := (bound.Limits{Bytes: maxEventFile, Nodes: 1000, Depth: 8}).JSON(b); err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	var d hook.Document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	if d.Event == nil {
		return nil, errors.New(`read event: there is no "event" in it`)
	}
	return d.Event, nil
}

// approve is "azguest hooks approve ID": it acknowledges a scheduled event.
func (t *Tool) approve(ctx context.Context, args []string) int {
	if len(args) != 1 {
		return t.usage(errors.New("hooks approve: the id of one event is needed"))
	}
	if err := t.needRoot(); err != nil {
		return t.end(err)
	}
	id := strings.TrimPrefix(args[0], status.EventKey)
	if r, ok := t.hookRunner().Store.Load(status.EventKey + strings.ToLower(id)); ok && r.Event != nil {
		id = r.Event.ID
	}
	c := platform.New(platform.Options{Root: t.Root, LibDir: t.Config.Paths.Lib, IMDS: t.Config.Protocol.IMDS, AgentVersion: t.Version, Log: t.log()})
	defer c.Close()
	if err := c.StartEvent(ctx, id); err != nil {
		return t.end(err)
	}
	fmt.Fprintf(t.Out, "%s acknowledged\n", id)
	return exitOK
}
