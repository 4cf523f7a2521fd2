package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
)

// Modes of the policy.
const (
	Off     = "off"
	Audit   = "audit"   // log what would be refused
	Enforce = "enforce" // refuse extensions
)

// Config says where the policy is and whether it is enforced. A zero value
// selects the default of a field.
type Config struct {
	Mode string // Off, Audit or Enforce (default)
	File string // the platform's policy file
	Dir  string // directory with rules of this agent
}

// Filled returns the configuration with defaults in the empty fields.
func (c Config) Filled() Config {
	c.Mode = cmp.Or(c.Mode, Enforce)
	c.File = cmp.Or(c.File, "/etc/waagent_policy.json")
	c.Dir = cmp.Or(c.Dir, "/etc/azguest/policy.d")
	return c
}

// MaxFile is the maximum size of a policy file in bytes.
const MaxFile = 1 << 20

// policyLimits are the JSON limits of a policy file.
var policyLimits = bound.Limits{Bytes: MaxFile, Nodes: 50_000, Depth: 64}

// policyVersion is the newest supported version of the platform's schema.
const policyVersion = "0.1.0"

// A Policy says which extensions may run: the platform's policy file
// (extensions/SPEC.md §14.1) and the rules of policy.d in addition. An extension
// is refused if either refuses it.
type Policy struct {
	// AllowListedOnly refuses extensions that are not in Extensions.
	AllowListedOnly bool
	// SignatureRequired is the default for every extension.
	SignatureRequired bool
	Extensions        map[string]ExtensionPolicy // by lower-case name
	Rules             []Rule
	File              string // the platform's policy file, for messages
	Default           string // effect when no rule matches: allow or deny
}

// ExtensionPolicy is what the policy file says about one extension.
type ExtensionPolicy struct {
	SignatureRequired *bool
	Runtime           json.RawMessage
}

// A Rule is a rule of policy.d. The first one that matches decides.
type Rule struct {
	Effect    string   `json:"effect"` // allow, deny
	Publisher string   `json:"publisher,omitempty"`
	Type      string   `json:"type,omitempty"`
	Versions  []string `json:"versions,omitempty"` // conditions such as ">=1.2", "<2"; all must hold
	Signer    string   `json:"signer,omitempty"`   // shell pattern for the signer's name
	Reason    string   `json:"reason,omitempty"`
	file      string
}

var errPolicy = errors.New("invalid policy")

// Parse parses waagent_policy.json. It is strict: unknown content is an error,
// so that a policy is never applied in part.
func Parse(data []byte) (Policy, error) {
	var p Policy
	if err := policyLimits.JSON(data); err != nil {
		return p, fmt.Errorf("%w: %w", errPolicy, err)
	}
	top, err := strictObject(data, "", "policyVersion", "extensionPolicies")
	if err != nil {
		return p, err
	}
	ver, ok := handler.Text(top["policyVersion"])
	if !ok {
		return p, fmt.Errorf("%w: attribute 'policyVersion' is required and must be a string", errPolicy)
	}
	if n := plan.Components(ver); n == 0 || n > 3 {
		return p, fmt.Errorf("%w: invalid value for attribute 'policyVersion': %q; it must be 'major[.minor[.patch]]'", errPolicy, ver)
	}
	if plan.CompareVersions(ver, policyVersion) > 0 {
		return p, fmt.Errorf("%w: policy version %s is not supported; the highest one is %s", errPolicy, ver, policyVersion)
	}
	ext, err := strictObject(top["extensionPolicies"], "extensionPolicies", "allowListedExtensionsOnly", "signatureRequired", "extensions")
	if err != nil {
		return p, err
	}
	if err := strictBool(ext["allowListedExtensionsOnly"], "extensionPolicies.allowListedExtensionsOnly", &p.AllowListedOnly); err != nil {
		return p, err
	}
	if err := strictBool(ext["signatureRequired"], "extensionPolicies.signatureRequired", &p.SignatureRequired); err != nil {
		return p, err
	}
	list, err := strictObject(ext["extensions"], "extensionPolicies.extensions")
	if err != nil {
		return p, err
	}
	p.Extensions = map[string]ExtensionPolicy{}
	for name, raw := range list {
		at := "extensionPolicies.extensions." + name
		o, err := strictObject(raw, at, "signatureRequired", "runtimePolicy")
		if err != nil {
			return p, err
		}
		e := ExtensionPolicy{Runtime: o["runtimePolicy"]}
		if raw := o["signatureRequired"]; len(raw) > 0 && string(raw) != "null" {
			var b bool
			if err := strictBool(raw, at+".signatureRequired", &b); err != nil {
				return p, err
			}
			e.SignatureRequired = &b
		}
		p.Extensions[strings.ToLower(name)] = e
	}
	return p, nil
}

