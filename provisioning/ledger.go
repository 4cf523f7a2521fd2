package provisioning

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/azguest/azguest/agent/host"
)

// ledger lists the accounts that this agent made, for repair and for
// generalize.
type ledger struct {
	VMID  string   `json:"vmId"`
	Users []string `json:"users"`
	// Making is the account that a tool is making; empty when it is complete.
	Making string `json:"making,omitempty"`
	// Kept means that the home of that account was there before.
	Kept bool `json:"kept,omitempty"`
}

func readLedger(r host.Root, name string) (ledger, error) {
	var l ledger
	b, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read %s: %w", name, err)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return ledger{}, nil //nolint:nilerr // a power cut has truncated the file: start with an empty one
	}
	return l, nil
}

func writeLedger(r host.Root, name string, l ledger) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := r.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return r.WriteFile(name, append(b, '\n'), 0o600)
}

// OwnUsers lists the accounts that provisioning made on this machine.
func (m *Machine) OwnUsers() []string {
	l, err := readLedger(m.Root, path.Join(m.Options.Dir(), "users.json"))
	if err != nil {
		return nil
	}
	return l.Users
}

// Made reports whether a ledger says that its steps made an account on this
// VM. A ledger that cannot be read says nothing.
func (m *Machine) Made(ledger, user string) bool {
	l, err := readLedger(m.Root, ledger)
	return err == nil && SameVM(l.VMID, m.VM.ID) && slices.Contains(l.Users, user)
}
