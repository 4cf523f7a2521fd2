package provisioning

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// HostKeyTypes are the types that are made, quick ones first. In FIPS mode
// sshd refuses ed25519.
func HostKeyTypes(fips bool) []string {
	if fips {
		return []string{"ecdsa", "rsa"}
	}
	return []string{"ed25519", "ecdsa", "rsa"}
}

// rsaBits is what ssh-keygen makes.
const rsaBits = 3072

// A HostKeyMaker generates host keys in the background: the quick ones at
// once, so that they are there before sshd starts, RSA when it is asked for.
// That takes a sixth of a second and more, which a boot has better uses for.
type HostKeyMaker struct{ made map[string]*hostKey }

type hostKey struct {
	start func() // more than once does nothing
	done  chan struct{}
	priv  []byte // OpenSSH format
	pub   []byte // one line
	err   error
}

// MakeHostKeys starts to generate one key of each type but RSA. The
// goroutines end by themselves.
func MakeHostKeys(types []string) *HostKeyMaker {
	m := &HostKeyMaker{made: map[string]*hostKey{}}
	for _, t := range types {
		k := &hostKey{done: make(chan struct{})}
		k.start = sync.OnceFunc(func() {
			go func() {
				defer close(k.done)
				if t == "rsa" {
					// The thread ends with the goroutine because it is never
					// unlocked; until then it yields to the rest of the boot.
					runtime.LockOSThread()
					_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 10)
				}
				k.priv, k.pub, k.err = generateHostKey(t)
			}()
		})
		m.made[t] = k
		if t != "rsa" {
			k.start()
		}
	}
	return m
}

// begin starts a key that somebody will wait for.
func (m *HostKeyMaker) begin(t string) {
	if k, ok := m.made[t]; ok {
		k.start()
	}
}

// get waits for a key, or not.
func (m *HostKeyMaker) get(ctx context.Context, t string, wait bool) (*hostKey, bool, error) {
	k, ok := m.made[t]
	if !ok {
		return nil, false, fmt.Errorf("key type %s was not requested", t)
	}
	if !wait {
		select {
		case <-k.done:
		default:
			return nil, false, nil
		}
	}
	k.start()
	select {
	case <-k.done:
		return k, true, k.err
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

func generateHostKey(t string) (priv, pub []byte, err error) {
	var key crypto.Signer
	switch t {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		err = errors.New("unknown key type")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("generate %s key: %w", t, err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s key: %w", t, err)
	}
	p, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s key: %w", t, err)
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(p), nil
}

// HostKeys gives the machine host keys of its own, each replaced by rename
// so that sshd never finds half of one. A ledger keyed by the VM id makes a
// second run keep them.
type HostKeys struct {
	Dir        string
	Types      []string
	MayWait    []string // leave to the late step unless ready
	Late       bool     // this is the late step: make what is missing
	Regenerate bool     // the image's own keys must go
	VMID       string
	Ledger     string
	Restorecon string
}

// ID implements Step.
func (s HostKeys) ID() string {
	if s.Late {
		return StepLateKeys
	}
	return StepHostKeys
}

func (s HostKeys) String() string {
	if s.Late {
		return "generate the remaining SSH host keys"
	}
	return "generate SSH host keys: " + strings.Join(s.Types, ", ")
}

// hostKeyLedger says which keys were made for which VM.
type hostKeyLedger struct {
	VMID string            `json:"vmId"`
	Want []string          `json:"want"` // all that were asked for
	Keys map[string]string `json:"keys"` // type → SHA256 fingerprint
}

// Apply implements Step.
func (s HostKeys) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodeHostKeys, "failed to generate ssh host keys", err)
	}
	led := hostKeyLedger{}
	if b, err := m.Root.ReadFile(s.Ledger); err == nil {
		_ = json.Unmarshal(b, &led) // damaged is as good as none
	}
	if !SameVM(led.VMID, s.VMID) || led.Keys == nil {
		led = hostKeyLedger{VMID: s.VMID, Keys: map[string]string{}}
	}
	led.Want = s.Types
	before := maps.Clone(led.Keys)
	var missing []string
	for _, t := range s.Types {
		fp := s.onDisk(m.Root, t)
		// A key of the image stays unless it is to be replaced; one of ours
		// stays in any case. By the late step the image's are gone: what is
		// there was made since, and clients may have seen it.
		if fp == "" || (s.Regenerate && !s.Late && led.Keys[t] != fp) {
			missing = append(missing, t)
		} else if s.Late {
			led.Keys[t] = fp
		}
	}
	if m.HostKeys == nil && len(missing) > 0 {
		m.HostKeys = MakeHostKeys(missing)
	}
	gid, perm := keyGroup(m.Root)
	for _, t := range missing {
		wait := s.Late || !slices.Contains(s.MayWait, t)
		k, ready, err := m.HostKeys.get(ctx, t, wait)
		if err != nil && wait {
			if _, ordered := m.HostKeys.made[t]; !ordered {
				maps.Copy(m.HostKeys.made, MakeHostKeys([]string{t}).made)
				k, ready, err = m.HostKeys.get(ctx, t, true)
			}
		}
		if err != nil && wait {
			return bad(err)
		}
		if !ready {
			continue
		}
		name := path.Join(s.Dir, "ssh_host_"+t+"_key")
		if err := m.Root.MkdirAll(s.Dir, 0o755); err != nil {
			return bad(err)
		}
		// The public half first: sshd warns of one that does not match, but
		// it is the private one that makes us believe that we are done.
		if err := m.Root.WriteFileAs(name+".pub", k.pub, 0o644, 0, 0); err != nil {
			return bad(err)
		}
		if err := m.Root.WriteFileAs(name, k.priv, perm, 0, gid); err != nil {
			return bad(err)
		}
		led.Keys[t] = s.onDisk(m.Root, t)
	}
	if !maps.Equal(before, led.Keys) {
		b, err := json.Marshal(led)
		if err != nil {
			return bad(err)
		}
		if err := m.put(s.Ledger, append(b, '\n'), 0o600); err != nil {
			return bad(err)
		}
		m.restorecon(ctx, s.Restorecon, "-R", s.Dir)
	}
	if s.Regenerate && !s.Late {
		if err := s.dropOthers(m.Root); err != nil {
			return bad(err)
		}
	}
	// A late key is for the next start of sshd: to read it now it would have
	// to close its port, after everybody was told that the machine is ready.
	if !maps.Equal(before, led.Keys) && !s.Late {
		m.sshdChanged = bootClock()
	}
	return nil
}

