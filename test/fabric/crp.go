package fabric

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric/pki"
)

// An extension is a resource of the control plane: an extension, or a managed
// run command, which reaches the guest the same way.
type extension struct {
	vm   *VM
	name string
	run  bool // a runCommands resource
	body resourceBody

	publisher, kind string // kind is "type" in the API
	requested       string // typeHandlerVersion as asked for
	version         string // exact version of the goal state
	settings        json.RawMessage
	protected       json.RawMessage
	after           []string
	multi           bool
	seq             int
	deleting        bool

	sealed, sealedThumbprint string
	sealedFor                *pki.Identity

	state   string // provisioningState
	failure *apiError
	op      *operation
	ordinal int // goal state that announced the last change
	since   time.Time
}

// resourceBody is the resource as a client sent it, kept for GET.
type resourceBody struct {
	Location   string                     `json:"location,omitempty"`
	Tags       map[string]string          `json:"tags,omitempty"`
	Properties map[string]json.RawMessage `json:"properties"`
}

// States of provisioning (extensions/SPEC.md §17.4).
const (
	stateCreating  = "Creating"
	stateUpdating  = "Updating"
	stateDeleting  = "Deleting"
	stateSucceeded = "Succeeded"
	stateFailed    = "Failed"
)

func (e *extension) handler() string { return e.publisher + "." + e.kind }

func (e *extension) hasSettings() bool { return e.settings != nil || e.protected != nil }

func (e *extension) flag(name string) bool {
	return string(e.body.Properties[name]) == "true"
}

func (e *extension) autoUpgrade() bool { return e.flag("autoUpgradeMinorVersion") }

func (e *extension) pending() bool {
	return e.state == stateCreating || e.state == stateUpdating || e.state == stateDeleting
}

func (e *extension) resourceType() string {
	if e.run {
		return "runCommands"
	}
	return "extensions"
}

// sequenceKey keeps sequence numbers monotonic even across deletion.
func (e *extension) sequenceKey() string {
	return strings.ToLower(e.vm.name + "/" + e.handler() + "/" + e.name)
}

// nextSeq gives the settings a new sequence number if they changed, or if the
// last attempt failed and is now repeated.
func (e *extension) nextSeq(changed bool) {
	key := e.sequenceKey()
	last, known := e.vm.f.seqs[key]
	switch {
	case !known:
		e.seq = 0
	case changed:
		e.seq = last + 1
	default:
		e.seq = last
	}
	e.vm.f.seqs[key] = e.seq
}

// sameSettings compares the parts whose change makes a handler run again.
func sameSettings(a, b *extension) bool {
	tag := func(e *extension) string { return string(e.body.Properties["forceUpdateTag"]) }
	return bytes.Equal(canonical(a.settings), canonical(b.settings)) &&
		bytes.Equal(canonical(a.protected), canonical(b.protected)) && tag(a) == tag(b)
}

func canonical(raw json.RawMessage) []byte {
	if raw == nil {
		return nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return raw
	}
	b, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return b
}

// finishOperations ends the operations that the last status document, or a
// timeout, has decided. The caller holds f.mu.
func (v *VM) finishOperations() {
	v.advanceEvents()
	gone := false
	for _, e := range v.extensions {
		if !e.pending() {
			continue
		}
		done, failure := v.outcome(e)
		if !done {
			continue
		}
		gone = v.finish(e, failure) || gone
	}
	if gone {
		kept := v.extensions[:0]
		for _, e := range v.extensions {
			if !(e.deleting && e.state == stateSucceeded) {
				kept = append(kept, e)
			}
		}
		clear(v.extensions[len(kept):])
		v.extensions = kept
	}
}

// finish ends an extension's operation and reports whether the resource is
// gone.
func (v *VM) finish(e *extension, failure *apiError) bool {
	if failure != nil && e.flag("suppressFailures") && !e.deleting && failure.Code != "VMAgentStatusCommunicationError" {
		failure = nil
	}
	e.state, e.failure = stateSucceeded, failure
	if failure != nil {
		e.state = stateFailed
	}
	if e.op != nil {
		e.op.finish(failure)
	}
	detail := map[string]any{"extension": e.name, "provisioningState": e.state, "deleted": e.deleting && failure == nil}
	if failure != nil {
		detail["error"] = failure.Code + ": " + failure.Message
	}
	v.f.journal.add(Entry{VM: v.name, Kind: Change, Detail: detail})
	return e.deleting && failure == nil
}

