// Package settings reads the parts of extension settings that the two goal
// state documents share: states, and the JSON inside (protocol/SPEC.md §6.2,
// §6.3 and §7.3). It makes no decisions about them.
package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// Want reads the state of a handler.
func Want(state string) (protocol.Want, bool) {
	for _, w := range []protocol.Want{protocol.WantEnabled, protocol.WantDisabled, protocol.WantUninstall} {
		if strings.EqualFold(state, string(w)) {
			return w, true
		}
	}
	return "", false
}

// InstanceWant reads the state of a multi-config instance; only "disabled"
// is not enabled.
func InstanceWant(state string) protocol.Want {
	if strings.EqualFold(state, string(protocol.WantDisabled)) {
		return protocol.WantDisabled
	}
	return protocol.WantEnabled
}

// Handler is handlerSettings, or one entry of settings in vmSettings. Go
// matches the keys in any case.
type Handler struct {
	PublicSettings                  json.RawMessage
	ProtectedSettings               *string
	ProtectedSettingsCertThumbprint *string
}

// Runtime reads {"runtimeSettings":[{"handlerSettings":{…}}]} into s.
func Runtime(b []byte, s *protocol.Settings) error {
	var doc struct {
		RuntimeSettings []struct {
			HandlerSettings *Handler
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("settings of %s: %w", bound.Clip(s.Name), shape(err))
	}
	if len(doc.RuntimeSettings) == 0 || doc.RuntimeSettings[0].HandlerSettings == nil {
		return fmt.Errorf("settings of %s: no runtimeSettings with handlerSettings", bound.Clip(s.Name))
	}
	return doc.RuntimeSettings[0].HandlerSettings.Into(s)
}

// Into copies the settings. publicSettings may be an object, or a string
// with one inside; null and absent are nil.
func (h *Handler) Into(s *protocol.Settings) error {
	pub := bytes.TrimSpace(h.PublicSettings)
	if len(pub) > 0 && pub[0] == '"' {
		var text string
		if err := json.Unmarshal(pub, &text); err != nil {
			return fmt.Errorf("public settings of %s: %w", bound.Clip(s.Name), shape(err))
		}
		pub = bytes.TrimSpace([]byte(text))
		if len(pub) > 0 && !json.Valid(pub) {
			return fmt.Errorf("public settings of %s: not JSON", bound.Clip(s.Name))
		}
	}
	if len(pub) > 0 && string(pub) != "null" {
		s.Public = pub // a copy of what was in the document already
	}
	if h.ProtectedSettings != nil && *h.ProtectedSettings != "" {
		s.Protected = secret.New(*h.ProtectedSettings)
	}
	if h.ProtectedSettingsCertThumbprint != nil {
		s.Thumbprint = strings.TrimSpace(*h.ProtectedSettingsCertThumbprint)
	}
	return nil
}

// shape keeps the position of a JSON error and drops the text around it, which
// may be secret.
func shape(err error) error {
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s has JSON type %s", te.Field, bound.Clip(te.Value))
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON at byte %d", se.Offset)
	}
	return errors.New("unexpected JSON")
}
