// Package generalize removes everything from a machine that belongs to one VM,
// so that its disk can become an image. The classic command for this is called
// deprovision (provisioning/SPEC.md §14). The package also checks whether an
// image still contains such data.
//
// [Plan] only reads. It lists only what needs to be done, so the plan of a
// clean machine is empty and a second run does nothing. [Apply] carries it
// out, [Verify] checks an image. The package imports agent/host, ovf and
// provisioning, which can remove what it has made.
package generalize

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/provisioning"
)

// Kind is what an action does.
type Kind string

const (
	Remove   Kind = "remove"  // a file or a tree
	Empty    Kind = "empty"   // a file becomes empty, with its mode
	Write    Kind = "write"   // a file gets new content
	Command  Kind = "command" // a program is run
	LockRoot Kind = "lock"    // root's password is locked
	SSHD     Kind = "sshd"    // the agent's settings are removed from sshd's configuration
	DelUser  Kind = "userdel" // an account with its home
	StopUnit Kind = "stop"    // a service
)

// An Action is one thing to do. It is plain data, for --plan and as JSON.
type Action struct {
	Kind    Kind     `json:"kind"`
	Path    string   `json:"path,omitempty"`
	Content string   `json:"content,omitempty"`
	Args    []string `json:"args,omitempty"`
	Why     string   `json:"why"`
}

func (a Action) String() string {
	switch a.Kind {
	case Command:
		return "run " + strings.Join(a.Args, " ") + ": " + a.Why
	case DelUser:
		return "delete the account " + a.Path + " and its home"
	case LockRoot:
		return "lock the root password"
	case SSHD:
		return "remove the agent's settings from " + a.Path
	case StopUnit:
		return "stop " + a.Path
	case Write:
		return "write " + a.Path + ": " + a.Why
	case Empty:
		return "empty " + a.Path + ": " + a.Why
	case Remove:
	}
	return "remove " + a.Path + ": " + a.Why
}

// Options selects what is removed.
type Options struct {
	Machine provisioning.Options // paths, DeleteRootPassword
	LogDir  string               // logs of extensions, /var/log/azure
	User    bool                 // the provisioned account as well
	Service string               // the agent's unit, to be stopped first; empty: leave it
}

// machine returns the machine that is cleaned.
func (o Options) machine(sys *provisioning.System) *provisioning.Machine {
	return provisioning.NewMachine(sys, o.Machine, provisioning.Identity{})
}

// Plan lists what has to be done, in order. Warnings are texts about what it
// could not find out.
func Plan(r host.Root, o Options) (actions []Action, warnings []string) {
	m := o.machine(&provisioning.System{Root: r})
	if o.LogDir == "" {
		o.LogDir = "/var/log/azure"
	}
	p := &planner{r: r}
	if o.Service != "" && r.Exists("/run/systemd/system") {
		p.add(Action{Kind: StopUnit, Path: o.Service, Why: "it would write the state again"})
	}
	// First, because later actions remove files with the account's name, which
	// a second run after an interrupted one would need.
	if o.User {
		users := p.users(m)
		if len(users) == 0 {
			warnings = append(warnings, "no provisioned account found: neither "+m.Options.Lib+"/ovf-env.xml nor the agent's records name an existing account")
		}
		for _, u := range users {
			p.add(Action{Kind: DelUser, Path: u, Why: "provisioned account"})
		}
		if len(users) > 0 && !r.Exists(m.Options.Dir()) {
			// The deletion of an account keeps notes in this directory.
			p.add(Action{Kind: Remove, Path: m.Options.Dir(), Why: "state of this VM"})
		}
		p.glob(Remove, "sudo rights of the provisioned account", "/etc/sudoers.d/90-cloud-init-users", "/etc/sudoers.d/azure-init-user")
	}
	p.glob(Remove, "host key, must be different in each VM", m.Options.SSHDir+"/ssh_host_*key*")
	p.leases()
	p.hostName()
	if m.Options.DeleteRootPassword {
		if f, ok, err := r.PasswordField(m.Options.Shadow, "root"); err == nil && ok && !strings.HasPrefix(f, "*") && !strings.HasPrefix(f, "!") {
			p.add(Action{Kind: LockRoot, Path: m.Options.Shadow, Why: "not used for logins"})
		}
	}
	for _, f := range m.SSHDTraces() {
		p.add(Action{Kind: SSHD, Path: f, Why: "password authentication of this VM"})
	}
	p.glob(Remove, "state of this VM", m.Options.Lib+"/*", m.Options.Lib+"/.[!.]*", "/run/azguest/*")
	p.glob(Remove, "log", o.LogDir+"/*", "/var/log/waagent.log*", "/var/log/journal/*")
	p.glob(Remove, "history", "/root/.bash_history", "/home/*/.bash_history")
	p.identity()
	p.cloudInit()
	p.glob(Remove, "marker of azure-init", "/var/lib/azure-init/*")
	p.glob(Remove, "firewall unit of the classic agent", "/etc/systemd/system/waagent-network-setup.service", "/usr/lib/systemd/system/waagent-network-setup.service", "/lib/systemd/system/waagent-network-setup.service")
	p.glob(Remove, "limits of extensions", "/etc/systemd/system/azure-vmextensions*.slice", "/etc/systemd/system/*.service.d/11-Slice.conf", "/lib/systemd/system/*.service.d/11-Slice.conf")
	p.resolvConf()
	return p.out, warnings
}

