package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// Options of a run.
type Options struct {
	Repo   string // checkout in whose .build scripts/vm --prepare has put its results
	Cache  string // directory for images, survives between runs
	Mirror string // Debian mirror; empty for the usual one
	Out    io.Writer
	Keep   bool // keep the scratch directory
	Cuts   int  // number of first boots with a power cut; default 3
	// Shell, if set, is called at the end of the scenario while the machine
	// still runs; also if it failed, provided that somebody can log in.
	Shell func(m *Machine) error
	// Patience is the time limit of one scenario; default 5 minutes, and more
	// for one that boots often.
	Patience time.Duration
}

// A Run is the execution of a scenario.
type Run struct {
	Lab      *Lab
	Machine  *Machine
	Platform *Platform

	// What the customer requested.
	User, Password, HostName, CustomData string

	ToReady time.Duration // from power on until the platform received the report

	lab     *Lab
	out     io.Writer
	cuts    int
	readyAt time.Time
	reports int               // health reports before the reboot
	before  map[string]string // values before the reboot, by name
}

func (r *Run) say(format string, args ...any) {
	fmt.Fprintf(r.out, strings.TrimRight(format, " ")+"\n", args...)
}

func (r *Run) keyFile(kind string) string { return r.lab.path("id_" + kind) }

// Play runs one scenario on a new machine.
func Play(ctx context.Context, o Options, s Scenario) (r *Run, err error) {
	if o.Cuts == 0 {
		o.Cuts = 3
	}
	if o.Patience == 0 {
		o.Patience = 5*time.Minute + time.Duration(s.Lives(o))*2*time.Minute
	}
	out := o.Out
	if out == nil {
		out = io.Discard
	}
	logf := func(format string, args ...any) { fmt.Fprintf(out, "     "+format+"\n", args...) }
	deb, err := repoFile(o.Repo, "packages/azguest_*_amd64.deb")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "%s: %s\n", s.Name, s.About)

	images := &Images{Dir: filepath.Join(o.Cache, "vm"), Mirror: o.Mirror, Log: logf}
	image, err := images.Image(ctx, deb, s.Image)
	if err != nil {
		return nil, err
	}
	// Building an image for the first time does not count against the time
	// limit.
	ctx, cancel := context.WithTimeoutCause(ctx, o.Patience, fmt.Errorf("scenario not finished after %s", o.Patience))
	defer cancel()

	lab, err := NewLab(ctx, logf)
	if err != nil {
		return nil, err
	}
	lab.Keep = o.Keep
	defer lab.Close()
	r = &Run{
		Lab: lab, lab: lab, out: out, cuts: o.Cuts,
		User: "customer", Password: "Az-" + random(8), HostName: "vm-" + random(2),
		CustomData: "#!/bin/sh\necho " + random(8) + "\n",
	}
	if err := r.customer(ctx); err != nil {
		return r, err
	}
	vmID := guid()
	r.Platform, err = r.startPlatform(vmID)
	if r.Platform != nil {
		defer func() { _ = r.Platform.Fabric.Close() }()
	}
	if err != nil {
		return r, fmt.Errorf("start the platform: %w", err)
	}
	medium := s.Medium
	if medium == nil {
		medium = asUDF
	}
	dvd, err := medium(ctx, r)
	if err != nil {
		return r, fmt.Errorf("make the medium: %w", err)
	}
	r.Machine, err = lab.NewMachine(ctx, image, vmID, dvd)
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
			r.explain()
		}
		r.Machine.Cut()
	}()
	err = s.Play(ctx, r)
	if o.Shell != nil && r.Machine.Died() == nil && ctx.Err() == nil {
		if r.Machine.user == "" {
			r.Machine.As(r.User, r.keyFile("ed25519"))
		}
		err = errors.Join(err, o.Shell(r.Machine))
	}
	return r, err
}

// customer creates the customer's SSH keys.
func (r *Run) customer(ctx context.Context) error {
	for _, kind := range []string{"ed25519", "rsa"} {
		args := []string{"-q", "-t", kind, "-N", "", "-C", "customer@example", "-f", r.keyFile(kind)}
		if out, err := run(ctx, nil, "ssh-keygen", args...); err != nil {
			return fmt.Errorf("generate a key: %w: %s", err, out)
		}
	}
	return nil
}

func (r *Run) publicKeys() ([]string, error) {
	var keys []string
	for _, kind := range []string{"ed25519", "rsa"} {
		b, err := os.ReadFile(r.keyFile(kind) + ".pub")
		if err != nil {
			return nil, err
		}
		keys = append(keys, strings.TrimSpace(string(b)))
	}
	return keys, nil
}

// explain prints what helps to find the cause of a failure. It does not use the
// scenario's context, which may have expired, and does not need a login.
func (r *Run) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r.say("--- console:\n%s", tail(r.Machine.Console(), 25))
	for range 2 {
		if said, err := r.Machine.Processors(ctx); err == nil {
			r.say("--- processors, after %.1f s of CPU time:\n%s", r.Machine.Processor().Seconds(), said)
		}
	}
	if r.Machine.user != "" {
		soon, cancel := context.WithTimeout(ctx, 15*time.Second)
		if out, err := r.Machine.Run(soon, "sudo journalctl -b -u azguest --no-pager -o cat | tail -n 40; systemctl --failed --no-legend"); err == nil {
			r.say("--- journal of the agent:\n%s", out)
		}
		cancel()
	}
	r.Machine.Cut()
	if out, err := r.Machine.File(ctx, "/var/log/waagent.log"); err == nil {
		r.say("--- log of the agent, from the disk:\n%s", tail(out, 40))
	}
	for _, e := range r.Platform.health() {
		r.say("--- health report at %s: %s", e.Time.Format(time.TimeOnly), e.Body)
	}
	for _, e := range r.Platform.Fabric.Journal(fabric.Query{Problems: true, Limit: 10}) {
		r.say("--- protocol problem of %s %s: %v", e.Method, e.URL, e.Problems)
	}
	if log, err := os.ReadFile(r.lab.path("fabric.log")); err == nil {
		r.say("--- log of the fabric:\n%s", tail(string(log), 15))
	}
}

func guid() string {
	h := random(16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:]
}
