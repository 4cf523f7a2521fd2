package firewall

import (
	"context"
	"fmt"

	"github.com/azguest/azguest/agent/host"
)

// iptablesRules are appended in this order to the OUTPUT chain of the table
// "security": DNS passes, root passes, other new connections are dropped.
func (f *Firewall) iptablesRules() [][]string {
	dst := []string{"-d", f.addr.String(), "-p", "tcp"}
	with := func(more ...string) []string { return append(append([]string{}, dst...), more...) }
	return [][]string{
		with("--destination-port", "53", "-j", "ACCEPT"),
		with("-m", "owner", "--uid-owner", "0", "-j", "ACCEPT"),
		with("-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"),
	}
}

func (f *Firewall) iptables(ctx context.Context) error {
	all := true
	for _, r := range f.iptablesRules() {
		if _, err := f.ipt(ctx, "-C", r); err != nil {
			all = false
			break
		}
	}
	if all {
		return nil
	}
	if err := f.removeIPTables(ctx); err != nil {
		return err
	}
	for _, r := range f.iptablesRules() {
		if _, err := f.ipt(ctx, "-A", r); err != nil {
			return fmt.Errorf("add iptables rule: %w", err)
		}
	}
	return nil
}

// removeIPTables deletes our rules however often they are there. Without
// iptables there is nothing to delete.
func (f *Firewall) removeIPTables(ctx context.Context) error {
	for _, r := range f.iptablesRules() {
		for range 100 {
			if _, err := f.ipt(ctx, "-C", r); err != nil {
				break
			}
			if _, err := f.ipt(ctx, "-D", r); err != nil {
				return fmt.Errorf("delete iptables rule: %w", err)
			}
		}
	}
	return nil
}

func (f *Firewall) ipt(ctx context.Context, op string, rule []string) (host.Result, error) {
	return f.run.Run(ctx, host.Cmd{
		Name: "iptables",
		Args: append([]string{"-w", "-t", "security", op, "OUTPUT"}, rule...),
	})
}
