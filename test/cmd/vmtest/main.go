// Command vmtest runs the scenarios of test/vm, or opens a shell on a machine
// at the end of one. scripts/vm builds what it needs and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/azguest/azguest/test/vm"
)

func main() {
	// A second Ctrl-C ends this program at once; its children end with it.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := realMain(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func realMain(ctx context.Context, args []string) error {
	var (
		f     = flag.NewFlagSet("vm", flag.ContinueOnError)
		shell = f.Bool("shell", false, "log in to the machine afterwards; the machine is switched off when the shell ends")
		keep  = f.Bool("keep", false, "keep console output, journal and logs")
		list  = f.Bool("list", false, "list the scenarios")
		all   = f.Bool("all", false, "run all scenarios (default: first-boot)")
		cuts  = f.Int("cuts", 0, "run power-cut with this many power cuts")
		repo  = f.String("repo", ".", "root `directory` of the checkout")
	)
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	scenarios := vm.Scenarios()
	if *list {
		for _, s := range scenarios {
			fmt.Printf("%-20s %s\n", s.Name, s.About)
		}
		return nil
	}
	names := f.Args()
	switch {
	case len(names) > 0 || *all:
	case *cuts > 0:
		names = []string{"power-cut"}
	default:
		names = []string{"first-boot"}
	}
	for _, n := range names {
		if !slices.ContainsFunc(scenarios, func(s vm.Scenario) bool { return s.Name == n }) {
			return fmt.Errorf("unknown scenario %q; see --list", n)
		}
	}
	cache, err := vm.CacheDir()
	if err != nil {
		return err
	}
	o := vm.Options{Repo: *repo, Cache: cache, Mirror: vm.Mirror(ctx), Out: os.Stdout, Keep: *keep, Cuts: *cuts}
	if *shell {
		o.Shell = func(m *vm.Machine) error {
			fmt.Printf("To query the control plane from another terminal:\n  %s\nLogging in; the machine is switched off when this shell ends.\n", m.Hint())
			_ = m.Shell() // the exit status of the last command does not matter
			return nil
		}
	}
	var failed, figures []string
	for _, s := range scenarios {
		if !*all && !slices.Contains(names, s.Name) {
			continue
		}
		began := time.Now()
		r, err := vm.Play(ctx, o, s)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, err)
			failed = append(failed, s.Name)
			continue
		}
		figures = append(figures, fmt.Sprintf("%-20s power on to Ready %5.1f s, total %5.1f s",
			s.Name, r.ToReady.Seconds(), time.Since(began).Seconds()))
	}
	fmt.Println(strings.Join(figures, "\n"))
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	fmt.Println("ok")
	return nil
}
