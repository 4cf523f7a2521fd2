package extlab

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// chapter returns a part of extensions/SPEC.md, from its heading to the next
// one of the same or a higher level.
func chapter(t *testing.T, heading string) string {
	t.Helper()
	doc, err := os.ReadFile("../../extensions/SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	level, _, _ := strings.Cut(heading, " ")
	_, rest, ok := strings.Cut(string(doc), "\n"+heading+" ")
	if !ok {
		t.Fatalf("extensions/SPEC.md has no %q", heading)
	}
	if end := regexp.MustCompile(`(?m)^#{1,` + string(rune('0'+len(level))) + `} [0-9]`).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// block returns the only code block in a part of the specification.
func block(t *testing.T, heading string) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```[a-z]+\n(.*?)```").FindAllStringSubmatch(chapter(t, heading), -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d pieces of code", heading, len(found))
	}
	return found[0][1]
}

// specified packs the handler of extensions/SPEC.md §20 exactly as printed
// there.
func specified(t *testing.T, version string) *Bundle {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for name, heading := range map[string]string{"HandlerManifest.json": "### 20.2", "bin/hello.sh": "### 20.3"} {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(block(t, heading)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "Contoso.Hello__"+version+".zip")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSpecifiedHandler: the minimal handler of the specification passes all
// checks, unchanged.
func TestSpecifiedHandler(t *testing.T) {
	if !strings.Contains(block(t, "### 20.5"), "fabric ext conformance Contoso.Hello__1.0.0.zip --settings s.json --protected p.json") {
		t.Error("extensions/SPEC.md §20.5 runs other commands than this test")
	}
	for _, f := range Lint(specified(t, "1.0.0")) {
		t.Errorf("lint: %s", f)
	}
	for _, f := range LintStatus("0.status", []byte(block(t, "### 7.2"))) {
		t.Errorf("the status of extensions/SPEC.md §7.2: %s", f)
	}
	a := agent(t)
	for name, p := range map[string]Plan{
		"with settings": {Settings: []byte(`{"greeting": "good morning"}`), Protected: []byte(`{"token": "t0ps3cret"}`)},
		"without":       {},
	} {
		t.Run(name, func(t *testing.T) {
			p.Bundle, p.Old, p.Seq, p.Timeout, p.Lab = specified(t, "1.1.0"), specified(t, "1.0.0"), -1, patience, Options{Agent: a}
			var out bytes.Buffer
			if _, err := Conformance(t.Context(), p, &out); err != nil || strings.Contains(out.String(), "FAIL") {
				t.Errorf("%v\n%s", err, &out)
			}
			t.Logf("%s", &out)
		})
	}
}
