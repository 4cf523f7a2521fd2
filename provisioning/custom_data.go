package provisioning

import (
	"encoding/base64"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// DecodeCustomData decodes base64 as documents contain it: broken into
// lines, with or without padding. What cannot be decoded is kept as text
// with the reason; it is never a reason not to provision.
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

func encodeSecret(b []byte) host.Secret {
	return host.NewSecret(base64.StdEncoding.EncodeToString(b))
}
