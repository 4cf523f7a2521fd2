package ovf

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// TestSEC4Memory limits the memory for reading the worst documents of the
// allowed size, from a medium that also has custom data of that size.
func TestSEC4Memory(t *testing.T) {
	head := `<Environment xmlns:wa="w"><wa:ProvisioningSection><wa:Version>1.0</wa:Version><LinuxProvisioningConfigurationSet>`
	tail := `</LinuxProvisioningConfigurationSet></wa:ProvisioningSection></Environment>`
	var cases []peak.Case
	for name, doc := range map[string]func() []byte{
		"attributes of one element": func() []byte { return peak.Fill(head+"<a ", `b="" `, "/>"+tail, maxDocument) },
		"attributes of many elements": func() []byte {
			return peak.Fill(head, `<a b="" c="" d="" e="" f="" g="" h="" i="" j="" k="" l="" m="" n="" o="" p="" q="" r="" s="" t="" u="" v="" w="" x="" y="" z=""/>`, tail, maxDocument)
		},
		"elements":       func() []byte { return peak.Fill(head, `<a/>`, tail, maxDocument) },
		"a few elements": func() []byte { return peak.Fill(head, `<a/>`, tail, 49_000*2) },
		"texts":          func() []byte { return peak.Fill(head, `<a/>x`, tail, maxDocument) },
		"comments":       func() []byte { return peak.Fill(head, `<!---->x`, tail, maxDocument) },
		"keys": func() []byte {
			return peak.Fill(head+`<SSH><PublicKeys>`, `<PublicKey><Value>ssh-ed25519 %d</Value><Path>/x</Path></PublicKey>`, `</PublicKeys></SSH>`+tail, maxDocument)
		},
		"names":       func() []byte { return peak.Fill(head, `<HostName>%d</HostName>`, tail, maxDocument) },
		"custom data": func() []byte { return peak.Fill(head+`<CustomData>`, "QUJD\n", `</CustomData>`+tail, maxDocument) },
		"custom data often": func() []byte {
			return peak.Fill(head+`<CustomData>`, "QUJD</CustomData><CustomData>", `</CustomData>`+tail, maxDocument)
		},
		"entities": func() []byte { return peak.Fill(head+`<CustomData>`, "&#65;", `</CustomData>`+tail, maxDocument) },
		"password": func() []byte {
			return peak.Fill(head+`<UserPassword>`, "xxxxxxxxx", `</UserPassword>`+tail, maxDocument)
		},
		"nested": func() []byte {
			return peak.Fill(head, `<a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a>`, tail, maxDocument)
		},
	} {
		cases = append(cases, peak.Case{Name: name, Doc: doc, Read: func(b []byte) error {
			dir := t.TempDir()
			for _, name := range []string{documentName, customDataName} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					return err
				}
			}
			d, err := Load(t.Context(), Dir(dir))
			if err != nil {
				return err
			}
			_, err = d.Redacted()
			runtime.KeepAlive(d)
			return err
		}})
	}
	peak.Run(t, cases)
}
