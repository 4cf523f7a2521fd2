package wire

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/test/peak"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, "waagent", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const goalState = "\xef\xbb\xbf" + `<?xml version="1.0" encoding="utf-8"?>
<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="goalstate10.xsd">
  <Version>2012-11-30</Version><Incarnation>7</Incarnation>
  <Machine><ExpectedState>Started</ExpectedState><LBProbePorts><Port>16001</Port></LBProbePorts></Machine>
  <Container><ContainerId>c-1</ContainerId>
    <RemoteAccessInfo>
      http://168.63.129.16:80/machine/c/b%2D0000.%5Fvm1?comp=remoteAccessInfo&amp;incarnation=7
    </RemoteAccessInfo>
    <RoleInstanceList><RoleInstance><InstanceId>i._vm1</InstanceId><State>Started</State><Configuration>
      <HostingEnvironmentConfig>http://h/he?a&amp;b</HostingEnvironmentConfig><SharedConfig>http://h/sc</SharedConfig>
      <ExtensionsConfig>http://h/ec</ExtensionsConfig><Certificates>http://h/certs</Certificates>
      <ConfigName>d.0.d.0._vm1.1.xml</ConfigName><ConfigName>second</ConfigName>
    </Configuration></RoleInstance></RoleInstanceList></Container></GoalState>`

func TestGoalState(t *testing.T) {
	t.Parallel()
	want := &GoalState{
		Incarnation: "7", ContainerID: "c-1", InstanceID: "i._vm1", ConfigName: "d.0.d.0._vm1.1.xml",
		HostingEnvironmentConfig: "http://h/he?a&b", SharedConfig: "http://h/sc", ExtensionsConfig: "http://h/ec", Certificates: "http://h/certs",
		RemoteAccess: "http://168.63.129.16:80/machine/c/b%2D0000.%5Fvm1?comp=remoteAccessInfo&incarnation=7",
	}
	for name, text := range map[string]string{
		"as specified": goalState,
		"other case":   strings.NewReplacer("ContainerId", "containerID", "<Incarnation>", "<INCARNATION>", "</Incarnation>", "</INCARNATION>").Replace(goalState),
		"namespace":    strings.NewReplacer("<GoalState", `<g:GoalState xmlns:g="x"`, "</GoalState", "</g:GoalState", "<ContainerId", "<g:ContainerId", "</ContainerId", "</g:ContainerId").Replace(goalState),
		"padded":       goalState + "\n\x00\x00",
	} {
		got, err := ParseGoalState([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if DeploymentID(want.ConfigName) != "d" {
		t.Errorf("DeploymentID = %q", DeploymentID(want.ConfigName))
	}
}

func TestGoalStateWithoutRoleIsIncomplete(t *testing.T) {
	t.Parallel()
	g, err := ParseGoalState(fixture(t, "wire/goal_state_noop.xml"))
	if !errors.Is(err, ErrIncomplete) || g.ContainerID == "" {
		t.Errorf("ParseGoalState() = %+v, %v; want the ids and ErrIncomplete", g, err)
	}
}

func TestXMLIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"dtd":        `<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`,
		"entity":     `<a>&nope;</a>`,
		"deep":       strings.Repeat("<a>", 500) + strings.Repeat("</a>", 500),
		"many":       "<a>" + strings.Repeat("<b/>", limits("goalstate").Nodes+1) + "</a>",
		"blanks":     "<a " + strings.Repeat(`b= "" `, limits("goalstate").Nodes+1) + "/>",
		"attributes": "<a " + strings.Repeat(`b="" `, limits("goalstate").Nodes+1) + "/>",
		"long":       "<a>" + strings.Repeat("x", int(limits("goalstate").Bytes)) + "</a>",
		"empty":      "",
		"text":       "not xml",
		"open":       "<a><b>",
	} {
		if _, err := ParseGoalState([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// extensionsConfig has the parts of the example in protocol/SPEC.md §6.1, with
// other spellings and white space.
const extensionsConfig = `<?xml version="1.0" encoding="utf-8"?>
<Extensions version="1.0.0.0" goalStateIncarnation="7">
  <GuestAgentExtension xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><GAFamilies><GAFamily>
    <IsVMEnabledForRSMUpgrades>True</IsVMEnabledForRSMUpgrades><IsVersionFromRSM>false</IsVersionFromRSM><Name>Prod</Name><FromVersion>3.1.0.0</FromVersion>
    <Uris><Uri>https://a.blob.example/ga/manifest.xml</Uri><Uri>https://b.blob.example/ga/manifest.xml</Uri></Uris><Version>3.0.2.1</Version></GAFamily>
    <GAFamily><Name>Test</Name></GAFamily></GAFamilies></GuestAgentExtension>
  <RequiredFeatures><RequiredFeature><Name>MultipleExtensionsPerHandler</Name><Value>1.0</Value></RequiredFeature></RequiredFeatures>
  <StatusUploadBlob statusBlobType="PageBlob">
     https://st.blob.example/$system/vm1.status?sv=2018-03-28&amp;sr=b&amp;sp=w&amp;sig=abc%3d
  </StatusUploadBlob>
  <Plugins>
    <Plugin name="Contoso.Tools.Single" version="1.2.3" location="https://a/m.xml" state="enabled" failoverlocation="https://b/m.xml" encodedSignature="MIIC">
      <additionalLocations><additionalLocation>
        https://c/m.xml </additionalLocation></additionalLocations></Plugin>
    <Plugin name="Contoso.Tools.Multi" version="2.0.0" location="https://a/m/m.xml" state="enabled"/>
    <Plugin name="NoSettings" version="1" location="https://a/n.xml" state="uninstall"/>
  </Plugins>
  <PluginSettings>
    <Plugin name="contoso.tools.SINGLE" version="1.2.3">
      <DependsOn dependencyLevel="2"><DependsOnExtension handler="Contoso.Tools.Multi" extension="first"/></DependsOn>
      <RuntimeSettings seqNo="4">{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"k":1},"protectedSettings":"MIIB","protectedSettingsCertThumbprint":"01AB"}}]}</RuntimeSettings>
    </Plugin>
    <Plugin name="Contoso.Tools.Multi" version="2.0.0">
      <DependsOn name="second" dependencyLevel="1"><DependsOnExtension handler="Contoso.Tools.Multi" extension="first"/></DependsOn>
      <ExtensionRuntimeSettings seqNo="1" name="first" state="Enabled">{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"a":1}}}]}</ExtensionRuntimeSettings>
      <ExtensionRuntimeSettings seqNo="3" name="second" state="disabled">{"runtimeSettings":[{"handlerSettings":{}}]}</ExtensionRuntimeSettings>
    </Plugin>
  </PluginSettings>
  <InVMArtifactsProfileBlob>https://st.blob.example/p?sig=def%3d</InVMArtifactsProfileBlob>
  <InVMGoalStateMetaData inSvdSeqNo="9" createdOnTicks="638712864000000000" activityId="act" correlationId="cor" />
