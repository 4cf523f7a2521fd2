package machine

import (
	"context"
	"fmt"
	"time"
)

// Until calls holds at an interval until it returns true or an error, or the
// context ends. It polls because the state of another machine cannot be
// watched.
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

// often is the polling interval for a machine in a sandbox.
const often = 20 * time.Millisecond

// Wait is Until with the polling interval for machines.
func (m *Machine) Wait(ctx context.Context, what string, holds func() (bool, error)) error {
	return Until(ctx, often, what, holds)
}

// WaitReady waits for a Ready report. It returns an error at once if
// provisioning has failed.
func (m *Machine) WaitReady(ctx context.Context) error {
	return m.Wait(ctx, "Ready", func() (bool, error) {
		h := m.VM.Health()
		if h.SubStatus == "ProvisioningFailed" {
			return false, fmt.Errorf("provisioning failed: %s", h.Description)
		}
		return h.State == "Ready", nil
	})
}

// WaitStatus waits for another status document. It announces a new goal state
// first, because an agent without changes may report at long intervals.
func (m *Machine) WaitStatus(ctx context.Context) error {
	_, before := m.VM.StatusDocument()
	m.VM.Announce(false)
	return m.Wait(ctx, "another status document", func() (bool, error) {
		_, n := m.VM.StatusDocument()
		return n > before, m.AgentEnded()
	})
}

// Settle waits until the operations on extensions end, and returns the result
// of each: Succeeded, gone, or the error.
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
