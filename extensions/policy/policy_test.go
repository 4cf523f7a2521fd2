package policy

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// TestPolicyFile has the cases of WALinuxAgent's test_policy_engine.py.
func TestPolicyFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in, err string }{
		{"empty policies", `{"policyVersion":"0.1.0"}`, ""},
		{"partial version", `{"policyVersion":"0.1"}`, ""},
		{"nulls", `{"policyVersion":"0","extensionPolicies":{"allowListedExtensionsOnly":null,"extensions":null}}`, ""},
		{"full", `{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":true,"signatureRequired":true,"extensions":{"A.B":{"signatureRequired":false,"runtimePolicy":{"x":[1]}}}}}`, ""},
		{"no version", `{}`, "policyVersion"},
		{"number version", `{"policyVersion":1}`, "policyVersion"},
		{"bad version", `{"policyVersion":"1.a"}`, "policyVersion"},
		{"new version", `{"policyVersion":"9.9.9"}`, "not supported"},
		{"unknown attribute", `{"policyVersion":"0.1.0","x":1}`, "'x'"},
		{"unknown inner", `{"policyVersion":"0.1.0","extensionPolicies":{"y":1}}`, "'extensionPolicies.y'"},
		{"string boolean", `{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":"true"}}`, "boolean"},
		{"array", `{"policyVersion":"0.1.0","extensionPolicies":{"extensions":[]}}`, "object"},
		{"extension type", `{"policyVersion":"0.1.0","extensionPolicies":{"extensions":{"A.B":1}}}`, "object"},
		{"extension boolean", `{"policyVersion":"0.1.0","extensionPolicies":{"extensions":{"A.B":{"signatureRequired":"no"}}}}`, "boolean"},
		{"no json", `{`, "JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse([]byte(tc.in))
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if tc.name == "full" {
				if p.decide("a.b", "1", "", false) != "" || p.decide("A.C", "1", "", false) == "" || p.NeedsSignature("a.B") || !p.NeedsSignature("A.C") {
					t.Errorf("policy %+v", p)
				}
			}
		})
	}
}

// TestRules is the truth table of the rules in policy.d (extensions/SPEC.md §14.2).
func TestRules(t *testing.T) {
	t.Parallel()
	rules, def, err := ParseRules([]byte(`{"default":"deny","rules":[
		{"effect":"deny","publisher":"Bad.*","reason":"we had trouble"},
		{"effect":"allow","publisher":"Contoso","type":"*Agent","versions":[">=1.2","<2"]},
		{"effect":"allow","publisher":"Micro*","signer":"CN=Microsoft*"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p := Policy{Rules: rules, Default: def}
	for _, tc := range []struct {
		name, version, signer string
		allowed               bool
	}{
		{"Bad.Guy.X", "1.0", "", false},
		{"Contoso.MonAgent", "1.2", "", true},
		{"contoso.monagent", "1.99.7", "", true},
		{"Contoso.MonAgent", "2.0", "", false},
		{"Contoso.MonAgent", "1.1.9", "", false},
		{"Contoso.Other", "1.5", "", false},
		{"Microsoft.X.Y", "1", "CN=Microsoft Corporation", true},
		{"Microsoft.X.Y", "1", "CN=Mallory", false},
		{"Microsoft.X.Y", "1", "", false},
		{"Microsoft.X.Y", "1", UnknownSigner, true},
		{"Else.Y", "1", UnknownSigner, false},
	} {
		if why := p.decide(tc.name, tc.version, tc.signer, false); (why == "") != tc.allowed {
			t.Errorf("%s %s %q: %q", tc.name, tc.version, tc.signer, why)
		}
	}
	for _, bad := range []string{`{"rules":[{"effect":"maybe"}]}`, `{"default":"x"}`, `{"rules":[{"effect":"allow","versions":["~1"]}]}`, `{"rules":[{"effect":"deny","type":"[a"}]}`, `{"x":1}`} {
		if _, _, err := ParseRules([]byte(bad)); err == nil {
			t.Errorf("ParseRules(%s): no error", bad)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"policyVersion":"0.1.0","extensionPolicies":{"extensions":{"a":{}}}}`))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		if p, err := Parse(b); err == nil {
			p.decide("a.b", "1.0", "", false)
		}
		if rules, def, err := ParseRules(b); err == nil {
			Policy{Rules: rules, Default: def}.decide("a.b", "1.0", "", true)
		}
	}))
}
