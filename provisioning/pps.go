package provisioning

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// PPSType is the kind of pre-provisioned VM: one that waits in a pool until it
// is ordered (provisioning/SPEC.md §10.1).
type PPSType string

const (
	PPSNone    PPSType = "None"
	PPSRunning PPSType = "Running" // its network changes when it is ordered
	PPSSavable PPSType = "Savable" // its interfaces are taken out and put in
	PPSOSDisk  PPSType = "PreprovisionedOSDisk"
	PPSUnknown PPSType = "Unknown" // Ready was reported by an earlier boot
)

// ParsePPSType reads the type as the document or the metadata spell it. Any
// other text is PPSNone: a VM must not wait in a pool by mistake.
func ParsePPSType(s string) PPSType {
	for _, t := range []PPSType{PPSRunning, PPSSavable, PPSOSDisk, PPSUnknown} {
		if strings.EqualFold(strings.TrimSpace(s), string(t)) {
			return t
		}
	}
	return PPSNone
}

// FindPPSType decides which flow applies: an earlier boot that has reported
// Ready comes first, then what the document and the metadata say, Savable
// before OS disk before Running.
func (m *Machine) FindPPSType(document, metadata PPSType) PPSType {
	if m.Root.Exists(m.ppsMarker()) {
		return PPSUnknown
	}
	for _, t := range []PPSType{PPSSavable, PPSOSDisk, PPSRunning} {
		if document == t || metadata == t {
			return t
		}
	}
	return PPSNone
}

func (m *Machine) ppsMarker() string { return path.Join(m.Options.Dir(), "pps_reported") }

// PPS holds the parts of the agent that Reprovision needs.
type PPS struct {
	// Ready tells the platform that the VM may go into the pool.
	Ready func(ctx context.Context) error
	// Fetch requests the reprovisioning document from the metadata service,
	// with a time limit of its own (30 s). After an error it is called again.
	Fetch func(ctx context.Context) ([]byte, error)
	// Network restores the network after the change: a lease on the primary
	// interface. It may be nil if the system does that by itself.
	Network func(ctx context.Context) error
	// Links returns the kernel's events about network interfaces. They are
	// subscribed before Reprovision is called, so that none is missed. Nil if
	// events are not available.
	Links func(ctx context.Context) ([]host.LinkEvent, error)
}

// ppsRetry is the pause between two calls of Fetch. A VM waits in its pool for
// hours or months.
const ppsRetry = time.Second

// Reprovision goes through the pool: it reports Ready, waits until the VM is
// ordered and returns the new document, which is then provisioned as if it
// had come from the medium. The first document has placeholder data and must
// not be used. Call FinishPPS when Ready was reported for the second time.
func (m *Machine) Reprovision(ctx context.Context, t PPSType, p PPS) ([]byte, error) {
	bad := func(reason string, err error) error {
		return fail(CodePPS, reason, err, Pair{"pps_type", string(t)})
	}
	switch t {
	case PPSNone:
		return nil, bad("error waiting for reprovisioning", errors.New("this VM is not pre-provisioned"))
	case PPSOSDisk:
		if err := p.Ready(ctx); err != nil {
			return nil, bad("failed to report ready before reprovisioning", err)
		}
		// The host takes the disk away and shuts this machine down.
		<-ctx.Done()
		return nil, bad("error waiting for host shutdown", context.Cause(ctx))
	case PPSRunning, PPSSavable:
		// A Savable VM can lose its interface while the request is in
		// progress, because it was ordered; that is not a failure.
		if err := p.Ready(ctx); err != nil && (t == PPSRunning || ctx.Err() != nil) {
			return nil, bad("failed to report ready before reprovisioning", err)
		}
		if err := m.put(m.ppsMarker(), nil, 0o600); err != nil {
			return nil, bad("failed to write state", err)
		}
		if p.Links != nil {
			if err := waitLinks(ctx, t, p.Links); err != nil {
				return nil, bad("error waiting for the network of the new owner", err)
			}
		}
	case PPSUnknown:
	}
	if p.Network != nil {
		if err := p.Network(ctx); err != nil {
			return nil, bad("failure to obtain DHCP lease", err)
		}
	}
	for {
		doc, err := p.Fetch(ctx)
		if err == nil {
			return doc, nil
		}
		m.Log.Debug().Err(err).Msg("no reprovisioning document yet")
		select {
		case <-ctx.Done():
			return nil, bad("error waiting for reprovisioning", errors.Join(context.Cause(ctx), err))
		case <-time.After(ppsRetry):
		}
	}
}

// waitLinks waits for the change of network that comes with an order: down and
// up again, or removed and added again. If events cannot be read, it returns,
// and the document is requested nevertheless.
func waitLinks(ctx context.Context, t PPSType, next func(context.Context) ([]host.LinkEvent, error)) error {
	lost := map[int]bool{} // interfaces that went down, by index
	gone := false
	for {
		events, err := next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("wait for the network: %w", context.Cause(ctx))
			}
			return nil //nolint:nilerr // without events, the document is requested at once
		}
		if events == nil {
			return nil // some were lost, possibly the awaited one
		}
		for _, e := range events {
			switch {
			case e.Name == "lo":
			case t == PPSSavable && e.Gone:
				gone = true
			case t == PPSSavable && gone:
				return nil
			case t == PPSRunning && !e.Up:
				lost[e.Index] = true
			case t == PPSRunning && e.Up && lost[e.Index]:
				return nil
			}
		}
	}
}

// FinishPPS removes the marker of a pooled VM.
func (m *Machine) FinishPPS() error {
	if err := m.Root.Remove(m.ppsMarker()); err != nil {
		return fail(CodeState, "failed to write state", err)
	}
	return nil
}
