package hostga

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

const example = `{
  "hostGAPluginVersion": "1.0.8.175", "vmSettingsSchemaVersion": "0.0", "activityId": "act", "correlationId": "cor", "inSvdSeqNo": 10,
  "extensionsLastModifiedTickCount": 638712870000000000, "extensionGoalStatesSource": "FastTrack", "onHold": "True",
  "statusUploadBlob": { "statusBlobType": "PageBlob", "value": "https://st/x?sig=abc%3d" },
  "requiredFeatures": [ { "name": "MultipleExtensionsPerHandler" } ],
  "gaFamilies": [ { "name": "Prod", "version": "3.0.2.1", "fromVersion": "3.1.0.0", "isVersionFromRSM": true, "uris": [ "https://a/m.xml" ] } ],
  "extensionGoalStates": [
    { "name": "Contoso.Tools.Single", "version": "1.2.3", "location": "https://a", "failoverLocation": "https://b", "additionalLocations": [ "https://c" ],
      "state": "enabled", "encodedSignature": "MIIC", "settingsSeqNo": 5, "isMultiConfig": false,
      "settings": [ { "publicSettings": "{\"k\":1}", "protectedSettings": "MIIB", "protectedSettingsCertThumbprint": "01AB" } ],
      "dependsOn": [ { "dependsOnExtension": [ { "handler": "Contoso.Tools.Multi", "extension": "first" } ], "dependencyLevel": 2 } ] },
    { "name": "Contoso.Tools.Multi", "version": "2.0.0", "location": "https://a", "state": "enabled", "settingsSeqNo": 0, "isMultiConfig": true,
      "settings": [ { "publicSettings": "{\"a\":1}", "seqNo": 1, "extensionName": "first", "extensionState": "enabled" },
                    { "publicSettings": "{}", "seqNo": 3, "extensionName": "second", "extensionState": "disabled" } ],
      "dependsOn": [ { "name": "second", "dependencyLevel": 1, "dependsOnExtension": [ { "handler": "Contoso.Tools.Multi", "extension": "first" } ] } ] }
  ]
}`

func TestFact11KeysInAnyCase(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"as specified": example,
		"lower":        lowerKeys(example, strings.ToLower),
		"upper":        lowerKeys(example, strings.ToUpper),
		"bom, padding": "\xef\xbb\xbf" + example + "\x00\x00",
	} {
		vm, err := ParseVMSettings([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if vm.Plugin != "1.0.8.175" || vm.Source != "FastTrack" || !vm.OnHold || !vm.StatusBlob.Page || string(vm.SeqNo) != "10" || vm.CreatedTicks != 638712870000000000 {
			t.Errorf("%s: %+v", name, vm)
		}
		if f := vm.Families[0]; f.Name != "Prod" || !*f.VersionByRSM || f.RSMEnabled != nil || len(f.ManifestURIs) != 1 {
			t.Errorf("%s: family %+v", name, f)
		}
		s, m := vm.Handlers[0], vm.Handlers[1]
		if s.Invalid != "" || len(s.Manifests) != 3 || string(s.Settings[0].Public) != `{"k":1}` || s.Settings[0].Seq != 5 || s.Settings[0].Level != 2 || len(s.Settings[0].After) != 1 || s.Signature != "MIIC" {
			t.Errorf("%s: single %+v", name, s)
		}
		if m.Invalid != "" || !m.MultiConfig || len(m.Settings) != 2 || m.Settings[1].Want != protocol.WantDisabled || m.Settings[1].Level != 1 || m.Settings[0].Seq != 1 {
			t.Errorf("%s: multi %+v", name, m)
		}
	}
}

// lowerKeys changes the keys of the document, but not its texts.
func lowerKeys(text string, change func(string) string) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		if text[i] != '"' {
			out.WriteByte(text[i])
			i++
			continue
		}
		j := i + 1
		for text[j] != '"' {
			if text[j] == '\\' {
				j++
			}
			j++
		}
		s := text[i : j+1]
		if text[j+1] == ':' {
			s = change(s)
		}
		out.WriteString(s)
		i = j + 1
	}
	return out.String()
}

