package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/test/peak"
)

// document has all kinds of values that the service is documented to have.
const document = `{"compute":{"azEnvironment":"AzurePublicCloud","additionalCapabilities":{"hibernationEnabled":"false"},"customData":"","evictionPolicy":"",
"extendedLocation":{"type":"","name":""},"host":{"id":""},"hostGroup":{"id":""},"isHostCompatibilityLayerVm":"true","isVmInStandbyPool":"false","licenseType":"","location":"westus",
"name":"web01","offer":"debian-12","osProfile":{"adminUsername":"azureuser","computerName":"web01","disablePasswordAuthentication":"true"},"osType":"Linux",
"placementGroupId":"f67c14ab-e92c-408c-ae2d-da15866ec79a","plan":{"name":"p","product":"q","publisher":"r"},"platformFaultDomain":"36","platformSubFaultDomain":"","platformUpdateDomain":"42","priority":"Regular",
"publicKeys":[{"keyData":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKkMU4n7tn9fbSIiBzzYgV0AzdcBVQCxo3Yb3dwdUMZV user","path":"/home/azureuser/.ssh/authorized_keys"}],
"publisher":"debian","resourceGroupName":"rg-a","resourceId":"/subscriptions/xxxxx/resourceGroups/rg-a/providers/Microsoft.Compute/virtualMachines/web01",
"securityProfile":{"secureBootEnabled":"true","virtualTpmEnabled":"false","encryptionAtHost":"true","securityType":"TrustedLaunch"},"sku":"12-gen2",
"storageProfile":{"dataDisks":[{"bytesPerSecondThrottle":"979202048","caching":"None","createOption":"Empty","diskCapacityBytes":"274877906944","diskSizeGB":"1024","image":{"uri":""},"isSharedDisk":"false","isUltraDisk":"true","lun":"0","managedDisk":{"id":"/subscriptions/xxxxx/disks/d","storageAccountType":"StandardSSD_LRS"},"name":"d","opsPerSecondThrottle":"65280","vhd":{"uri":""},"writeAcceleratorEnabled":"false"}],
"imageReference":{"id":"","offer":"debian-12","publisher":"debian","sku":"12-gen2","version":"0.20240101.1","communityGalleryImageId":"/CommunityGalleries/x/Images/y/Versions/1.0.0"},
"osDisk":{"caching":"ReadWrite","createOption":"FromImage","diskSizeGB":"30","diffDiskSettings":{"option":"Local"},"encryptionSettings":{"enabled":"false","diskEncryptionKey":{"sourceVault":{"id":"/subscriptions/t/vaults/v"},"secretUrl":"https://v.vault.example/secrets/s"},"keyEncryptionKey":{"sourceVault":{"id":"/subscriptions/t/vaults/v"},"keyUrl":"https://v.vault.example/keys/k"}},"image":{"uri":""},"managedDisk":{"id":"/subscriptions/xxxxx/disks/os","storageAccountType":"StandardSSD_LRS"},"name":"os","osType":"Linux","vhd":{"uri":""},"writeAcceleratorEnabled":"false"},"resourceDisk":{"size":"34816"}},
"subscriptionId":"8d10da13-8125-4ba9-a717-bf7490507b3d","tags":"env:prod;Owner:ops team","tagsList":[{"name":"env","value":"prod"},{"name":"Owner","value":"ops team"}],
"userData":"I2Nsb3VkLWNvbmZpZwo=","version":"0.20240101.1","virtualMachineScaleSet":{"id":""},"vmId":"02aab8a4-74ef-476e-8182-f6d2ba4166a6","vmScaleSetName":"","vmSize":"Standard_B2s","zone":"","physicalZone":"useast-AZ01"},
"network":{"interface":[{"ipv4":{"ipAddress":[{"privateIpAddress":"10.144.133.132","publicIpAddress":""}],"subnet":[{"address":"10.144.133.128","prefix":"26"}]},"ipv6":{"ipAddress":[]},"macAddress":"0011AAFFBB22"}]},
"extended":{"compute":{"hasCustomData":false,"ppsType":"None","n":1.5e3,"nothing":null}}}`

