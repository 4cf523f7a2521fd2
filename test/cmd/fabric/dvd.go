package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
)

// provisionFlags are the flags of the wanted configuration of the machine.
type provisionFlags struct {
	user, password, hostName, pps string
	keyFiles                      []string
	customData                    string
	userData, vendorData          string
	allowPasswords, noAgent       bool
}

func (p *provisionFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&p.user, "user", "", "name of the administrator account")
	fl.StringVar(&p.password, "password", "", "password of the administrator")
	fl.StringArrayVar(&p.keyFiles, "ssh-key-file", nil, "file with SSH public keys, one per line; repeatable")
	fl.StringVar(&p.customData, "custom-data-file", "", "file with the custom data")
	fl.BoolVar(&p.allowPasswords, "allow-passwords", false, "leave DisableSshPasswordAuthentication false, even without --password")
	fl.BoolVar(&p.noAgent, "no-guest-agent", false, "set ProvisionGuestAgent to false")
	oneOf(fl, &p.pps, "pps", "type of pre-provisioning: Running, Savable or PreprovisionedOSDisk", "None", "Running", "Savable", "PreprovisionedOSDisk")
}

func (p *provisionFlags) read() (fabric.Provisioning, error) {
	out := fabric.Provisioning{
		HostName: p.hostName, User: p.user, Password: p.password, AllowPasswords: p.allowPasswords, NoGuestAgent: p.noAgent, PPSType: p.pps,
	}
	for _, name := range p.keyFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			return out, fmt.Errorf("read ssh keys: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				out.SSHKeys = append(out.SSHKeys, line)
			}
		}
	}
	for _, d := range []struct {
		what, name string
		to         *[]byte
	}{{"custom data", p.customData, &out.CustomData}, {"user data", p.userData, &out.UserData}, {"vendor data", p.vendorData, &out.VendorData}} {
		if d.name == "" {
			continue
		}
		data, err := os.ReadFile(d.name)
		if err != nil {
			return out, fmt.Errorf("read %s: %w", d.what, err)
		}
		*d.to = data
	}
	return out, nil
}

func dvdCommand() *cobra.Command {
	var (
		p         provisionFlags
		m         fabric.Medium
		out, raw  string
		spell, fs = string(fabric.SpellingDVD), string(fabric.UDF)
		extra     []string
	)
	cmd := &cobra.Command{
		Use:   "dvd --out FILE",
		Short: "build the provisioning medium",
		Long: `Build the DVD that the platform attaches to a new machine: ovf-env.xml, and
CustomData.bin if there is custom data. The file system is UDF 1.02, like the
platform's; Azure Stack and other clouds attach --fs iso or bridge.

  qemu-system-x86_64 … -drive file=dvd.iso,media=cdrom,readonly=on`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if m.Provisioning, err = p.read(); err != nil {
				return err
			}
			m.Spelling, m.FS = fabric.Spelling(spell), fabric.FileSystem(fs)
			if raw != "" {
				if m.Raw, err = os.ReadFile(raw); err != nil {
					return fmt.Errorf("read ovf-env.xml: %w", err)
				}
			}
			m.Extra = map[string][]byte{}
			for _, name := range extra {
				data, err := os.ReadFile(name)
				if err != nil {
					return fmt.Errorf("read file for the medium: %w", err)
				}
				m.Extra[filepath.Base(name)] = data
			}
			image, err := m.Image()
			if err != nil {
				return err
			}
			// Mode 0600, because the medium contains a password in clear text.
			if err := os.WriteFile(out, image, 0o600); err != nil {
				return fmt.Errorf("write medium: %w", err)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&out, "out", "", "image file to write")
	p.register(cmd)
	fl.StringVar(&p.hostName, "host-name", "vm-01", "host name")
	oneOf(fl, &fs, "fs", "file system: udf, iso or bridge", string(fabric.UDF), string(fabric.ISO9660), string(fabric.Bridge))
	oneOf(fl, &spell, "spelling", "namespaces of ovf-env.xml: dvd, ns1 (as rewritten by cloud-init) or none",
		string(fabric.SpellingDVD), string(fabric.SpellingNS1), string(fabric.SpellingNone))
	fl.BoolVar(&m.Malformed, "malformed", false, "truncate ovf-env.xml in the middle")
	text(fl, &m.Label, "label", "volume label", matches(`^[ -~]{1,30}$`, "1 to 30 printable characters of ASCII"))
	fl.StringVar(&raw, "ovf", "", "use this file as ovf-env.xml")
	fl.StringArrayVar(&extra, "file", nil, "additional file for the medium; repeatable")
	_ = cmd.MarkFlagRequired("out") // the flag exists
	return cmd
}

func bundlesCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "bundles --out DIR",
		Short: "write the sample handler packages",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, b := range bundles.Samples() {
				path, err := b.Write(out)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "directory to write to")
	_ = cmd.MarkFlagRequired("out") // the flag exists
	return cmd
}

// freePort returns the address with a free port if its port is 0.
func freePort(ctx context.Context, addr string) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	got := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	return got, nil
}