// outcome decides about one extension as CRP does (extensions/SPEC.md §17.7).
func (v *VM) outcome(e *extension) (done bool, failure *apiError) {
	s := v.status
	if s != nil && v.lastStatus.After(e.since) {
		processed := v.goalOrdinal(s)
		// Only a document about this goal state may fail a handler: an earlier
		// failure is reported until the agent has tried again.
		current := processed >= e.ordinal || s.Aggregate.Artifacts == nil || s.Aggregate.Artifacts.GoalState == nil
		if g := s.Aggregate.Artifacts; processed >= e.ordinal && g != nil && g.GoalState != nil && g.GoalState.Status == "Failed" {
			return true, v.provisioningError(e, fmt.Sprintf("goal state failed with code %d: %s", g.GoalState.Code, g.GoalState.Message.Message))
		}
		if done, failure := v.outcomeOfRow(e, s, current); done {
			return true, failure
		}
	}
	if time.Since(e.since) < v.timeBudget() {
		return false, nil
	}
	if s == nil || !v.lastStatus.After(e.since) {
		return true, &apiError{Code: "VMAgentStatusCommunicationError", Message: fmt.Sprintf(
			"VM '%s' has not reported status for VM agent or extensions. Verify that the OS is up and healthy, the VM has a running VM agent, and that it can establish outbound connections to Azure storage. Please refer to https://aka.ms/vmextensionlinuxtroubleshoot for additional VM agent troubleshooting information.", v.name)}
	}
	return true, &apiError{Code: "VMExtensionProvisioningTimeout", Message: fmt.Sprintf(
		"Provisioning of VM extension %s has timed out. Extension provisioning has taken too long to complete. The extension last reported \"%s\".", e.name, v.lastMessage(e))}
}

func (v *VM) lastMessage(e *extension) string {
	row := v.status.row(e.handler(), e.name, e.multi)
	if row == nil {
		return "nothing"
	}
	if row.Settings != nil {
		return row.Settings.Status.Status.Message.Message
	}
	return row.Message.Message
}

func (v *VM) outcomeOfRow(e *extension, s *statusBlob, current bool) (done bool, failure *apiError) {
	row := s.row(e.handler(), e.name, e.multi)
	if e.deleting {
		return row == nil, nil
	}
	if row != nil && row.Settings != nil && row.Settings.Sequence != nil && int(*row.Settings.Sequence) == e.seq && e.hasSettings() {
		switch status := row.Settings.Status.Status; status.Status {
		case "success":
			if row.Version == e.version {
				return true, nil
			}
		case "error":
			return true, v.provisioningError(e, status.Message.Message)
		}
		if row.Version == e.version {
			return false, nil
		}
	}
	if row == nil && e.multi {
		row = s.bareRow(e.handler())
	}
	if row == nil || !current {
		return false, nil
	}
	if row.Status == "NotReady" && row.Code != 0 {
		return true, &apiError{Code: "VMExtensionHandlerNonTransientError", Message: fmt.Sprintf(
			"The handler for VM extension type '%s' has reported terminal failure for VM extension '%s' with error message: '%s'.\r\n    \r\n'%s'", e.handler(), e.name,
			"Non-zero code "+strconv.Itoa(int(row.Code)), row.Message.Message)}
	}
	if !e.hasSettings() && row.Version == e.version && strings.EqualFold(row.Status, "Ready") {
		if row.Settings != nil {
			switch status := row.Settings.Status.Status; status.Status {
			case "error":
				return true, v.provisioningError(e, status.Message.Message)
			case "transitioning":
				return false, nil
			}
		}
		return true, nil
	}
	return false, nil
}

func (v *VM) provisioningError(e *extension, message string) *apiError {
	return &apiError{Code: "VMExtensionProvisioningError", Message: fmt.Sprintf(
		"VM has reported a failure when processing extension '%s' (publisher '%s' and type '%s'). Error message: '%s'. More information on troubleshooting is available at https://aka.ms/vmextensionlinuxtroubleshoot. ",
		e.name, e.publisher, e.kind, message)}
}

// timeBudget is the VM's extensionsTimeBudget.
func (v *VM) timeBudget() time.Duration {
	if d, ok := parsePeriod(v.budget); ok {
		return d
	}
	return v.f.opts.ExtensionTimeout
}

// parsePeriod reads the ISO 8601 durations ARM uses: PT1H30M.
func parsePeriod(s string) (time.Duration, bool) {
	rest, ok := strings.CutPrefix(strings.ToUpper(s), "PT")
	if !ok || rest == "" {
		return 0, false
	}
	d, err := time.ParseDuration(strings.ToLower(rest))
	return d, err == nil && d > 0
}
