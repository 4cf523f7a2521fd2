package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/host"
)

// removal is one thing that removing the package deletes or keeps.
type removal struct {
	Kind string `json:"kind"`
	What string `json:"what"`           // a path, or a name
	When string `json:"when,omitempty"` // remove, purge
	Why  string `json:"why,omitempty"`
}

// removalPlan is what removing the package means for this machine.
type removalPlan struct {
	Package string    `json:"package"` // deb, rpm; empty where the agent is in no package
	Goes    []removal `json:"goes"`
	Stays   []removal `json:"stays"`
}

func (a *app) uninstallCmd() *cobra.Command {
	var plan bool
	c := &cobra.Command{
		Use: "uninstall --plan", Short: "Show what removing the agent's package deletes and what it keeps", Args: cobra.NoArgs,
		Long: `Show what removing the agent's package would delete from this machine and what
it would keep. Nothing is changed; to remove the agent, run apt-get remove
azguest, apt-get purge azguest or dnf remove azguest. If another guest agent is
installed, purge keeps configuration, state and logs for it; it also keeps what
existed before the package was installed. Run as root to see everything.`,
		RunE: func(*cobra.Command, []string) error {
			if !plan {
				return usage("--plan is required; to remove the agent, use the package manager (apt-get remove azguest, dnf remove azguest)")
			}
			p := a.removalPlan()
			if a.output == "json" {
				a.json(p)
				return nil
			}
			if p.Package == "" {
				a.text("the agent is not installed as a package; this is what removing the package would delete\n\n")
			}
			rows := [][]string{{"REMOVED", "WHAT", "WITH", "WHY"}}
			for _, r := range p.Goes {
				rows = append(rows, []string{r.Kind, r.What, r.When, r.Why})
			}
			table(a.Stdout, rows)
			a.text("\n")
			rows = [][]string{{"KEPT", "WHAT", "WHY"}}
			for _, r := range p.Stays {
				rows = append(rows, []string{r.Kind, r.What, r.Why})
			}
			table(a.Stdout, rows)
			return nil
		},
	}
	c.Flags().BoolVar(&plan, "plan", false, "show what would be done without changing anything")
	return c
}

// goes lists what the package and its scripts delete, as patterns. A test
// compares it with the content of the packages. Links count only if they point
// to this agent.
var goes = [...]struct{ kind, pattern, why string }{
	{"unit", "/usr/lib/systemd/system/azguest.service", "stopped and disabled first"},
	{"unit", "/usr/lib/systemd/system/azguest-*.service", ""},
	{"preset", "/usr/lib/systemd/system-preset/90-azguest.preset", ""},
	{"slice", "/usr/lib/systemd/system/azure.slice", ""},
	{"slice", "/usr/lib/systemd/system/azure-vmextensions.slice", ""},
	{"slice", "/run/systemd/transient/azure-vmextensions-*.slice", "created for an extension"},
	{"drop-in", "/usr/lib/systemd/system/cloud-init-main.service.d/50-azguest.conf", "hook for a failed cloud-init"},
	{"drop-in", "/run/systemd/system/azguest.service.d", "limits of the agent"},
	{"drop-in", "/run/systemd/system.control/azure-vmextensions-*.slice.d", "limits of extensions"},
	{"link", "/etc/systemd/system/multi-user.target.wants/azguest.service", ""},
	{"link", "/etc/systemd/system/multi-user.target.wants/azguest-firewall.service", ""},
	{"link", "/etc/systemd/system/walinuxagent.service", "alias of azguest.service"},
	{"link", "/etc/systemd/system/waagent.service", "alias of azguest.service"},
	{"udev rules", "/usr/lib/udev/rules.d/66-azguest-storage.rules", "links in /dev/disk/azure disappear at the next boot"},
	{"udev rules", "/usr/lib/udev/rules.d/99-azguest-product-uuid.rules", ""},
	{"directory", "/run/azguest", "runtime state"},
	{"program", "/usr/sbin/azguest", ""},
	{"program", "/usr/bin/agentctl", ""},
	{"program", "/usr/sbin/waagent", ""},
	{"default", "/usr/share/azguest/waagent.conf", "default configuration"},
	{"documents", "/usr/share/man/man8/agentctl.8.gz", ""},
	{"documents", "/usr/share/man/man8/azguest.8.gz", ""},
	{"documents", "/usr/share/man/man8/waagent.8.gz", ""},
	{"documents", "/usr/share/doc/azguest", ""},
	{"documents", "/usr/share/licenses/azguest", ""},
	{"completion", "/usr/share/bash-completion/completions/agentctl", ""},
	{"completion", "/usr/share/zsh/*/_agentctl", ""},
	{"completion", "/usr/share/fish/vendor_completions.d/agentctl.fish", ""},
}

// purged lists what is deleted only by "purge", which RPM does not have.
var purged = [...]struct{ kind, pattern, why string }{
	{"configuration", "/etc/waagent.conf", ""},
	{"state", "/var/lib/waagent", "settings, certificates and packages of extensions"},
	{"logs", "/var/log/azure", "logs of extensions"},
	{"logs", "/var/log/waagent.log*", ""},
	{"state", packageNotes, "notes of the package's scripts"},
}

// packageNotes is where the scripts of the package have noted what existed
// before it.
const packageNotes = "/var/lib/azguest"

// created reports whether the package has created what a pattern of purged
// stands for.
func (a *app) created(pattern string) bool {
	b, _ := a.root().ReadBounded(packageNotes+"/created", 64<<10) // no notes: nothing is known to be ours
	return pattern == packageNotes || slices.Contains(strings.Fields(string(b)), strings.TrimSuffix(pattern, "*"))
}

