package wire

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/bound"
)

// TestLimitsAreThoseOfTheSpecification compares with the table of
// protocol/SPEC.md §2.9.
func TestLimitsAreThoseOfTheSpecification(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]bound.Limits{
		"versions, goal state":                   limits("goalstate"),
		"HostingEnvironmentConfig, SharedConfig": limits("sharedConfig"),
		"ExtensionsConfig, vmSettings":           limits("extensionsConfig"),
		"certificates document":                  limits("certificates"),
		"remote access document":                 limits("remoteAccess"),
		"version manifest":                       limits("manifest"),
	} {
		size := fmt.Sprintf("%d KiB", l.Bytes>>10)
		if l.Bytes%(1<<20) == 0 {
			size = fmt.Sprintf("%d MiB", l.Bytes>>20)
		}
		nodes := fmt.Sprint(l.Nodes)
		if n := len(nodes); n > 3 {
			nodes = nodes[:n-3] + "," + nodes[n-3:]
		}
		if row := fmt.Sprintf("| %s | %s | %s |\n", name, size, nodes); !strings.Contains(string(b), row) {
			t.Errorf("SPEC.md has no row %q", row)
		}
	}
	if row := fmt.Sprintf("| remote access users | %d |", maxUsers); !strings.Contains(string(b), row) {
		t.Errorf("SPEC.md has no row %q", row)
	}
}
