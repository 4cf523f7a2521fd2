package provisioning

import (
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
)

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
	led := s.ledger(m.Root)
	led.Want = s.Types
	before := maps.Clone(led.Keys)
	err := s.makeMissing(ctx, m, led, s.missing(m.Root, led))
	changed := !maps.Equal(before, led.Keys)
	if err == nil && changed {
		err = s.note(ctx, m, led)
	}
	if err == nil && s.Regenerate && !s.Late {
		err = s.dropOthers(m.Root)
	}
	if err != nil {
		return fail(CodeHostKeys, "failed to generate ssh host keys", err)
	}
	// A late key is for the next start of sshd: to read it now it would have
	// to close its port, after everybody was told that the machine is ready.
	if changed && !s.Late {
		m.sshdChanged = bootClock()
	}
	return nil
}

// ledger is what is noted of this VM; damaged is as good as none.
func (s HostKeys) ledger(r host.Root) hostKeyLedger {
	var led hostKeyLedger
	if !readJSON(r, s.Ledger, &led) || !SameVM(led.VMID, s.VMID) || led.Keys == nil {
		return hostKeyLedger{VMID: s.VMID, Keys: map[string]string{}}
	}
	return led
}

// missing lists the types of which there is no key that may stay. The late
// step notes those that may.
func (s HostKeys) missing(r host.Root, led hostKeyLedger) []string {
	var missing []string
	for _, t := range s.Types {
		fp := s.onDisk(r, t)
		// A key of the image stays unless it is to be replaced; one of ours
		// stays in any case. By the late step the image's are gone: what is
		// there was made since, and clients may have seen it.
		if fp == "" || (s.Regenerate && !s.Late && led.Keys[t] != fp) {
			missing = append(missing, t)
		} else if s.Late {
			led.Keys[t] = fp
		}
	}
	return missing
}

// makeMissing writes the keys of these types, but for those that may wait and
// are not ready.
func (s HostKeys) makeMissing(ctx context.Context, m *Machine, led hostKeyLedger, missing []string) error {
	if m.HostKeys == nil && len(missing) > 0 {
		m.HostKeys = MakeHostKeys(missing)
	}
	gid, perm := keyGroup(m.Root)
	for _, t := range missing {
		k, ready, err := s.generated(ctx, m.HostKeys, t)
		if err != nil {
			return err
		}
		if !ready {
			continue
		}
		name := path.Join(s.Dir, "ssh_host_"+t+"_key")
		if err := m.Root.MkdirAll(s.Dir, 0o755); err != nil {
			return err
		}
		// The public half first: sshd warns of one that does not match, but
		// it is the private one that makes us believe that we are done.
		if err := m.Root.WriteFileAs(name+".pub", k.pub, 0o644, 0, 0); err != nil {
			return err
		}
		if err := m.Root.WriteFileAs(name, k.priv, perm, 0, gid); err != nil {
			return err
		}
		led.Keys[t] = s.onDisk(m.Root, t)
	}
	return nil
}

// generated waits for a key, unless it may wait; ready says that it is there.
func (s HostKeys) generated(ctx context.Context, keys *HostKeyMaker, t string) (k *hostKey, ready bool, err error) {
	if !s.Late && slices.Contains(s.MayWait, t) {
		k, ready, err = keys.get(ctx, t, false)
		return k, ready && err == nil, nil // the late step says what is wrong
	}
	if _, ordered := keys.made[t]; !ordered {
		maps.Copy(keys.made, MakeHostKeys([]string{t}).made)
	}
	return keys.get(ctx, t, true)
}

// note writes the ledger.
func (s HostKeys) note(ctx context.Context, m *Machine, led hostKeyLedger) error {
	b, err := json.Marshal(led)
	if err != nil {
		return err
	}
	if err := m.put(s.Ledger, append(b, '\n'), 0o600); err != nil {
		return err
	}
	m.restorecon(ctx, s.Restorecon, "-R", s.Dir)
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
	fp := s.ledger(r).Keys[t]
	return fp != "" && fp == s.onDisk(r, t)
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
