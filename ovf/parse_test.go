package ovf

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/test/peak"
)

const (
	key1 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPlJ anna@example"
	key2 = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAy"
)

// body returns the sections with their content, each name with the prefix p.
func body(p string) string {
	s := `<ProvisioningSection><Version>1.0</Version><LinuxProvisioningConfigurationSet>
 <ConfigurationSetType>LinuxProvisioningConfiguration</ConfigurationSetType>
 <HostName> vm-01
 </HostName><UserName>anna</UserName><UserPassword> p&lt;a&amp;s"s' </UserPassword>
 <DisableSshPasswordAuthentication>False</DisableSshPasswordAuthentication>
 <SSH><PublicKeys>
  <PublicKey><Fingerprint>AB12</Fingerprint><Path>$HOME/anna/.ssh/authorized_keys</Path><Value>` + key1 + `</Value></PublicKey>
  <PublicKey><Path>$HOME/anna/.ssh/other</Path><Value>` + key2[:30] + "\r\n" + key2[30:] + `
</Value></PublicKey>
  <PublicKey><Fingerprint>CD34</Fingerprint></PublicKey></PublicKeys>
  <KeyPairs><KeyPair><Fingerprint>AB12</Fingerprint><Path>$HOME/anna/.ssh/id_rsa</Path></KeyPair></KeyPairs></SSH>
 <CustomData>I2Ns
  b3VkLWNvbmZpZwo=</CustomData><UserData>dXNlcg==</UserData><dscfg>x</dscfg><Unknown><Deep/></Unknown>
</LinuxProvisioningConfigurationSet></ProvisioningSection>
<PlatformSettingsSection><Version>1.0</Version><PlatformSettings>
 <KmsServerHostname>kms.core.windows.net</KmsServerHostname><ProvisionGuestAgent>true</ProvisionGuestAgent>
 <ProvisionGuestProxyAgent>false</ProvisionGuestProxyAgent><GuestAgentPackageName NIL="true"/>
 <RetainWindowsPEPassInUnattend>true</RetainWindowsPEPassInUnattend>
 <RetainOfflineServicingPassInUnattend>true</RetainOfflineServicingPassInUnattend>
 <PreprovisionedVm>true</PreprovisionedVm><PreprovisionedVmType>Savable</PreprovisionedVmType>
 <EnableTrustedImageIdentifier>false</EnableTrustedImageIdentifier>
</PlatformSettings></PlatformSettingsSection>`
	if p != "" {
		s = strings.ReplaceAll(s, "</", "\x00")
		s = strings.ReplaceAll(s, "<", "<"+p+":")
		s = strings.ReplaceAll(s, "\x00", "</"+p+":")
	}
	return strings.Replace(s, "NIL", "xsi:nil", 1)
}

const spaces = ` xmlns:wa="http://schemas.microsoft.com/windowsazure" xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1" xmlns:ns1="http://schemas.microsoft.com/windowsazure" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"`

func full() *Environment {
	return &Environment{
		Version: "1.0", ConfigurationSetType: "LinuxProvisioningConfiguration",
		HostName: "vm-01", UserName: "anna", Password: host.NewSecret(` p<a&s"s' `),
		DisableSSHPassword: new(false),
		PublicKeys: []PublicKey{
			{"AB12", "$HOME/anna/.ssh/authorized_keys", key1},
			{"", "$HOME/anna/.ssh/other", key2[:30] + "\n" + key2[30:]}, // as in the document: provisioning.ParseKeys joins it
			{"CD34", "", ""},
		},
		KeyPairs:       []KeyPair{{"AB12", "$HOME/anna/.ssh/id_rsa"}},
		CustomData:     host.NewSecret("#cloud-config\n"),
		CustomDataText: host.NewSecret("I2Nsb3VkLWNvbmZpZwo="),
		UserData:       host.NewSecret("dXNlcg=="),
		Platform: Platform{
			Version: "1.0", KmsServerHostname: "kms.core.windows.net",
			ProvisionGuestAgent: new(true), ProvisionGuestProxyAgent: new(false),
			RetainWindowsPEPassInUnattend: new(true), RetainOfflineServicingPassInUnattend: new(true),
			PreprovisionedVM: new(true), PreprovisionedVMType: "Savable",
			EnableTrustedImageIdentifier: new(false),
		},
	}
}

