package generalize_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/provisioning/generalize"
)

var update = flag.Bool("update", false, "write the table in provisioning/SPEC.md")

// TestIdentityTableIsInSpec: provisioning/SPEC.md §14.2 shows the table.
func TestIdentityTableIsInSpec(t *testing.T) {
	t.Parallel()
	const name = "../SPEC.md"
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table of identity: begin (go test ./provisioning/generalize -run InSpec -update) -->\n", "<!-- table of identity: end -->\n"
	head, rest, ok1 := strings.Cut(string(b), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("provisioning/SPEC.md has no place for the table")
	}
	want := specTable()
	if *update {
		if err := os.WriteFile(name, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, code := range generalize.VerifyCodes() {
		if !strings.Contains(tail, "`"+code+"`") {
			t.Errorf("provisioning/SPEC.md §14.5 does not have the code %s", code)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("provisioning/SPEC.md §14.2 (-want +have):\n%s", diff)
	}
}

func specTable() string {
	cell := func(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
	var out strings.Builder
	group := generalize.Group("")
	for _, e := range generalize.Table() {
		if e.Group != group {
			group = e.Group
			fmt.Fprintf(&out, "\n**%s**\n\n| Code | Action | What | Why | Source |\n|---|---|---|---|---|\n", group)
		}
		var what []string
		for _, tool := range e.Tools {
			what = append(what, "`"+strings.Join(tool, " ")+"`")
		}
		for _, p := range e.Paths {
			what = append(what, "`"+p+"`")
		}
		if e.Where != "" {
			what = append(what, e.Where)
		}
		act := string(e.Act)
		if len(e.Maker) > 0 {
			act += " if made again, else keep"
		}
		if e.Returns {
			act += ", again at shutdown"
		}
		why := e.Why
		if e.Harm == generalize.Stale {
			why += " (note)"
		}
		if e.Fix != "" {
			why += ". To do: " + e.Fix
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", e.Name, act, cell(strings.Join(what, " ")), cell(why), cell(e.Source))
	}
	out.WriteString("\n")
	return out.String()
}
