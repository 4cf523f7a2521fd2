package provisioning

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// pendingName is a file that exists from just before the marker is written
// until the platform has accepted Ready. Without it, a crash or a network
// failure in between would leave a provisioned VM for which Ready is never
// reported.
const pendingName = "ready_pending"

// ReadyPending reports whether Ready must still be reported for this VM.
func (m *Machine) ReadyPending() bool {
	b, err := m.Root.ReadFile(path.Join(m.Options.Dir(), pendingName))
	return err == nil && SameVM(string(b), m.VM.ID)
}

// ReadySent records that the platform has accepted Ready (any 2xx status).
func (m *Machine) ReadySent() error {
	if err := m.Root.Remove(path.Join(m.Options.Dir(), pendingName)); err != nil {
		return fail(CodeState, "failed to write state", err)
	}
	return nil
}

// AgentDisabled reports whether the document had the agent switched off
// (ProvisionGuestAgent=false): it provisions and then does nothing more.
func (m *Machine) AgentDisabled() (bool, error) {
	// Only the existence counts; the file need not be readable.
	_, err := m.Root.Lstat(path.Join(m.Options.Lib, "disable_agent"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fail(CodeState, "failed to read state", err)
	}
	return true, nil
}

// EndAt makes an observer that calls end at one point of a plan, for tests
// that kill the agent there. at is a step's id or its number from 1, and after
// a colon the point: "doing" is before the step, "planned" right after it and
// before the journal is written, "done", the default, after that.
func EndAt(at string, end func()) (Observer, error) {
	name, state := at, string(Done)
	if i := strings.LastIndexByte(at, ':'); i >= 0 { // an id may have one, too
		name, state = at[:i], at[i+1:]
	}
	switch State(state) {
	case Doing, Planned, Done:
	case Warned, Broken, Skipped:
		fallthrough
	default:
		return nil, fmt.Errorf("unknown step state %q", state)
	}
	number, err := strconv.Atoi(name)
	if err != nil {
		number = -1
	}
	seen := 0
	return func(p Progress) {
		if p.State == Doing {
			seen++
		}
		if (p.Step.ID() == name || seen == number) && p.State == State(state) {
			end()
		}
	}, nil
}
