package agent

import (
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/provisioning"
)

// fromDocument says in provisioning's terms what the document orders.
func fromDocument(doc *ovf.Document) provisioning.Input {
	e := doc.Environment
	in := provisioning.Input{
		HostName: e.HostName, UserName: e.UserName, Password: e.Password, PasswordRedacted: e.PasswordRedacted,
		DisablePasswordAuth: e.DisableSSHPassword, ProvisionGuestAgent: e.Platform.ProvisionGuestAgent,
		PPS:  provisioning.ParsePPSType(e.Platform.PreprovisionedVMType),
		From: map[string]string{},
	}
	if e.Platform.PreprovisionedVM != nil && *e.Platform.PreprovisionedVM && in.PPS == provisioning.PPSNone {
		in.PPS = provisioning.PPSRunning // the older spelling of it (spec/provisioning §4.7)
	}
	if c, err := doc.Redacted(); err == nil {
		in.Copy = c
	}
	for _, k := range e.PublicKeys {
		in.Keys = append(in.Keys, provisioning.Key{Path: k.Path, Fingerprint: k.Fingerprint, Value: k.Value})
	}
	for _, k := range e.KeyPairs {
		in.KeyPairs = append(in.KeyPairs, provisioning.KeyPair{Path: k.Path, Fingerprint: k.Fingerprint})
	}
	switch {
	case e.CustomDataText.Set() && !e.CustomDataText.Empty():
		in.CustomData = provisioning.DecodeCustomData(e.CustomDataText.Reveal())
	case doc.CustomDataFile.Set():
		in.CustomData.Present = true
	}
	if in.CustomData.Err != "" || !in.CustomData.Data.Set() {
		// The medium may have the bytes beside the document.
		if b := doc.CustomDataFile; b.Set() && !b.Empty() {
			in.CustomData = provisioning.CustomData{Present: true, Data: b, Text: in.CustomData.Text}
		} else if in.CustomData.Text.Empty() {
			in.CustomData = provisioning.CustomData{}
		}
	}
	for name, set := range map[string]bool{"hostName": in.HostName != "", "userName": in.UserName != "", "keys": len(in.Keys) > 0, "customData": in.CustomData.Present} {
		if set {
			in.From[name] = "ovf"
		}
	}
	return in
}

// noOrder is the failure of a machine that nobody says anything about.
func noOrder(err error) error {
	return &provisioning.Error{ID: "AZ-PROV-MEDIA", Reason: "error reading provisioning media", Err: err}
}
