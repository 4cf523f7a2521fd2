// Command demo provisions a blank machine and installs an extension on it, with
// the release binaries, and prints each step: see scripts/demo. The machine is
// a sandbox of this one and the platform is the emulator; this machine is not
// changed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/azguest/azguest/test/sandbox"
)

func main() {
	sandbox.Main()
	os.Exit(run())
}

// limit is the time limit of the whole demo, and patience that of each wait. They
// only end what hangs, so they are longer than any slow machine needs.
const (
	limit    = 10 * time.Minute
	patience = "5m"
)

func run() int {
	bin := flag.String("bin", ".build/amd64", "`directory` with azguest, agentctl and fabric")
	packages := flag.String("packages", "", "`directory` with extension packages to publish in addition to the samples")
	keep := flag.Bool("keep", false, "open a shell in the machine at the end")
	plain := flag.Bool("plain-dvd", false, "make the DVD a plain file instead of a loop device")
	tour := flag.Bool("tour", false, "show metadata, scheduled events and extensions, one line per step")
	verbose := flag.Bool("verbose", false, "print the agent's log")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not finished after %v", limit))
	defer cancel()

	d := &demo{out: os.Stdout, bin: *bin, packages: *packages, plain: *plain, verbose: *verbose}
	start := time.Now()
	do := d.run
	if *tour {
		do, d.quiet = d.tour, true
	}
	err := do(ctx)
	if err == nil && *keep {
		err = d.shell()
	}
	err = errors.Join(err, d.close())
	switch {
	case err == nil:
		fmt.Fprintf(d.out, "\ndemo: ok in %s%s\n", seconds(time.Since(start)), d.summary())
		return 0
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		fmt.Fprintln(d.out, "\ndemo: failed: interrupted")
		return 130
	default:
		d.explain(os.Stderr)
		fmt.Fprintf(d.out, "\ndemo: failed: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
}

// demo is one run.
type demo struct {
	out      io.Writer
	bin      string
	packages string
	plain    bool
	verbose  bool
	quiet    bool // say nothing; see tell

	begun time.Time
	told  string // what this step of the tour prints

	dir      string // temporary: medium, packages, journal
	who      identity
	machine  *sandbox.Sandbox
	fabric   *sandbox.Process
	agent    *sandbox.Process
	agentLog log
	fabLog   log
	times    []timing
}

type timing struct {
	what string
	took time.Duration
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// step runs one part and records its duration.
func (d *demo) step(what string, do func() error) error {
	fmt.Fprintf(d.out, "\n== %s\n", what)
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	took := time.Since(start)
	d.times = append(d.times, timing{what, took})
	fmt.Fprintf(d.out, "   (%s)\n", seconds(took))
	return nil
}

// say prints indented lines.
func (d *demo) say(format string, args ...any) {
	if d.quiet {
		return
	}
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(d.out, "   "+line)
	}
}

func (d *demo) summary() string {
	var parts []string
	for _, t := range d.times {
		parts = append(parts, t.what+" "+seconds(t.took))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}

// explain prints the last log lines after a failure.
func (d *demo) explain(w io.Writer) {
	if text := d.agentLog.tail(30); text != "" && !d.verbose {
		fmt.Fprintf(w, "\nlast lines of the agent:\n%s\n", text)
	}
	if text := d.fabLog.tail(15); text != "" {
		fmt.Fprintf(w, "\nlast lines of the fabric:\n%s\n", text)
	}
}

// shell opens a shell in the machine; the agent keeps running.
func (d *demo) shell() error {
	fmt.Fprintln(d.out, "\nStarting a shell in the machine; type exit to leave.")
	if d.quiet { // the tour, which has switched hooks on
		fmt.Fprintf(d.out, "Scripts for events are in /etc/azguest/hooks.d. To have an event announced:\n  curl -X POST '%s/simulateEviction%s'\nThen see: agentctl events\n", vmURL, apiVersion)
	}
	p, err := d.machine.Start(sandbox.Cmd{Args: []string{"bash", "-i"}, Dir: "/", Env: []string{"TERM=" + os.Getenv("TERM")}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return err
	}
	_ = p.Wait() // the exit code of the last command does not matter
	return nil
}

func (d *demo) close() error {
	var errs []error
	if d.machine != nil {
		errs = append(errs, d.machine.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

func (d *demo) program(name string) string {
	p, err := filepath.Abs(filepath.Join(d.bin, name))
	if err != nil {
		return name
	}
	return p
}
