package tool

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning/generalize"
)

// generalizeOptions returns what the configuration says about generalizing a
// machine.
func generalizeOptions(cfg *config.Config, user bool) generalize.Options {
	o := generalize.Options{
		Machine: agent.ProvisioningOptions(cfg), LogDir: cfg.Paths.ExtensionLogs, User: user, Service: agent.ServiceName + ".service",
	}
	if self, err := os.Executable(); err == nil {
		o.Program = self
	}
	return o
}

// deprovision stops the agent and removes everything from the machine that
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

// stopping reads the answer to the confirmation question, and stops the agent
// if it is yes. Ctrl-C ends the wait. The read itself can't be interrupted; its
// goroutine ends with the process, which has nothing else to do then.
type stopping struct {
	ctx context.Context //nolint:containedctx // Read of io.Reader has no parameter for a context
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
		defer crash.Guard()
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

// Generalize is the command "azguest generalize": it removes everything from
// the machine that belongs to this VM, or shows what it would remove.
func (t *Tool) Generalize(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("azguest generalize", flag.ContinueOnError)
	plan := f.Bool("plan", false, "show what would be done without changing anything")
	yes := f.Bool("yes", false, "do not ask for confirmation")
	keep := f.Bool("keep-user", false, "keep the provisioned account")
	asJSON := f.Bool("json", false, "with -plan: as JSON")
	shutdown := f.Bool("shutdown", false, "power off the machine when done")
	again := f.Bool("at-shutdown", false, "remove what has been written again (called by a unit)")
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return code
	}
	if f.NArg() > 0 || (*plan && (*yes || *shutdown)) || (*asJSON && !*plan) {
		fmt.Fprintln(t.Err, "usage: azguest generalize [--plan [--json]] [--yes [--shutdown]] [--keep-user]")
		return cli.ExitUsage
	}
	if *again {
		err := t.needRoot()
		if err == nil {
			err = generalize.AtShutdown(ctx, t.system(), generalizeOptions(t.Config, false))
		}
		return t.end(err)
	}
	err := t.deprovision(ctx, generalize.Mode{Plan: *plan, Force: *yes, JSON: *asJSON, Grouped: true}, !*keep)
	if err != nil || !*shutdown {
		return t.end(err)
	}
	return t.end(t.powerOff(ctx))
}

// powerOff powers the machine off. It does not wait for that, because the
// caller may be an extension that the shutdown stops.
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

// Image is the command "azguest image verify ROOT": it checks whether a root
// file system may be published as an image, and exits with 1 if not.
func (t *Tool) Image(_ context.Context, args []string) int {
	f := flag.NewFlagSet("azguest image verify", flag.ContinueOnError)
	profile := f.String("profile", string(generalize.Marketplace), "marketplace, cis or immutable")
	asJSON := f.Bool("json", false, "as JSON")
	root := f.String("root", "", "the root file system of the image")
	var names []string
	for rest := args; ; {
		if code, ok := cli.ParseFlags(f, rest, t.Err); !ok {
			return code
		}
		if f.NArg() == 0 {
			break
		}
		names, rest = append(names, f.Arg(0)), f.Args()[1:]
	}
	if *root != "" {
		names = append(names, *root)
	}
	if err := command("image", names, "verify"); err != nil {
		return t.usage(err)
	}
	var profiles []string
	for _, p := range generalize.Profiles() {
		profiles = append(profiles, string(p))
	}
	if err := cli.OneOf("value of --profile", *profile, profiles...); err != nil {
		return t.usage(err)
	}
	if len(names) != 2 {
		fmt.Fprintln(t.Err, "usage: azguest image verify [--profile marketplace|cis|immutable] [--json] ROOT")
		return cli.ExitUsage
	}
	dir, err := filepath.Abs(names[1])
	if err != nil {
		return t.end(err)
	}
	found, err := generalize.Verify(host.Root(dir), generalizeOptions(t.Config, true), generalize.Profile(*profile))
	if err != nil {
		fmt.Fprintln(t.Err, "azguest:", err)
		return exitUnread
	}
	fatal, err := t.verdict(dir, *profile, *asJSON, found)
	if err != nil || fatal > 0 {
		return exitFailed
	}
	return exitOK
}

// verdict prints the findings and returns how many of them are faults.
func (t *Tool) verdict(dir, profile string, asJSON bool, found []generalize.Finding) (fatal int, err error) {
	for _, x := range found {
		if x.Fatal {
			fatal++
		}
	}
	if !asJSON {
		for _, x := range found {
			fmt.Fprintln(t.Out, x)
		}
		fmt.Fprintf(t.Out, "%s: %d problems, %d notes (profile %s)\n", dir, fatal, len(found)-fatal, profile)
		return fatal, nil
	}
	if found == nil {
		found = []generalize.Finding{}
	}
	enc := json.NewEncoder(t.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return fatal, enc.Encode(struct {
		Root     string               `json:"root"`
		Profile  string               `json:"profile"`
		Fit      bool                 `json:"fit"`
		Findings []generalize.Finding `json:"findings"`
	}{dir, profile, fatal == 0, found})
}
