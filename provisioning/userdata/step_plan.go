package userdata

import (
	"context"

	"github.com/azguest/azguest/provisioning"
)

// Facts is what configSteps needs to know about the machine.
type Facts struct {
	provisioning.Facts
}

// gatherFacts reads the facts.
func gatherFacts(ctx context.Context, m *provisioning.Machine) (Facts, error) {
	f, err := m.Gather(ctx)
	return Facts{Facts: f}, err
}

// configSteps decides which steps carry a configuration out. It is pure.
func configSteps(Config, Facts, Options) []Planned { return nil }
