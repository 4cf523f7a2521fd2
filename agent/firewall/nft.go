package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// plan is the whole rule set, as values. The table is deleted and made again
// in the same transaction, so that the result does not depend on what was
// there and no packet sees it missing.
func plan(addr netip.Addr) (*nftables.Table, []chainPlan) {
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}
	accept := nftables.ChainPolicyAccept
	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return &nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		}
	}
	return table, []chainPlan{
		{chain("output", nftables.ChainHookOutput), rule(addr, true)},
		{chain("forward", nftables.ChainHookForward), rule(addr, false)},
	}
}

type chainPlan struct {
	chain *nftables.Chain
	rule  []expr.Any
}

// What makes a TCP packet the first of a connection.
const (
	tcpFlags = 0x17 // FIN, SYN, RST and ACK are looked at
	tcpSYN   = 0x02 // and only SYN is set
)

// rule is: ip daddr ADDR tcp dport != 53 [meta skuid != 0] tcp flags & (fin |
// syn | rst | ack) == syn counter drop. That is the first packet of a
// connection. Asking for the state of the connection ("ct state new") would
// say the same and switch connection tracking on for everything this machine
// sends and receives.
func rule(addr netip.Addr, notRoot bool) []expr.Any {
	ip := addr.As4()
	out := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(53)},
	}
	if notRoot {
		out = append(out,
			&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)})
	}
	return append(out,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFlags}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcpSYN}},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

func replace(addr netip.Addr) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	table, chains := plan(addr)
	c.AddTable(table) // so that the delete finds one
	c.DelTable(table)
	dropClassic(c)
	c.AddTable(table)
	for _, p := range chains {
		c.AddChain(p.chain)
		c.AddRule(&nftables.Rule{Table: table, Chain: p.chain, Exprs: p.rule})
	}
	return c.Flush()
}

// present reports whether our table is there with exactly our rules.
func present(addr netip.Addr) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	table, chains := plan(addr)
	for _, p := range chains {
		rules, err := c.GetRules(table, p.chain)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if len(rules) != 1 || !same(rules[0].Exprs, p.rule) {
			return false, nil
		}
	}
	return true, nil
}

// same compares the comparisons and the verdict; counters differ always and
// the kernel fills in fields of the rest.
func same(have, want []expr.Any) bool {
	return signature(have) == signature(want)
}

func signature(exprs []expr.Any) string {
	var s strings.Builder
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			fmt.Fprintf(&s, "cmp %d %x;", e.Op, e.Data)
		case *expr.Meta:
			fmt.Fprintf(&s, "meta %d;", e.Key)
		case *expr.Payload:
			fmt.Fprintf(&s, "payload %d %d %d;", e.Base, e.Offset, e.Len)
		case *expr.Bitwise:
			fmt.Fprintf(&s, "mask %x;", e.Mask)
		case *expr.Verdict:
			fmt.Fprintf(&s, "verdict %d;", e.Kind)
		}
	}
	return s.String()
}

func remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}
	c.AddTable(table)
	c.DelTable(table)
	dropClassic(c)
	return c.Flush()
}

// dropClassic takes away the table of the Python agent, whose place we have
// taken: nobody else would, and it drops packets of root that connection
// tracking calls invalid.
func dropClassic(c *nftables.Conn) {
	old := &nftables.Table{Name: "walinuxagent", Family: nftables.TableFamilyIPv4}
	c.AddTable(old)
	c.DelTable(old)
}