// dropOthers removes host keys of types that are not wanted (dsa, or what
// the image had): they are the same in every clone.
func (s HostKeys) dropOthers(r host.Root) error {
	names, err := r.Glob(path.Join(s.Dir, "ssh_host_*key*"))
	if err != nil {
		return err
	}
	for _, n := range names {
		t := hostKeyType(strings.TrimSuffix(n, ".pub"))
		// The image's RSA key must not answer until the new one is made.
		waits := slices.Contains(s.MayWait, t) && !s.mine(r, t)
		if slices.Contains(s.Types, t) && !waits {
			continue
		}
		if err := r.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

func (s HostKeys) mine(r host.Root, t string) bool {
	var led hostKeyLedger
	b, err := r.ReadFile(s.Ledger)
	if err != nil || json.Unmarshal(b, &led) != nil {
		return false
	}
	return SameVM(led.VMID, s.VMID) && led.Keys[t] != "" && led.Keys[t] == s.onDisk(r, t)
}

// onDisk is the fingerprint of a private key that is there and whole.
func (s HostKeys) onDisk(r host.Root, t string) string {
	b, err := r.ReadFile(path.Join(s.Dir, "ssh_host_"+t+"_key"))
	if err != nil {
		return ""
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(signer.PublicKey())
}

// keyGroup is the group and mode of private host keys: distributions of the
// Red Hat family let ssh-keysign read them through a group.
func keyGroup(r host.Root) (gid int, perm fs.FileMode) {
	groups, err := r.Groups()
	if err != nil {
		return 0, 0o600
	}
	if i := slices.IndexFunc(groups, func(g host.Group) bool { return g.Name == "ssh_keys" }); i >= 0 {
		return groups[i].GID, 0o640
	}
	return 0, 0o600
}

// Unfinished returns the late steps of a VM that was provisioned by us and
// whose agent ended between Ready and the end of them. It is cheap, and
// empty on every boot but that one.
func (m *Machine) Unfinished() []Step {
	r, o, vmID := m.Root, m.Options, m.VM.ID
	j := &Journal{}
	if b, err := r.ReadFile(path.Join(o.Dir(), "provision.json")); err != nil || json.Unmarshal(b, j) != nil || !SameVM(j.VMID, vmID) {
		j = &Journal{}
	}
	open := func(id string) bool {
		i := slices.IndexFunc(j.Steps, func(e Entry) bool { return e.ID == id })
		return i >= 0 && (j.Steps[i].State == Planned || j.Steps[i].State == Doing)
	}
	var out []Step
	var led hostKeyLedger
	name := path.Join(o.Dir(), "hostkeys.json")
	if b, err := r.ReadFile(name); err == nil && json.Unmarshal(b, &led) == nil && SameVM(led.VMID, vmID) {
		missing := func(t string) bool { return led.Keys[t] == "" }
		if slices.ContainsFunc(led.Want, missing) || open(StepLateKeys) {
			out = append(out, HostKeys{Dir: o.SSHDir, Types: led.Want, Late: true, Regenerate: o.RegenerateHostKeys, VMID: vmID, Ledger: name})
		}
	}
	file := path.Join(o.Lib, "CustomData")
	// The custom data of another agent's first boot are not ours to run. The
	// journal is not synced, and may be gone; the other two are.
	accounts, err := readLedger(r, path.Join(o.Dir(), "users.json"))
	ours := j.VMID != "" || SameVM(led.VMID, vmID) || err == nil && SameVM(accounts.VMID, vmID)
	if o.ExecuteCustomData && r.Exists(file) && ours && (open(StepRunData) || !r.Exists(path.Join(o.Dir(), startedName))) {
		out = append(out, RunCustomData{File: file, Dir: o.Dir(), VMID: vmID})
	}
	return out
}
