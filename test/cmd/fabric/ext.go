package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/extlab"
	"github.com/azguest/azguest/test/sandbox"
)

func extCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ext",
		Short: "check and try out an extension package",
		Long: `Check and try out an extension package, without a cloud:

  fabric ext lint ./Contoso.Hello__1.0.0.zip
  fabric ext run ./Contoso.Hello__1.0.0.zip --settings s.json --protected p.json
  fabric ext run ./new.zip --name Contoso.Hello --version 1.1.0 --update-from ./Contoso.Hello__1.0.0.zip
  fabric ext conformance ./Contoso.Hello__1.0.0.zip --settings s.json

run and conformance start the real agent in a sandbox: a copy-on-write view of
this machine with its own processes and network, which is deleted at the end.

Root is not needed: a user namespace makes you root in the sandbox. Handlers that
change the owner of files or run commands as another user need a range of ids for
you in /etc/subuid and /etc/subgid (and the package uidmap); handlers that mount
devices need sudo. If a handler fails for such a reason, a hint is printed. There
is no systemd in the sandbox, even with sudo. AZ-LAB-USERNS and AZ-LAB-OVERLAY
mean that sandboxes are disabled on this machine; the message names the setting.

Exit status: 0 success, 1 errors in the package or a failed extension, 2 wrong
usage, 3 the package could not be tried out.`,
	}
	cmd.AddCommand(extLint(), extRun(), extConformance())
	return cmd
}

// labFlags are the flags of the commands that run a package.
type labFlags struct {
	name, version, settings, protected, from, agent string
	seq                                             int
	timeout                                         time.Duration
	asJSON, verbose                                 bool
}

func (f *labFlags) register(cmd *cobra.Command) *cobra.Command {
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name, Publisher.Type (default: from the file name or the package)")
	fl.StringVar(&f.version, "version", "", "version (default: from the file name or the package)")
	fl.StringVar(&f.settings, "settings", "", "file with the public settings, a JSON object; - is standard input")
	fl.StringVar(&f.protected, "protected", "", "file with the protected settings, a JSON object or array; the platform encrypts them")
	fl.StringVar(&f.from, "update-from", "", "package of an older version, to be installed first")
	fl.IntVar(&f.seq, "seq", -1, "sequence number of the settings; if not given, the next one")
	fl.StringVar(&f.agent, "agent", "", "the agent's binary (default: azguest beside this program, in $AZGUEST_BIN, or /usr/sbin/azguest)")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Minute, "time limit of the run, or of each conformance check")
	fl.BoolVar(&f.verbose, "verbose", false, "print the output of the agent")
	return cmd
}

// notTried is an error with exit status 3: the laboratory failed, not the
// extension.
type notTried struct{ error }

func (e notTried) Unwrap() error { return e.error }

func (f *labFlags) plan(file string, in io.Reader, errOut io.Writer) (extlab.Plan, error) {
	p := extlab.Plan{Seq: f.seq, Timeout: f.timeout}
	var err error
	if f.settings == "-" && f.protected == "-" {
		return p, usageError{errors.New("only one of --settings and --protected can be standard input")}
	}
	if p.Bundle, err = f.open(file); err != nil {
		return p, err
	}
	if f.from != "" {
		if p.Old, err = openPackage(f.from); err != nil {
			return p, err
		}
		if f.name != "" {
			p.Old.Name = f.name
		}
	}
	for path, dst := range map[string]*json.RawMessage{f.settings: &p.Settings, f.protected: &p.Protected} {
		if path == "" {
			continue
		}
		// There are handlers whose protected settings are a list.
		if *dst, err = settings(path, in, dst == &p.Protected); err != nil {
			return p, err
		}
	}
	if p.Lab.Agent, err = extlab.FindAgent(f.agent); err != nil {
		return p, notTried{err}
	}
	if f.verbose {
		p.Lab.Log = errOut
	}
	return p, nil
}

// openPackage opens a package. A file that can't be read is wrong usage; one that
// is no package is an error of the package.
func openPackage(file string) (*extlab.Bundle, error) {
	b, err := extlab.Open(file)
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, usageError{err}
	}
	return b, err
}

func (f *labFlags) open(file string) (*extlab.Bundle, error) {
	b, err := openPackage(file)
	if err != nil {
		return nil, err
	}
	if f.name != "" {
		b.Name = f.name
	}
	if f.version != "" {
		b.Version = f.version
	}
	return b, nil
}