func TestSpellings(t *testing.T) {
	dvd := `<?xml version="1.0" encoding="utf-8"?><Environment xmlns="http://schemas.dmtf.org/ovf/environment/1"` + spaces + `>` + body("wa") + `</Environment>`
	for name, doc := range map[string]string{
		"dvd":         dvd,
		"cloud-init":  `<ns0:Environment` + spaces + `>` + body("ns1") + `</ns0:Environment>`,
		"default":     `<Environment xmlns="http://schemas.microsoft.com/windowsazure"` + spaces + `>` + body("") + `</Environment>`,
		"none":        `<Environment>` + body("") + `</Environment>`,
		"undeclared":  `<x:Environment>` + body("y") + `</x:Environment>`,
		"bom":         "\xef\xbb\xbf" + dvd,
		"crlf":        strings.ReplaceAll(strings.ReplaceAll(dvd, "\r\n", "\n"), "\n", "\r\n"),
		"blank line":  "\r\n" + dvd,
		"wrong label": strings.Replace(dvd, "utf-8", "utf-16", 1),
		"vm type":     strings.ReplaceAll(dvd, "PreprovisionedVmType", "PreprovisionedVMType"),
		"cdata":       strings.ReplaceAll(dvd, `> p&lt;a&amp;s"s' <`, `><![CDATA[ p<a]]>&amp;<!-- x --><![CDATA[s"s' ]]><`),
		"admin":       strings.ReplaceAll(dvd, "UserPassword", "AdminPassword"),
		"twice":       strings.Replace(dvd, "<wa:UserName>", "<wa:UserName>anna</wa:UserName><wa:UserName/><wa:UserName>", 1),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(doc))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(full(), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			checkRedacted(t, doc, full())
		})
	}
}

