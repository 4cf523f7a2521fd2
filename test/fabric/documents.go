package fabric

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// The XML documents of the WireServer. They are written as text in the exact
// form of the real ones, because clients may depend on their spelling.

const xmlHead = `<?xml version="1.0" encoding="utf-8"?>` + "\n"

// esc escapes text for elements, attr also for attribute values. In elements
// the platform does not escape quotes.
func esc(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder never fails
	return strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&#xA;", "\n", "&#x9;", "\t").Replace(b.String())
}

func attr(s string) string { return strings.ReplaceAll(esc(s), `"`, "&quot;") }

func versionsXML() string {
	return xmlHead + `<Versions>
  <Preferred>
    <Version>2012-11-30</Version>
  </Preferred>
  <Supported>
    <Version>2015-04-05</Version>
    <Version>2012-11-30</Version>
    <Version>2012-09-15</Version>
    <Version>2012-05-15</Version>
    <Version>2011-12-31</Version>
    <Version>2011-10-15</Version>
    <Version>2011-08-31</Version>
    <Version>2011-04-07</Version>
    <Version>2010-12-15</Version>
    <Version>2010-28-10</Version>
  </Supported>
</Versions>`
}

// goalStateXML renders the goal state with sub-document URLs under base.
func (gs *goalState) goalStateXML(base string) string {
	var b strings.Builder
	url := func(query string) string { return esc(base + gs.path + "?" + query) }
	incarnation := fmt.Sprintf("incarnation=%d", gs.incarnation)
	fmt.Fprintf(&b, `%s<GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="goalstate10.xsd">
  <Version>2012-11-30</Version>
  <Incarnation>%d</Incarnation>
  <Machine>
    <ExpectedState>Started</ExpectedState>
    <StopRolesDeadlineHint>300000</StopRolesDeadlineHint>
    <LBProbePorts>
      <Port>16001</Port>
    </LBProbePorts>
    <ExpectHealthReport>FALSE</ExpectHealthReport>
  </Machine>
  <Container>
    <ContainerId>%s</ContainerId>
`, xmlHead, gs.incarnation, gs.container)
	if gs.cfg.Users != nil {
		fmt.Fprintf(&b, "    <RemoteAccessInfo>%s</RemoteAccessInfo>\n", url("comp=remoteAccessInfo&"+incarnation))
	}
	if !gs.cfg.Incomplete {
		fmt.Fprintf(&b, `    <RoleInstanceList>
      <RoleInstance>
        <InstanceId>%s</InstanceId>
        <State>Started</State>
        <Configuration>
`, esc(gs.instanceID))
		element := func(name, query string) {
			fmt.Fprintf(&b, "          <%s>%s</%s>\n", name, url(query+"&"+incarnation), name)
		}
		element("HostingEnvironmentConfig", "comp=config&type=hostingEnvironmentConfig")
		element("SharedConfig", "comp=config&type=sharedConfig")
		if !gs.cfg.NoExtensionsConfig {
			element("ExtensionsConfig", "comp=config&type=extensionsConfig")
		}
		element("FullConfig", "comp=config&type=fullConfig")
		if !gs.cfg.Certificates.Absent {
			element("Certificates", "comp=certificates")
		}
		fmt.Fprintf(&b, `          <ConfigName>%s</ConfigName>
        </Configuration>
      </RoleInstance>
    </RoleInstanceList>
`, esc(gs.configName))
	}
	b.WriteString("  </Container>\n</GoalState>")
	return b.String()
}

func (v *VM) hostingEnvironmentXML(gs *goalState) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%s<HostingEnvironmentConfig version="1.0.0.0" goalStateIncarnation="%d">
  <StoredCertificates>
`, xmlHead, gs.incarnation)
	if v.tenant != nil {
		fmt.Fprintf(&b, `    <StoredCertificate name="TenantEncryptionCert" certificateId="sha1:%s" storeName="My" configurationLevel="System" />
`, v.tenant.Thumbprint())
	}
	b.WriteString("  </StoredCertificates>\n")
	if gs.cfg.OldShape {
		fmt.Fprintf(&b, `  <Deployment name="%s" guid="{%s}" incarnation="0">
    <Service name="%s" guid="{00000000-0000-0000-0000-000000000000}" />
    <ServiceInstance name="%s.0" guid="{%s}" />
  </Deployment>
