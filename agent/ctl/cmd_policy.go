package ctl

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/status"
)

// Commands about trust and secrets of extensions. azguest does the work, as
// with those in cmd_image.go.

func (a *app) policyCmd() *cobra.Command {
	c := a.show("policy", "Show the extension policy",
		func(s status.Snapshot) any { return s.Policy },
		func(s status.Snapshot) {
			p := s.Policy
			a.text("mode    %s\n", cmp.Or(p.Mode, "off"))
			if p.Why != "" {
				a.text("why     %s\n", p.Why)
			}
			a.text("source  %s\n", cmp.Or(p.Source, "none"))
			for _, d := range p.Denied {
				a.text("denied  %s\n", d)
			}
			for _, l := range (view{now: a.Now()}).worry(p.Problem, "") {
				a.text("%s\n", l)
			}
		})
	var version, signer string
	explain := &cobra.Command{
		Use: "explain EXTENSION", Short: "Show whether the policy allows an extension, and why", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeExt,
		Long: `explain reads the current policy files and shows whether the extension may run,
which file decides, and whether its package must be signed. EXTENSION is
Publisher.Type. The extension does not have to be installed, and the agent does
not have to run.
Exit code 0: allowed; 1: denied, or the policy cannot be read.`,
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if s, _, err := a.load(); err == nil {
				if found, err := findExt(s, name); err == nil {
					name = found[0].Name
					version, signer = cmp.Or(version, found[0].Version), cmp.Or(signer, found[0].Signer)
				}
			}
			argv := []string{"policy", "explain"}
			if version != "" {
				argv = append(argv, "-version", version)
			}
			if signer != "" {
				argv = append(argv, "-signer", signer)
			}
			if a.output == "json" {
				argv = append(argv, "-json")
			}
			return a.become(append(argv, "--", name))
		},
	}
	explain.Flags().StringVar(&version, "version", "", "version of the extension; default: the installed one, or any")
	explain.Flags().StringVar(&signer, "signer", "", "signer of the package, for rules about signers")
	c.AddCommand(explain)
	return c
}

func (a *app) decryptCmd() *cobra.Command {
	var cert string
	c := &cobra.Command{
		Use: "decrypt FILE", Short: "Decrypt protected settings (root)", Args: cobra.ExactArgs(1),
		Long: `decrypt prints the protected settings of a handler's settings file (such as
config/0.settings), decrypted with the certificate of the machine. Handlers can
use it instead of openssl. FILE may be - for standard input. With --cert, FILE
contains only the base64 text of the protected settings.`,
		RunE: func(_ *cobra.Command, args []string) error {
			argv := []string{"decrypt"}
			if cert != "" {
				argv = append(argv, "-cert", cert)
			}
			return a.become(append(argv, "--", args[0]))
		},
	}
	c.Flags().StringVar(&cert, "cert", "", "thumbprint of the certificate that the settings are encrypted for")
	return c
}
