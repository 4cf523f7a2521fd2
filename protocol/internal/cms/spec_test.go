package cms

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestLimitsAreThoseOfTheSpecification compares with protocol/SPEC.md §2.9.
func TestLimitsAreThoseOfTheSpecification(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		fmt.Sprintf("| CMS and PFX | %d MiB | %d,000 |", maxInput>>20, limits.Nodes/1000),
		fmt.Sprintf("levels deep, DER %d.", maxDepth),
		fmt.Sprintf("| CMS recipients | %d |", maxRecipients),
		fmt.Sprintf("| bags of a PFX; keys; iterations of key derivation in all | %d; %d; 1,048,576 |", maxBags, maxKeys),
		fmt.Sprintf("| certificates of a signature; bytes of one certificate; bytes of one key | %d; %d KiB; %d KiB |", maxCertificates, maxCertificate>>10, maxKey>>10),
	} {
		if !strings.Contains(string(b), row) {
			t.Errorf("SPEC.md does not say %q", row)
		}
	}
	if maxIterations != 1_048_576 {
		t.Errorf("%d iterations, SPEC.md says 1,048,576", maxIterations)
	}
}