</Extensions>`

func TestExtensionsConfig(t *testing.T) {
	t.Parallel()
	x, err := ParseExtensions([]byte(extensionsConfig))
	if err != nil {
		t.Fatal(err)
	}
	if x.CreatedTicks != 638712864000000000 || x.ActivityID != "act" || x.CorrelationID != "cor" || !x.StatusBlob.Page ||
		!strings.HasSuffix(x.StatusBlob.URL.Reveal(), "sig=abc%3d") || !strings.HasPrefix(x.StatusBlob.URL.Reveal(), "https") {
		t.Errorf("ParseExtensions() = %+v", x)
	}
	if diff := cmp.Diff([]string{"MultipleExtensionsPerHandler"}, x.RequiredFeatures); diff != "" {
		t.Error(diff)
	}
	if f := x.Families[0]; f.Name != "Prod" || !*f.RSMEnabled || *f.VersionByRSM || f.FromVersion != "3.1.0.0" || f.Version != "3.0.2.1" || len(f.ManifestURIs) != 2 {
		t.Errorf("family: %+v", f)
	}
	if f := x.Families[1]; f.RSMEnabled != nil || f.VersionByRSM != nil || f.Version != "" {
		t.Errorf("absent is not nil: %+v", f)
	}
	s, m, n := x.Handlers[0], x.Handlers[1], x.Handlers[2]
	if s.Invalid != "" || len(s.Manifests) != 3 || s.Manifests[2].Reveal() != "https://c/m.xml" || s.MultiConfig || len(s.Settings) != 1 || s.Signature != "MIIC" {
		t.Errorf("single: %+v", s)
	}
	if g := s.Settings[0]; g.Name != "Contoso.Tools.Single" || g.Seq != 4 || g.Level != 2 || string(g.Public) != `{"k":1}` || g.Protected.Reveal() != "MIIB" || g.Thumbprint != "01AB" || len(g.After) != 1 {
		t.Errorf("single settings: %+v", g)
	}
	if m.Invalid != "" || !m.MultiConfig || len(m.Settings) != 2 || m.Settings[0].Want != protocol.WantEnabled || m.Settings[1].Want != protocol.WantDisabled || m.Settings[1].Level != 1 || m.Settings[1].Public != nil {
		t.Errorf("multi: %+v", m)
	}
	if n.Invalid != "" || n.Want != protocol.WantUninstall || len(n.Settings) != 0 {
		t.Errorf("no settings: %+v", n)
	}
}

// TestManifestVersions: internal versions can be used like public ones, and
// one that is both has the addresses of both.
func TestManifestVersions(t *testing.T) {
	t.Parallel()
	m, err := ParseManifest([]byte(`<PluginVersionManifest><Plugins><Plugin><Version>1.0</Version><Uris><Uri> https://a/1 </Uri></Uris><DisallowMajorVersionUpgrade>true</DisallowMajorVersionUpgrade></Plugin></Plugins>