// strictObject parses an object that may only have the known attributes (any, if
// none are given). Null and absent count as empty, except at the top (at is "").
func strictObject(raw json.RawMessage, at string, known ...string) (map[string]json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	if at != "" && (len(raw) == 0 || string(raw) == "null") {
		return nil, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(raw, &o); err != nil || o == nil {
		if at == "" {
			return nil, fmt.Errorf("%w: not a JSON object: %w", errPolicy, err)
		}
		return nil, fmt.Errorf("%w: invalid type for attribute '%s', please change to object", errPolicy, at)
	}
	if len(known) > 0 {
		for _, k := range slices.Sorted(maps.Keys(o)) {
			if !slices.Contains(known, k) {
				return nil, fmt.Errorf("%w: unrecognized attribute '%s'", errPolicy, strings.TrimPrefix(at+"."+k, "."))
			}
		}
	}
	return o, nil
}

func strictBool(raw json.RawMessage, at string, b *bool) error {
	switch string(bytes.TrimSpace(raw)) {
	case "", "null":
	case "true":
		*b = true
	case "false":
		*b = false
	default:
		return fmt.Errorf("%w: invalid type for attribute '%s', please change to boolean", errPolicy, at)
	}
	return nil
}

// ParseRules parses one file of policy.d and returns its rules and the effect
// when none matches:
//
//	{"default": "allow", "rules": [{"effect": "deny", "publisher": "Contoso*", "type": "*", "versions": ["<2.0"]}]}
func ParseRules(data []byte) (rules []Rule, def string, err error) {
	var doc struct {
		Default string `json:"default"`
		Rules   []Rule `json:"rules"`
	}
	if err := policyLimits.JSON(data); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errPolicy, err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errPolicy, err)
	}
	if doc.Default != "" && doc.Default != "allow" && doc.Default != "deny" {
		return nil, "", fmt.Errorf("%w: default is %q (must be allow or deny)", errPolicy, doc.Default)
	}
	for i, r := range doc.Rules {
		if r.Effect != "allow" && r.Effect != "deny" {
			return nil, "", fmt.Errorf("%w: rule %d: effect is %q (must be allow or deny)", errPolicy, i, r.Effect)
		}
		for _, pattern := range []string{r.Publisher, r.Type, r.Signer} {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, "", fmt.Errorf("%w: rule %d: invalid pattern %q", errPolicy, i, pattern)
			}
		}
		for _, c := range r.Versions {
			if _, ok := versionHolds(c, "1.0"); !ok {
				return nil, "", fmt.Errorf("%w: rule %d: invalid version condition %q", errPolicy, i, c)
			}
		}
	}
	return doc.Rules, doc.Default, nil
}

// versionHolds reports whether a version fulfils a condition such as ">=1.2"; ok
// is false if the condition is invalid.
func versionHolds(cond, v string) (holds, ok bool) {
	cond = strings.TrimSpace(cond)
	for _, op := range []string{">=", "<=", "!=", "==", ">", "<", "="} {
		rest, found := strings.CutPrefix(cond, op)
		if !found {
			continue
		}
		rest = strings.TrimSpace(rest)
		if plan.Components(rest) == 0 {
			return false, false
		}
		c := plan.CompareVersions(v, rest)
		switch op {
		case ">=":
			return c >= 0, true
		case "<=":
			return c <= 0, true
		case "!=":
			return c != 0, true
		case ">":
			return c > 0, true
		case "<":
			return c < 0, true
		}
		return c == 0, true
	}
	return plan.CompareVersions(v, cond) == 0, plan.Components(cond) > 0
}

// matches reports whether a rule matches. An empty pattern matches everything.
// For a rule with a signer, the signer has to be known (see decide).
func (r Rule) matches(name, version, signer string) bool {
	publisher, typ := name, ""
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		publisher, typ = name[:i], name[i+1:]
	}
	glob := func(pattern, s string) bool {
		ok, _ := path.Match(strings.ToLower(pattern), strings.ToLower(s)) // checked when parsed
		return pattern == "" || ok
	}
	if !glob(r.Publisher, publisher) || !glob(r.Type, typ) || !glob(r.Signer, signer) {
		return false
	}
	for _, c := range r.Versions {
		if holds, _ := versionHolds(c, version); !holds {
			return false
		}
	}
	return true
}

// UnknownSigner stands for a signer that is not known yet. If a rule depends on
// the signer, the extension is allowed for now. The policy is checked again
// before the package is used.
const UnknownSigner = "\x00"

// decide returns why an extension is refused, or "". An unknown version counts
// as the lowest.
func (p Policy) decide(name, version, signer string, removing bool) string {
	verb := "run"
	if removing {
		verb = "uninstall"
	}
	what := fmt.Sprintf("extension '%s'", name)
	if version != "" {
		what += " version " + version
	}
	version = cmp.Or(version, "0")
	if _, listed := p.Extensions[strings.ToLower(name)]; p.AllowListedOnly && !listed {
		return fmt.Sprintf("failed to %s extension '%s' because it is not specified as an allowed extension. To %s, add the extension to the list of allowed extensions in the policy file%s", verb, name, verb, quoted(p.File))
	}
	for _, r := range p.Rules {
		if signer == UnknownSigner && r.Signer != "" {
			if other := r; !removing {
				if other.Signer = ""; other.matches(name, version, "") {
					return ""
				}
			}
			continue
		}
		if !r.matches(name, version, signer) {
			continue
		}
		if r.Effect == "allow" {
			return ""
		}
		return fmt.Sprintf("failed to %s %s because a rule of %s denies it%s", verb, what, r.file, prefixed(": ", r.Reason))
	}
	if p.Default == "deny" {
		return fmt.Sprintf("failed to %s %s because no rule of the policy allows it", verb, what)
	}
	return ""
}

