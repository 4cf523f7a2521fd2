package ctl

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/cli"
)

// Commands for images. azguest does the work, because it knows what it has
// changed on the machine. Arguments are checked here, so that completion,
// manual page and usage are those of one tool.

func (a *app) generalizeCmd() *cobra.Command {
	var plan, yes, shutdown, keep bool
	c := &cobra.Command{
		Use: "generalize", Short: "Prepare this machine for capturing an image (root)", Args: cobra.NoArgs,
		Long: `Delete everything that is specific to this VM: the provisioned account, host
keys, leases, state, logs, histories, identities of the machine, its disks and
subscriptions, and the state of cloud-init. What an administrator has configured
is kept and reported. After that, use the machine only to capture an image.

Without --plan and --yes, it shows what would be deleted and asks for
confirmation. It can be run again. Running programs write some of it again until
the machine is off; with systemd it is then deleted once more, at the end of the
shutdown. Exit code 0: done; 1: something could not be deleted.`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case c.Flags().Changed("root"):
				return usage("--root is not supported; to check an image, run: agentctl image verify ROOT")
			case plan && (yes || shutdown):
				return usage("--plan cannot be used with --yes or --shutdown")
			case a.output == "json" && !plan:
				return usage("--output json needs --plan")
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
	c.Flags().BoolVar(&plan, "plan", false, "show what would be done without changing anything")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	c.Flags().BoolVar(&shutdown, "shutdown", false, "power off the machine when done")
	c.Flags().BoolVar(&keep, "keep-user", false, "keep the provisioned account")
	return c
}

// profiles returns the profiles of package generalize, which agentctl does not
// link.
func profiles() []string { return []string{"marketplace", "cis", "immutable"} }

func (a *app) imageCmd() *cobra.Command {
	image := &cobra.Command{Use: "image", Short: "Check an image", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	var profile string
	verify := &cobra.Command{
		Use: "verify ROOT", Short: "Check whether a root file system is ready to be published as an image", Args: cobra.MaximumNArgs(1),
		Long: `Check the root file system of an image, mounted or unpacked at ROOT, for data
of the machine it was made on (identities, keys, accounts, passwords, state) and
for the requirements of the profile. Nothing is changed, and no link leads out of
ROOT. --root ROOT is the same as ROOT. With --output json, each finding has a
stable code (provisioning/SPEC.md §14.5).
Exit code 0: no problems; 1: the image should not be published; 2: ROOT cannot be
read.`,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Flags().Lookup("root")
			switch {
			case root.Changed && len(args) > 0:
				return usage("give ROOT once")
			case root.Changed:
				args = []string{root.Value.String()}
				a.Root = "/" // azguest is the one of this machine
			case len(args) == 0:
				return usage("image verify: an argument is missing; usage: %s", c.UseLine())
			}
			if err := cli.OneOf("value of --profile", profile, profiles()...); err != nil {
				return exitWith(ExitUsage, err)
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
		panic(err) // the name above is misspelt
	}
	image.AddCommand(verify)
	return image
}
