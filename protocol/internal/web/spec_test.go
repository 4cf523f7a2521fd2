package web

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/azguest/azguest/protocol"
)

// TestPaceIsThatOfTheSpecification compares the constants with protocol/SPEC.md
// §2.1 and §2.3 to §2.5.
func TestPaceIsThatOfTheSpecification(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	first := int(protocol.PaceFirst.Seconds())
	for _, text := range []string{
		fmt.Sprintf("idle for less than %.0f s", idle.Seconds()),
		fmt.Sprintf("One attempt has %.0f s, of which a connection may take %.0f s.", DefaultTimeout.Seconds(), DialTimeout.Seconds()),
		fmt.Sprintf("`Retry-After` is honoured up to %.0f s", maxAfter.Seconds()),
		fmt.Sprintf("Wait %d, %d, %d, %d and then %.0f s", first, first*protocol.PaceGrowth, first*protocol.PaceGrowth*protocol.PaceGrowth, first*protocol.PaceGrowth*protocol.PaceGrowth*protocol.PaceGrowth, protocol.PaceMost.Seconds()),
		fmt.Sprintf("wait at least %.1f times its age, but not more than %.0f s", protocol.PaceShare, protocol.PaceLate.Seconds()),
		fmt.Sprintf("After that wait at least %.0f s. Make at most %d attempts in any hour.", protocol.PaceSteady.Seconds(), protocol.PaceHourly),
		fmt.Sprintf("when the last attempt is %.0f s old", canaryEvery.Seconds()),
		fmt.Sprintf("at most every %.0f min", loudEvery.Minutes()),
		fmt.Sprintf("(up to %.0f s apart)", wakeGapMax.Seconds()),
	} {
		if !strings.Contains(string(b), text) {
			t.Errorf("SPEC.md does not say %q", text)
		}
	}
}
