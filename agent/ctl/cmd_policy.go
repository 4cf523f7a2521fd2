package ctl

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/status"
)

// Commands about trust and secrets of extensions. azguest does the work, as
// with those in cmd_image.go.

func (a *app) policyCmd() *cobra.Command {
	c := a.show("policy", "What extensions are allowed",
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
		Use: "explain EXTENSION", Short: "Whether the policy on this machine allows an extension, and why", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeExt,
		Long: `explain reads the policy files as they are now and says whether the extension may
run, which file decides it, and whether its package has to be signed. The agent
need not run, and the extension need not be here: EXTENSION is Publisher.Type.
Exit code 0: it may run; 1: it is refused, or the policy cannot be read.`,
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
	explain.Flags().StringVar(&version, "version", "", "which version; else that on this machine, or any")
	explain.Flags().StringVar(&signer, "signer", "", "who signed it, for rules about signers")
	c.AddCommand(explain)
	return c
}

func (a *app) decryptCmd() *cobra.Command {
	var cert string
	c := &cobra.Command{
		Use: "decrypt FILE", Short: "Print protected settings in clear (root)", Args: cobra.ExactArgs(1),
		Long: `decrypt prints the protected settings of a settings file that the agent gave a
handler (config/0.settings), decrypted with the machine's certificate, so that
no handler has to call openssl. FILE is - for standard input. With --cert, FILE
holds nothing but the base64 text of the protected settings.`,
		RunE: func(_ *cobra.Command, args []string) error {
			argv := []string{"decrypt"}
			if cert != "" {
				argv = append(argv, "-cert", cert)
			}
			return a.become(append(argv, "--", args[0]))
		},
	}
	c.Flags().StringVar(&cert, "cert", "", "thumbprint of the certificate it was encrypted for")
	return c
}
