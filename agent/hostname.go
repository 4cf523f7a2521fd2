package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning"
)

// monitorHostName is the job behind Provisioning.MonitorHostName: a host name
// that was changed on the running machine is saved for the next boot and sent
// to the DHCP server, from which the platform's DNS gets it. No interface is
// taken down for that: the program that manages the interface renews the lease,
// if it can.
func (a *Agent) monitorHostName(ctx context.Context) error {
	if a.Kernel.HostName == nil || !a.startGate.opened.Load() {
		return nil // provisioning may be setting the host name
	}
	now, err := a.Kernel.HostName()
	if err != nil {
		return fmt.Errorf("check host name: %w", err)
	}
	record := path.Join(a.cfg.Paths.Lib, "published_hostname")
	known, ok := a.knownHostName(record)
	if !ok {
		// No name was saved yet: assume that the current one was published.
		if err := a.Root.WriteFile(record, []byte(now), 0o644); err != nil {
			return fmt.Errorf("save host name: %w", err)
		}
		return nil
	}
	if now == known || now == "" || now == "localhost" || now == "(none)" {
		return nil // not a name to publish
	}
	if err := provisioning.CheckHostName(now); err != nil {
		if a.badName != now {
			a.badName = now
			a.Log.Warn().Err(err).Str("name", now).Msg("new host name not published")
		}
		return nil
	}
	m := a.machine(provisioning.Identity{})
	facts, err := m.Gather(ctx)
	if err != nil {
		return fmt.Errorf("publish host name: %w", err)
	}
	step := provisioning.SetHostName{Name: now, Old: known, Hosts: !facts.ResolvesSelf, Record: record, Restorecon: facts.Restorecon}
	if err := step.Apply(ctx, m); err != nil {
		return err
	}
	a.live.set(func(s *status.Snapshot) { s.VM.Name = now })
	a.live.note("host name", "changed from "+known+" to "+now)
	how, err := a.renewLease(ctx)
	a.Log.Info().Err(err).Str("from", known).Str("to", now).Str("lease", how).Msg("host name changed")
	return nil // the name is saved; the next regular renewal sends it
}

// knownHostName returns the name that was published last: the recorded one,
// else the one that cloud-init has set (provisioning/SPEC.md §8.7).
func (a *Agent) knownHostName(record string) (string, bool) {
	if b, err := a.Root.ReadFile(record); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), true
	}
	b, err := a.Root.ReadFile("/var/lib/cloud/data/set-hostname")
	if err != nil {
		return "", false
	}
	var doc struct {
		Hostname string `json:"hostname"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Hostname == "" {
		return "", false
	}
	return doc.Hostname, true
}

// renewal is how to renew a lease without taking the link down.
type renewal struct {
	by  string // the program that manages the interface; "" if none can renew
	cmd host.Cmd
}

// planRenewal finds the program that manages an interface by its files under
// /run, never by the name of the distribution. dhclient and wicked can renew
// only by releasing the address first, so they are not used.
func planRenewal(r host.Root, name string, index int) renewal {
	n := strconv.Itoa(index)
	cmd := func(name string, args ...string) host.Cmd {
		return host.Cmd{Name: name, Args: args, Timeout: time.Minute}
	}
	if b, err := r.ReadFile("/run/systemd/netif/links/" + n); err == nil && strings.Contains(string(b), "ADMIN_STATE=configured") {
		return renewal{"systemd-networkd", cmd("networkctl", "renew", name)}
	}
	if b, err := r.ReadFile("/run/NetworkManager/devices/" + n); err == nil && strings.Contains(string(b), "managed=true") {
		return renewal{"NetworkManager", cmd("nmcli", "--wait", "30", "device", "reapply", name)}
	}
	if slices.ContainsFunc([]string{"/run/dhcpcd/pid", "/run/dhcpcd.pid", "/run/dhcpcd/" + name + ".pid", "/run/dhcpcd-" + name + ".pid"}, r.Exists) {
		return renewal{"dhcpcd", cmd("dhcpcd", "--rebind", name)}
	}
	return renewal{}
}

// defaultInterface returns the name of the interface with the default route.
func defaultInterface(r host.Root) string {
	b, err := r.ReadFile("/proc/net/route")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// renewLease renews the DHCP lease and checks that the machine still has an
// address afterwards. how says what was done.
func (a *Agent) renewLease(ctx context.Context) (how string, err error) {
	name := defaultInterface(a.Root)
	if name == "" {
		return "no default route", nil
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return "not renewed", fmt.Errorf("renew the lease of %s: %w", name, err)
	}
	p := planRenewal(a.Root, name, i.Index)
	if p.by == "" {
		return "not renewed: no network manager of " + name + " can renew it without dropping the address", nil
	}
	if _, err := a.Runner.Run(ctx, p.cmd); err != nil {
		return "not renewed", fmt.Errorf("renew the lease of %s: %w", name, err)
	}
	if err := hasAddress(ctx, i); err != nil {
		a.live.problem("network", "AZ-NET-LEASE", "journalctl -b; "+p.by, err)
		return "renewed by " + p.by, err
	}
	return "renewed by " + p.by, nil
}

// hasAddress waits until the interface has an address again, if it lost it.
func hasAddress(ctx context.Context, i *net.Interface) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("no address for 30s"))
	defer cancel()
	for {
		addrs, err := i.Addrs()
		if err == nil && len(addrs) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s has no address after its lease was renewed: %w", i.Name, context.Cause(ctx)), err)
		case <-time.After(time.Second):
		}
	}
}
