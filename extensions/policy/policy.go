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
	Audit   = "audit"   // say what would be refused
	Enforce = "enforce" // refuse it
)

// Config says where the policy is and whether it is obeyed. The zero
// value of each field is the usual one.
type Config struct {
	Mode string // PolicyOff, PolicyAudit, PolicyEnforce
	File string // waagent_policy.json
	Dir  string // our own rules
}

// Filled is the configuration with the usual value in each empty field.
func (c Config) Filled() Config {
	c.Mode = cmp.Or(c.Mode, Enforce)
	c.File = cmp.Or(c.File, "/etc/waagent_policy.json")
	c.Dir = cmp.Or(c.Dir, "/etc/azguest/policy.d")
	return c
}

// MaxFile bounds a policy file.
const MaxFile = 1 << 20

// policyLimits bound a policy file.
var policyLimits = bound.Limits{Bytes: MaxFile, Nodes: 50_000, Depth: 64}

// policyVersion is the newest version of the platform's schema we know.
const policyVersion = "0.1.0"

// A Policy is who may run on this machine: the platform's own policy file
// (extensions/SPEC.md §14.1) and rules of ours on top. What either refuses is
// refused.
type Policy struct {
	// AllowListedOnly refuses what Extensions does not name.
	AllowListedOnly bool
	// SignatureRequired is the default for every extension.
	SignatureRequired bool
	Extensions        map[string]ExtensionPolicy // by lower-case name
	Rules             []Rule
	File              string // where it was read, for messages
	Default           string // effect when no rule matches: allow or deny
}

// ExtensionPolicy is what the policy file says about one extension.
type ExtensionPolicy struct {
	SignatureRequired *bool
	Runtime           json.RawMessage
}

// A Rule of policy.d; the first one that matches decides.
type Rule struct {
	Effect    string   `json:"effect"` // allow, deny
	Publisher string   `json:"publisher,omitempty"`
	Type      string   `json:"type,omitempty"`
	Versions  []string `json:"versions,omitempty"` // ">=1.2", "<2", all must hold
	Signer    string   `json:"signer,omitempty"`   // shell pattern over the signer's name
	Reason    string   `json:"reason,omitempty"`
	file      string
}

var errPolicy = errors.New("invalid policy")

// Parse reads waagent_policy.json. It is strict: a policy that is not
// understood must not be half obeyed.
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

// strictObject reads an object with no attributes but the known ones (any,
// if none is given). null and absent are an empty one.
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

// ParseRules reads one file of policy.d:
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

// versionHolds checks a condition such as ">=1.2"; ok is false if it is none.
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

// matches: an empty pattern matches everything. A rule about a signer can
// only be decided when the signer is known.
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

// UnknownSigner stands for a signer that is not known yet: rules that ask
// for one then decide nothing, and are asked again before the package is used.
const UnknownSigner = "\x00"

// decide says why an extension is refused, or "". A version that is not known
// counts as the lowest.
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

// Effective is the policy as it was when a goal state came. The zero value
// allows everything, without enforcing anything.
type Effective struct {
	Mode   string
	File   string // of the fault, if there is one
	Policy Policy
	Err    error // a bad policy refuses everything
}

// Enforces reports whether refusals count.
func (p Effective) Enforces() bool { return p.Mode == Enforce }

// Deny is why an extension must not be processed, none if it may.
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

// Read reads the policy anew.
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
		case err != nil: // it is there, or was: a link that leads nowhere is no policy that allows
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

// Files are those that there are, in the order in which they are asked.
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

// Answer is what the policy of a machine thinks of an extension.
type Answer struct {
	Name      string `json:"name"`
	Version   string `json:"version,omitempty"`
	Mode      string `json:"mode"`             // off, audit, enforce
	Allowed   bool   `json:"allowed"`          // it may run: nothing speaks against it, or nobody enforces it
	Reason    string `json:"reason,omitempty"` // what speaks against it
	Signature bool   `json:"signature_required"`
	// Files are those that were read, in the order in which they are asked.
	Files []string `json:"files"`
}

// Explain answers from the files of a machine, without an engine.
func Explain(root host.Root, c Config, name, version, signer string) Answer {
	c = c.Filled()
	p := Read(root, c)
	a := Answer{Name: name, Version: version, Mode: p.Mode, Files: []string{}}
	if p.Mode != Off {
		a.Files, _ = Files(root, c) // what can't be read is the reason
	}
	refusal := p.Deny(name, version, signer, false)
	a.Reason = refusal.Text
	a.Allowed = refusal.None() || !p.Enforces()
	a.Signature = p.Enforces() && p.Policy.NeedsSignature(name)
	return a
}

// ruleFile says whether a file of policy.d counts.
func ruleFile(name string) bool {
	return strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, ".")
}
