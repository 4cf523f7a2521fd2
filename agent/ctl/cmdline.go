package ctl

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/azguest/azguest/agent/cli"
)

// textOnly are the commands that print no JSON, by their names below agentctl.
// Groups of commands print help only.
var textOnly = []string{"logs", "ext logs", "man", "policy decrypt", "events approve", "help", "waagent-compat"}

// formats returns the values of --output that a command has.
func formats(c *cobra.Command) []string {
	name := shortPath(c)
	switch {
	case name == "events", name == "policy": // they show something themselves
	case c.HasSubCommands(), slices.Contains(textOnly, name), strings.HasPrefix(name, "completion"):
		return []string{"text"}
	case name == "status":
		return []string{"text", "json", "prometheus"}
	}
	return []string{"text", "json"}
}

// checkOutput checks the flags that every command has.
func (a *app) checkOutput(c *cobra.Command, _ []string) error {
	if a.format != "" {
		a.output = a.format
	}
	if a.asJSON {
		a.output = "json"
	}
	err := cli.OneOf("value of --output", a.output, formats(c)...)
	if err == nil {
		err = cli.OneOf("value of --color", a.color, "auto", "always", "never")
	}
	if err != nil {
		return exitWith(ExitUsage, fmt.Errorf("%s: %w", shortPath(c), err))
	}
	return nil
}

// shortPath is the path of a command without the name of the program, which
// precedes every message anyhow.
func shortPath(c *cobra.Command) string {
	_, name, below := strings.Cut(c.CommandPath(), " ")
	if !below {
		return c.Name()
	}
	return name
}

// strict makes a command and all commands below it refuse what they do not know,
// in our own words and with the nearest word that they do know.
func strict(c *cobra.Command) {
	if c.DisableFlagParsing {
		return // its arguments are its own
	}
	if c.HasSubCommands() {
		c.Args = oneOfCommands
		if c.RunE == nil {
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	} else {
		c.Args = counted(c.Args)
	}
	c.SetFlagErrorFunc(flagError)
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// oneOfCommands are the arguments of a group: none, because cobra has removed
// the name of a command that it knows.
func oneOfCommands(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			known = append(known, sub.Name())
		}
	}
	return exitWith(ExitUsage, cli.OneOf("command", args[0], known...))
}

// counted is check with a sentence that names the argument.
func counted(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if check == nil || check(c, args) == nil {
			return nil
		}
		if check(c, append(slices.Clone(args), "x")) == nil {
			return usage("%s: an argument is missing; usage: %s", shortPath(c), c.UseLine())
		}
		return usage("%s: unexpected argument %q; usage: %s", shortPath(c), args[len(args)-1], c.UseLine())
	}
}

// flagError is the error of a flag, in our own words.
func flagError(c *cobra.Command, err error) error {
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		known := []string{"--help"}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				known = append(known, "--"+f.Name)
			}
		})
		name := "--" + missing.GetSpecifiedName()
		if missing.GetSpecifiedShortnames() != "" {
			name = "-" + missing.GetSpecifiedName()
		}
		err = cli.OneOf("flag", name, known...)
	} else if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if form, ok := map[string]string{"duration": "a duration such as 30s or 5m", "int": "a number from 0 on", "bool": "true or false"}[bad.GetFlag().Value.Type()]; ok {
			err = fmt.Errorf("--%s takes %s, not %q", bad.GetFlag().Name, form, bad.GetValue())
		}
	}
	return exitWith(ExitUsage, err)
}

// lineCount adds the flag --lines; what *to has is its default.
func lineCount(c *cobra.Command, to *int, usage string) {
	c.Flags().VarP((*lines)(to), "lines", "n", usage)
}

// lines is a number that is not negative.
type lines int

func (l *lines) String() string { return strconv.Itoa(int(*l)) }
func (l *lines) Type() string   { return "int" }

func (l *lines) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 31)
	*l = lines(n) //nolint:gosec // 31 bits
	return err
}

// helpCmd is cobra's help command, for commands that exist.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "Show the help of a command",
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return oneOfCommands(found, append(rest, args...))
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