// settings reads settings, which must be a JSON object, or may be an array.
func settings(path string, in io.Reader, array bool) (json.RawMessage, error) {
	var data []byte
	var err error
	if path == "-" {
		data, err = io.ReadAll(in)
	} else {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("read settings: %w", err)}
	}
	data, err = plainJSON(data)
	var o map[string]json.RawMessage
	if err == nil {
		var list []json.RawMessage
		if err = json.Unmarshal(data, &list); array && err == nil && list != nil {
			return data, nil
		}
		err = json.Unmarshal(data, &o)
	}
	switch syntax, ok := errors.AsType[*json.SyntaxError](err); {
	case ok:
		line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
		err = fmt.Errorf("line %d: %w", line, err)
	case errors.As(err, new(*json.UnmarshalTypeError)) || err == nil && o == nil:
		err = errors.New("settings must have the form { … }")
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%s is not a JSON object: %w", path, err)}
	}
	return data, nil
}

// plainJSON removes the byte order mark that editors on Windows write, as the
// cloud's command-line tools do.
func plainJSON(data []byte) ([]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errors.New("the file is empty")
	case bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")):
		return nil, errors.New("the file is UTF-16, as written by > in PowerShell; save it as UTF-8")
	}
	return data, nil
}

func onePackage(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("give one package (a zip file), not %d", len(args))}
	}
	return nil
}

func extLint() *cobra.Command {
	f := &labFlags{}
	cmd := &cobra.Command{
		Use: "lint PACKAGE", Short: "check a package without running it", Args: onePackage,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := f.open(args[0])
			if err != nil {
				return err
			}
			found := extlab.Lint(b)
			bad := 0
			for _, x := range found {
				if x.Level == extlab.Error {
					bad++
				}
			}
			out := cmd.OutOrStdout()
			if f.asJSON {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				if found == nil {
					found = []extlab.Finding{}
				}
				if err := enc.Encode(found); err != nil {
					return err
				}
			} else {
				for _, x := range found {
					fmt.Fprintln(out, x)
				}
				fmt.Fprintf(out, "%s %s: %d errors, %d warnings\n", b.Name, b.Version, bad, len(found)-bad)
			}
			if bad > 0 {
				return errSaid
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&f.name, "name", "", "name, Publisher.Type (default: from the file name or the package)")
	cmd.Flags().StringVar(&f.version, "version", "", "version (default: from the file name or the package)")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print the findings as JSON")
	return cmd
}

// errSaid is an error that has already been reported in full.
var errSaid = errors.New("")

func extRun() *cobra.Command {
	f := &labFlags{}
	return f.register(&cobra.Command{
		Use: "run PACKAGE", Short: "install and enable a package with the real agent", Args: onePackage,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.try(cmd, args[0], extlab.Run)
		},
	})
}

func extConformance() *cobra.Command {
	f := &labFlags{}
	return f.register(&cobra.Command{
		Use: "conformance PACKAGE", Short: "test a package under conditions that occur in production", Args: onePackage,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.try(cmd, args[0], func(ctx context.Context, p extlab.Plan, out io.Writer) error {
				_, err := extlab.Conformance(ctx, p, out)
				return err
			})
		},
	})
}

// try calls do with the plan of a package, in a process that can create
// sandboxes.
func (f *labFlags) try(cmd *cobra.Command, file string, do func(context.Context, extlab.Plan, io.Writer) error) error {
	if cmd.Flags().Changed("seq") && f.seq < 0 {
		return usageError{fmt.Errorf("--seq %d: sequence numbers start at 0", f.seq)}
	}
	err := sandbox.AsRoot(cmd.Context(), func(ctx context.Context) error {
		p, err := f.plan(file, cmd.InOrStdin(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// Otherwise SIGPIPE would end the program at the first write after its
		// reader has ended, and its files would be left behind. Not ignored,
		// because handlers would inherit that.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		return tried(do(ctx, p, &listener{cmd.OutOrStdout(), cancel}))
	})
	if _, ok := errors.AsType[*sandbox.Unavailable](err); ok {
		return notTried{err}
	}
	return err
}

// A listener cancels the run when its output can no longer be written.
type listener struct {
	io.Writer
	gone func()
}

func (l *listener) Write(p []byte) (int, error) {
	n, err := l.Writer.Write(p)
	if err != nil {
		l.gone()
	}
	return n, err
}

// tried distinguishes a failure of the extension from one of the laboratory.
func tried(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, extlab.ErrFailed):
		if err.Error() == extlab.ErrFailed.Error() {
			return errSaid
		}
		return err
	case errors.Is(err, extlab.ErrPlan):
		return usageError{err}
	}
	return notTried{err}
}