<InternalPlugins><Plugin><Version>1.3</Version><Uris><Uri>https://a/3</Uri></Uris></Plugin><Plugin><Version>1.0</Version><Uris><Uri>https://b/1</Uri></Uris></Plugin></InternalPlugins></PluginVersionManifest>`))
	if err != nil || len(m.Versions) != 2 {
		t.Fatalf("ParseManifest() = %+v, %v", m, err)
	}
	if a, b := m.Versions[0], m.Versions[1]; a.Version != "1.0" || len(a.URIs) != 2 || a.URIs[0].Reveal() != "https://a/1" || b.Version != "1.3" || !b.Internal || len(b.URIs) != 1 {
		t.Errorf("versions: %+v", m.Versions)
	}
}

// TestIncompleteDocumentRemovesNothing: handlers that a goal state does not
// name are deleted, so a missing list is not the same as an empty one.
func TestIncompleteDocumentRemovesNothing(t *testing.T) {
	t.Parallel()
	broken := strings.NewReplacer("<Plugins>", "<Plugs>", "</Plugins>", "</Plugs>").Replace(extensionsConfig)
	if x, err := ParseExtensions([]byte(broken)); err != nil || len(x.Handlers) != 1 || x.Handlers[0].Name != "" || x.Handlers[0].Invalid == "" || x.StatusBlob.URL.Empty() {
		t.Errorf("without plugins: %+v, %v", x, err)
	}
	for _, empty := range []string{`<Extensions/>`, `<Extensions><Plugins/><PluginSettings/></Extensions>`} {
		if x, err := ParseExtensions([]byte(empty)); err != nil || len(x.Handlers) != 0 {
			t.Errorf("%s: %+v, %v", empty, x, err)
		}
	}
}

// TestDependencyLevels: a level that is not a number is 0, like a missing one.
func TestDependencyLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]int{`dependencyLevel="3"`: 3, `dependencyLevel="x"`: 0, `dependencyLevel="-2"`: 0, `dependencyLevel=""`: 0, "": 0} {
		x, err := ParseExtensions([]byte(`<Extensions><Plugins><Plugin name="A" version="1" state="enabled"/></Plugins><PluginSettings><Plugin name="A" version="1"><DependsOn ` + level +
			`/><RuntimeSettings seqNo="1">{"runtimeSettings":[{"handlerSettings":{}}]}</RuntimeSettings></Plugin></PluginSettings></Extensions>`))
		if err != nil || x.Handlers[0].Invalid != "" || x.Handlers[0].Settings[0].Level != want {
			t.Errorf("%q: %+v, %v; want %d", level, x.Handlers, err, want)
		}
	}
}

