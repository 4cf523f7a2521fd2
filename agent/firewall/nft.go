package firewall

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// plan returns the whole rule set. The table is deleted and made again in one
// transaction, so that the result does not depend on its previous content.
func plan(addr netip.Addr, root uint32) []chainPlan {
	return []chainPlan{
		{"output", unix.NF_INET_LOCAL_OUT, [][]expr.Any{
			rule(addr, owner(root), accepted),
			// Only root can mark packets, so this counts packets of root that
			// are about to be dropped. See Root.
			rule(addr, mark(probeMark), counted),
			rule(addr, nil, dropped),
		}},
		{"forward", unix.NF_INET_FORWARD, [][]expr.Any{
			rule(addr, nil, dropped),
			fragments(addr),
		}},
	}
}

type chainPlan struct {
	name  string
	hook  uint32
	rules [][]expr.Any
}

// Flags of the first packet of a TCP connection. Other flags are ignored: some
// hosts accept SYN with FIN.
const (
	tcpFlags = 0x12 // SYN and ACK are compared
	tcpSYN   = 0x02 // and only SYN is set
)

// probeMark is the mark of packets that test whether the agent's rules block
// root.
const probeMark = 0x617a6775

// rule returns: ip daddr ADDR tcp dport != 53 tcp flags & (syn | ack) == syn
// [WHOSE] VERDICT. It matches the first packet of a connection. "ct state new"
// would match the same, but would enable connection tracking for everything
// that this machine sends and receives.
//
// The rules accept root and then drop the rest. "Drop what is not root's" would
// let packets without an owner pass, such as those of connections that the
// kernel makes for a socket of another kind (SMC, MPTCP).
func rule(addr netip.Addr, whose, verdict []expr.Any) []expr.Any {
	ip := addr.As4()
	return slices.Concat([]expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(53)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFlags}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcpSYN}},
	}, whose, verdict)
}

// fragments returns: ip daddr ADDR ip protocol tcp ip frag-off & 0x3fff != 0
// counter drop. A container can fragment a first packet so that no rule sees
// its flags.
func fragments(addr netip.Addr) []expr.Any {
	ip := addr.As4()
	return slices.Concat([]expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip[:]},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 9, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	}, dropped)
}

var (
	accepted = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	counted  = []expr.Any{&expr.Counter{}}
	dropped  = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
)

func owner(uid uint32) []expr.Any { return metaIs(expr.MetaKeySKUID, uid) }
func mark(m uint32) []expr.Any    { return metaIs(expr.MetaKeyMARK, m) }

func metaIs(key expr.MetaKey, v uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(v)},
	}
}

// Flags of a table (linux/netfilter/nf_tables.h, since 6.9). Only the socket
// that made the table can change or flush it; when the socket is closed, the
// table stays and everyone can.
const (
	tableDormant = 1
	tableOwner   = 2
	tablePersist = 4
)

// replace replaces the table, with these flags. A packet passes the hooks of the
// new and of the old table, and each decides by itself which rules are in force:
// if the transaction ends in between, the new table has no rules yet for that
// packet and the old one has none any more. So a stand-in with the same rules is
// there meanwhile, which is not part of that transaction.
func (s *socket) replace(chains []chainPlan, flags uint32) error {
	stand := batch{}
	stand.without(standIn)
	err := stand.table(standIn, chains, 0)
	b := batch{}
	b.without(TableName)
	b.without(classicTable)
	if err := errors.Join(err, b.table(TableName, chains, flags)); err != nil {
		return err
	}
	if _, err := s.ask(stand.end()); err != nil {
		return err
	}
	_, err = s.ask(b.end())
	gone := batch{}
	gone.without(standIn)
	_, gerr := s.ask(gone.end())
	return cmp.Or(err, gerr)
}

// remove removes the table.
func (s *socket) remove() error {
	b := batch{}
	b.without(TableName)
	b.without(standIn)
	b.without(classicTable)
	_, err := s.ask(b.end())
	return err
}

// standIn is the table that is there while TableName is replaced.
const standIn = TableName + "-new"

// classicTable is the table of the classic agent, which this agent replaces:
// nothing else would remove it, and it drops packets of root that connection
// tracking considers invalid.
const classicTable = "walinuxagent"

// A batch is one transaction.
type batch struct{ messages [][]byte }

