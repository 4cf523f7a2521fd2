package fabric

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/azguest/azguest/test/fabric/pki"
)

func TestVersionsNeedNoHeader(t *testing.T) {
	_, _, c := testFabric(t)
	resp, body := c.raw("168.63.129.16:80", "GET /?comp=versions HTTP/1.1\r\nHost: 168.63.129.16\r\nConnection: close\r\n\r\n") //nolint:bodyclose // raw has read the whole body
	if resp.StatusCode != 200 || strings.Count(string(body), "<Version>2012-11-30</Version>") != 2 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestWireRefuses(t *testing.T) {
	_, _, c := testFabric(t)
	for _, tc := range []struct {
		name, method, url string
		header            map[string]string
		want              int
	}{
		{"no version", "GET", "/machine/?comp=goalstate", nil, 400},
		{"wrong version", "GET", "/machine/?comp=goalstate", map[string]string{"x-ms-version": "2015-09-01"}, 400},
		{"without slash", "GET", "/machine?comp=goalstate", wireHeader, 200},
		{"wrong method", "POST", "/machine/?comp=goalstate", wireHeader, 405},
		{"unknown", "GET", "/machine/?comp=nothing", wireHeader, 404},
		{"other container", "GET", "/machine/00000000-0000-0000-0000-000000000000/x?comp=config&type=sharedConfig&incarnation=1", wireHeader, 410},
		{"broken health", "POST", "/machine?comp=health", wireHeader, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, _, body := c.do(tc.method, "http://168.63.129.16"+tc.url, tc.header, nil)
			if code != tc.want {
				t.Errorf("got %d, want %d: %s", code, tc.want, body)
			}
		})
	}
}

func TestSubDocumentsByteExact(t *testing.T) {
	_, vm, c := testFabric(t)
	for _, name := range []string{"HostingEnvironmentConfig", "SharedConfig", "ExtensionsConfig", "FullConfig"} {
		if code, body := c.sub(name, nil); code != 200 || xml.Unmarshal([]byte(body), new(struct{ XMLName xml.Name })) != nil {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	u := element(c.goalState(), "SharedConfig")
	if !strings.Contains(u, "%2D") || !strings.Contains(u, "%5F") {
		t.Errorf("url %s has no needless escapes", u)
	}
	if code, _, _ := c.do("GET", strings.NewReplacer("%2D", "-", "%5F", "_").Replace(u), wireHeader, nil); code != 400 {
		t.Errorf("changed url: %d, want 400", code)
	}
	vm.Announce(false)
	if code, _, _ := c.do("GET", u, wireHeader, nil); code != 200 {
		t.Errorf("the document of the last incarnation is gone: %d", code)
	}
	vm.Migrate(true)
	if code, _, _ := c.do("GET", u, wireHeader, nil); code != 410 {
		t.Errorf("after migration: %d, want 410", code)
	}
	if code, _ := c.sub("SharedConfig", nil); code != 200 {
		t.Errorf("new url after migration: %d", code)
	}
}

func TestCertificates(t *testing.T) {
	for _, cipher := range []string{pki.CipherAES128, pki.Cipher3DES} {
		for _, fips := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fips=%t", cipher, fips), func(t *testing.T) {
				_, vm, c := testFabric(t)
				if _, err := vm.AddCertificate("", true); err != nil {
					t.Fatal(err)
				}
				if _, err := vm.AddCertificate("", false); err != nil {
					t.Fatal(err)
				}
				vm.SetConfig(func(c *Config) { c.Certificates.FIPS = fips })
				header, cert, key := transport(t)
				code, body := c.sub("Certificates", map[string]string{"x-ms-guest-agent-public-x509-cert": header, "x-ms-cipher-name": cipher})
				if code != 200 || element(body, "Format") != "Pkcs7BlobWithPfxContents" {
					t.Fatalf("%d %s", code, body)
				}
				der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(element(body, "Data")), ""))
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				write(t, dir, "cert.pem", cert)
				write(t, dir, "key.pem", key)
				pfx := openssl(t, dir, der, "cms", "-decrypt", "-inform", "DER", "-recip", "cert.pem", "-inkey", "key.pem", "-binary")
				printed := string(openssl(t, dir, der, "cms", "-cmsout", "-print", "-noout", "-inform", "DER"))
				want := "rsaEncryption"
				if cipher == pki.CipherAES128 {
					want = "rsaesOaep"
				}
				if !strings.Contains(printed, want) || !strings.Contains(printed, "subjectKeyIdentifier") {
					t.Errorf("envelope is not %s by subject key:\n%.900s", want, printed)
				}
				write(t, dir, "x.pfx", pfx)
				text := string(openssl(t, dir, nil, "pkcs12", "-in", "x.pfx", "-nodes", "-passin", "pass:", "-legacy"))
				if n := strings.Count(text, "-----BEGIN CERTIFICATE-----"); n != 4 {
					t.Errorf("%d certificates, want 4", n)
				}
				if n := strings.Count(text, "PRIVATE KEY-----"); n != 6 {
					t.Errorf("%d marks of keys, want 6", n)
				}
				if !strings.Contains(text, "friendlyName: TenantEncryptionCert") {
					t.Error("no friendly name")
				}
				blocks, err := pkcs12.ToPEM(pfx, "") //nolint:staticcheck // the only call for several keys
				if err != nil || len(blocks) != 7 {
					t.Errorf("go-pkcs12: %d blocks, %v", len(blocks), err)
				}
				tenant, _, err := vm.Certificate()
				if err != nil || !slices.ContainsFunc(blocks, func(b *pem.Block) bool { return bytes.Equal(b.Bytes, tenant) }) {
					t.Errorf("tenant certificate is not in the file (%v)", err)
				}
			})
		}
	}
}