`, v.deployment, v.deployment, attr(v.name), v.deployment, v.deployment)
	}
	fmt.Fprintf(&b, `  <Incarnation number="%d" instance="_%s" guid="{%s}" />
`, gs.incarnation, attr(v.name), v.id)
	if gs.cfg.OldShape {
		fmt.Fprintf(&b, `  <Role guid="{%s}" name="%s" settleTimeSeconds="0" />
  <HostingEnvironmentSettings name="full" Runtime="rd_fabric_stable">
    <CAS mode="full" />
    <PrivilegeLevel mode="max" />
    <AdditionalProperties><CgiHandlers></CgiHandlers></AdditionalProperties>
  </HostingEnvironmentSettings>
  <ApplicationSettings>
    <Setting name="__ModelData" value="" />
  </ApplicationSettings>
  <ResourceReferences>
    <Resource name="DiagnosticStore" type="directory" request="Fabric.LocalResource" sticky="true" size="1" path="%s.DiagnosticStore\" disableQuota="false" />
  </ResourceReferences>
`, v.id, attr(v.name), attr(v.name))
	}
	b.WriteString("</HostingEnvironmentConfig>")
	return b.String()
}

func (v *VM) sharedConfigXML(gs *goalState) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%s<SharedConfig version="1.0.0.0" goalStateIncarnation="%d">
`, xmlHead, gs.incarnation)
	if gs.cfg.OldShape {
		fmt.Fprintf(&b, `  <Deployment name="%s" guid="{%s}" incarnation="0" isNonCancellableTopologyChangeEnabled="false">
    <Service name="%s" guid="{00000000-0000-0000-0000-000000000000}" />
    <ServiceInstance name="%s.0" guid="{%s}" />
  </Deployment>
`, v.deployment, v.deployment, attr(v.name), v.deployment, v.deployment)
	}
	fmt.Fprintf(&b, `  <Incarnation number="%d" instance="_%s" guid="{%s}" />
`, gs.incarnation, attr(v.name), v.id)
	if gs.cfg.OldShape {
		fmt.Fprintf(&b, `  <Role guid="{%s}" name="%s" settleTimeSeconds="0" />
  <LoadBalancerSettings timeoutSeconds="0" waitLoadBalancerProbeCount="8">
    <Probes>
      <Probe name="%s" />
    </Probes>
  </LoadBalancerSettings>
  <OutputEndpoints>
    <Endpoint name="%s:openInternalEndpoint" type="SFS">
      <Target instance="_%s" endpoint="openInternalEndpoint" />
    </Endpoint>
  </OutputEndpoints>
`, v.id, attr(v.name), attr(v.name), attr(v.name), attr(v.name))
	}
	fmt.Fprintf(&b, `  <Instances>
    <Instance id="_%s" address="%s">
      <FaultDomains randomId="0" updateId="0" updateCount="0" />
`, attr(v.name), v.address)
	if gs.cfg.OldShape {
		fmt.Fprintf(&b, `      <InputEndpoints>
        <Endpoint name="ssh" address="%s:22" protocol="tcp" hostName="%s" enableDirectServerReturn="false" isDirectAddress="false" disableStealthMode="false">
          <LocalPorts>
            <LocalPortSelfManaged />
          </LocalPorts>
        </Endpoint>
      </InputEndpoints>
`, v.address, attr(v.name))
	} else {
		b.WriteString("      <InputEndpoints />\n")
	}
	b.WriteString("    </Instance>\n  </Instances>\n</SharedConfig>")
	return b.String()
}

func (v *VM) extensionsConfigXML(gs *goalState) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%s<Extensions version="1.0.0.0" goalStateIncarnation="%d"><GuestAgentExtension xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
  <GAFamilies>
