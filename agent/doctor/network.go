package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// Network is what the agent found when it probed the platform's services;
// agentctl itself opens no connection.
type Network struct {
	Endpoints []status.Endpoint // right after they were probed
	Rules     []string          // of this machine's firewall, see BlockingRules
	Skew      time.Duration     // how far this machine's clock is ahead of the platform's
	SkewKnown bool
	DNS       error // of a lookup of a storage name; nil if it worked or was not needed
}

// Findings returns the findings about the network, in the order of the screen
// before sorting.
func (n Network) Findings() []Finding {
	var out []Finding
	wireOK, blamed := true, false
	for _, e := range n.Endpoints {
		f := Finding{Check: e.Name, State: e.State, Code: e.Code}
		how := e.Via
		if e.Proxy != "" {
			how += " via proxy " + e.Proxy
		}
		if e.State == status.OK {
			f.Evidence = fmt.Sprintf("%s answered in %.1f ms, %s", e.URL, 1000*e.LatencyS, how)
			if e.LatencyS == 0 {
				f.Evidence = fmt.Sprintf("reached, %s", how)
			}
			out = append(out, f)
			continue
		}
		if e.Name == "wireserver" {
			wireOK = false
		}
		f.Evidence = fmt.Sprintf("%s: %s", e.URL, e.LastError)
		if f.State == status.OK || f.State == "" {
			f.State = status.Warn
		}
		// A rule on this machine may explain why there is no connection.
		if rules := n.suspects(e.Name); len(rules) > 0 {
			f.Code, blamed = "AZ-FW-BLOCKED", true
			f.Evidence += "; suspect rule: " + strings.Join(rules, "; ")
		}
		out = append(out, f)
	}
	if len(n.Endpoints) == 0 {
		out = append(out, Finding{Check: "wireserver", State: status.Unknown, Evidence: "no request was sent yet"})
	}
	if !blamed && wireOK && len(n.Rules) > 0 {
		out = append(out, Finding{Check: "firewall rules", State: status.OK, Evidence: fmt.Sprintf("%d rules could block the platform but do not: %s", len(n.Rules), n.Rules[0])})
	}
	if n.SkewKnown {
		f := Finding{Check: "time", State: status.OK, Evidence: fmt.Sprintf("%s off the platform clock", n.Skew.Round(time.Second))}
		if n.Skew.Abs() > 5*time.Minute {
			f.State, f.Code = status.Warn, "AZ-CLOCK-SKEW"
		}
		out = append(out, f)
	}
	if n.DNS != nil {
		out = append(out, Finding{Check: "names", State: status.Warn, Code: "AZ-NET-DNS", Evidence: n.DNS.Error()})
	}
	for i := range out {
		if c, ok := Lookup(out[i].Code); ok && out[i].Code != "" && out[i].Fix == "" {
			out[i].Fix = c.Fix
		}
	}
	return out
}

// metadata is the address of the metadata service.
const metadata = "169.254.169.254"

// suspects returns the rules that may explain why an endpoint does not answer.
func (n Network) suspects(name string) []string {
	var out []string
	for _, r := range n.Rules {
		about := strings.Contains(r, metadata)
		if name == "imds" && about || (name == "wireserver" || name == "hostplugin") && !about {
			out = append(out, r)
		}
	}
	return out
}

// Network reports whether a finding is about reaching the platform.
func (f Finding) Network() bool {
	switch f.Check {
	case "agent", "route", "names", "network", "platform", "firewall", "firewall rules", "time",
		"wireserver", "hostplugin", "imds", "storage":
		return true
	}
	return strings.HasPrefix(f.Check, "endpoint ") || strings.HasPrefix(f.Check, "storage ")
}

// BlockingRules finds, in the listing of a firewall (nft list ruleset, iptables
// -S), rules that can keep root from the platform: those that drop or reject
// what goes to one of the addresses or a network around it, and those that drop
// packets in state INVALID, which root's own can be. The agent's own rules
// accept root and do not count. Each rule is returned once, as in the listing.
func BlockingRules(listing string, addrs ...string) []string {
	var out []string
	seen := map[string]bool{}
	ours, passing := false, false
	for line := range strings.Lines(listing) {
		rule := strings.Join(strings.Fields(line), " ")
		low := strings.ToLower(rule)
		if strings.HasPrefix(low, "table ") {
			// azguest-new is there while azguest is replaced.
			name, _, _ := strings.Cut(low[len("table "):], " {")
			ours = slices.Contains([]string{"ip azguest", "inet azguest", "ip azguest-new"}, name)
		}
		// In a listing of nft, the hook of a chain says which packets it sees:
		// incoming and forwarded packets are not those that root sends.
		switch {
		case strings.HasPrefix(low, "chain "):
			passing = false
		case strings.Contains(low, "hook forward"), strings.Contains(low, "hook input"), strings.Contains(low, "hook prerouting"):
			passing = true
		}
		if ours || seen[rule] || !blocks(low) || passing && !strings.Contains(low, "invalid") {
			continue
		}
		hit := strings.Contains(low, "invalid")
		for _, a := range addrs {
			hit = hit || strings.Contains(low, a)
		}
		// A chain that drops everything that no rule allows.
		hit = hit || strings.HasPrefix(low, "-p output drop") || strings.Contains(low, "hook output") && strings.Contains(low, "policy drop")
		if hit {
			seen[rule] = true
			out = append(out, rule)
		}
	}
	return out
}

// blocks reports whether a rule drops or rejects packets, including those of
// root.
func blocks(rule string) bool {
	ends := strings.Contains(rule, " drop") || strings.Contains(rule, " reject") || strings.Contains(rule, "-p output drop")
	if !ends {
		return false
	}
	for _, spared := range []string{"skuid != 0", "skuid != root", "! --uid-owner 0", "! --uid-owner root"} {
		if strings.Contains(rule, spared) {
			return false
		}
	}
	// Rules for incoming or forwarded packets do not affect what root sends.
	return !strings.HasPrefix(rule, "-a forward") && !strings.HasPrefix(rule, "-a input") && !strings.HasPrefix(rule, "-a prerouting") ||
		strings.Contains(rule, "invalid") && !strings.HasPrefix(rule, "-a forward")
}
