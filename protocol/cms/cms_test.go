package cms

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/secret"
)

// TestPlatformPackageSignature reads a signature that the platform sent. The
// package that it signs is not at hand, so only the signer is checked.
func TestPlatformPackageSignature(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, "waagent/hostgaplugin/vm_settings.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		ExtensionGoalStates []struct{ EncodedSignature string }
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range doc.ExtensionGoalStates {
		if e.EncodedSignature == "" {
			continue
		}
		n++
		s, err := ParseSignature(e.EncodedSignature)
		if err != nil {
			t.Fatal(err)
		}
		if s.Signer().Subject.CommonName != "Microsoft Corporation" {
			t.Errorf("signer %s", s.Signer().Subject)
		}
		if err := s.Verify(strings.NewReader("not the package"), nil); err == nil {
			t.Error("verified another content")
		}
	}
	if n == 0 {
		t.Error("no signature in the document")
	}
}

func TestSettingsThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	if _, err := DecryptSettings(secret.New("AAAA"), nil, nil); err == nil {
		t.Error("opened without a key")
	}
	if _, err := DecryptSettings(secret.New("-"), nil, nil); err == nil || !strings.Contains(err.Error(), "base64") {
		t.Errorf("%v", err)
	}
}