// checkRedacted checks that the redacted copy has everything except the
// secrets.
func checkRedacted(t *testing.T, doc string, want *Environment) {
	t.Helper()
	copied, err := Redacted([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"s\"s'", "s&quot;s", "p&lt;a", "p<a", "I2Ns", "b3VkLW", "dXNlcg", "dscfg>x"} {
		if strings.Contains(string(copied), secret) {
			t.Errorf("copy holds %q:\n%s", secret, copied)
		}
	}
	got, err := Parse(copied)
	if err != nil {
		t.Fatal(err)
	}
	want.Password, want.PasswordRedacted = host.Secret{}, true
	want.CustomData, want.CustomDataText, want.CustomDataRedacted, want.UserData = host.Secret{}, host.Secret{}, true, host.Secret{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("copy (-want +got)\n%s", diff)
	}
}

// linux returns a document with s as the content of the configuration set.
func linux(s string) string {
	return `<Environment xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><ProvisioningSection><LinuxProvisioningConfigurationSet>` + s + `</LinuxProvisioningConfigurationSet></ProvisioningSection></Environment>`
}

func TestValues(t *testing.T) {
	big := strings.Repeat("\x00\xff\x1f\x8b", 16<<10)
	sec := host.NewSecret
	for _, tc := range []struct {
		name, in string
		want     Environment
	}{
		{"nothing", "", Environment{}},
		{"empty password", "<UserPassword/>", Environment{}},
		{"empty pair", "<UserPassword></UserPassword>", Environment{}},
		{"laid out password", "<UserPassword>\n  </UserPassword>", Environment{}},
		{"nil password", `<UserPassword xsi:nil="true"/>`, Environment{}},
		{"not nil", `<UserName xsi:nil="false">u</UserName>`, Environment{UserName: "u"}},
		{"blank password", "<UserPassword>  </UserPassword>", Environment{Password: sec("  ")}},
		{"attribute", `<UserPassword a="b">x</UserPassword>`, Environment{Password: sec("x")}},
		{"newline in password", "<UserPassword>a\nb</UserPassword>", Environment{Password: sec("a\nb")}},
		{"redacted", "<UserPassword>REDACTED</UserPassword>", Environment{PasswordRedacted: true}},
		{"star", "<UserPassword>*</UserPassword>", Environment{PasswordRedacted: true}},
		{"comment in value", "<HostName>a<!-- x -->b</HostName>", Environment{HostName: "ab"}},
		{"unicode", "<UserName>jürgen</UserName>", Environment{UserName: "jürgen"}},
		{"switch", "<DisableSshPasswordAuthentication> ON </DisableSshPasswordAuthentication>", Environment{DisableSSHPassword: new(true)}},
		{"bad switch", "<DisableSshPasswordAuthentication>maybe</DisableSshPasswordAuthentication>", Environment{
			Problems: []Problem{{"DisableSshPasswordAuthentication", "neither true nor false"}},
		}},
		{"big binary custom data", "<CustomData>" + base64.StdEncoding.EncodeToString([]byte(big)) + "</CustomData>", Environment{
			CustomData: sec(big), CustomDataText: sec(base64.StdEncoding.EncodeToString([]byte(big))),
		}},
		{"no padding", "<CustomData>YQ</CustomData>", Environment{CustomData: sec("a"), CustomDataText: sec("YQ")}},
		{"too much padding", "<CustomData>YQ===</CustomData>", Environment{CustomData: sec("a"), CustomDataText: sec("YQ===")}},
		{"url alphabet", "<CustomData>_-8=</CustomData>", Environment{CustomData: sec("\xff\xef"), CustomDataText: sec("_-8=")}},
		{"bad custom data", "<UserName>u</UserName><CustomData>@@@</CustomData>", Environment{
			UserName: "u", CustomDataText: sec("@@@"), Problems: []Problem{{"CustomData", "not base64 at character 1 of 3"}},
		}},
		{"cut custom data", "<CustomData>YWFhY</CustomData>", Environment{
			CustomDataText: sec("YWFhY"), Problems: []Problem{{"CustomData", "not base64 at character 5 of 5"}},
		}},
		{"two custom data", "<CustomData>YQ==</CustomData><CustomData>Yg==</CustomData>", Environment{
			Problems: []Problem{{"CustomData", "multiple configuration matches for 'CustomData' (2)"}},
		}},
		{"empty custom data", "<CustomData> \n</CustomData>", Environment{}},
		{"useless key", "<SSH><PublicKeys><PublicKey><Path>p</Path></PublicKey></PublicKeys></SSH>", Environment{
			Problems: []Problem{{"PublicKey", "neither Value nor Fingerprint"}},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse([]byte(linux(tc.in)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			c, err := Redacted([]byte(linux(tc.in)))
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(c)
			if err != nil {
				t.Fatal(err)
			}
			if want := tc.want.Password.Set() || tc.want.PasswordRedacted; again.PasswordRedacted != want || again.Password.Set() {
				t.Errorf("password of the copy: redacted %v, want %v", again.PasswordRedacted, want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	deep := strings.Repeat("<a>", 200) + strings.Repeat("</a>", 200)
	for _, tc := range []struct{ name, in, kind, text string }{
		{"empty", "", KindMalformed, "empty"},
		{"utf-16", "\xff\xfe<\x00E\x00", KindMalformed, "UTF-16"},
		{"utf-16 without mark", "<\x00E\x00n\x00", KindMalformed, "UTF-16"},
		{"latin 1", "<Environment>\xfc</Environment>", KindMalformed, "not UTF-8"},
		{"doctype", `<!DOCTYPE a [<!ENTITY b "c">]><Environment/>`, KindMalformed, "document type"},
		{"entity", linux("<UserPassword>a&s3cret;</UserPassword>"), KindMalformed, "invalid character entity"},
		{"cut", linux("<HostName>a")[:120], KindMalformed, "unexpected EOF"},
		{"crossed", linux("<HostName>a</s3cret>"), KindMalformed, "mismatched end tag"},
		{"deep", deep, KindMalformed, "nested too deeply"},
		{"wide", "<a>" + strings.Repeat("<b/>", 60000) + "</a>", KindMalformed, "more than"},
		{"large", strings.Repeat(" ", maxParsed+1), KindMalformed, "at most"},
		{"other xml", "<html/>", KindForeign, "root element is not Environment"},
		{"other ovf", "<Environment><PropertySection/></Environment>", KindForeign, "'ProvisioningSection'"},
		{"no set", "<Environment><ProvisioningSection/></Environment>", KindForeign, "'LinuxProvisioningConfigurationSet'"},
		{"windows", "<Environment><ProvisioningSection><WindowsProvisioningConfigurationSet/></ProvisioningSection></Environment>", KindUnsupported, "Windows"},
		{"contradiction", linux("<HostName>a</HostName><HostName>b</HostName>"), KindContradicts, "multiple configuration matches for 'HostName' (2)"},
		{"two passwords", linux("<UserPassword>a</UserPassword><AdminPassword>b</AdminPassword>"), KindContradicts, "'UserPassword' (2)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.in))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Kind != tc.kind || !strings.Contains(e.Error(), tc.text) || strings.Contains(e.Error(), "s3cret") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Documents from the tests of another agent.
func TestFixtures(t *testing.T) {
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	for name, agent := range map[string]bool{"ovf-env.xml": false, "ovf-env-2.xml": true} {
		b, err := os.ReadFile(filepath.Join(dir, "waagent", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		want := &Environment{
			Version: "1.0", ConfigurationSetType: "LinuxProvisioningConfiguration",
			HostName: "HostName", UserName: "UserName", Password: host.NewSecret("UserPassword"),
			DisableSSHPassword: new(false),
			PublicKeys:         []PublicKey{{"EB0C0AB4B2D5FC35F2F0658D19F44C8283E2DD62", "$HOME/UserName/.ssh/authorized_keys", "ssh-rsa AAAANOTAREALKEY== foo@bar.local"}},
			KeyPairs:           []KeyPair{{"EB0C0AB4B2D5FC35F2F0658D19F44C8283E2DD62", "$HOME/UserName/.ssh/id_rsa"}},
			CustomDataText:     host.NewSecret("CustomData"),
			Platform: Platform{
				Version: "1.0", KmsServerHostname: "kms.core.windows.net", ProvisionGuestAgent: &agent,
				RetainWindowsPEPassInUnattend: new(true), RetainOfflineServicingPassInUnattend: new(true), PreprovisionedVM: new(false),
			},
		}
		// The word CustomData happens to be valid base64, of seven and a half
		// bytes.
		data, err := decodeBase64("CustomData")
		if err != nil {
			t.Fatal(err)
		}
		want.CustomData = host.NewSecret(string(data))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
		c, err := Redacted(b)
		if err != nil || strings.Contains(string(c), ">UserPassword<") || strings.Contains(string(c), ">CustomData<") {
			t.Errorf("%s: %v\n%s", name, err, c)
		}
	}
}

// Printing any of the types shows no secret.
func TestSecretsDoNotPrint(t *testing.T) {
	e, err := Parse([]byte(linux("<UserPassword>s3cret-1</UserPassword><CustomData>czNjcmV0LTI=</CustomData>")))
	if err != nil {
		t.Fatal(err)
	}
	d := &Document{Environment: e, Raw: host.NewSecret("s3cret-3")}
	for _, v := range []any{e, *e, d, *d} {
		for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
			if s := fmt.Sprintf(f, v); strings.Contains(s, "s3cret") || strings.Contains(s, "czNj") {
				t.Errorf("%s: %s", f, s)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`<?xml version="1.0"?><Environment xmlns="http://schemas.dmtf.org/ovf/environment/1"` + spaces + `>` + body("wa") + `</Environment>`,
		`<ns0:Environment` + spaces + `>` + body("ns1") + `</ns0:Environment>`,
		linux("<UserPassword><![CDATA[x]]><!--c--></UserPassword><CustomData>YQ==</CustomData>"),
		"\xef\xbb\xbf<Environment/>",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(peak.Target(func(t *testing.T, doc []byte) {
		env, err := Parse(doc)
		c, rerr := Redacted(doc)
		if err != nil {
			return
		}
		if rerr != nil {
			t.Fatalf("parsed, but not redacted: %v", rerr)
		}
		again, err := Parse(c)
		if err != nil {
			t.Fatalf("copy of %q is %q: %v", doc, c, err)
		}
		if again.Password.Set() || again.CustomDataText.Set() || again.UserData.Set() ||
			again.PasswordRedacted != (env.Password.Set() || env.PasswordRedacted) {
			t.Fatalf("copy of %q is %q", doc, c)
		}
		if again.HostName != env.HostName || again.UserName != env.UserName {
			t.Fatalf("copy of %q is %q", doc, c)
		}
	}))
}

// TestPaddedWithZeros reads a document that was written in whole blocks.
func TestPaddedWithZeros(t *testing.T) {
	doc := linux("<UserName>u</UserName>")
	got, err := Parse([]byte(doc + strings.Repeat("\x00", 2048-len(doc))))
	if err != nil || got.UserName != "u" {
		t.Errorf("%+v, %v", got, err)
	}
}
