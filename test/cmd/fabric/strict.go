package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/azguest/azguest/test/fabric"
)

// number is the version, set by scripts/build.
var number string

// versionLine is what --version prints.
func versionLine() string {
	v, commit := number, "unknown"
	if v == "" {
		v = "development build"
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return fmt.Sprintf("fabric %s (commit %s, %s, %s/%s)", v, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// strict makes a command and all below it refuse what they do not know with exit
// status 2, in one sentence that has the nearest word that they do know.
func strict(c *cobra.Command) {
	if c.HasSubCommands() {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var known []string
			for _, sub := range c.Commands() {
				if sub.IsAvailableCommand() {
					known = append(known, sub.Name())
				}
			}
			return usageError{fabric.OneOf("command", args[0], known...)}
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	} else if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if err == nil {
				return missingFlag(c)
			}
			if _, ours := errors.AsType[usageError](err); ours {
				return err
			}
			if check(c, append(slices.Clone(args), "x")) == nil {
				return usageError{fmt.Errorf("%s: an argument is missing; usage: %s", c.Name(), c.UseLine())}
			}
			return usageError{fmt.Errorf("%s: unexpected argument; usage: %s", c.Name(), c.UseLine())}
		}
	}
	c.SetFlagErrorFunc(flagError)
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// missingFlag returns an error if a flag without which the command has no meaning
// is not given.
func missingFlag(c *cobra.Command) error {
	if err := c.ValidateRequiredFlags(); err != nil {
		return usageError{fmt.Errorf("%s: %w; usage: %s", c.Name(), err, c.UseLine())}
	}
	return nil
}

func flagError(c *cobra.Command, err error) error {
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		known := []string{"--help"}
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
		name := "--" + missing.GetSpecifiedName()
		if missing.GetSpecifiedShortnames() != "" {
			name = "-" + missing.GetSpecifiedName()
		}
		err = fabric.OneOf("flag", name, known...)
	}
	return usageError{err}
}

// helpCommand is cobra's help command, for commands that exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "show the help of a command",
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return found.Args(found, append(rest, args...))
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

// A checked writer remembers its first error: a command whose output did not
// arrive has failed.
type checked struct {
	io.Writer
	err error
}

func (w *checked) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.Writer.Write(p)
	if err != nil {
		w.err = fmt.Errorf("write output: %w", err)
	}
	return n, err
}
