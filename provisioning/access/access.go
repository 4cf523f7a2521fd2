package access

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// Codes of findings. `agentctl explain` describes each.
const (
	CodeName    = "AZ-LOGIN-NAME"    // the name is no account, or another one
	CodeAccount = "AZ-LOGIN-ACCOUNT" // expired, or closed after a time without use
	CodeChange  = "AZ-LOGIN-CHANGE"  // the password must be changed first
	CodeLocked  = "AZ-LOGIN-LOCKED"  // no password, or locked
	CodeShell   = "AZ-LOGIN-SHELL"   // the shell ends at once or is not there
	CodeDenied  = "AZ-LOGIN-DENIED"  // AllowUsers, DenyGroups and such
	CodeMethod  = "AZ-LOGIN-METHOD"  // sshd does not accept this way of logging in
	CodeKeyType = "AZ-LOGIN-KEYTYPE" // sshd does not accept this kind of key
	CodeKeyFile = "AZ-LOGIN-KEYFILE" // sshd does not find the key, or refuses its file
	CodeRevoked = "AZ-LOGIN-REVOKED" // a key is revoked, or the list of revoked keys cannot be read
	CodeSession = "AZ-LOGIN-SESSION" // a log-in gets no shell
	CodePAM     = "AZ-LOGIN-PAM"     // a module of PAM refuses
	CodeNologin = "AZ-LOGIN-NOLOGIN" // a nologin file
	CodeRoot    = "AZ-LOGIN-ROOT"    // no way to become root
	CodeServer  = "AZ-LOGIN-SERVER"  // no SSH server listens
	CodeSSHD    = "AZ-LOGIN-SSHD"    // sshd refuses its configuration
	CodeRefused = "AZ-LOGIN-REFUSED" // sshd refused the key, for a reason that is not known
	CodeNone    = "AZ-LOGIN-NONE"    // no way in at all
)

// A Way is how a person gets in, or further.
type Way string

// The ways.
const (
	Key      Way = "key"
	Password Way = "password"
	Root     Way = "root"
)

// A Person is for whom the machine was made, and what they were given.
type Person struct {
	Name     string   `json:"name"`
	Key      bool     `json:"key,omitempty"`      // the document has keys
	Password bool     `json:"password,omitempty"` // the document has a password
	Keys     []string `json:"-"`                  // the keys, as lines of authorized_keys; empty: those in the files that sshd reads
}

// Ways returns how the person can log in with what they were given.
func (p Person) Ways() []Way {
	var out []Way
	if p.Key {
		out = append(out, Key)
	}
	if p.Password {
		out = append(out, Password)
	}
	return out
}

// A Finding is something that keeps the person out, or may.
type Finding struct {
	Code     string
	Shuts    []Way  // ways in which the person does not get in; none: a warning
	From     string // the only address for which it holds, one of the provisioning.From constants; empty: all
	Evidence string // what was asked and what the answer was; no secret
	Fix      string // one command or edit
}

// A Report is the result of a check.
type Report struct {
	Person   Person
	At       time.Time
	Asked    bool // sshd was asked for the person's keys, and its answer is in the findings
	Findings []Finding
}

// Open reports whether a person who comes from this address gets in, as far as
// the check can see.
func (r Report) Open(w Way, from string) bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return slices.Contains(f.Shuts, w) && (f.From == "" || f.From == from)
	})
}

// NoWayIn reports whether every way that the person was given is shut, from
// everywhere.
func (r Report) NoWayIn() bool {
	for _, w := range r.Person.Ways() {
		if r.Open(w, provisioning.FromInternet) || r.Open(w, provisioning.FromNetwork) {
			return false
		}
	}
	return len(r.Person.Ways()) > 0
}

// Codes returns the codes of the findings, each once.
func (r Report) Codes() []string {
	var out []string
	for _, f := range r.Findings {
		if !slices.Contains(out, f.Code) {
			out = append(out, f.Code)
		}
	}
	return out
}

const (
	// askTimeout bounds one question.
	askTimeout = 10 * time.Second
	// bootPatience is how long a machine may refuse users while it boots
	// (/run/nologin) before this is a finding.
	bootPatience = 30 * time.Second
)

// A check is one check in progress.
type check struct {
	m      *provisioning.Machine
	p      Person
	now    time.Time
	person host.Person
	acct   host.Account
	groups []string // names
	keys   []key
	listen string   // where sshd listens, as host:port
	passes bool     // /run/nologin is there and goes by itself
	jobs   []string // of systemd, that run meanwhile
	report Report
}

