package provisioning

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
)

// HostKeys generates host keys for the machine. Each is replaced by rename, so
// that sshd never reads a partial one. A second run keeps the keys that the
// ledger lists for this VM id.
type HostKeys struct {
	Dir        string
	Types      []string
	MayWait    []string // types left to the late step unless they are ready
	Late       bool     // this is the late step: make what is missing
	Regenerate bool     // keys of the image are replaced
	Elsewhere  []string // other files from which sshd reads keys (HostKey); they get the keys of Dir
	// Agents are public keys whose private halves an agent has (HostKeyAgent).
	// They are not touched: sshd could not use another key in their place.
	Agents       []string
	Certificates []string // HostCertificate files
	VMID         string
	Ledger       string
	Restorecon   string

	leastRSA int // bits; sshd refuses shorter keys, see refusedRSA
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

// hostKeyLedger records which keys were made for which VM.
type hostKeyLedger struct {
	VMID string            `json:"vmId"`
	Want []string          `json:"want"` // all requested types
	Keys map[string]string `json:"keys"` // type → SHA256 fingerprint
	// Elsewhere has the types of the keys that sshd reads elsewhere, by file:
	// while a key is being made, its file does not tell.
	Elsewhere map[string]string `json:"elsewhere,omitempty"`
}

func hostKeyFile(dir, t string) string { return path.Join(dir, "ssh_host_"+t+"_key") }

// typeOfHostKey returns the type of a host key in a file of any name, by its
// content, or, if there is none, by what the ledger or its name says. It is
// empty for a file that is no private key of a type that is made.
func typeOfHostKey(r host.Root, name string, led hostKeyLedger) string {
	if t := led.Elsewhere[name]; t != "" {
		return t
	}
	b, err := r.ReadFile(name)
	if err != nil {
		for _, t := range HostKeyTypes(false) {
			if strings.Contains(path.Base(name), t) {
				return t
			}
		}
		return HostKeyTypes(false)[0]
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return ""
	}
	switch t := signer.PublicKey().Type(); {
	case t == ssh.KeyAlgoED25519:
		return "ed25519"
	case t == ssh.KeyAlgoRSA:
		return "rsa"
	case strings.HasPrefix(t, "ecdsa-sha2-"):
		return "ecdsa"
	}
	return ""
}

// Apply implements Step.
func (s HostKeys) Apply(ctx context.Context, m *Machine) error {
	led := s.ledger(m.Root)
	led.Want = s.Types
	s.leastRSA = s.refusedRSA(ctx, m)
	before := maps.Clone(led.Keys)
	err := s.makeMissing(ctx, m, led, s.missing(m.Root, led))
	changed := !maps.Equal(before, led.Keys)
	for _, name := range s.Elsewhere {
		if err == nil {
			var put bool
			put, err = s.putElsewhere(m, &led, name)
			changed = changed || put
		}
	}
	if err == nil && changed {
		err = s.note(ctx, m, led)
	}
	if err == nil && s.Regenerate && !s.Late {
		err = s.dropOthers(m.Root)
	}
	if err != nil {
		return fail(CodeHostKeys, "failed to generate ssh host keys", err)
	}
	// sshd reads a late key at its next start. To read it now, sshd would have
	// to close its port after Ready was reported.
	if changed && !s.Late {
		m.sshdChanged = bootClock()
	}
	return s.certified(m.Root)
}

// refusedRSA returns below how many bits sshd refuses an RSA key
// (RequiredRSASize, and 1024 in every sshd since OpenSSH 7.6). sshd is asked
// only if there may be such a key of the image that is to be kept.
func (s HostKeys) refusedRSA(ctx context.Context, m *Machine) int {
	const always = 1024
	if s.Regenerate || !slices.ContainsFunc(append([]string{hostKeyFile(s.Dir, "rsa")}, s.Elsewhere...), func(n string) bool {
		bits := lengthOfRSA(m.Root, n)
		return bits > 0 && bits < rsaBits
	}) {
		return always
	}
	v := ""
	if a, err := m.AskSSHD(ctx, Login{User: "root"}); err == nil {
		v = a.Value("requiredrsasize")
	} else { // for example because it refuses its only key
		v, _ = m.SSHDValue("requiredrsasize")
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		n = 0
	}
	return max(n, always)
}

// lengthOfRSA returns the length of an RSA key; 0 for all other files.
func lengthOfRSA(r host.Root, name string) int {
	b, err := r.ReadFile(name)
	if err != nil {
		return 0
	}
	k, err := ssh.ParseRawPrivateKey(b)
	if key, ok := k.(*rsa.PrivateKey); ok && err == nil {
		return key.N.BitLen()
	}
	return 0
}

// usable is fingerprintOf for a key that sshd accepts.
func (s HostKeys) usable(r host.Root, name string) string {
	if bits := lengthOfRSA(r, name); bits > 0 && bits < s.leastRSA {
		return ""
	}
	return fingerprintOf(r, name)
}

// certified warns of certificates for keys that the machine does not have any
// more: clients that trust their authority refuse the machine. Nobody here can
// sign a new one.
func (s HostKeys) certified(r host.Root) error {
	if s.Late {
		return nil
	}
	var have []string
	for _, t := range s.Types {
		have = append(have, s.onDisk(r, t))
	}
	for _, n := range s.Elsewhere {
		have = append(have, fingerprintOf(r, n))
	}
	for _, n := range s.Agents {
		if b, err := r.ReadFile(n); err == nil {
			if k, _, _, _, err := ssh.ParseAuthorizedKey(b); err == nil {
				have = append(have, ssh.FingerprintSHA256(k))
			}
		}
	}
	var stale []string
	for _, n := range s.Certificates {
		fp := ""
		if b, err := r.ReadFile(n); err == nil {
			if k, _, _, _, err := ssh.ParseAuthorizedKey(b); err == nil {
				if c, ok := k.(*ssh.Certificate); ok {
					fp = ssh.FingerprintSHA256(c.Key)
				}
			}
		}
		if fp == "" || !slices.Contains(have, fp) {
			stale = append(stale, n)
		}
	}
	if len(stale) > 0 {
		return warn(CodeHostKeys, "HostCertificate %s is for a key that this machine does not have: clients that trust its authority refuse until a new one is signed", strings.Join(stale, ", "))
	}
	return nil
}

// isPublicKey reports whether a file has a public key and nothing else.
func isPublicKey(r host.Root, name string) bool {
	b, err := r.ReadFile(name)
	if err != nil {
		return false
	}
	_, _, _, rest, err := ssh.ParseAuthorizedKey(b)
	return err == nil && len(rest) == 0 && !strings.Contains(string(b), "PRIVATE KEY")
}

// ledger returns the ledger of this VM; a damaged one is ignored.
func (s HostKeys) ledger(r host.Root) hostKeyLedger {
	var led hostKeyLedger
	if !readJSON(r, s.Ledger, &led) || !SameVM(led.VMID, s.VMID) || led.Keys == nil {
		return hostKeyLedger{VMID: s.VMID, Keys: map[string]string{}}
	}
	return led
}

// missing lists the types without a key that may stay. The late step enters
// keys that may stay in the ledger.
func (s HostKeys) missing(r host.Root, led hostKeyLedger) []string {
	var missing []string
	for _, t := range s.Types {
		fp := s.usable(r, hostKeyFile(s.Dir, t))
		// A key of the image stays unless keys are to be replaced; a key of
		// the ledger always stays. The keys of the image that are replaced
		// are removed before the late step, so a key found by it was made
		// since, and clients may have seen it.
		if fp == "" || (s.Regenerate && !s.Late && led.Keys[t] != fp) {
			missing = append(missing, t)
		} else if s.Late {
			led.Keys[t] = fp
		}
	}
	return missing
}

// makeMissing writes the keys of these types, except those that may wait and
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
		name := hostKeyFile(s.Dir, t)
		if err := m.Root.MkdirAll(s.Dir, 0o755); err != nil {
			return err
		}
		// The public half first: sshd warns if it does not match, but only the
		// private key marks the type as done.
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

// putElsewhere gives a file that sshd reads the key of Dir with its type, and
// reports whether it changed something. A key of the image that is to be
// replaced is removed if the new one is not ready yet.
func (s HostKeys) putElsewhere(m *Machine, led *hostKeyLedger, name string) (changed bool, err error) {
	r := m.Root
	t := typeOfHostKey(r, name, *led)
	have, want := s.usable(r, name), s.onDisk(r, t)
	if t == "" || have != "" && (have == want || !s.Regenerate) {
		return false, nil
	}
	if led.Elsewhere == nil {
		led.Elsewhere = map[string]string{}
	}
	led.Elsewhere[name] = t
	if want == "" || s.Regenerate && led.Keys[t] != want { // left to the late step
		return true, errors.Join(r.Remove(name), r.Remove(name+".pub"))
	}
	from := hostKeyFile(s.Dir, t)
	pub, err := r.ReadFile(from + ".pub")
	if err != nil {
		return false, err
	}
	priv, err := r.ReadFile(from)
	if err != nil {
		return false, err
	}
	gid, perm := keyGroup(r)
	return true, errors.Join(r.MkdirAll(path.Dir(name), 0o755), r.WriteFileAs(name+".pub", pub, 0o644, 0, 0), r.WriteFileAs(name, priv, perm, 0, gid))
}

// generated waits for a key unless it may wait; ready reports whether the key
// exists.
func (s HostKeys) generated(ctx context.Context, keys *HostKeyMaker, t string) (k *hostKey, ready bool, err error) {
	if !s.Late && slices.Contains(s.MayWait, t) {
		k, ready, err = keys.get(ctx, t, false)
		return k, ready && err == nil, nil // the late step reports the error
	}
	if _, ordered := keys.made[t]; !ordered {
		maps.Copy(keys.made, MakeHostKeys([]string{t}).made)
	}
	return keys.get(ctx, t, true)
}

// note writes the ledger and sets SELinux labels.
func (s HostKeys) note(ctx context.Context, m *Machine, led hostKeyLedger) error {
	b, err := json.Marshal(led)
	if err != nil {
		return err
	}
	if err := m.put(s.Ledger, append(b, '\n'), 0o600); err != nil {
		return err
	}
	m.Restorecon(ctx, s.Restorecon, append([]string{"-R", s.Dir}, s.Elsewhere...)...)
	return nil
}

// dropOthers removes host keys of types that are not requested (dsa, or other
// types of the image): they are the same in every clone.
func (s HostKeys) dropOthers(r host.Root) error {
	names, err := r.Glob(path.Join(s.Dir, "ssh_host_*key*"))
	if err != nil {
		return err
	}
	for _, n := range names {
		if slices.Contains(s.Agents, n) {
			continue
		}
		t := hostKeyType(strings.TrimSuffix(n, ".pub"))
		// The image's RSA key must not be used until the new one is made.
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

// onDisk and fingerprintOf return the fingerprint of the private key on disk; empty if it is
// missing or damaged.
func (s HostKeys) onDisk(r host.Root, t string) string {
	return fingerprintOf(r, hostKeyFile(s.Dir, t))
}

func fingerprintOf(r host.Root, name string) string {
	b, err := r.ReadFile(name)
	if err != nil {
		return ""
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(signer.PublicKey())
}

// keyGroup returns the group and mode of private host keys. Distributions of
// the Red Hat family let ssh-keysign read them through a group.
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