func (b *batch) add(kind uint16, attrs ...[]byte) {
	flags := uint16(0)
	switch kind {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN:
		flags = unix.NLM_F_CREATE
	case unix.NFT_MSG_NEWRULE:
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	nfgen := []byte{unix.NFPROTO_IPV4, 0, 0, 0}
	b.messages = append(b.messages, message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, append([][]byte{nfgen}, attrs...)...))
}

// table adds a table with its chains and rules.
func (b *batch) table(name string, chains []chainPlan, flags uint32) error {
	b.add(unix.NFT_MSG_NEWTABLE, attribute(unix.NFTA_TABLE_NAME, cstring(name)), number(unix.NFTA_TABLE_FLAGS, flags))
	for _, c := range chains {
		b.add(unix.NFT_MSG_NEWCHAIN,
			attribute(unix.NFTA_CHAIN_TABLE, cstring(name)),
			attribute(unix.NFTA_CHAIN_NAME, cstring(c.name)),
			attribute(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, number(unix.NFTA_HOOK_HOOKNUM, c.hook), number(unix.NFTA_HOOK_PRIORITY, 0)),
			number(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept)),
			attribute(unix.NFTA_CHAIN_TYPE, cstring("filter")))
		for _, r := range c.rules {
			var list []byte
			for _, e := range r {
				data, err := expr.Marshal(unix.NFPROTO_IPV4, e)
				if err != nil {
					return fmt.Errorf("encode rule: %w", err)
				}
				list = append(list, attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, data)...)
			}
			b.add(unix.NFT_MSG_NEWRULE,
				attribute(unix.NFTA_RULE_TABLE, cstring(name)),
				attribute(unix.NFTA_RULE_CHAIN, cstring(c.name)),
				attribute(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list))
		}
	}
	return nil
}

// without deletes a table. The table is created before, so that there is one to
// delete.
func (b *batch) without(table string) {
	name := attribute(unix.NFTA_TABLE_NAME, cstring(table))
	b.add(unix.NFT_MSG_NEWTABLE, name)
	b.add(unix.NFT_MSG_DELTABLE, name)
}

// end returns the request. The kernel answers each error, and the last message
// in any case.
func (b *batch) end() []byte {
	last := b.messages[len(b.messages)-1]
	binary.NativeEndian.PutUint16(last[6:], binary.NativeEndian.Uint16(last[6:])|unix.NLM_F_ACK)
	mark := func(kind uint16) []byte {
		return message(kind, 0, []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES})
	}
	out := mark(unix.NFNL_MSG_BATCH_BEGIN)
	for _, m := range b.messages {
		out = append(out, m...)
	}
	return append(out, mark(unix.NFNL_MSG_BATCH_END)...)
}

func cstring(s string) []byte { return append([]byte(s), 0) }

func number(kind uint16, v uint32) []byte {
	return attribute(kind, binary.BigEndian.AppendUint32(nil, v))
}

// present reports whether the agent's table exists, with exactly its chains and
// rules, and is not dormant.
func present(chains []chainPlan) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName })
	if i < 0 || tableFlags(tables[i])&tableDormant != 0 {
		return false, nil
	}
	hooked, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, err
	}
	for _, p := range chains {
		if !slices.ContainsFunc(hooked, p.is) {
			return false, nil
		}
		rules, err := c.GetRules(tables[i], &nftables.Chain{Name: p.name})
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !slices.EqualFunc(rules, p.rules, func(have *nftables.Rule, want []expr.Any) bool { return same(have.Exprs, want) }) {
			return false, nil
		}
	}
	return true, nil
}

// tableFlags returns the flags of a table. They are in network byte order, but
// the library reads them in the machine's.
func tableFlags(t *nftables.Table) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Flags))
}

// is reports whether a chain is this one and is hooked.
func (p chainPlan) is(c *nftables.Chain) bool {
	return c.Table.Name == TableName && c.Name == p.name && c.Type == nftables.ChainTypeFilter &&
		c.Hooknum != nil && uint32(*c.Hooknum) == p.hook && c.Priority != nil && *c.Priority == 0
}

// refused returns how many first packets of root reached the rule that drops
// them.
func refused() (uint64, error) {
	c, err := nftables.New()
	if err != nil {
		return 0, err
	}
	rules, err := c.GetRules(&nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}, &nftables.Chain{Name: "output"})
	if err != nil || len(rules) < 2 {
		return 0, err
	}
	for _, e := range rules[1].Exprs {
		if n, ok := e.(*expr.Counter); ok {
			return n.Packets, nil
		}
	}
	return 0, nil
}

// same compares the comparisons and the verdict; counters always differ, and
// the kernel fills in other fields.
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
