package provisioning

import (
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/ovf"
)

// FromDocument makes an Input from a provisioning document. redacted is the
// copy that may stay on disk (ovf.Redacted), nil to leave none.
func FromDocument(env *ovf.Environment, redacted []byte, vmID string) Input {
	in := Input{
		VMID:                vmID,
		HostName:            strings.TrimSpace(env.HostName),
		UserName:            strings.TrimSpace(env.UserName),
		Password:            env.Password,
		PasswordRedacted:    env.PasswordRedacted,
		DisablePasswordAuth: env.DisableSSHPassword,
		ProvisionGuestAgent: env.Platform.ProvisionGuestAgent,
		GuestProxyAgent:     env.Platform.ProvisionGuestProxyAgent != nil && *env.Platform.ProvisionGuestProxyAgent,
		PPS:                 ParsePPSType(env.Platform.PreprovisionedVMType),
		Copy:                redacted,
	}
	if in.PPS == PPSNone && env.Platform.PreprovisionedVM != nil && *env.Platform.PreprovisionedVM {
		in.PPS = PPSRunning // the older spelling has no type
	}
	for _, k := range env.PublicKeys {
		in.Keys = append(in.Keys, Key{Path: k.Path, Fingerprint: k.Fingerprint, Value: k.Value})
	}
	for _, p := range env.KeyPairs {
		in.KeyPairs = append(in.KeyPairs, KeyPair{Path: p.Path, Fingerprint: p.Fingerprint})
	}
	switch {
	case env.CustomDataLost != "":
		in.CustomData = CustomData{Present: true, Err: env.CustomDataLost}
	case !env.CustomDataText.Empty() && !env.CustomData.Set():
		in.CustomData = CustomData{Present: true, Text: env.CustomDataText, Err: "not base64"}
		for _, p := range env.Problems {
			if p.Element == "CustomData" {
				in.CustomData.Err = p.Text
			}
		}
	case env.CustomData.Set():
		in.CustomData = CustomData{Present: true, Text: env.CustomDataText, Data: env.CustomData}
	}
	return in
}

// WithCustomDataFile takes custom data from the file CustomData.bin of the
// medium, which holds it decoded, if the document has none or a broken one.
func (in Input) WithCustomDataFile(data host.Secret) Input {
	if !data.Empty() && (!in.CustomData.Present || in.CustomData.Err != "") {
		in.CustomData = CustomData{Present: true, Data: data}
	}
	return in
}
