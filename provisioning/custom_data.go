package provisioning

import (
	"encoding/base64"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

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