// Check examines whether the person can get in, in about a second, and at most
// a few times askTimeout where programs hang. wait is whether to wait for the
// end of the boot, while which users are refused.
func Check(ctx context.Context, m *provisioning.Machine, p Person, wait bool) Report {
	c := &check{m: m, p: p, now: time.Now(), report: Report{Person: p}}
	c.run(ctx, wait)
	if c.report.NoWayIn() {
		c.add(Finding{Code: CodeNone, Evidence: "every way that the document gives is shut", Fix: "agentctl doctor names each reason; use the serial console, VMAccess or run-command"})
	}
	c.report.At = time.Now().UTC()
	return c.report
}

func (c *check) run(ctx context.Context, wait bool) {
	var err error
	if c.person, c.acct, err = c.m.Person(ctx, c.p.Name); err != nil {
		c.add(Finding{
			Code: CodeName, Shuts: []Way{Key, Password, Root}, Evidence: "getent passwd " + c.p.Name + ": " + err.Error(),
			Fix: "useradd -m " + c.p.Name + "; or mend the source of accounts in /etc/nsswitch.conf",
		})
		return
	}
	c.groups = c.groupNames(ctx)
	for _, line := range c.p.Keys {
		if k, ok := parseKey(line); ok {
			c.keys = append(c.keys, k)
		}
	}
	switch {
	case wait:
		c.awaitBoot(ctx)
	case c.m.Root.Exists(bootNologin):
		c.booting(ctx)
	}
	c.sameAccount()
	pam := c.sshd(ctx)
	c.account(ctx, pam)
	c.shell(ctx)
	c.ask(ctx)
	c.root(ctx)
}

// root asks whether the person can become root. sudo looks at the person's
// password last, so what PAM says to it is read.
func (c *check) root(ctx context.Context) {
	a := c.m.AskRoot(ctx, c.person, c.p.Password)
	if !a.OK {
		f := Finding{Code: CodeRoot, Shuts: []Way{Root}, Evidence: a.Why, Fix: c.rootFix(a)}
		if a.Silent {
			f.Shuts = nil
		}
		c.add(f)
	}
	if a.Service == "" {
		return
	}
	j := &judge{check: c, ctx: ctx}
	for _, says := range j.walk(a.Service, "auth") {
		j.add(CodeRoot, says.fix, []Way{Root}, "%s", says.why)
	}
	c.report.Findings = append(c.report.Findings, j.found...)
}

func (c *check) add(f Finding) { c.report.Findings = append(c.report.Findings, f) }

func (c *check) rootFix(a provisioning.RootAnswer) string {
	switch a.By {
	case "sudo":
		return "as root: sudo -l -U " + c.p.Name + " shows what applies; visudo -c; ls -l $(command -v sudo) must show -rwsr-xr-x root"
	case "doas":
		return "echo 'permit nopass " + c.p.Name + "' >>/etc/doas.conf"
	}
	return "install sudo"
}

// run1 asks a program something.
func (c *check) run1(ctx context.Context, as *host.Person, name string, args ...string) (string, error) {
	res, err := c.m.Run.Run(ctx, host.Cmd{Name: name, Args: args, As: as, Env: []string{"LC_ALL=C"}, Timeout: askTimeout})
	return string(res.Stdout), err
}

// groupNames returns the names of all groups of the person.
func (c *check) groupNames(ctx context.Context) []string {
	out, err := c.run1(ctx, nil, "id", "-Gn", c.p.Name)
	if err == nil {
		return strings.Fields(out)
	}
	groups, err := c.m.Root.Groups()
	if err != nil {
		return nil
	}
	var names []string
	for _, g := range groups {
		if slices.Contains(c.person.Groups, g.GID) {
			names = append(names, g.Name)
		}
	}
	return names
}

// stateFile keeps who the person is, for checks on request.
func stateFile(m *provisioning.Machine) string { return path.Join(m.Options.Dir(), "person.json") }

// Remember saves who the machine was made for. The keys are not saved: later,
// those that the person has then count.
func Remember(m *provisioning.Machine, p Person) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save person: %w", err)
	}
	return m.Root.WriteFile(stateFile(m), append(b, '\n'), 0o600)
}

// Recall returns whom the machine was made for; false if this agent did not
// provision it.
func Recall(m *provisioning.Machine) (Person, bool) {
	var p Person
	b, err := m.Root.ReadFile(stateFile(m))
	return p, err == nil && json.Unmarshal(b, &p) == nil && p.Name != ""
}

// A key is one public key.
type key struct {
	ssh.PublicKey
}

func parseKey(line string) (key, bool) {
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	return key{k}, err == nil
}
