package ovf

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
		"attributes of one element": func() []byte { return peak.Fill(head+"<a ", `b="" `, "/>"+tail, maxParsed) },
		"attributes of many elements": func() []byte {
			return peak.Fill(head, `<a b="" c="" d="" e="" f="" g="" h="" i="" j="" k="" l="" m="" n="" o="" p="" q="" r="" s="" t="" u="" v="" w="" x="" y="" z=""/>`, tail, maxParsed)
		},
		"elements":       func() []byte { return peak.Fill(head, `<a/>`, tail, maxParsed) },
		"a few elements": func() []byte { return peak.Fill(head, `<a/>`, tail, 49_000*2) },
		"texts":          func() []byte { return peak.Fill(head, `<a/>x`, tail, maxParsed) },
		"comments":       func() []byte { return peak.Fill(head, `<!---->x`, tail, maxParsed) },
		"keys": func() []byte {
			return peak.Fill(head+`<SSH><PublicKeys>`, `<PublicKey><Value>ssh-ed25519 %d</Value><Path>/x</Path></PublicKey>`, `</PublicKeys></SSH>`+tail, maxParsed)
		},
		"names":             func() []byte { return peak.Fill(head, `<HostName>%d</HostName>`, tail, maxParsed) },
		"custom data":       func() []byte { return peak.Fill(head+`<CustomData>`, "QUJD\n", `</CustomData>`+tail, maxParsed) },
		"IN16: custom data": func() []byte { return peak.Fill(head+`<CustomData>`, "QUJDREVG", `</CustomData>`+tail, maxDocument) },
		"IN16: custom data twice": func() []byte {
			return peak.Fill(head+`<CustomData>`+strings.Repeat("QUJD", 4<<20)+`</CustomData><CustomData>`, "QUJDREVG", `</CustomData>`+tail, maxDocument)
		},
		"IN16: not base64": func() []byte { return peak.Fill(head+`<CustomData>`, "QUJD.EVG", `</CustomData>`+tail, maxDocument) },
		"IN16: a password": func() []byte {
			return peak.Fill(head+`<UserPassword>`, "xxxxxxxxx", `</UserPassword>`+tail, maxDocument)
		},
		"IN16: elements besides": func() []byte {
			return peak.Fill(head+`<CustomData>`+strings.Repeat("QUJD", 7<<20)+`</CustomData>`, `<a/>`, tail, maxDocument)
		},
		"custom data often": func() []byte {
			return peak.Fill(head+`<CustomData>`, "QUJD</CustomData><CustomData>", `</CustomData>`+tail, maxParsed)
		},
		"entities": func() []byte { return peak.Fill(head+`<CustomData>`, "&#65;", `</CustomData>`+tail, maxParsed) },
		"password": func() []byte {
			return peak.Fill(head+`<UserPassword>`, "xxxxxxxxx", `</UserPassword>`+tail, maxParsed)
		},
		"nested": func() []byte {
			return peak.Fill(head, `<a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a>`, tail, maxParsed)
		},
	} {
		cases = append(cases, peak.Case{Name: name, Doc: doc, ReadFile: func(file string) error {
			dir := t.TempDir()
			for _, name := range []string{documentName, customDataName} {
				if err := os.Link(file, filepath.Join(dir, name)); err != nil {
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
