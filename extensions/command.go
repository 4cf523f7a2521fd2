package extensions

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/azguest/azguest/extensions/plan"
)

// Variables of the contract (extensions/SPEC.md §9.3).
const (
	envPath          = "AZURE_GUEST_AGENT_EXTENSION_PATH"
	envVersion       = "AZURE_GUEST_AGENT_EXTENSION_VERSION"
	envWire          = "AZURE_GUEST_AGENT_WIRE_PROTOCOL_ADDRESS"
	envFeatures      = "AZURE_GUEST_AGENT_EXTENSION_SUPPORTED_FEATURES"
	envUninstallCode = "AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE"
	envDisableCode   = "AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE"
	envDisableCodes  = "AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODES_MULTIPLE_EXTENSIONS"
	envUpdatingFrom  = "AZURE_GUEST_AGENT_UPDATING_FROM_VERSION"
	envNewVersion    = "VERSION"
	envSeq           = "ConfigSequenceNumber"
	envExtName       = "ConfigExtensionName"

	notRun = "NOT_RUN"
)

// A call is everything the environment of a command depends on.
type call struct {
	op      plan.Op
	base    string
	version string
	seq     int
	ext     string // "" for single-config
	wire    string
	change  *plan.Change
	target  string // version that is being installed, during a change
	multi   bool
	exts    []string // of the goal state, for the list of exit codes
}

// environment is what a command gets besides PATH and LANG. Nothing of the
// agent's own environment is in it, so nothing can override it.
func (c call) environment() []string {
	env := []string{
		envPath + "=" + c.base,
		envVersion + "=" + c.version,
		envWire + "=" + c.wire,
		envSeq + "=" + strconv.Itoa(c.seq),
		envFeatures + `=[{"Key": "ExtensionTelemetryPipeline", "Value": "1.0"}]`,
	}
	if c.ext != "" {
		env = append(env, envExtName+"="+c.ext)
	}
	switch c.op {
	case plan.Install, plan.Enable:
		code := notRun
		if c.change != nil && c.change.UninstallCode != "" {
			code = c.change.UninstallCode
		}
		env = append(env, envUninstallCode+"="+code)
	case plan.Update:
		from := ""
		if c.change != nil {
			from = c.change.From
		}
		if plan.CompareVersions(c.target, from) < 0 {
			// A downgrade runs the old package, which has always been told the
			// target twice; Run Command works out directories from that.
			from = c.target
		}
		env = append(env, envNewVersion+"="+c.target, envUpdatingFrom+"="+from)
		if c.multi {
			env = append(env, envDisableCodes+"="+c.disableCodes())
		} else {
			env = append(env, envDisableCode+"="+c.disableCode(""))
		}
	case plan.Uninstall, plan.Fetch, plan.Copy, plan.Disable, plan.Remove:
	}
	return env
}

func (c call) disableCode(ext string) string {
	if c.change != nil {
		if code, ok := c.change.DisableCodes[ext]; ok {
			return code
		}
	}
	return notRun
}

// disableCodes is the list for multi-config in the spacing of Python.
func (c call) disableCodes() string {
	var b strings.Builder
	b.WriteByte('[')
	for i, name := range c.exts {
		if i > 0 {
			b.WriteString(", ")
		}
		q, _ := json.Marshal(name) // a string always encodes
		b.WriteString(`{"extensionName": ` + string(q) + `, "exitCode": "` + c.disableCode(name) + `"}`)
	}
	b.WriteByte(']')
	return b.String()
}

// shellLine is what /bin/sh gets: only the first word is made absolute, and
// a leading slash does not make it so (extensions/SPEC.md §9.1).
func shellLine(base, command string) string {
	return base + "/" + strings.TrimLeft(command, "/")
}

// sliceName is the slice of a handler: no version, and no dash, which would
// make another level (extensions/SPEC.md §9.8).
func sliceName(handler, ext string) string {
	name := handler
	if ext != "" {
		name += "." + ext
	}
	var b strings.Builder
	for _, r := range name {
		switch {
		case r == '-':
			b.WriteByte('_')
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == ':':
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
	}
	return "azure-vmextensions-" + clip(b.String(), 180) + ".slice"
}
