package machine

import (
	"context"
	"fmt"
	"time"
)

// Until asks again and again whether something holds, until it does, fails, or
// the context ends. What it waits for is seen from outside, where nothing can
// notify.
func Until(ctx context.Context, every time.Duration, what string, holds func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("timeout waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}

// often is how often a machine in a sandbox is asked.
const often = 20 * time.Millisecond

// Wait is Until for what is asked of a machine.
func (m *Machine) Wait(ctx context.Context, what string, holds func() (bool, error)) error {
	return Until(ctx, often, what, holds)
}

// WaitReady waits for a Ready report. A failed provisioning is an error at
// once.
func (m *Machine) WaitReady(ctx context.Context) error {
	return m.Wait(ctx, "Ready", func() (bool, error) {
		h := m.VM.Health()
		if h.SubStatus == "ProvisioningFailed" {
			return false, fmt.Errorf("provisioning failed: %s", h.Description)
		}
		return h.State == "Ready", nil
	})
}

// WaitStatus waits for another status document. An agent with nothing new to
// say may be slow to repeat itself, so it gets a new goal state.
func (m *Machine) WaitStatus(ctx context.Context) error {
	_, before := m.VM.StatusDocument()
	m.VM.Announce(false)
	return m.Wait(ctx, "another status document", func() (bool, error) {
		_, n := m.VM.StatusDocument()
		return n > before, m.AgentEnded()
	})
}

// Settle waits for the end of operations on extensions, and returns what
// became of each: Succeeded, gone, or the error.
func (m *Machine) Settle(ctx context.Context, extensions ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range extensions {
		err := m.Wait(ctx, "the operation on "+name+" to end", func() (bool, error) {
			state, failure := m.VM.ProvisioningState(name)
			switch out[name] = state; {
			case failure != nil:
				out[name] = failure.Error()
			case state == "":
				out[name] = "gone"
			}
			return state == "" || state == "Succeeded" || state == "Failed", nil
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}