`, xmlHead, gs.incarnation)
	for _, f := range gs.families(v.f) {
		b.WriteString("    <GAFamily>\n")
		flag := func(name string, value *bool) {
			if value != nil {
				fmt.Fprintf(&b, "      <%s>%t</%s>\n", name, *value, name)
			}
		}
		flag("IsVMEnabledForRSMUpgrades", f.IsVMEnabledForRSMUpgrades)
		flag("IsVersionFromRSM", f.IsVersionFromRSM)
		fmt.Fprintf(&b, "      <Name>%s</Name>\n", esc(f.Name))
		if f.FromVersion != "" {
			fmt.Fprintf(&b, "      <FromVersion>%s</FromVersion>\n", esc(f.FromVersion))
		}
		b.WriteString("      <Uris>\n")
		for _, u := range f.URIs {
			fmt.Fprintf(&b, "        <Uri>%s</Uri>\n", esc(u))
		}
		b.WriteString("      </Uris>\n")
		if f.Version != "" {
			fmt.Fprintf(&b, "      <Version>%s</Version>\n", esc(f.Version))
		}
		b.WriteString("    </GAFamily>\n")
	}
	fmt.Fprintf(&b, `  </GAFamilies>
  <Location>%s</Location>
  <ServiceName>CRP</ServiceName>
</GuestAgentExtension>
`, esc(v.f.opts.Location))
	if len(gs.cfg.RequiredFeatures) > 0 {
		b.WriteString("<RequiredFeatures>\n")
		for _, r := range gs.cfg.RequiredFeatures {
			fmt.Fprintf(&b, "  <RequiredFeature>\n    <Name>%s</Name>\n    <Value>1.0</Value>\n  </RequiredFeature>\n", esc(r))
		}
		b.WriteString("</RequiredFeatures>\n")
	}
	if !gs.cfg.NoStatusBlob {
		fmt.Fprintf(&b, `<StatusUploadBlob statusBlobType="%s">%s</StatusUploadBlob>
`, or(gs.cfg.StatusBlob, "BlockBlob"), esc(v.StatusURL()))
	}
	if len(gs.handlers) > 0 {
		b.WriteString("<Plugins>\n")
		for _, h := range gs.handlers {
			pluginXML(&b, h)
		}
		b.WriteString("</Plugins>\n<PluginSettings>\n")
		for _, h := range gs.handlers {
			pluginSettingsXML(&b, h)
		}
		b.WriteString("</PluginSettings>\n")
	}
	fmt.Fprintf(&b, `<InVMArtifactsProfileBlob>%s</InVMArtifactsProfileBlob>
