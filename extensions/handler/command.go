package handler

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/azguest/azguest/extensions/plan"
)

// Environment variables of the contract (extensions/SPEC.md §9.3).
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

	NotRun = "NOT_RUN"
)

// A Call has everything that the environment of a command depends on.
type Call struct {
	Op      plan.Op
	Base    string
	Version string
	Seq     int
	Ext     string // "" for single-config
	Wire    string
	Change  *plan.Change
	Target  string // version that is being installed, during a version change
	Multi   bool
	Exts    []string // extensions of the goal state, for the list of exit codes
}

// Environment returns the variables (as KEY=value) that a command gets besides
// PATH and LANG. The agent's own environment is not passed on.
func (c Call) Environment() []string {
	env := []string{
		envPath + "=" + c.Base,
		envVersion + "=" + c.Version,
		envWire + "=" + c.Wire,
		envSeq + "=" + strconv.Itoa(c.Seq),
		envFeatures + `=[{"Key": "ExtensionTelemetryPipeline", "Value": "1.0"}]`,
	}
	if c.Ext != "" {
		env = append(env, envExtName+"="+c.Ext)
	}
	switch c.Op {
	case plan.Install, plan.Enable:
		code := NotRun
		if c.Change != nil && c.Change.UninstallCode != "" {
			code = c.Change.UninstallCode
		}
		env = append(env, envUninstallCode+"="+code)
	case plan.Update:
		from := ""
		if c.Change != nil {
			from = c.Change.From
		}
		if plan.CompareVersions(c.Target, from) < 0 {
			// A downgrade runs the old package's update, which gets the target in
			// both variables, as WALinuxAgent does it; Run Command derives
			// directories from them.
			from = c.Target
		}
		env = append(env, envNewVersion+"="+c.Target, envUpdatingFrom+"="+from)
		if c.Multi {
			env = append(env, envDisableCodes+"="+c.disableCodes())
		} else {
			env = append(env, envDisableCode+"="+c.disableCode(""))
		}
	case plan.Uninstall, plan.Fetch, plan.Copy, plan.Disable, plan.Remove:
	}
	return env
}

func (c Call) disableCode(ext string) string {
	if c.Change != nil {
		if code, ok := c.Change.DisableCodes[ext]; ok {
			return code
		}
	}
	return NotRun
}

// disableCodes is the list of exit codes for multi-config, as JSON with the
// spacing of Python's json module.
func (c Call) disableCodes() string {
	var b strings.Builder
	b.WriteByte('[')
	for i, name := range c.Exts {
		if i > 0 {
			b.WriteString(", ")
		}
		q, _ := json.Marshal(name) // a string always encodes
		b.WriteString(`{"extensionName": ` + string(q) + `, "exitCode": "` + c.disableCode(name) + `"}`)
	}
	b.WriteByte(']')
	return b.String()
}

// ShellLine returns the command line for /bin/sh. The first word is relative to
// base, even with a leading slash (extensions/SPEC.md §9.1).
func ShellLine(base, command string) string {
	return base + "/" + strings.TrimLeft(command, "/")
}

// SliceName is the systemd slice of a handler. It has no version, and no dash,
// which would make another level (extensions/SPEC.md §9.8).
func SliceName(handler, ext string) string {
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
	return "azure-vmextensions-" + Clip(b.String(), 180) + ".slice"
}
