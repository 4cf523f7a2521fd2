package firewall

import (
	"context"
	"errors"
	"fmt"

	"github.com/azguest/azguest/agent/host"
)

// An iptablesRule is one rule of the table "security".
type iptablesRule struct {
	chain string
	args  []string
}

// iptablesRules are appended in this order: DNS passes, root passes, other
// connections are dropped with their first packet. Forwarded packets have no
// owner.
func (f *Firewall) iptablesRules() []iptablesRule {
	with := func(chain string, more ...string) iptablesRule {
		return iptablesRule{chain, append([]string{"-d", f.addr.String(), "-p", "tcp"}, more...)}
	}
	return []iptablesRule{
		with("OUTPUT", "--destination-port", "53", "-j", "ACCEPT"),
		with("OUTPUT", "-m", "owner", "--uid-owner", "0", "-j", "ACCEPT"),
		with("OUTPUT", "--syn", "-j", "DROP"),
		with("FORWARD", "!", "--destination-port", "53", "--syn", "-j", "DROP"),
	}
}

func (f *Firewall) iptablesPresent(ctx context.Context) bool {
	for _, r := range f.iptablesRules() {
		if _, err := f.ipt(ctx, "-C", r); err != nil {
			return false
		}
	}
	return true
}

func (f *Firewall) iptables(ctx context.Context) error {
	if err := f.removeIPTables(ctx); err != nil {
		return err
	}
	for _, r := range f.iptablesRules() {
		if _, err := f.ipt(ctx, "-A", r); err != nil {
			// Remove an incomplete set of rules.
			return errors.Join(fmt.Errorf("add iptables rule: %w", err), f.removeIPTables(ctx))
		}
	}
	return nil
}

// removeIPTables deletes the agent's rules, however often they are there.
// Without iptables there is nothing to delete.
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

func (f *Firewall) ipt(ctx context.Context, op string, r iptablesRule) (host.Result, error) {
	return f.run.Run(ctx, host.Cmd{
		Name: "iptables",
		Args: append([]string{"-w", "-t", "security", op, r.chain}, r.args...),
	})
}