func TestOneBadHandlerHurtsNoOther(t *testing.T) {
	t.Parallel()
	good := `<Plugin name="Good" version="1" location="https://a" state="enabled"/>`
	set := func(s string) string {
		return `<Extensions><Plugins>` + good + `<Plugin name="Bad" version="1" location="https://a" state="enabled"/></Plugins><PluginSettings>` + s + `</PluginSettings></Extensions>`
	}
	for name, tc := range map[string]struct{ xml, want string }{
		"unknown state":      {`<Extensions><Plugins>` + good + `<Plugin name="Bad" version="1" state="paused"/></Plugins></Extensions>`, `unknown state "paused"`},
		"no state":           {`<Extensions><Plugins>` + good + `<Plugin name="Bad" version="1"/></Plugins></Extensions>`, "received empty state"},
		"no version":         {`<Extensions><Plugins>` + good + `<Plugin name="Bad" state="enabled"/></Plugins></Extensions>`, "received empty version"},
		"version mismatch":   {set(`<Plugin name="bad" version="2"/>`), "Extension PluginSettings Version Mismatch! Expected 1 but found 2"},
		"twice":              {set(`<Plugin name="bad" version="1"/><Plugin name="Bad" version="1"/>`), "found 2 PluginSettings for one plugin"},
		"both kinds":         {set(`<Plugin name="Bad" version="1"><RuntimeSettings seqNo="1">{}</RuntimeSettings><ExtensionRuntimeSettings seqNo="1" name="x">{}</ExtensionRuntimeSettings></Plugin>`), "both RuntimeSettings and ExtensionRuntimeSettings"},
		"no sequence number": {set(`<Plugin name="Bad" version="1"><RuntimeSettings>{}</RuntimeSettings></Plugin>`), `Bad has invalid seqNo ""`},
		"no handlerSettings": {set(`<Plugin name="Bad" version="1"><RuntimeSettings seqNo="1">{"runtimeSettings":[{}]}</RuntimeSettings></Plugin>`), "settings of Bad: no runtimeSettings with handlerSettings"},
		"empty settings":     {set(`<Plugin name="Bad" version="1"><RuntimeSettings seqNo="1"></RuntimeSettings></Plugin>`), "Bad has empty settings"},
		"multi without name": {set(`<Plugin name="Bad" version="1"><ExtensionRuntimeSettings seqNo="1">{}</ExtensionRuntimeSettings></Plugin>`), "ExtensionRuntimeSettings without name"},
		"wrong type":         {set(`<Plugin name="Bad" version="1"><RuntimeSettings seqNo="1">{"runtimeSettings":[{"handlerSettings":{"protectedSettings":{"secret":1}}}]}</RuntimeSettings></Plugin>`), "settings of Bad: RuntimeSettings.HandlerSettings.ProtectedSettings has JSON type object"},
	} {
		x, err := ParseExtensions([]byte(tc.xml))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(x.Handlers) != 2 || x.Handlers[0].Invalid != "" || x.Handlers[1].Invalid != tc.want {
			t.Errorf("%s: %+v, want %q", name, x.Handlers, tc.want)
		}
	}
	// Not JSON at all: the extension exists with its sequence number, but
	// without settings.
	x, err := ParseExtensions([]byte(set(`<Plugin name="Bad" version="1"><RuntimeSettings seqNo="5">{broken</RuntimeSettings></Plugin>`)))
	if err != nil || x.Handlers[1].Invalid != "" || x.Handlers[1].Settings[0].Seq != 5 || x.Handlers[1].Settings[0].Public != nil {
		t.Errorf("no JSON: %+v, %v", x, err)
	}
}