func TestCertificateVariants(t *testing.T) {
	_, vm, c := testFabric(t)
	header, _, _ := transport(t)
	ask := func(cipher string) (int, string) {
		return c.sub("Certificates", map[string]string{"x-ms-guest-agent-public-x509-cert": header, "x-ms-cipher-name": cipher})
	}
	vm.SetConfig(func(c *Config) { c.Certificates = CertificateConfig{OnlyDES: true} })
	if code, _ := ask(pki.CipherAES128); code != 400 {
		t.Errorf("AES: %d, want 400", code)
	}
	if code, _ := ask(pki.Cipher3DES); code != 200 {
		t.Errorf("DES: %d, want 200", code)
	}
	vm.Configure(func(c *Config) { c.Certificates = CertificateConfig{None: true, Format: "CertificatesNonPfxPackage"} })
	if code, body := ask(pki.CipherAES128); code != 200 || strings.Contains(body, "<Data>") || element(body, "Format") != "CertificatesNonPfxPackage" {
		t.Errorf("%d %s", code, body)
	}
	vm.Configure(func(c *Config) { c.Certificates = CertificateConfig{Absent: true} })
	if strings.Contains(c.goalState(), "Certificates") {
		t.Error("goal state still names certificates")
	}
	if code, _ := c.sub("SharedConfig", nil); code != 200 {
		t.Errorf("shared config: %d", code)
	}
}

func TestCertificateHeaders(t *testing.T) {
	_, _, c := testFabric(t)
	for name, h := range map[string]map[string]string{
		"none":   nil,
		"text":   {"x-ms-guest-agent-public-x509-cert": "%%%"},
		"cipher": {"x-ms-cipher-name": "ROT13"},
	} {
		if code, _ := c.sub("Certificates", h); code != 400 {
			t.Errorf("%s: %d, want 400", name, code)
		}
	}
}