func quoted(file string) string {
	if file == "" {
		return ""
	}
	return " ('" + file + "')"
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// NeedsSignature reports whether packages of this extension must be signed.
func (p Policy) NeedsSignature(name string) bool {
	if e, ok := p.Extensions[strings.ToLower(name)]; ok && e.SignatureRequired != nil {
		return *e.SignatureRequired
	}
	return p.SignatureRequired
}

// Effective is the policy that Read found, with its mode. The zero value allows
// everything and enforces nothing.
type Effective struct {
	Mode   string
	File   string // the policy file, or the one that caused Err
	Policy Policy
	Err    error // an invalid policy refuses everything
}

// Enforces reports whether refusals are enforced.
func (p Effective) Enforces() bool { return p.Mode == Enforce }

// Deny returns why an extension must not be processed, and the zero value if it
// may be.
func (p Effective) Deny(name, version, signer string, removing bool) fault.Problem {
	code := fault.CodeEnable
	if removing {
		code = fault.CodeDisable
	}
	switch {
	case p.Mode == Off:
		return fault.Problem{}
	case p.Err != nil:
		return fault.Problem{Code: code, Cause: fault.CausePolicyInvalid, Text: fmt.Sprintf("Extension will not be processed: [InvalidPolicyError] Customer-provided policy file ('%s') is invalid, please correct the following error: %v", p.File, p.Err)}
	}
	why := p.Policy.decide(name, version, signer, removing)
	if why == "" {
		return fault.Problem{}
	}
	return fault.Problem{Code: code, Cause: fault.CausePolicyDenied, Text: "Extension will not be processed: " + why + "."}
}

// Read reads the policy from its files. Errors are in Effective.Err.
func Read(root host.Root, c Config) Effective {
	c = c.Filled()
	s := Effective{Mode: c.Mode, File: c.File, Policy: Policy{File: c.File}}
	if s.Mode == Off {
		return s
	}
	files, err := Files(root, c)
	if err != nil {
		s.Err = err
		return s
	}
	for _, name := range files {
		data, err := root.ReadBounded(name, MaxFile)
		switch {
		case err != nil: // a file that exists but can't be read must not count as no policy
		case name == c.File:
			s.Policy, err = Parse(data)
			s.Policy.File = c.File
		default:
			var rules []Rule
			var def string
			rules, def, err = ParseRules(data)
			for i := range rules {
				rules[i].file = name
			}
			s.Policy.Rules = append(s.Policy.Rules, rules...)
			s.Policy.Default = cmp.Or(def, s.Policy.Default)
		}
		if err != nil {
			s.File, s.Err = name, err
			return s
		}
	}
	return s
}

// Files returns the policy files that exist, in the order in which they apply.
func Files(root host.Root, c Config) ([]string, error) {
	c = c.Filled()
	files := []string{}
	switch _, err := root.Lstat(c.File); {
	case err == nil:
		files = append(files, c.File)
	case !errors.Is(err, fs.ErrNotExist):
		return files, err
	}
	entries, err := root.ReadDir(c.Dir) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return files, err
	}
	for _, e := range entries {
		if ruleFile(e.Name()) {
			files = append(files, c.Dir+"/"+e.Name())
		}
	}
	return files, nil
}

// An Answer is the result of Explain for one extension.
type Answer struct {
	Name      string `json:"name"`
	Version   string `json:"version,omitempty"`
	Mode      string `json:"mode"`             // off, audit, enforce
	Allowed   bool   `json:"allowed"`          // it may run: not refused, or the policy is not enforced
	Reason    string `json:"reason,omitempty"` // why it is refused, also if not enforced
	Signature bool   `json:"signature_required"`
	// Files are the files that were read, in the order in which they apply.
	Files []string `json:"files"`
}

// Explain evaluates the policy files of a machine for one extension, without an
// engine.
func Explain(root host.Root, c Config, name, version, signer string) Answer {
	c = c.Filled()
	p := Read(root, c)
	a := Answer{Name: name, Version: version, Mode: p.Mode, Files: []string{}}
	if p.Mode != Off {
		a.Files, _ = Files(root, c) // an error is in p.Err, too, and so in the reason
	}
	refusal := p.Deny(name, version, signer, false)
	a.Reason = refusal.Text
	a.Allowed = refusal.None() || !p.Enforces()
	a.Signature = p.Enforces() && p.Policy.NeedsSignature(name)
	return a
}

// ruleFile reports whether a file in policy.d is read.
func ruleFile(name string) bool {
	return strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, ".")
}