// TestPlatformDocuments reads recorded documents and counts what they contain.
func TestPlatformDocuments(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ handlers, invalid, settings int }{
		"wire/ext_conf.xml":                                {1, 0, 1},
		"wire/ext_conf_no_settings.xml":                    {1, 0, 0},
		"wire/ext_conf_multiple_extensions.xml":            {5, 0, 5},
		"wire/ext_conf_settings_case_mismatch.xml":         {5, 0, 5},
		"wire/ext_conf_sequencing.xml":                     {2, 0, 2},
		"wire/ext_conf_invalid_and_valid_handlers.xml":     {2, 1, 1},
		"wire/ext_conf_required_features.xml":              {1, 0, 1},
		"wire/ext_conf_in_vm_metadata.xml":                 {1, 0, 1},
		"wire/multi-config/ext_conf_with_multi_config.xml": {5, 0, 7},
		"hostgaplugin/ext_conf.xml":                        {5, 0, 7},
		"hibernate/goal_state_1/ExtensionsConfig.xml":      {3, 0, 2},
	} {
		x, err := ParseExtensions(fixture(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := want
		got.handlers, got.invalid, got.settings = len(x.Handlers), 0, 0
		for _, h := range x.Handlers {
			if h.Invalid != "" {
				got.invalid++
				t.Logf("%s: %s: %s", name, h.Name, h.Invalid)
			}
			got.settings += len(h.Settings)
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for _, name := range []string{"wire/manifest.xml", "wire/ga_manifest.xml"} {
		if m, err := ParseManifest(fixture(t, name)); err != nil || len(m.Versions) < 3 || len(m.Versions[0].URIs) == 0 {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	if n, err := ParseHostingEnvironment(fixture(t, "wire/hosting_env.xml")); err != nil || n.VM == "" || n.Role == "" || n.Tenant == "" {
		t.Errorf("hosting environment: %+v, %v", n, err)
	}
	if n, err := ParseHostingEnvironment(fixture(t, "hibernate/goal_state_1/HostingEnvironmentConfig.xml")); err != nil || n.VM == "" || n.Role != "" {
		t.Errorf("modern hosting environment: %+v, %v", n, err)
	}
	if d, err := ParseRemoteAccess(fixture(t, "wire/remote_access_two_accounts.xml")); err != nil || len(d.Users) != 2 || d.Users[0].Err != nil {
		t.Errorf("remote access: %+v, %v", d, err)
	}
	if d, err := ParseRemoteAccess(fixture(t, "wire/remote_access_no_accounts.xml")); err != nil || len(d.Users) != 0 {
		t.Errorf("no remote access: %+v, %v", d, err)
	}
	if v, err := ParseVersions(fixture(t, "wire/version_info.xml")); err != nil || !v.Speaks() {
		t.Errorf("versions: %+v, %v", v, err)
	}
	if g, err := ParseGoalState(fixture(t, "wire/goal_state_remote_access.xml")); err != nil || strings.TrimSpace(g.RemoteAccess) != g.RemoteAccess || g.RemoteAccess == "" {
		t.Errorf("remote access address: %+v, %v", g, err)
	}
}

func TestCertificatesWithoutContent(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`<CertificateFile><Format>Pkcs7BlobWithPfxContents</Format></CertificateFile>`,
		`<CertificateFile><Format>CertificatesNonPfxPackage</Format><Data>AAAA</Data></CertificateFile>`,
	} {
		if b, err := ParseCertificates([]byte(text)); b != nil || err != nil {
			t.Errorf("%s: %v, %v", text, b, err)
		}
	}
	if b, err := ParseCertificates([]byte("<CertificateFile><Format/><Data>\n AAAA\nAAA= </Data></CertificateFile>")); err != nil || len(b) != 5 {
		t.Errorf("no format: %v, %v", b, err)
	}
}

func TestHealthReport(t *testing.T) {
	t.Parallel()
	g := &GoalState{Incarnation: "7", ContainerID: "c", InstanceID: "i"}
	got := string(Health(g, protocol.Health{State: protocol.NotReady, SubStatus: "ProvisioningFailed", Description: strings.Repeat("<é>", 4000)}))
	_, rest, _ := strings.Cut(got, "<Description>")
	d, _, _ := strings.Cut(rest, "</Description>")
	if len(d) > 4096 || !strings.HasSuffix(d, "é&gt;") && !strings.HasSuffix(d, ";") && !strings.HasSuffix(d, "é") {
		t.Errorf("description of %d bytes ends in %q", len(d), d[max(0, len(d)-10):])
	}
	if _, err := parse("health", []byte(got)); err != nil {
		t.Errorf("not XML: %v", err)
	}
	if ready := string(Health(g, protocol.Health{State: protocol.Ready})); strings.Contains(ready, "Details") || !strings.Contains(ready, "<GoalStateIncarnation>7</GoalStateIncarnation>") {
		t.Errorf("ready: %s", ready)
	}
}

func TestTelemetryBatches(t *testing.T) {
	t.Parallel()
	var evs []event.Event
	for range 200 {
		evs = append(evs, event.Event{Kind: event.Operation, Name: "n", Message: strings.Repeat("]]><&\"", 200)}, event.Event{Kind: event.Log, Name: "h", Version: "1", Message: "m"})
	}
	evs = append(evs, event.Event{Kind: event.Operation, Message: strings.Repeat("x", maxBatch)})
	batches, dropped := Telemetry(evs, Common{})
	if dropped != 1 {
		t.Errorf("dropped %d, want 1", dropped)
	}
	n := 0
	for _, b := range batches {
		n += b.Events
		if len(b.Body) > 65536 {
			t.Errorf("body of %d bytes", len(b.Body))
		}
		root, err := parse("telemetry", b.Body)
		if err != nil {
			t.Fatalf("%v\n%.200s", err, b.Body)
		}
		events := root.below("Provider").all("Event")
		if len(root.all("Provider")) != 1 || len(events) != b.Events {
			t.Errorf("%d events in the body, %d counted", len(events), b.Events)
		}
		// The parameters are XML of their own inside of the CDATA.
		if _, err := parse("params", []byte("<p>"+events[0].text()+"</p>")); err != nil {
			t.Errorf("parameters: %v", err)
		}
	}
	if n != 400 {
		t.Errorf("%d events, want 400", n)
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(goalState))
	f.Add([]byte(extensionsConfig))
	f.Add([]byte(`<RemoteAccess><Users><User><Name>a</Name><Password>AAAA</Password></User></Users></RemoteAccess>`))
	f.Add([]byte(`<P><Plugins><Plugin><Version>1</Version><Uris><Uri>u</Uri></Uris></Plugin></Plugins></P>`))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		_, _ = ParseGoalState(b)
		_, _ = ParseExtensions(b)
		_, _ = ParseCertificates(b)
		_, _ = ParseRemoteAccess(b)
		_, _ = ParseManifest(b)
		_, _ = ParseVersions(b)
		_, _ = ParseHostingEnvironment(b)
	}))
}

// TestOtherDocuments: what is well-formed but not what was asked for (a page of
// a portal, an error, another document) is an error and not an empty list.
func TestOtherDocuments(t *testing.T) {
	t.Parallel()
	parsers := map[string]func([]byte) error{
		"goalstate":                func(b []byte) error { _, err := ParseGoalState(b); return err },
		"extensionsConfig":         func(b []byte) error { _, err := ParseExtensions(b); return err },
		"certificates":             func(b []byte) error { _, err := ParseCertificates(b); return err },
		"remoteAccess":             func(b []byte) error { _, err := ParseRemoteAccess(b); return err },
		"hostingEnvironmentConfig": func(b []byte) error { _, err := ParseHostingEnvironment(b); return err },
		"sharedConfig":             CheckSharedConfig,
		"manifest":                 func(b []byte) error { _, err := ParseManifest(b); return err },
	}
	for name, other := range map[string]string{
		"page":     "<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>Please</p></body></html>",
		"error":    `<?xml version="1.0"?><Error xmlns="http://schemas.microsoft.com/windowsazure"><Code>InternalError</Code><Message>try again</Message></Error>`,
		"versions": `<Versions><Preferred><Version>2012-11-30</Version></Preferred></Versions>`,
		"empty":    "<a/>",
	} {
		for doc, parse := range parsers {
			if _, ok := errors.AsType[*protocol.DocumentError](parse([]byte(other))); !ok {
				t.Errorf("%s instead of %s: no error", name, doc)
			}
		}
	}
	for doc, text := range map[string]string{
		"extensionsConfig": `<Extensions/>`, "certificates": "\ufeff<CertificateFile/>", "remoteAccess": "<RemoteAccess><Users/></RemoteAccess>",
		"hostingEnvironmentConfig": "<HostingEnvironmentConfig/>", "sharedConfig": "<SharedConfig/>", "manifest": "<PluginVersionManifest/>",
	} {
		if err := parsers[doc]([]byte(text)); err != nil {
			t.Errorf("%s that is empty: %v", doc, err)
		}
	}
}

// TestMutatedDocuments drops, doubles and renames every element of the
// specification's examples in turn: a document either parses or is refused,
// and one broken handler does not affect the others.
func TestMutatedDocuments(t *testing.T) {
	t.Parallel()
	src := []byte(extensionsConfig)
	for at := 0; at < len(src); {
		i := bytes.IndexByte(src[at:], '<')
		if i < 0 {
			break
		}
		at += i + 1
		end := bytes.IndexAny(src[at:], " >/")
		if src[at] == '/' || src[at] == '?' || end <= 0 {
			continue
		}
		name := string(src[at : at+end])
		renamed := bytes.ReplaceAll(src, []byte("<"+name), []byte("<X"+name))
		renamed = bytes.ReplaceAll(renamed, []byte("</"+name), []byte("</X"+name))
		x, err := ParseExtensions(renamed)
		if name == "Extensions" && err != nil {
			continue // another document
		}
		if err != nil {
			t.Errorf("without %s: %v", name, err)
			continue
		}
		if name != "Plugins" && name != "Plugin" && name != "Extensions" && len(x.Handlers) != 3 {
			t.Errorf("without %s: %d handlers", name, len(x.Handlers))
		}
	}
}