func TestRemoteAccess(t *testing.T) {
	_, vm, c := testFabric(t)
	if strings.Contains(c.goalState(), "RemoteAccessInfo") {
		t.Error("remote access without users")
	}
	vm.Configure(func(c *Config) {
		c.Users = []User{{Name: "jit1", Password: "Pä55!", Expires: time.Date(2030, 1, 1, 10, 0, 0, 0, time.UTC)}}
	})
	header, cert, key := transport(t)
	code, body := c.sub("RemoteAccessInfo", map[string]string{"x-ms-guest-agent-public-x509-cert": header, "x-ms-cipher-name": pki.CipherAES128})
	if code != 200 || element(body, "Expiration") != "Tue, 01 Jan 2030 10:00:00 UTC" {
		t.Fatalf("%d %s", code, body)
	}
	der, err := base64.StdEncoding.DecodeString(element(body, "Password"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "cert.pem", cert)
	write(t, dir, "key.pem", key)
	got := openssl(t, dir, der, "cms", "-decrypt", "-inform", "DER", "-recip", "cert.pem", "-inkey", "key.pem", "-binary")
	if want := []byte("P\x00\xe4\x005\x005\x00!\x00"); !bytes.Equal(got, want) {
		t.Errorf("password is % x", got)
	}
}

func health(c client, state, details string) []byte {
	gs := c.goalState()
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="utf-8"?><Health xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><GoalStateIncarnation>%s</GoalStateIncarnation><Container><ContainerId>%s</ContainerId><RoleInstanceList><Role><InstanceId>%s</InstanceId><Health><State>%s</State>%s</Health></Role></RoleInstanceList></Container></Health>`,
		element(gs, "Incarnation"), element(gs, "ContainerId"), element(gs, "InstanceId"), state, details)
}

func TestHealth(t *testing.T) {
	f, vm, c := testFabric(t)
	h := map[string]string{"x-ms-version": "2012-11-30", "x-ms-agent-name": "WALinuxAgent", "Content-Type": "text/xml;charset=utf-8"}
	details := "<Details><SubStatus>ProvisioningFailed</SubStatus><Description>a &lt;b&gt; &amp; c</Description></Details>"
	if code, _, body := c.do("POST", "http://168.63.129.16/machine?comp=health", h, health(c, "NotReady", details)); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	got := vm.Health()
	got.Time = time.Time{}
	want := HealthReport{State: "NotReady", SubStatus: "ProvisioningFailed", Description: "a <b> & c", Count: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("health (-want +got):\n%s", diff)
	}
	if p := f.Journal(Query{Problems: true}); len(p) != 0 {
		t.Errorf("problems with a good client: %+v", p)
	}
	if code, _, _ := c.do("POST", "http://168.63.129.16/machine/?comp=health", h, health(c, "Ready", "")); code != 200 {
		t.Errorf("with a slash: %d", code)
	}
	if err := vm.Wait(wait(t), HealthIs("Ready")); err != nil {
		t.Error(err)
	}
	// azure-init reports health without fetching a goal state.
	code, _, _ := c.do("POST", "http://168.63.129.16/provisioning/health", map[string]string{"Content-Type": "application/json", "x-ms-guest-agent-name": "x v1"},
		[]byte(`{"state":"NotReady","details":{"subStatus":"Provisioning","description":"d"}}`))
	if code != 201 || vm.Health().SubStatus != "Provisioning" {
		t.Errorf("%d %+v", code, vm.Health())
	}
	long := "<Details><SubStatus>ProvisioningFailed</SubStatus><Description>" + strings.Repeat("x", 5000) + "</Description></Details>"
	c.do("POST", "http://168.63.129.16/machine?comp=health", h, health(c, "NotReady", long))
	if n := len(vm.Health().Description); n != 4096 {
		t.Errorf("description of %d bytes", n)
	}
	if p := f.Journal(Query{Problems: true, Kind: Health}); len(p) != 1 {
		t.Errorf("%d problems, want one: too long", len(p))
	}
}

func TestRolePropertiesAndHealthService(t *testing.T) {
	f, vm, c := testFabric(t)
	body := fmt.Appendf(nil, `<?xml version="1.0" encoding="utf-8"?><RoleProperties><Container><ContainerId>%s</ContainerId><RoleInstances><RoleInstance><Id>x</Id><Properties><Property name="CertificateThumbprint" value="ab12cd" /></Properties></RoleInstance></RoleInstances></Container></RoleProperties>`, vm.ContainerID())
	if code, _, _ := c.do("POST", "http://168.63.129.16/machine?comp=roleProperties", wireHeader, body); code != 202 {
		t.Errorf("role properties: %d, want 202", code)
	}
	if got := f.Journal(Query{Kind: RoleProperties})[0].Detail["CertificateThumbprint"]; got != "ab12cd" {
		t.Errorf("thumbprint %v", got)
	}
	body = []byte(`{"Api":"reporttargethealth","Version":"1.0","Source":"t","Observations":[{"ObservationName":"GuestAgentPluginHeartbeat","IsHealthy":true,"Description":"","Value":""}]}`)
	if code, _, _ := c.do("POST", "http://168.63.129.16:80/HealthService", map[string]string{"Content-Type": "application/json"}, body); code != 200 {
		t.Errorf("health service: %d", code)
	}
}

func TestTelemetryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, c := testFabric(t)
		h := map[string]string{"x-ms-version": "2012-11-30", "x-ms-agent-name": "a", "Content-Type": "text/xml;charset=utf-8"}
		body := []byte(`<?xml version="1.0"?><TelemetryData version="1.0"><Provider id="69B669B9-4AF8-4C50-BDC4-6006FA76E975"><Event id="1"><![CDATA[<Param Name="Name" Value="a &amp; b" T="mt:wstr" /><Param Name="Duration" Value="12" T="mt:uint64" />]]></Event></Provider></TelemetryData>`)
		post := func() int {
			code, _, _ := c.do("POST", "http://168.63.129.16/machine?comp=telemetrydata", h, body)
			return code
		}
		for i := range 15 {
			if code := post(); code != 200 {
				t.Fatalf("call %d: %d", i+1, code)
			}
		}
		if code := post(); code != 429 {
			t.Errorf("16th call: %d, want 429", code)
		}
		time.Sleep(15 * time.Second)
		if code := post(); code != 200 {
			t.Errorf("after the window: %d", code)
		}
		events := f.Journal(Query{Kind: Telemetry})[0].Detail["events"].([]map[string]string)
		if events[0]["Name"] != "a & b" || events[0]["Duration"] != "12" {
			t.Errorf("events %v", events)
		}
	})
}

func TestIncompleteGoalState(t *testing.T) {
	_, vm, c := testFabric(t)
	vm.SetConfig(func(c *Config) { c.Incomplete = true })
	gs := c.goalState()
	if strings.Contains(gs, "RoleInstanceList") || element(gs, "ContainerId") != vm.ContainerID() {
		t.Error(gs)
	}
}

// shape returns the paths of all elements, and the names of their attributes.
func shape(t *testing.T, doc []byte) map[string]bool {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(doc, []byte("\ufeff"))))
	out := map[string]bool{}
	var path []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			path = append(path, x.Name.Local)
			out[strings.Join(path, "/")] = true
			for _, a := range x.Attr {
				out[strings.Join(path, "/")+"@"+a.Name.Local] = true
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
}

// TestShapesOfRealDocuments: real documents are not part of this repository.
// Where a folder of them is available, the fabric's documents must have every
// element that they have.
func TestShapesOfRealDocuments(t *testing.T) {
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	_, vm, c := testFabric(t)
	vm.Configure(func(c *Config) { c.Users = []User{{Name: "u", Password: "p"}} })
	if err := vm.Put(Extension{Handler: "Contoso.One", Version: "1.0", Settings: 1, Protected: map[string]any{"a": 1}}); err == nil {
		t.Error("settings that are no object were accepted")
	}
	if err := vm.Put(Extension{Handler: "Contoso.One", Version: "1.0", Settings: map[string]any{"a": 1}, Protected: map[string]any{"a": 1}}); err != nil {
		t.Fatal(err)
	}
	header, _, _ := transport(t)
	secret := map[string]string{"x-ms-guest-agent-public-x509-cert": header, "x-ms-cipher-name": pki.CipherAES128}
	for file, get := range map[string]func() string{
		"hibernate/goal_state_2/GoalState.xml":                func() string { return c.goalState() },
		"wire/goal_state_remote_access.xml":                   func() string { return c.goalState() },
		"hibernate/goal_state_2/HostingEnvironmentConfig.xml": func() string { _, b := c.sub("HostingEnvironmentConfig", nil); return b },
		"hibernate/goal_state_2/SharedConfig.xml":             func() string { _, b := c.sub("SharedConfig", nil); return b },
		"hibernate/goal_state_2/ExtensionsConfig.xml":         func() string { _, b := c.sub("ExtensionsConfig", nil); return b },
		"wire/certs.xml":                      func() string { _, b := c.sub("Certificates", secret); return b },
		"wire/remote_access_two_accounts.xml": func() string { _, b := c.sub("RemoteAccessInfo", secret); return b },
		"wire/version_info.xml":               func() string { return versionsXML() },
	} {
		real, err := os.ReadFile(filepath.Join(dir, "waagent", file))
		if err != nil {
			t.Skip(err)
		}
		ours := shape(t, []byte(get()))
		for path := range shape(t, real) {
			// RSM properties are optional; families without them are common.
			if !ours[path] && !strings.HasSuffix(path, "RSM") && !strings.HasSuffix(path, "RSMUpgrades") && path != "Extensions/GuestAgentExtension/GAFamilies/GAFamily/Version" {
				t.Errorf("%s: %s is missing in ours", file, path)
			}
		}
	}
}

func TestTransportCertificateProblems(t *testing.T) {
	f, _, c := testFabric(t)
	id, err := pki.NewIdentity("x", false)
	if err != nil {
		t.Fatal(err)
	}
	if len(id.Certificate.SubjectKeyId) != 0 {
		t.Skip("certificates come with a key id now")
	}
	h := map[string]string{"x-ms-guest-agent-public-x509-cert": base64.StdEncoding.EncodeToString(id.Certificate.Raw), "x-ms-cipher-name": pki.CipherAES128}
	if code, _ := c.sub("Certificates", h); code != 200 {
		t.Fatalf("%d", code)
	}
	if p := f.Journal(Query{Kind: Certificates, Problems: true}); len(p) != 1 {
		t.Errorf("no problem noted: %+v", p)
	}
}
