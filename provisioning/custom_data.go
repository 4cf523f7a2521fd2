package provisioning

import (
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// CustomDataToApply returns the first limit bytes of the custom data as they are
// stored; nothing if there are none, or if they have been run already.
func (m *Machine) CustomDataToApply(limit int64) ([]byte, error) {
	if b, err := m.Root.ReadFile(path.Join(m.Options.Dir(), startedName)); err == nil && SameVM(string(b), m.VM.ID) {
		return nil, nil
	}
	f, err := m.Root.Open(path.Join(m.Options.Lib, "CustomData"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	return b, errors.Join(err, f.Close())
}

// DecodeCustomData decodes base64 as documents contain it: broken into lines,
// with or without padding. If it cannot be decoded, Err has the reason and
// Text the original; the VM is provisioned nevertheless.
func DecodeCustomData(text string) CustomData {
	c := CustomData{Present: true, Text: host.NewSecret(strings.TrimSpace(text))}
	clean := strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n':
			return -1
		}
		return r
	}, text)
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(clean, "="))
	if err != nil {
		c.Err = "not base64: " + err.Error()
		return c
	}
	c.Data = host.NewSecret(string(b))
	return c
}