type planner struct {
	r   host.Root
	out []Action
}

func (p *planner) add(a Action) {
	if !slices.ContainsFunc(p.out, func(b Action) bool { return a.Kind == b.Kind && a.Path == b.Path && slices.Equal(a.Args, b.Args) }) {
		p.out = append(p.out, a)
	}
}

func (p *planner) glob(kind Kind, why string, patterns ...string) {
	for _, pat := range patterns {
		names, err := p.r.Glob(pat)
		if err != nil {
			continue
		}
		for _, n := range names {
			if kind == Empty {
				if fi, err := p.r.Stat(n); err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
					continue
				}
			}
			p.add(Action{Kind: kind, Path: n, Why: why})
		}
	}
}

// users returns the accounts to delete: those that the document or the agent's
// ledger names, if they exist, and those whose removal was interrupted; never
// root.
func (p *planner) users(m *provisioning.Machine) []string {
	var names []string
	if b, err := p.r.ReadFile(m.Options.Lib + "/ovf-env.xml"); err == nil {
		if env, err := ovf.Parse(b); err == nil {
			names = append(names, strings.TrimSpace(env.UserName))
		}
	}
	names = append(names, m.OwnUsers()...)
	var out []string
	for _, a := range m.HalfRemoved() {
		out = append(out, a.Name)
	}
	for _, n := range names {
		if a, ok, err := p.r.Account(n); err == nil && ok && a.UID != 0 && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func (p *planner) leases() {
	p.glob(Remove, "DHCP lease",
		"/var/lib/dhclient/*", "/var/lib/dhcp/*", "/var/lib/dhcpcd/*", "/var/db/dhclient.leases.*",
		"/var/lib/NetworkManager/dhclient-*.lease", "/var/lib/NetworkManager/internal-*.lease", "/run/systemd/netif/leases/*", "/var/lib/wicked/*")
	p.glob(Remove, "DHCP identity of this VM", "/var/lib/NetworkManager/secret_key", "/etc/dhcpcd.duid", "/var/lib/dhcpcd/duid")
	p.glob(Remove, "network interface names of this VM", "/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/75-persistent-net-generator.rules")
}

// localName is the host name of an image.
const localName = "localhost.localdomain\n"

func (p *planner) hostName() {
	if b, err := p.r.ReadFile("/etc/hostname"); err == nil {
		if t := strings.TrimSpace(string(b)); t != "" && t+"\n" != localName && t != "localhost" {
			p.add(Action{Kind: Write, Path: "/etc/hostname", Content: localName, Why: "host name of this VM"})
		}
	}
	b, err := p.r.ReadFile("/etc/hosts")
	if err != nil || !bytes.Contains(b, []byte("# azguest")) {
		return
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "# azguest") {
			out.WriteString(line)
		}
	}
	if out.String() != string(b) {
		p.add(Action{Kind: Write, Path: "/etc/hosts", Content: out.String(), Why: "host name of this VM"})
	}
}

// identity adds data that machines must not share (machine-id(5),
// random-seed).
func (p *planner) identity() {
	p.glob(Empty, "must be different in each VM", "/etc/machine-id")
	if fi, err := p.r.Lstat("/var/lib/dbus/machine-id"); err == nil && fi.Mode().IsRegular() {
		p.add(Action{Kind: Remove, Path: "/var/lib/dbus/machine-id", Why: "must be different in each VM"})
	}
	p.glob(Remove, "must be different in each VM", "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed", "/var/lib/seedrng/*")
	p.glob(Empty, "KVP data of this VM", "/var/lib/hyperv/.kvp_pool_*")
}

// cloudInit adds a call of "cloud-init clean", or the removal of cloud-init's
// state if cloud-init is no longer installed.
func (p *planner) cloudInit() {
	has := p.r.Exists("/usr/bin/cloud-init") || p.r.Exists("/usr/local/bin/cloud-init")
	used := false
	for _, d := range []string{"/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/data", "/var/lib/cloud/sem", "/var/log/cloud-init.log"} {
		used = used || p.r.Exists(d)
	}
	if !used {
		return
	}
	if has {
		p.add(Action{Kind: Command, Args: []string{"cloud-init", "clean", "--logs"}, Why: "so that cloud-init runs again on a new VM"})
		return
	}
	p.glob(Remove, "state of cloud-init", "/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/data", "/var/lib/cloud/sem", "/var/log/cloud-init*.log")
}

// resolvConf empties /etc/resolv.conf if it is a regular file. A link belongs
// to resolved, resolvconf or NetworkManager.
func (p *planner) resolvConf() {
	const name = "/etc/resolv.conf"
	fi, err := p.r.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
		return
	}
	p.add(Action{Kind: Empty, Path: name, Why: "name servers of this network"})
}

// JSON encodes the plan.
func JSON(actions []Action, warnings []string) ([]byte, error) {
	if actions == nil {
		actions = []Action{}
	}
	b, err := json.MarshalIndent(struct {
		Actions  []Action `json:"actions"`
		Warnings []string `json:"warnings,omitempty"`
	}{actions, warnings}, "", "  ")
	return append(b, '\n'), err
}
