package fabric

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/azguest/azguest/test/fabric/pki"
)

// Spelling selects how the namespaces of ovf-env.xml are written
// (provisioning/SPEC.md §5.1).
type Spelling string

// The spellings that occur in practice.
const (
	SpellingDVD  Spelling = "dvd"  // as on the platform's medium
	SpellingNS1  Spelling = "ns1"  // as cloud-init rewrites it: ns0 and ns1
	SpellingNone Spelling = "none" // no namespaces at all
)

func (p Provisioning) passwordsDisabled() bool { return p.Password == "" && !p.AllowPasswords }

// OVFEnvironment writes the provisioning document.
func OVFEnvironment(p Provisioning, spelling Spelling) ([]byte, error) {
	// outer is the prefix of elements of the Azure namespace, inner that of
	// elements inside the configuration set, where the medium declares the
	// namespace again.
	var open, outer, inner, set string
	switch or(string(spelling), string(SpellingDVD)) {
	case string(SpellingDVD):
		open = `Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"`
		outer = "wa:"
		set = ` xmlns="http://schemas.microsoft.com/windowsazure" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"`
	case string(SpellingNS1):
		open = `ns0:Environment xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1" xmlns:ns1="http://schemas.microsoft.com/windowsazure" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"`
		outer, inner = "ns1:", "ns1:"
	case string(SpellingNone):
		open = `Environment xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"`
	default:
		return nil, fmt.Errorf("write ovf-env.xml: unknown spelling %q", spelling)
	}
	var b strings.Builder
	text := func(indent int, prefix, name, value string) {
		fmt.Fprintf(&b, "%s<%s%s>%s</%s%s>\n", strings.Repeat("  ", indent), prefix, name, esc(value), prefix, name)
	}
	b.WriteString(xmlHead)
	fmt.Fprintf(&b, "<%s>\n  <%sProvisioningSection>\n", open, outer)
	text(2, outer, "Version", "1.0")
	fmt.Fprintf(&b, "    <%sLinuxProvisioningConfigurationSet%s>\n", inner, set)
	text(3, inner, "ConfigurationSetType", "LinuxProvisioningConfiguration")
	text(3, inner, "HostName", p.HostName)
	if p.User != "" {
		text(3, inner, "UserName", p.User)
	}
	if p.Password != "" {
		text(3, inner, "UserPassword", p.Password)
	}
	text(3, inner, "DisableSshPasswordAuthentication", fmt.Sprint(p.passwordsDisabled()))
	if len(p.SSHKeys) > 0 {
		fmt.Fprintf(&b, "      <%sSSH>\n        <%sPublicKeys>\n", inner, inner)
		for _, key := range p.SSHKeys {
			fmt.Fprintf(&b, "          <%sPublicKey>\n", inner)
			text(6, inner, "Fingerprint", pki.Thumbprint([]byte(key)))
			text(6, inner, "Path", "/home/"+p.User+"/.ssh/authorized_keys")
			text(6, inner, "Value", key)
			fmt.Fprintf(&b, "          </%sPublicKey>\n", inner)
		}
		fmt.Fprintf(&b, "        </%sPublicKeys>\n      </%sSSH>\n", inner, inner)
	}
	if len(p.CustomData) > 0 {
		text(3, inner, "CustomData", base64.StdEncoding.EncodeToString(p.CustomData))
	}
	fmt.Fprintf(&b, "    </%sLinuxProvisioningConfigurationSet>\n  </%sProvisioningSection>\n  <%sPlatformSettingsSection>\n", inner, outer, outer)
	text(2, outer, "Version", "1.0")
	fmt.Fprintf(&b, "    <%sPlatformSettings>\n", outer)
	pps := or(p.PPSType, "None")
	text(3, outer, "KmsServerHostname", "azkms.core.windows.net")
	text(3, outer, "ProvisionGuestAgent", fmt.Sprint(!p.NoGuestAgent))
	text(3, outer, "ProvisionGuestProxyAgent", "false")
	fmt.Fprintf(&b, "      <%sGuestAgentPackageName xsi:nil=\"true\" />\n", outer)
	text(3, outer, "RetainWindowsPEPassInUnattend", "false")
	text(3, outer, "RetainOfflineServicingPassInUnattend", "false")
	text(3, outer, "PreprovisionedVm", fmt.Sprint(pps != "None"))
	text(3, outer, "PreprovisionedVMType", pps)
	text(3, outer, "EnableTrustedImageIdentifier", "false")
	root, _, _ := strings.Cut(open, " ")
	fmt.Fprintf(&b, "    </%sPlatformSettings>\n  </%sPlatformSettingsSection>\n</%s>\n", outer, outer, root)
	return []byte(b.String()), nil
}