<InVMGoalStateMetaData inSvdSeqNo="%d" createdOnTicks="%d" activityId="%s" correlationId="%s" />
<HealthStatusBlobUri>%s</HealthStatusBlobUri></Extensions>`,
		esc(v.profileURL()), gs.svdSeq, gs.ticks, gs.activity, gs.correlation, esc(v.healthURL()))
	return b.String()
}

func pluginXML(b *strings.Builder, h handlerGoal) {
	fmt.Fprintf(b, `  <Plugin name="%s" version="%s" location="%s" config="" state="%s" autoUpgrade="%t" failoverlocation="%s" runAsStartupTask="false" isJson="true" useExactVersion="true"`,
		attr(h.name), attr(h.version), attr(h.location), h.state, h.autoUpgrade, attr(h.failover))
	if h.signature != "" {
		fmt.Fprintf(b, ` encodedSignature="%s"`, attr(h.signature))
	}
	b.WriteString(">\n    <additionalLocations>\n")
	for _, l := range h.additional {
		fmt.Fprintf(b, "      <additionalLocation>%s</additionalLocation>\n", esc(l))
	}
	b.WriteString("    </additionalLocations>\n  </Plugin>\n")
}

func pluginSettingsXML(b *strings.Builder, h handlerGoal) {
	if len(h.instances) == 0 {
		return
	}
	fmt.Fprintf(b, `  <Plugin name="%s" version="%s">`+"\n", attr(h.name), attr(h.version))
	for _, i := range h.instances {
		if i.level == 0 {
			continue
		}
		name := ""
		if h.multi {
			name = fmt.Sprintf(` name="%s"`, attr(i.name))
		}
		if len(i.after) == 0 {
			fmt.Fprintf(b, `    <DependsOn%s dependencyLevel="%d" />`+"\n", name, i.level)
			continue
		}
		fmt.Fprintf(b, `    <DependsOn%s dependencyLevel="%d">`+"\n", name, i.level)
		for _, a := range i.after {
			fmt.Fprintf(b, `      <DependsOnExtension extension="%s" handler="%s" />`+"\n", attr(a[1]), attr(a[0]))
		}
		b.WriteString("    </DependsOn>\n")
	}
	for _, i := range h.instances {
		switch {
		case h.multi:
			fmt.Fprintf(b, `    <ExtensionRuntimeSettings seqNo="%d" name="%s" state="%s">%s</ExtensionRuntimeSettings>`+"\n",
				i.seq, attr(i.name), i.state, esc(runtimeSettings(i)))
		case i.settings:
			fmt.Fprintf(b, `    <RuntimeSettings seqNo="%d">%s</RuntimeSettings>`+"\n", i.seq, esc(runtimeSettings(i)))
		}
	}
	b.WriteString("  </Plugin>\n")
}

// runtimeSettings returns the JSON inside the XML. Absent parts are left out.
func runtimeSettings(i instanceGoal) string {
	type handlerSettings struct {
		Thumbprint string          `json:"protectedSettingsCertThumbprint,omitempty"`
		Protected  string          `json:"protectedSettings,omitempty"`
		Public     json.RawMessage `json:"publicSettings,omitempty"`
	}
	type entry struct {
		Settings handlerSettings `json:"handlerSettings"`
	}
	doc := struct {
		Runtime []entry `json:"runtimeSettings"`
	}{[]entry{{handlerSettings{i.thumbprint, i.protected, i.public}}}}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "{}" // cannot fail: raw settings were checked when they were accepted
	}
	return string(b)
}

// certificatesXML encrypts the VM's certificates to the transport certificate.
func (v *VM) certificatesXML(gs *goalState, data []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, `%s<CertificateFile xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="certificates10.xsd">
  <Version>2012-11-30</Version>
  <Incarnation>%d</Incarnation>
`, xmlHead, gs.incarnation)
	if format := or(gs.cfg.Certificates.Format, "Pkcs7BlobWithPfxContents"); format != "-" {
		fmt.Fprintf(&b, "  <Format>%s</Format>\n", esc(format))
	}
	if data != nil {
		fmt.Fprintf(&b, "  <Data>%s</Data>\n", wrap(base64.StdEncoding.EncodeToString(data), 64))
	}
	b.WriteString("</CertificateFile>")
	return b.String()
}

func wrap(s string, n int) string {
	var b strings.Builder
	for len(s) > n {
		b.WriteString(s[:n])
		b.WriteByte('\n')
		s = s[n:]
	}
	b.WriteString(s)
	return b.String()
}

func (v *VM) remoteAccessXML(gs *goalState, encrypt func([]byte) (string, error)) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `%s<RemoteAccess>
  <Version>1</Version>
  <Incarnation>%d</Incarnation>
  <Users>
`, xmlHead, gs.incarnation)
	for _, u := range gs.cfg.Users {
		password, err := encrypt(utf16LE(u.Password))
		if err != nil {
			return "", fmt.Errorf("encrypt password of %s: %w", u.Name, err)
		}
		expiry := or(u.RawExpiration, u.Expires.UTC().Format("Mon, 02 Jan 2006 15:04:05 ")+"UTC")
		fmt.Fprintf(&b, `    <User>
      <Name>%s</Name>
      <Password>%s</Password>
      <Expiration>%s</Expiration>
      <Groups>
`, esc(u.Name), password, esc(expiry))
		groups := u.Groups
		if groups == nil {
			groups = []string{"Administrators", "RemoteDesktopUsers"}
		}
		for _, g := range groups {
			fmt.Fprintf(&b, "        <GroupName>%s</GroupName>\n", esc(g))
		}
		b.WriteString("      </Groups>\n    </User>\n")
	}
	b.WriteString("  </Users>\n</RemoteAccess>")
	return b.String(), nil
}

func utf16LE(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// stamp formats a time as in the platform's status and headers.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