func (a *app) removalPlan() removalPlan {
	p := removalPlan{Goes: []removal{}, Stays: []removal{}}
	switch {
	case a.exists("/var/lib/dpkg/info/azguest.list"):
		p.Package = "deb"
	case a.exists("/var/lib/rpm") || a.exists("/usr/lib/sysimage/rpm"):
		p.Package = "rpm"
	}
	p.Goes = append(p.Goes, a.rulesTable()...)
	for _, g := range goes {
		for _, name := range a.glob(g.pattern) {
			if g.kind != "link" || a.leadsToUs(name) {
				p.Goes = append(p.Goes, removal{g.kind, name, "remove", g.why})
			}
		}
	}
	for _, g := range purged {
		for _, name := range a.glob(g.pattern) {
			switch {
			case p.Package == "deb" && !a.created(g.pattern):
				p.Stays = append(p.Stays, removal{g.kind, name, "", "existed before the package was installed"})
			case p.Package == "deb":
				p.Goes = append(p.Goes, removal{g.kind, name, "purge", g.why})
			case p.Package == "rpm" && g.kind == "configuration":
				p.Goes = append(p.Goes, removal{g.kind, name, "remove", "a modified file is kept as " + filepath.Base(name) + ".rpmsave"})
			default:
				p.Stays = append(p.Stays, removal{g.kind, name, "", g.why})
			}
		}
	}
	for _, name := range a.glob("/etc/azguest/hooks.d") {
		p.Stays = append(p.Stays, removal{"scripts", name, "", "scripts of the administrator for events"})
	}
	p.Stays = append(p.Stays, a.orderedForTheMachine()...)
	p.Stays = append(p.Stays, a.leftRunning()...)
	return p
}

func (a *app) exists(name string) bool {
	return a.root().Exists(name)
}

// glob lists existing files, as paths below the root.
func (a *app) glob(pattern string) []string {
	names, _ := a.root().Glob(pattern) // it fails only for a malformed pattern
	return names
}

// leadsToUs reports whether a link points to a unit of this agent; another
// agent has links of the same names.
func (a *app) leadsToUs(link string) bool {
	to, err := a.root().Readlink(link)
	return err == nil && strings.HasPrefix(filepath.Base(to), "azguest")
}

// rulesTable returns where the firewall rules are, according to the last
// status.
func (a *app) rulesTable() []removal {
	s, _, err := a.load()
	switch {
	case err != nil:
		return []removal{{"firewall", "nftables table ip azguest", "remove", "if it exists; no status from the agent"}}
	case s.Firewall.Backend == "nftables":
		return []removal{{"firewall", "nftables table ip azguest", "remove", "with the routing rules for the platform address"}}
	case s.Firewall.Backend == "iptables":
		return []removal{{"firewall", "rules of the agent in the iptables table security", "remove", ""}}
	}
	return nil
}

// orderedForTheMachine returns what provisioning has set up, which stays: a
// package that removed the administrator's account or sudo rights would lock
// them out.
func (a *app) orderedForTheMachine() []removal {
	const sudoers = "/etc/sudoers.d/waagent"
	var out []removal
	b, err := a.root().ReadBounded(sudoers, 1<<20)
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || f[0] == "Defaults" {
			continue
		}
		home := a.home(f[0])
		if home == "" {
			continue
		}
		out = append(out, removal{"account", f[0], "", "with its home " + home})
		if keys := filepath.Join(home, ".ssh/authorized_keys"); a.exists(keys) {
			out = append(out, removal{"keys", keys, "", "SSH access of the administrator"})
		}
	}
	switch {
	case err == nil:
		out = append(out, removal{"sudo", sudoers, "", "sudo rights of the administrator"})
	case !errors.Is(err, fs.ErrNotExist):
		out = append(out, removal{"sudo", sudoers, "", "and the accounts in it; run as root to see them"})
	}
	for _, name := range a.glob("/etc/ssh/sshd_config.d/*azguest*.conf") {
		out = append(out, removal{"sshd", name, "", "sshd settings from provisioning"})
	}
	return out
}

// home returns the home directory of an account of this machine, "" if there is
// no such account.
func (a *app) home(user string) string {
	b, _ := a.root().ReadFile("/etc/passwd") // no file, no account
	for l := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(l), ":"); len(f) > 5 && f[0] == user {
			return f[5]
		}
	}
	return ""
}

// leftRunning returns extensions and their processes. They stay, because only
// the platform removes extensions.
func (a *app) leftRunning() []removal {
	var out []removal
	if s, _, err := a.load(); err == nil {
		for _, e := range s.Extensions {
			out = append(out, removal{"extension", e.Name + " " + e.Version, "", "not uninstalled; delete it through the control plane first"})
		}
	}
	procs := 0
	for _, top := range []string{"/sys/fs/cgroup/azure.slice", "/sys/fs/cgroup/systemd/azure.slice"} {
		_ = a.root().Walk(top, maxWalk, func(rel string, in *host.Dir, fi fs.FileInfo, err error) error {
			if err != nil || fi.Name() != "cgroup.procs" || strings.Contains("/"+rel, "/azguest.service/") {
				return nil //nolint:nilerr // may have been removed meanwhile
			}
			b, _, _ := in.ReadBounded(fi.Name(), 1<<20)
			procs += len(strings.Fields(string(b)))
			return nil
		})
		if procs > 0 {
			out = append(out, removal{"processes", fmt.Sprintf("%d of extensions", procs), "", "keep running, and azure.slice with them"})
			break
		}
	}
	return out
}
