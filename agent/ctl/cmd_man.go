package ctl

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCmd prints a manual page for man(1), generated from the commands, so that
// it is never out of date. Packages call it when they are built.
func (a *app) manCmd() *cobra.Command {
	return &cobra.Command{
		Use: "man", Short: "Print the manual page (roff)", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			root := c.Root()
			a.text(".TH AGENTCTL 8 \"\" \"azguest %s\"\n.SH NAME\nagentctl \\- %s\n", roff(a.Version), roff(root.Short))
			a.text(".SH SYNOPSIS\n.B agentctl\nCOMMAND [OPTION]...\n.SH DESCRIPTION\n%s\n", paragraphs(root.Long))
			a.text(".SH COMMANDS\n")
			a.manPart(root)
			a.text(".SH OPTIONS OF EVERY COMMAND\n")
			root.PersistentFlags().VisitAll(a.manFlag)
			a.text(".SH FILES\n.TP\n/etc/waagent.conf, /etc/waagent.conf.d/*.conf\nconfiguration; see agentctl config keys\n" +
				".TP\n/run/azguest/status.json\nstatus shown by agentctl status\n" +
				".TP\n/run/azguest/metadata.json, /run/azguest/metadata.env\ncopies of the instance metadata; see agentctl metadata\n.SH SEE ALSO\n.BR azguest (8)\n")
			return nil
		},
	}
}

func (a *app) manPart(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if c.Hidden || !c.IsAvailableCommand() {
			continue
		}
		a.text(".SS %s\n%s.\n", roff(strings.TrimPrefix(c.UseLine(), "agentctl ")), roff(c.Short))
		if c.Long != "" && c.Name() != "completion" {
			a.text(".PP\n%s\n", paragraphs(c.Long))
		}
		c.LocalNonPersistentFlags().VisitAll(a.manFlag)
		if c.Name() != "completion" {
			a.manPart(c)
		}
	}
}

func (a *app) manFlag(f *pflag.Flag) {
	if f.Hidden || f.Name == "help" {
		return
	}
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	kind, text := pflag.UnquoteUsage(f)
	if kind != "" {
		name += " " + kind
	}
	a.text(".TP\n.B %s\n%s\n", roff(name), roff(text))
}

func paragraphs(s string) string {
	return strings.ReplaceAll(roff(s), "\n\n", "\n.PP\n")
}

// roff escapes characters that have a meaning in roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
