package ctl

import "github.com/spf13/cobra"

// Commands about user data and vendor data. azguest does the work, because it
// reads YAML.

func (a *app) dataCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "data", Short: "Show, check and follow user data and vendor data", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.dataShowCmd(), a.dataCheckCmd(), a.dataStatusCmd())
	return c
}

func (a *app) dataShowCmd() *cobra.Command {
	var origin bool
	c := &cobra.Command{
		Use: "show", Short: "Show the merged user data of this machine (root)", Args: cobra.NoArgs,
		Long: `show prints what custom data, user data and vendor data say together: the merged
cloud-config, and the scripts. With --origin, each value has the document, part
and line that it comes from. Passwords and the contents of files are not shown.
Exit code 0: shown; 1: no user data was carried out, or it cannot be read.`,
		RunE: func(*cobra.Command, []string) error {
			argv := []string{"data", "show"}
			if origin {
				argv = append(argv, "-origin")
			}
			return a.becomeData(argv)
		},
	}
	c.Flags().BoolVar(&origin, "origin", false, "show where each value comes from")
	return c
}

func (a *app) dataCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Check a document of user data", Args: cobra.ExactArgs(1),
		Long: `check reads a document as azguest would read it as user data: a script, a
cloud-config, a MIME message of several, also compressed with gzip. It lists
everything that would be refused, with its line. FILE may be - for standard
input. Any user may run it, on any machine; nothing is changed.
Exit code 0: it can be carried out; 1: it cannot.`,
		RunE: func(_ *cobra.Command, args []string) error {
			argv := []string{"data", "check"}
			if a.output == "json" {
				argv = append(argv, "-json")
			}
			return a.become(append(argv, "--", args[0]))
		},
	}
}

func (a *app) dataStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what became of the user data (root)", Args: cobra.NoArgs,
		Long: `status lists every script and every step of the user data and vendor data: when
it ran and how often it runs, how it ended, and where its output is.
Exit code 0: shown; 1: no user data was carried out, or it cannot be read.`,
		RunE: func(*cobra.Command, []string) error { return a.becomeData([]string{"data", "status"}) },
	}
}

func (a *app) becomeData(argv []string) error {
	if a.output == "json" {
		argv = append(argv, "-json")
	}
	return a.become(argv)
}
