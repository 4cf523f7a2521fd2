package ctl

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Commands that make images. azguest does the work: it knows what it has
// made of the machine. What is asked is checked here, so that completion, man
// page and usage are those of one tool.

func (a *app) generalizeCmd() *cobra.Command {
	var plan, yes, shutdown, keep bool
	c := &cobra.Command{
		Use: "generalize", Short: "Prepare this machine for an image (root)", Args: cobra.NoArgs,
		Long: `Take everything out of this machine that belongs to one VM: the provisioned
account, host keys, leases, state, logs, machine id, and cloud-init's state.
After it, the machine is good for an image and for nothing else.

Without --plan and --yes it shows what would be lost, and asks. A second run
finds nothing to do. It ends with 1 if something is left.`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case c.Flags().Changed("root"):
				return usage("generalize is about the running machine; see image verify for others")
			case plan && (yes || shutdown):
				return usage("--plan changes nothing; it does not go with --yes or --shutdown")
			case a.output == "json" && !plan:
				return usage("--output json is for --plan")
			}
			args := []string{"generalize"}
			for _, f := range []struct {
				on   bool
				name string
			}{{plan, "-plan"}, {yes, "-yes"}, {keep, "-keep-user"}, {shutdown, "-shutdown"}, {a.output == "json", "-json"}} {
				if f.on {
					args = append(args, f.name)
				}
			}
			return a.become(args)
		},
	}
	c.Flags().BoolVar(&plan, "plan", false, "show what would be done, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&shutdown, "shutdown", false, "power the machine off when everything is done")
	c.Flags().BoolVar(&keep, "keep-user", false, "leave the provisioned account")
	return c
}

// profiles are those of package generalize, which agentctl does not link.
func profiles() []string { return []string{"marketplace", "cis", "immutable"} }

func (a *app) imageCmd() *cobra.Command {
	image := &cobra.Command{Use: "image", Short: "About images", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	var profile string
	verify := &cobra.Command{
		Use: "verify ROOT", Short: "Look whether a root file system is fit for an image", Args: cobra.ExactArgs(1),
		Long: `Look at the root file system of an image, mounted or unpacked anywhere, for
what the machine it was made on has left: keys, accounts, passwords, state, and
what the profile asks for. Nothing is changed. It ends with 1 if the image
should not be published.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if !slices.Contains(profiles(), profile) {
				return usage("--profile is %s, not %q", strings.Join(profiles(), ", "), profile)
			}
			argv := []string{"image", "verify", "-profile", profile}
			if a.output == "json" {
				argv = append(argv, "-json")
			}
			return a.become(append(argv, "--", args[0]))
		},
	}
	verify.Flags().StringVar(&profile, "profile", "marketplace", strings.Join(profiles(), ", "))
	if err := verify.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(profiles(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // a name misspelt a line above
	}
	image.AddCommand(verify)
	return image
}
