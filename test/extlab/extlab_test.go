package extlab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	code := m.Run()
	release.Remove()
	os.Exit(code)
}

// patience is the time limit of tests. It only ends tests that hang.
const patience = 10 * time.Minute

// agent returns the path of the release binary.
func agent(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	return release.Binary(t, "azguest")
}

func opened(t *testing.T, b bundles.Bundle) *Bundle {
	t.Helper()
	file, err := b.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	out, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sample(t *testing.T, name, version string) *Bundle {
	t.Helper()
	for _, b := range bundles.Samples() {
		if b.Name == "Azguest.Samples."+name && b.Version == version {
			return opened(t, b)
		}
	}
	t.Fatalf("no sample %s %s", name, version)
	return nil
}

func good() bundles.Bundle {
	return bundles.Bundle{
		Name: "Pub.Type", Version: "1.0.0", Install: "run.sh install", Enable: "run.sh enable", Update: "run.sh update", Disable: "run.sh disable", Uninstall: "run.sh uninstall",
		Files: map[string]string{"run.sh": "#!/bin/sh\nexit 0\n"},
	}
}

// TestLint: each mistake is reported with its position.
func TestLint(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*bundles.Bundle)
		want   []string
	}{
		"good":            {func(*bundles.Bundle) {}, nil},
		"name":            {func(b *bundles.Bundle) { b.Name = "Pub Type;id" }, []string{`error: the name "Pub Type;id" has characters that agents refuse; letters, digits, dots, dashes and underscores are allowed`}},
		"crlf":            {func(b *bundles.Bundle) { b.Files["run.sh"] = "#!/bin/sh\r\nexit 0\r\n" }, []string{"error: run.sh:1: the line ends with CRLF: the kernel looks for an interpreter whose name ends in a carriage return"}},
		"no #!":           {func(b *bundles.Bundle) { b.Files["run.sh"] = "exit 0\n" }, nil},
		"missing command": {func(b *bundles.Bundle) { b.Enable = "" }, []string{"error: HandlerManifest.json (handlerManifest.enableCommand): missing"}},
		"missing program": {func(b *bundles.Bundle) { b.Enable = "bin/none -x" }, []string{`error: HandlerManifest.json:5 (handlerManifest.enableCommand): "bin/none" is not in the package`}},
		"booleans": {func(b *bundles.Bundle) {
			b.Flags = map[string]any{"reportHeartbeat": "yes", "continueOnUpdateFailure": "true"}
		}, []string{`error: HandlerManifest.json:9 (handlerManifest.reportHeartbeat): "yes" is not a boolean and is treated as false`, `warning: HandlerManifest.json:4 (handlerManifest.continueOnUpdateFailure): "true" is a string; write it without quotes`}},
		"no manifest":  {func(b *bundles.Bundle) { b.Odd.Manifest = "-" }, []string{"error: HandlerManifest.json: the file is missing"}},
		"bad manifest": {func(b *bundles.Bundle) { b.Odd.Manifest = "[\n{\n" }, []string{"error: HandlerManifest.json:3: not an array of objects: unexpected end of JSON input"}},
		"slip":         {func(b *bundles.Bundle) { b.Odd.Raw = map[string]string{"../evil": "x"} }, []string{"error: ../evil: the path leads out of the package; agents refuse it"}},
		"link":         {func(b *bundles.Bundle) { b.Odd.Symlinks = map[string]string{"l": "/etc"} }, []string{"error: l: agents refuse symbolic links, or replace them with files that contain the target path"}},
		"own folders":  {func(b *bundles.Bundle) { b.Files["config/0.settings"] = "{}" }, []string{"error: config/0.settings: the directory config belongs to the agent; files in it are treated as settings or status"}},
		"message":      {func(b *bundles.Bundle) { b.Files["lib.sh"] = "#!/bin/sh\n\necho '\"formatMessage\":'\n" }, []string{"warning: lib.sh:3: formatMessage: the field of a status is called formattedMessage"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := good()
			tc.change(&b)
			var got []string
			for _, f := range Lint(opened(t, b)) {
				got = append(got, f.String())
			}
			if name == "no #!" { // one finding for each command
				if len(got) != 5 || !strings.Contains(got[0], "neither a program nor a script") {
					t.Errorf("got %q", got)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
	for name, tc := range map[string]struct{ doc, want string }{
		"good":   {`[{"version":1.0,"timestampUTC":"x","status":{"operation":"Enable","status":"success","code":0,"formattedMessage":{"lang":"en","message":"m"}}}]`, ""},
		"word":   {`[{"version":1.0,"timestampUTC":"x","status":{"operation":"Enable","status":"Success","code":0,"formattedMessage":{"lang":"en","message":"m"}}}]`, `"Success" is not one of`},
		"typo":   {`[{"version":1.0,"timestampUTC":"x","status":{"operation":"Enable","status":"success","code":0,"formatMessage":{"lang":"en","message":"m"}}}]`, "status.formatMessage"},
		"object": {`{"status":{}}`, "not an array"},
		"sub":    {`[{"version":1.0,"timestampUTC":"x","status":{"operation":"Enable","status":"success","code":0,"formattedMessage":{"lang":"en","message":"m"},"substatus":[{"status":"ok"}]}}]`, "status.substatus[0].status"},
	} {
		got := fmt.Sprint(LintStatus("0.status", []byte(tc.doc)))
		if tc.want == "" && got != "[]" || !strings.Contains(got, tc.want) {
			t.Errorf("status %s: got %s, want %q", name, got, tc.want)
		}
	}
}

// TestRun: the output for the author, and the exit status.
func TestRun(t *testing.T) {
	t.Parallel()
	a := agent(t)
	for _, tc := range []struct {
		name, old, version string
		fails              bool
		want               []string
	}{
		{name: "Hello", old: "1.0.0", version: "1.1.0", want: []string{"update    1.1.0", "uninstall 1.0.0", "status: success, code 0, sequence number 5: ", "protected settings decrypted", "Succeeded"}},
		{name: "Background", version: "1.0.0", want: []string{"stdout | still writing", "done in the background", "Succeeded"}},
		{name: "Multi", version: "1.0.0", want: []string{"status: success", "Succeeded"}},
		{name: "NoSettings", version: "1.0.0", want: []string{"Ready (no extension status)", "Succeeded"}},
		{name: "Crash", version: "1.0.0", fails: true, want: []string{"exit 52", "stderr | about to fail on purpose", "Failed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := Plan{Bundle: sample(t, tc.name, tc.version), Seq: 5, Timeout: patience, Lab: Options{Agent: a}}
			if tc.old != "" {
				p.Old = sample(t, tc.name, tc.old)
			}
			if tc.name == "NoSettings" {
				p.Seq = -1
			} else {
				p.Settings, p.Protected = []byte(`{"greeting":"hi"}`), []byte(`{"secret":"CANARY-9f3e"}`)
			}
			var out bytes.Buffer
			err := Run(t.Context(), p, &out)
			if errors.Is(err, ErrFailed) != tc.fails || err != nil && !tc.fails {
				t.Errorf("error %v\n%s", err, &out)
			}
			for _, w := range tc.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("%q is not in\n%s", w, &out)
				}
			}
			if strings.Contains(out.String(), "CANARY") {
				t.Errorf("a secret is in\n%s", &out)
			}
		})
	}
}

// TestConformance: a good sample passes all checks, and the mistakes of a bad
// handler are reported.
func TestConformance(t *testing.T) {
	t.Parallel()
	a := agent(t)
	t.Run("good", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		got, err := Conformance(t.Context(), Plan{
			Bundle: sample(t, "Hello", "1.1.0"), Old: sample(t, "Hello", "1.0.0"), Settings: []byte(`{"greeting":"hi"}`), Protected: []byte(`{"secret":"CANARY-9f3e"}`),
			Seq: -1, Timeout: patience, Lab: Options{Agent: a},
		}, &out)
		if err != nil || len(got) != 18 || strings.Contains(out.String(), Skip) {
			t.Errorf("%v\n%s", err, &out)
		}
	})
	t.Run("deadly", func(t *testing.T) {
		t.Parallel()
		b := good()
		b.Files["run.sh"] = "#!/bin/sh\n[ $1 = enable ] || exit 0\npkill -9 -f '^/usr/sbin/azguest run'\nexit 0\n"
		var out bytes.Buffer
		got, err := Conformance(t.Context(), Plan{Bundle: opened(t, b), Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, &out)
		if err != nil || len(got) != 18 || strings.Count(out.String(), "the agent was killed 1 times during this check") < 3 || strings.Count(out.String(), string(errBare)) != 4 {
			t.Errorf("%v\n%s", err, &out)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		b := good()
		b.Files["run.sh"] = "#!/bin/sh\nprintf 'a\\r\\n\\033[2Jb'\nexit 1\n"
		var out bytes.Buffer
		_, err := Conformance(t.Context(), Plan{Bundle: opened(t, b), Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, &out)
		if !errors.Is(err, ErrFailed) || strings.ContainsAny(out.String(), "\r\x1b") || strings.Count(out.String(), "\n") != 3 || strings.Contains(out.String(), "\ufffd \ufffd") {
			t.Errorf("%v\n%q", err, out.String())
		}
	})
	t.Run("careless", func(t *testing.T) {
		t.Parallel()
		b := good()
		b.Files["run.sh"] = `#!/bin/sh
cd "$(dirname "$0")" || exit 1
case $1 in
enable)
	cat config/*.settings >/var/log/azure/debug.log
	seq=$(ls config | grep -c settings)
	echo '[{"status":{"status":"success","message":"done"}}]' >status/0.status
	echo '[{"status":{"status":"success","message":"done"}}]' >"status/$ConfigSequenceNumber.status"
	setsid sleep 1000 >/dev/null 2>&1 &
	;;
uninstall) exit 1 ;;
esac
`
		var out bytes.Buffer
		_, err := Conformance(t.Context(), Plan{Bundle: opened(t, b), Settings: []byte(`{"a":1}`), Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, &out)
		if !errors.Is(err, ErrFailed) {
			t.Errorf("%v\n%s", err, &out)
		}
		for _, w := range []string{
			"FAIL  status file                      error: status/0.status (status.message): this field is ignored; the message goes into formattedMessage",
			"FAIL  disable and uninstall            uninstall exited with code 1", "FAIL  no leftovers", "still running: ", "skip  update from N-1",
		} {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%q is not in\n%s", w, &out)
			}
		}
	})
}
