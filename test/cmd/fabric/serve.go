package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/fabric"
)

type serveFlags struct {
	wire, hostga, blob, imds, admin, arm string
	blobURL, repo, journal               string
	vms                                  []string
	fastTrack, pageBlob, mixedCase, tls  bool
	local                                bool
	retryAfter, budget, idleExit         time.Duration
	subscription, group, location        string
	provision                            provisionFlags
	vmID                                 string
	caOut                                string
	agentVersion                         string
}

func serveCommand(admin *string) *cobra.Command {
	f := &serveFlags{retryAfter: time.Second, budget: 90 * time.Minute, group: "rg"}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "serve the platform until SIGTERM",
		Long: `Serve the platform. When all listeners are open, print one line of JSON to
standard output: {"event":"listening","wire":"168.63.129.16:80",…}.

The default addresses are the platform's own; they must exist in the network
namespace. For clients with a configurable address, use --local, or addresses such
as 127.0.0.1:0. "-" disables a service.

The admin address serves the control plane, compatible with ARM
(PUT /subscriptions/…/virtualMachines/VM/extensions/NAME?api-version=…), and the
fabric's own interface under /_fabric (journal, faults, await, vms).

Several --vm are distinguished by source address: --vm a=10.0.0.4 --vm b=10.0.0.5.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownVMs(f.vms); err != nil {
				return err
			}
			f.admin = *admin
			for name, addr := range map[string]*string{"wire": &f.wire, "hostga": &f.hostga, "blob": &f.blob, "imds": &f.imds} {
				if f.local && !cmd.Flags().Changed(name) {
					*addr = "127.0.0.1:0"
				}
			}
			return serve(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.wire, "wire", fabric.Endpoint+":80", "address of the WireServer")
	fl.StringVar(&f.hostga, "hostga", fabric.Endpoint+":32526", "address of the HostGAPlugin")
	fl.StringVar(&f.blob, "blob", fabric.Endpoint+":10000", "address of blob storage")
	fl.StringVar(&f.imds, "imds", fabric.IMDSAddress+":80", "address of the instance metadata service")
	fl.BoolVar(&f.local, "local", false, "use free ports of 127.0.0.1 instead of the platform's addresses")
	fl.StringVar(&f.arm, "arm", "", "additional address of the control plane, with TLS")
	fl.StringVar(&f.blobURL, "blob-url", "", "URL of blob storage for guests; the account is appended, or replaces {account} (default http://<address of --blob>)")
	fl.BoolVar(&f.tls, "blob-tls", false, "serve blob storage over https; see --ca-out")
	fl.StringVar(&f.caOut, "ca-out", "", "write the CA certificate of the https listeners to this file")
	fl.StringVar(&f.repo, "repo", "", "directory with handler packages, Name__Version.zip")
	fl.StringArrayVar(&f.vms, "vm", []string{"vm-01"}, "virtual machine, NAME or NAME=ADDRESS; repeatable")
	text(fl, &f.vmID, "vm-id", "id of the first virtual machine, as in its SMBIOS",
		matches(`^[[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}$`, "a UUID"))
	fl.StringVar(&f.journal, "journal", "", "append the journal to this file, as JSON lines")
	fl.BoolVar(&f.fastTrack, "fasttrack", false, "publish changes of extensions through vmSettings")
	fl.BoolVar(&f.pageBlob, "page-blob", false, "use a page blob for the status")
	fl.BoolVar(&f.mixedCase, "mixed-case", false, "use mixed case in the keys of vmSettings")
	text(fl, &f.agentVersion, "agent-version", "agent version to announce in family Prod; packages are WALinuxAgent__VERSION.zip in --repo",
		matches(`^\d+(\.\d+){1,3}$`, "two to four numbers separated by dots"))
	span(fl, &f.retryAfter, 0, "retry-after", "polling interval of operations, sent to clients as Retry-After")
	span(fl, &f.budget, time.Millisecond, "extension-timeout", "time after which an extension operation fails")
	span(fl, &f.idleExit, time.Millisecond, "idle-exit", "exit after this time without a request")
	text(fl, &f.subscription, "subscription", "subscription id", segment)
	text(fl, &f.group, "resource-group", "resource group", segment)
	fl.StringVar(&f.location, "location", "westeurope", "location")
	f.provision.register(cmd)
	fl.StringVar(&f.provision.hostName, "host-name", "", "host name (default: the name of the VM)")
	fl.StringVar(&f.provision.userData, "user-data-file", "", "file with the user data (IMDS only)")
	fl.StringVar(&f.provision.vendorData, "vendor-data-file", "", "file with the vendor data (IMDS only; an extension of the protocol)")
	return cmd
}

func serve(ctx context.Context, s *serveFlags, out, errOut io.Writer) (err error) {
	o := fabric.Options{
		Repository: s.repo, FastTrack: s.fastTrack, Subscription: s.subscription, ResourceGroup: s.group, Location: s.location,
		RetryAfter: s.retryAfter, ExtensionTimeout: s.budget, JournalKeep: 50000,
		Log: func(format string, args ...any) { fmt.Fprintf(errOut, "fabric: "+format+"\n", args...) },
	}
	if s.journal != "" {
		file, err := os.OpenFile(s.journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("open journal: %w", err)
		}
		defer func() {
			if cerr := file.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("close journal: %w", cerr)
			}
		}()
		o.Journal = file
	}
	scheme := "http"
	if s.tls {
		scheme = "https"
	}
	// The URL contains the port, so a free port must be found before the fabric
	// is opened.
	blobAddr := s.blob
	if s.blobURL == "" && strings.HasSuffix(blobAddr, ":0") {
		if blobAddr, err = freePort(ctx, blobAddr); err != nil {
			return err
		}
	}
	o.BlobURL = s.blobURL
	if o.BlobURL == "" && blobAddr != "-" {
		o.BlobURL = scheme + "://" + blobAddr
	}
	f, err := fabric.Open(o)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()

	setup, err := s.provision.read()
	if err != nil {
		return err
	}
	line := map[string]any{"event": "listening", "pid": os.Getpid(), "blobURL": o.BlobURL, "vms": s.createVMs(f, setup)}
	if err := s.listen(f, blobAddr, line); err != nil {
		return err
	}
	if s.caOut != "" {
		ca, err := f.CACertificate()
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.caOut, ca, 0o644); err != nil {
			return fmt.Errorf("write CA certificate: %w", err)
		}
	}
	if err := json.NewEncoder(out).Encode(line); err != nil {
		return fmt.Errorf("write listening event: %w", err)
	}
	return untilIdle(ctx, f, s.idleExit)
}

// createVMs creates the virtual machines and returns their names and ids.
func (s *serveFlags) createVMs(f *fabric.Fabric, setup fabric.Provisioning) []map[string]string {
	var vms []map[string]string
	for i, spec := range s.vms {
		name, address, _ := strings.Cut(spec, "=")
		p := setup
		if i > 0 || p.HostName == "" {
			p.HostName = name
		}
		options := []fabric.VMOption{fabric.Provision(p), fabric.WithConfig(func(c *fabric.Config) {
			c.MixedCaseKeys = s.mixedCase
			if s.pageBlob {
				c.StatusBlob = "PageBlob"
			}
			if s.agentVersion != "" {
				c.AgentFamilies = []fabric.AgentFamily{{Name: "Prod", Version: s.agentVersion}}
			}
		})}
		if address != "" {
			options = append(options, fabric.Address(address))
		}
		if i == 0 && s.vmID != "" {
			options = append(options, fabric.VMID(s.vmID))
		}
		v := f.CreateVM(name, options...)
		vms = append(vms, map[string]string{"name": name, "id": v.ID()})
	}
	return vms
}

// listen opens the listeners and adds their addresses to line.
func (s *serveFlags) listen(f *fabric.Fabric, blobAddr string, line map[string]any) error {
	for _, l := range []struct {
		service fabric.Service
		name    string
		addr    string
		https   bool
	}{
		{fabric.Wire, "wire", s.wire, false},
		{fabric.HostGA, "hostga", s.hostga, false},
		{fabric.Blob, "blob", blobAddr, s.tls},
		{fabric.IMDS, "imds", s.imds, false},
		{fabric.ARM, "admin", s.admin, false},
		{fabric.ARM, "arm", s.arm, true},
	} {
		if l.addr == "-" || l.addr == "" {
			continue
		}
		addr, err := f.Listen(l.service, l.addr, nil, l.https)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return fmt.Errorf("%w; this namespace does not have the address: add it, or use --local", err)
		}
		if err != nil {
			return err
		}
		line[l.name] = addr.String()
	}
	return nil
}

// untilIdle waits until ctx ends or, if limit is not 0, until there has been no
// request for that time.
func untilIdle(ctx context.Context, f *fabric.Fabric, limit time.Duration) error {
	for {
		wait := time.Hour
		if limit > 0 {
			wait = time.Until(f.LastRequest().Add(limit))
			if wait <= 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