func mustParse(t testing.TB, doc string) *Node {
	t.Helper()
	n, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFind(t *testing.T) {
	t.Parallel()
	n := mustParse(t, document)
	for _, tc := range []struct{ path, want string }{
		{"compute/vmId", "02aab8a4-74ef-476e-8182-f6d2ba4166a6\n"},
		{"COMPUTE/vmid", "02aab8a4-74ef-476e-8182-f6d2ba4166a6\n"},
		{"/compute/vmId/", "02aab8a4-74ef-476e-8182-f6d2ba4166a6\n"},
		{"instance/compute/vmId", "02aab8a4-74ef-476e-8182-f6d2ba4166a6\n"},
		{"network/interface/0/macAddress", "0011AAFFBB22\n"},
		{"compute/tagsList/1/name", "Owner\n"},
		{"compute/tags", "env:prod;Owner:ops team\n"},
		{"compute/tags/env", "prod\n"},
		{"compute/tags/owner", "ops team\n"},
		{"compute/zone", "\n"},
		{"extended/compute/hasCustomData", "false\n"},
		{"extended/compute/n", "1.5e3\n"},
		{"extended/compute/nothing", "\n"},
		{"compute/plan", "name: p\nproduct: q\npublisher: r\n"},
		{"network", "interface:\n  0:\n    ipv4:\n      ipAddress:\n        0:\n          privateIpAddress: 10.144.133.132\n          publicIpAddress: \"\"\n      subnet:\n        0:\n          address: 10.144.133.128\n          prefix: 26\n    ipv6:\n      ipAddress: []\n    macAddress: 0011AAFFBB22\n"},
	} {
		got, _, err := n.Find(tc.path)
		if err != nil {
			t.Errorf("Find(%q): %v", tc.path, err)
			continue
		}
		var b strings.Builder
		if err := got.Text(&b); err != nil || b.String() != tc.want {
			t.Errorf("Find(%q) is %q (%v), want %q", tc.path, b.String(), err, tc.want)
		}
	}
	for path, want := range map[string]string{
		"compute/vmIdd":           `the metadata have no "compute/vmIdd"; did you mean "compute/vmId"?`,
		"compute/vmId/x":          `the metadata have no "compute/vmId/x"`,
		"network/interface/1":     `the metadata have no "network/interface/1"`,
		"network/interface/-1":    `the metadata have no "network/interface/-1"`,
		"network/interface/00":    `the metadata have no "network/interface/00"`,
		"compute/tags/envy":       `the metadata have no "compute/tags/envy"; did you mean "compute/tags/env"?`,
		"compute/tags/a\x1b[2J":   `the metadata have no "compute/tags/a\x1b[2J"`,
		"compute//vmId":           `the metadata have no "compute/"`,
		strings.Repeat("a/", 1e5): `the metadata have no "a"`,
	} {
		_, _, err := n.Find(path)
		if _, ok := errors.AsType[*NotFoundError](err); !ok || err.Error() != want {
			t.Errorf("Find(%.40q) = %v, want %s", path, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for doc, ok := range map[string]bool{
		`{}`: true, document: true, ` {"a":[]} `: true,
		``: false, `null`: false, `[]`: false, `"x"`: false, `{`: false, `{"a":}`: false, `{} {}`: false, `<html>`: false,
		strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 100):   false,
		`{"a":[` + strings.Repeat(`0,`, 30_000) + `0]}`:                 false,
		`{"a":"` + strings.Repeat(`x`, 1<<20) + `"}`:                    false,
		`{"a":"` + strings.Repeat(`x`, 1<<20-100) + `","b":["\u0000"]}`: true,
	} {
		if _, err := Parse([]byte(doc)); (err == nil) != ok {
			t.Errorf("Parse(%.40q) = %v", doc, err)
		}
	}
	n := mustParse(t, `{"b":1,"a":2,"b":"<&>"}`)
	if got, err := n.MarshalJSON(); err != nil || string(got) != `{"b":"<&>","a":2}` {
		t.Errorf("JSON is %s, %v", got, err)
	}
	var b strings.Builder
	if err := mustParse(t, "{\"a\":\"\u009b2J\u202e\U000e0001\"}").JSON(&b); err != nil || b.String() != "{\n  \"a\": \"\\u009b2J\\u202e\\udb40\\udc01\"\n}\n" {
		t.Errorf("JSON for a terminal is %q, %v", b.String(), err)
	}
}

func TestTreeIsHarmless(t *testing.T) {
	t.Parallel()
	n := mustParse(t, `{"a":"two\nlines","b\u001b[2J":"\u001b]0;x\u0007","c":"\"quoted\"","d":" blank","userData":"QUFBQQ==","e":{},"f":"\u202e"}`)
	var b strings.Builder
	if err := n.Text(&b); err != nil {
		t.Fatal(err)
	}
	want := `a: "two\nlines"` + "\n" + `"b\x1b[2J": "\x1b]0;x\a"` + "\n" + `c: "\"quoted\""` + "\n" + `d: " blank"` + "\nuserData: (8 characters of base64)\ne: {}\n" + `f: "\u202e"` + "\n"
	if b.String() != want {
		t.Errorf("tree:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	n := mustParse(t, document)
	for begin, want := range map[string][]string{
		"":                            {"compute/", "network/", "extended/"},
		"comp":                        {"compute/"},
		"compute/vm":                  {"compute/vmId", "compute/vmScaleSetName", "compute/vmSize"},
		"compute/VMi":                 {"compute/vmId"},
		"compute/ta":                  {"compute/tags", "compute/tags/", "compute/tagsList/"},
		"compute/tags/":               {"compute/tags/env", "compute/tags/Owner"},
		"compute/tags/o":              {"compute/tags/Owner"},
		"network/interface/":          {"network/interface/0/"},
		"network/interface/0/mac":     {"network/interface/0/macAddress"},
		"nothing/":                    nil,
		"compute/vmId/":               nil,
		strings.Repeat("compute/", 9): nil,
	} {
		if got := n.Complete(begin); !slices.Equal(got, want) {
			t.Errorf("Complete(%q) = %q, want %q", begin, got, want)
		}
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	_, omitted := mustParse(t, document).Public()
	if want := []string{"compute/userData"}; !slices.Equal(omitted, want) {
		t.Errorf("of an ordinary document, %q is left out, want %q", omitted, want)
	}
	const hostile = `{"compute":{"userData":"c2VjcmV0","customData":"c2VjcmV0","vendorData":"c2VjcmV0","vmId":"v","tags":"a:b;dbPassword:hunter2-S3cret;conn:x",
"tagsList":[{"name":"a","value":"b"},{"name":"dbPassword","value":"hunter2-S3cret"},{"name":"conn","value":"DefaultEndpointsProtocol=https;AccountName=n;AccountKey=aHVudGVyMi1TM2NyZXQ="}],
"more":["https://a.blob.example/c?sv=2020&sig=aHVudGVyMi1TM2NyZXQ%3D","plain"],"UserDATA":"c2VjcmV0"}}`
	n, omitted := mustParse(t, hostile).Public()
	want := []string{"compute/userData", "compute/customData", "compute/vendorData", "compute/tags", "compute/tagsList/1/value", "compute/tagsList/2/value", "compute/more/0", "compute/UserDATA"}
	if !slices.Equal(omitted, want) {
		t.Errorf("left out %q, want %q", omitted, want)
	}
	text, err := n.MarshalJSON()
	if err != nil || string(text) != `{"compute":{"vmId":"v","tagsList":[{"name":"a","value":"b"},{"name":"dbPassword"},{"name":"conn"}],"more":[null,"plain"]}}` {
		t.Errorf("public document %s, %v", text, err)
	}
	if got, _, err := n.Find("compute/tags/a"); err != nil || got.Value() != "b" {
		t.Errorf("tag a of the public document: %v, %v", got, err)
	}
}

// hostileValues are values that a careless writer of shell would execute, or
// lose.
var hostileValues = []string{
	"plain", "", " ", "two\nlines", "\n", "'", "''", `'\''`, `"`, `\`, `\\`, `\n`, `ends with \`, "$(touch pwned)", "`touch pwned`", "${HOME}", "$HOME", "$$", "$((1+1))",
	"'; touch pwned; '", "\"; touch pwned; \"", "a\n touch pwned\n", "#x", "a # b", "~", "*", "!!", "!1", "a=b", "tab\there", "\r", "\x01\x02", "\x1b[2J", "\x7f", "ü€𝄞", "\u0085", "\u2028", "\ufdd0", "x\uffff", "\U0001fffe", "\ufffd", "\ufeff", "\ue000",
	"<(touch pwned)", "{a,b}", "&& touch pwned", "| touch pwned", "%s%n", "-n", "--", strings.Repeat("x'", 1000), "\\\n", "ends\n\n",
}

// TestShellsReadBackWhatWasWritten sources what Shell and Unit write with the
// shells of this machine.
func TestShellsReadBackWhatWasWritten(t *testing.T) {
	t.Parallel()
	doc, err := json.Marshal(map[string]any{"v": hostileValues, "z": "last"})
	if err != nil {
		t.Fatal(err)
	}
	vars, left := mustParse(t, string(doc)).Variables(nil)
	if len(left) != 0 || len(vars) != len(hostileValues)+1 {
		t.Fatalf("%d variables, left out %q", len(vars), left)
	}
	var shell bytes.Buffer
	if err := Shell(&shell, vars); err != nil {
		t.Fatal(err)
	}
	forms := map[string][]byte{"shell": shell.Bytes(), "unit": Unit(vars)}
	for _, sh := range []string{"sh", "dash", "bash", "busybox sh", "zsh", "zsh -o rcquotes", "mksh", "ksh"} {
		words := strings.Fields(sh)
		program, err := exec.LookPath(words[0])
		if err != nil {
			continue
		}
		for form, text := range forms {
			dir := t.TempDir()
			file := filepath.Join(dir, "vars")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			for how, script := range map[string]string{"source": ". ./vars\n", "eval": `eval "$(cat vars)"` + "\n"} {
				want := ""
				for _, v := range vars {
					if form == "unit" && strings.ContainsFunc(v.Value, notForUnits) {
						continue
					}
					script += "printf '%s\\0' \"$" + v.Name + "\"\n"
					want += v.Value + "\x00"
				}
				cmd := exec.CommandContext(t.Context(), program, append(words[1:], "-uec", script)...)
				cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=/nowhere"}
				got, err := cmd.CombinedOutput()
				if err != nil || string(got) != want {
					t.Errorf("%s %s %s: %v: got %q, want %q", sh, how, form, err, got, want)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
				t.Errorf("%s executed a value", sh)
			}
		}
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	n := mustParse(t, `{"a":{"b":"1"},"a_b":"2","A-B":"3","c d;e":"4","ü":"5","nul":"x\u0000y","n":null,"tags":"x:1","tagsList":[{"name":"x y","value":"1"}],"`+strings.Repeat("l", 300)+`":"6"}`)
	vars, left := n.Variables(nil)
	want := []Variable{
		{"AZ_C_D_E", "4"}, {"AZ__", "5"}, {"AZ_N", ""}, {"AZ_TAGS", "x:1"}, {"AZ_TAGSLIST_0_NAME", "x y"}, {"AZ_TAGSLIST_0_VALUE", "1"}, {"AZ_TAGS_X_Y", "1"},
	}
	if !reflect.DeepEqual(vars, want) {
		t.Errorf("variables %q, want %q", vars, want)
	}
	if len(left) != 3 || left[0] != "AZ_A_B: several values would have this name" || left[1] != "AZ_NUL: the value has a NUL, which no variable can have" || !strings.HasSuffix(left[2], "L: the name is too long") {
		t.Errorf("left out %q", left)
	}
	// Because of one such character, systemd refuses the file.
	if text := string(Unit([]Variable{{"AZ_A", "\ufdd0"}, {"AZ_B", "x\uffff"}, {"AZ_C", "\U0010fffe"}, {"AZ_D", "\ufffd\ue000"}})); !strings.HasSuffix(text, ").\nAZ_D=\"\ufffd\ue000\"\n") {
		t.Errorf("file for units %q", text)
	}
	// A unit whose environment is too long would not start.
	big := []Variable{{"AZ_LONG", strings.Repeat("x", maxUnitValue+1)}, {"AZ_SHORT", "x"}}
	for i := range 100 {
		big = append(big, Variable{fmt.Sprintf("AZ_%d", i), strings.Repeat("x", maxUnitValue)})
	}
	if text := string(Unit(big)); strings.Contains(text, "AZ_LONG") || !strings.Contains(text, "AZ_SHORT=\"x\"\n") || len(text) > maxUnitPerFile {
		t.Errorf("file for units has %d bytes", len(text))
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	now := time.Date(2026, 12, 1, 12, 0, 0, 5, time.FixedZone("", 3600))
	doc := mustParse(t, document)
	if _, err := ReadCache(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no cache: %v", err)
	}
	if err := WriteCache(root, doc, now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("written without its directory: %v", err)
	}
	if err := root.MkdirAll("/run/azguest", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(WriteCache(root, doc, now), WriteUnit(root, doc)); err != nil {
		t.Fatal(err)
	}
	c, err := ReadCache(root)
	if err != nil || !c.Fetched.Equal(now.Truncate(time.Second)) || !c.Hides("Compute/userdata/") || c.Hides("compute/vmId") || c.Hides("") {
		t.Fatalf("cache %+v, %v", c, err)
	}
	if v, _, err := c.Document.Find("compute/vmId"); err != nil || v.Value() != "02aab8a4-74ef-476e-8182-f6d2ba4166a6" {
		t.Errorf("vmId in the cache: %v, %v", v, err)
	}
	for _, f := range []string{CacheFile, UnitFile} {
		fi, err := root.Stat(f)
		b, rerr := root.ReadFile(f)
		if err != nil || rerr != nil || fi.Mode() != 0o644 || bytes.Contains(b, []byte("I2Nsb3VkLWNvbmZpZwo")) {
			t.Errorf("%s: %v, %v, %v", f, fi, err, rerr)
		}
	}
	before, _ := root.Stat(UnitFile)
	if err := WriteUnit(root, doc); err != nil {
		t.Error(err)
	}
	if after, _ := root.Stat(UnitFile); !os.SameFile(before, after) {
		t.Error("the file for units was replaced without a change")
	}
	if err := WriteUnit(root, mustParse(t, `{"a":"b"}`)); err != nil {
		t.Error(err)
	}
	if b, _ := root.ReadFile(UnitFile); !strings.HasSuffix(string(b), "\nAZ_A=\"b\"\n") {
		t.Errorf("file for units: %s", b)
	}
	for text, want := range map[string]string{
		"": "file does not exist", "\n": "file does not exist", "{": "not JSON", `{"schema_version":2}`: "version 2, not 1", `{"schema_version":1}`: "not JSON",
		`{"schema_version":1,"document":[]}`: "not a JSON object", strings.Repeat(" ", maxCache+1): "more than",
	} {
		if err := root.WriteFile(CacheFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadCache(root); err == nil || !strings.Contains(err.Error(), want) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cache %.30q: %v, want %s", text, err, want)
		}
	}
}

// TestLargestCacheCanBeRead: a document that is accepted is one that the cache
// gives back.
func TestLargestCacheCanBeRead(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	if err := root.MkdirAll("/run/azguest", 0o755); err != nil {
		t.Fatal(err)
	}
	doc := mustParse(t, `{"a":"`+strings.Repeat("\x7f\u2028", 250_000)+`"}`)
	if err := WriteCache(root, doc, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCache(root); err != nil {
		t.Error(err)
	}
}

// FuzzDocument: whatever the document, each form of it can be read back, and
// none has what is private.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte(`{"a":{"b":"'"},"tagsList":[{"name":"x","value":"$(y)"}]}`))
	f.Add([]byte(`{"tagsList":{"name":"x"},"tags":{"a":[1]},"":{"":null}}`))
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		n, err := Parse(b)
		if err != nil {
			return
		}
		text, err := n.MarshalJSON()
		if err != nil || !json.Valid(text) {
			t.Fatalf("JSON %q, %v", text, err)
		}
		for _, p := range n.Complete("") {
			if _, _, err := n.Find(p); err != nil && p != "" && !strings.Contains(p, "//") && p[0] != '/' && !strings.EqualFold(strings.Trim(p, "/"), "instance") && !strings.Contains(strings.TrimSuffix(p, "/"), "/") {
				t.Errorf("completed %q is not found: %v", p, err)
			}
		}
		public, _ := n.Public()
		vars, _ := public.Variables(nil)
		var shell bytes.Buffer
		if err := Shell(&shell, vars); err != nil {
			t.Fatal(err)
		}
		if got := readShell(shell.String()); !reflect.DeepEqual(got, vars) && len(vars) > 0 {
			t.Errorf("%q is read as %q, want %q", shell.String(), got, vars)
		}
		if !utf8.Valid(Unit(vars)) {
			t.Errorf("file for units is not UTF-8")
		}
	}))
}

// readShell reads assignments as a POSIX shell would: it knows only single
// quotes and the backslash between them.
func readShell(s string) (out []Variable) {
	for s != "" {
		name, rest, _ := strings.Cut(s, "=")
		value := ""
		for {
			quoted, ok := strings.CutPrefix(rest, "'")
			if !ok {
				break
			}
			part, after, _ := strings.Cut(quoted, "'")
			value, rest = value+part, after
			if after, ok := strings.CutPrefix(rest, `\'`); ok {
				value, rest = value+"'", after
			}
		}
		out = append(out, Variable{name, value})
		s = strings.TrimPrefix(rest, "\n")
	}
	return out
}
