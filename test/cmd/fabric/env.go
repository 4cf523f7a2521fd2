package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/fabric"
)

func envCommand() *cobra.Command {
	arm, ca := "127.0.0.1:8443", ""
	cmd := &cobra.Command{
		Use:   "env az",
		Short: "print the commands with which azure-cli uses the fabric",
		Long: `Print the commands with which azure-cli uses the control plane of a fabric that
serves it with TLS:

  fabric serve --local --arm 127.0.0.1:8443 --ca-out ca.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fabric.OneOf("client", args[0], "az"); err != nil {
				return usageError{err}
			}
			for _, line := range fabric.AzureCLI(arm, ca) {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	text(cmd.Flags(), &arm, "arm", "address of the control plane with TLS, as in serve --arm", matches(`^(\[[[:xdigit:]:]+\]|[^/:]+):[0-9]+$`, "an address with a port"))
	cmd.Flags().StringVar(&ca, "ca", "ca.pem", "file with the CA certificate, as in serve --ca-out")
	return cmd
}
