package ovf

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIN16LongCustomData: custom data of many megabytes is read like any other.
func TestIN16LongCustomData(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("#!/bin/sh\x00\xff0123456789"), 5<<20/20)
	std := base64.StdEncoding.EncodeToString(data)
	lines := strings.Builder{}
	for s := std; s != ""; s = s[min(76, len(s)):] {
		lines.WriteString(s[:min(76, len(s))] + "\r\n")
	}
	doc := func(custom string) string {
		return `<?xml version="1.0"?><!-- <CustomData> --><w:Environment xmlns:w="w"><w:ProvisioningSection><w:Version a=">">1.0</w:Version><LinuxProvisioningConfigurationSet>
<HostName>vm</HostName><UserName>anna</UserName><UserPassword>secret</UserPassword>` + custom + `</LinuxProvisioningConfigurationSet></w:ProvisioningSection></w:Environment>`
	}
	for name, tc := range map[string]struct {
		custom, problem string
	}{
		"one line":        {"<CustomData>" + std + "</CustomData>", ""},
		"lines":           {"<w:CustomData x='>'>\n" + lines.String() + "</w:CustomData>", ""},
		"URL alphabet":    {"<customdata>" + base64.RawURLEncoding.EncodeToString(data) + "</customdata>", ""},
		"a comment first": {"<CustomData><!-- > -->" + std + "</CustomData>", ""},
		"not base64":      {"<CustomData>" + std[:3<<20] + "." + std[3<<20:] + "</CustomData>", "not base64"},
		"twice":           {"<CustomData>" + std + "</CustomData><CustomData>" + std[4:] + "</CustomData>", "multiple"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, documentName), []byte(doc(tc.custom)), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Load(t.Context(), Dir(dir))
		if err != nil || d.HostName != "vm" || d.UserName != "anna" || d.Password.Reveal() != "secret" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tc.problem == "" && (d.CustomData.Reveal() != string(data) || len(d.Problems) > 0) {
			t.Errorf("%s: %d bytes of custom data, want %d, %v", name, len(d.CustomData.Reveal()), len(data), d.Problems)
		}
		if tc.problem != "" && (d.CustomData.Set() || len(d.Problems) != 1 || !strings.Contains(d.Problems[0].Text, tc.problem)) {
			t.Errorf("%s: problems %v, want %q", name, d.Problems, tc.problem)
		}
		if red, err := d.Redacted(); err != nil || bytes.Contains(red, []byte("secret")) || len(red) > 4096 || !bytes.Contains(red, []byte("<!-- REDACTED -->")) {
			t.Errorf("%s: redacted copy of %d bytes, %v", name, len(red), err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, documentName), []byte(doc("<CustomData>"+strings.Repeat("QUJD", maxDocument/4)+"</CustomData>")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), Dir(dir)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a larger document: %v", err)
	}
}
