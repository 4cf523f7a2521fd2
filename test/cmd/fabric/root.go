package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/fabric"
)

// usageError is an error with exit status 2.
type usageError struct{ error }

const defaultAdmin = "127.0.0.1:8170"

func root(in io.Reader, out, errOut io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fabric",
		Short: "emulate the platform around an Azure-style Linux VM",
		Long: `fabric emulates the host, the storage and the control plane of a cloud, to test a
guest agent and its extensions without a cloud.

  # in a network namespace or VM network that has the platform's addresses:
  fabric bundles --out repo
  fabric serve --repo repo --vm vm-01 &
  fabric dvd --out dvd.iso --user me --ssh-key-file ~/.ssh/id_ed25519.pub --host-name vm-01
  # start the guest, then:
  fabric await ready --timeout 5m
  fabric put Hello --handler Azguest.Samples.Hello --version 1.0 --settings '{"greeting":"hi"}' --wait
  fabric get Hello
  fabric journal --kind status --limit 1
  fabric fail goalstate --status 503 --times 2

Commands other than serve, dvd, bundles, ext and env connect to a running "fabric serve"
at the address in --admin or FABRIC_ADMIN.

Exit status: 0 success, 1 failure, 2 wrong usage; fabric ext has one more.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	cmd.Version = number
	if number == "" {
		cmd.Version = "development build"
	}
	cmd.SetVersionTemplate(versionLine() + "\n")

	r := &remote{}
	cmd.PersistentFlags().StringVar(&r.admin, "admin", orEnv("FABRIC_ADMIN", defaultAdmin),
		"address of the admin API and the control plane; overrides FABRIC_ADMIN")
	cmd.AddCommand(
		serveCommand(&r.admin), dvdCommand(), bundlesCommand(),
		putCommand(r), getCommand(r), deleteCommand(r),
		awaitCommand(r), journalCommand(r), failCommand(r), mendCommand(r), vmCommand(r),
		extCommand(), envCommand(),
	)
	cmd.SetHelpCommand(helpCommand())
	cmd.InitDefaultHelpCmd()
	cmd.InitDefaultCompletionCmd()
	strict(cmd)
	return cmd
}

func orEnv(name, otherwise string) string {
	if s := os.Getenv(name); s != "" {
		return s
	}
	return otherwise
}

// remote is the address of the running fabric that a command uses.
type remote struct{ admin, vm string }

func (r *remote) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&r.vm, "vm", "", "name of the virtual machine (default: the first)")
	return cmd
}

func (r *remote) client() fabric.Remote {
	url := r.admin
	if len(url) < 4 || url[:4] != "http" {
		url = "http://" + url
	}
	return fabric.Remote{URL: url, VM: r.vm}
}