func TestOneBadHandlerHurtsNoOther(t *testing.T) {
	t.Parallel()
	for bad, want := range map[string]string{
		`{"name":"Bad","version":"1","state":"paused"}`:                                                                      `unknown state "paused"`,
		`{"name":"Bad","version":"1"}`:                                                                                       `unknown state ""`,
		`{"name":"Bad","state":"enabled"}`:                                                                                   "received empty version",
		`{"name":"Bad","version":"1","state":"enabled","settings":[{},{}]}`:                                                  "2 settings for a single-config extension",
		`{"name":"Bad","version":"1","state":"enabled","settings":[{}]}`:                                                     "settings have no settingsSeqNo",
		`{"name":"Bad","version":"1","state":"enabled","settingsSeqNo":1,"settings":[{"publicSettings":"{"}]}`:               "public settings of Bad: not JSON",
		`{"name":"Bad","version":"1","state":"enabled","settingsSeqNo":1,"settings":[{"protectedSettings":"x"}]}`:            "Bad has protected settings without a certificate thumbprint",
		`{"name":"Bad","version":"1","state":"enabled","settings":{}}`:                                                       "settings has JSON type object",
		`{"name":"Bad","version":"1","state":"enabled","isMultiConfig":true,"settings":[{"seqNo":1}]}`:                       "settings entry 0 has no extensionName",
		`{"name":"Bad","version":"1","state":"enabled","isMultiConfig":true,"settings":[{"extensionName":"x"}]}`:             "x has no seqNo",
		`{"name":"Bad","version":"1","state":"enabled","isMultiConfig":true,"dependsOn":[{"name":"y","dependencyLevel":1}]}`: `dependsOn names the unknown extension "y"`,
	} {
		vm, err := ParseVMSettings([]byte(`{"extensionGoalStates":[{"name":"Good","version":"1","state":"enabled"},` + bad + `,{"name":"Last","version":"1","state":"uninstall"}]}`))
		if err != nil || len(vm.Handlers) != 3 || vm.Handlers[0].Invalid != "" || vm.Handlers[2].Invalid != "" || !strings.EqualFold(vm.Handlers[1].Invalid, want) {
			t.Errorf("%s: %v, %+v", bad, err, vm.Handlers)
		}
	}
}

// TestNoHandlerIsLost: handlers that a goal state does not name are deleted,
// so a list that can't be read is not an empty one, and a handler that lost
// its name is still counted.
func TestNoHandlerIsLost(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{`{}`, `"x"`, `5`, `true`, `{"name":"A"}`} {
		vm, err := ParseVMSettings([]byte(`{"hostGAPluginVersion":"1.0.8.175","extensionGoalStates":` + bad + `}`))
		if err != nil || len(vm.Handlers) != 1 || vm.Handlers[0].Name != "" || vm.Handlers[0].Invalid == "" {
			t.Errorf("%s: %+v, %v", bad, vm, err)
		}
	}
	for text, want := range map[string]int{
		`{}`: 0, `{"extensionGoalStates":null}`: 0, `{"extensionGoalStates":[]}`: 0,
		`{"extensionGoalStates":[null,5,{"name":7,"version":"1"},{"name":"A","version":"1","state":"enabled"}]}`: 4,
	} {
		vm, err := ParseVMSettings([]byte(text))
		if err != nil || len(vm.Handlers) != want {
			t.Errorf("%s: %+v, %v", text, vm, err)
			continue
		}
		for i, h := range vm.Handlers {
			if (h.Invalid == "") != (i == 3) {
				t.Errorf("%s: %+v", text, h)
			}
		}
	}
}

func TestPlatformDocuments(t *testing.T) {
	t.Parallel()
	for name, handlers := range map[string]int{
		"hostgaplugin/vm_settings.json": 5, "hostgaplugin/vm_settings-out-of-sync.json": 1, "hostgaplugin/vm_settings-empty_depends_on.json": 1,
		"hibernate/goal_state_1/VmSettings.json": 3, "hibernate/goal_state_2/VmSettings.json": 3, "hibernate/goal_state_3/VmSettings.json": 3,
	} {
		vm, err := ParseVMSettings(fixture(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, h := range vm.Handlers {
			if h.Invalid != "" || len(h.Manifests) == 0 {
				t.Errorf("%s: %s: %s", name, h.Name, h.Invalid)
			}
		}
		if len(vm.Handlers) != handlers || vm.StatusBlob.URL.Empty() || len(vm.Families) == 0 {
			t.Errorf("%s: %d handlers, want %d", name, len(vm.Handlers), handlers)
		}
	}
	if vm, err := ParseVMSettings(fixture(t, "hostgaplugin/vm_settings-parse_error.json")); err == nil {
		t.Logf("a document that WALinuxAgent refuses has %d handlers", len(vm.Handlers))
	}
}

func TestOlder(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]bool{"1.0.8.132": true, "1.0.8.133": false, "1.0.8.1000": false, "1.0.9": false, "1.0.8": true, "": true, "2": false, "x": true} {
		if got := Older(v, minVMSettings); got != want {
			t.Errorf("Older(%q) = %v", v, got)
		}
	}
}

func FuzzVMSettings(f *testing.F) {
	f.Add([]byte(example))
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		vm, err := ParseVMSettings(b)
		if err != nil {
			return
		}
		for _, h := range vm.Handlers {
			for _, s := range h.Settings {
				if s.Public != nil && !json.Valid(s.Public) {
					t.Errorf("public settings that are no JSON: %q", s.Public)
				}
			}
		}
	}))
}

func TestLevelsAreNotNegative(t *testing.T) {
	t.Parallel()
	vm, err := ParseVMSettings([]byte(`{"extensionGoalStates":[{"name":"A","version":"1","state":"enabled","settingsSeqNo":1,"settings":[{}],"dependsOn":[{"dependencyLevel":-3}]},
{"name":"B","version":"1","state":"enabled","dependsOn":[{"dependencyLevel":"-1"}]}]}`))
	if err != nil || len(vm.Handlers) != 2 || vm.Handlers[0].Settings[0].Level != 0 || vm.Handlers[1].Level != 0 {
		t.Errorf("ParseVMSettings() = %+v, %v", vm, err)
	}
}
