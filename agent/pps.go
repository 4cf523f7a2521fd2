package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/provisioning"
)

// Bounds around a pooled VM (provisioning/SPEC.md §10). The wait in the pool
// itself has none.
const (
	ppsAsk     = 2 * time.Second  // for the metadata service to say what the VM is
	ppsPeek    = 30 * time.Second // between looks for the document while no link event comes
	ppsGoodbye = time.Minute      // for the Ready of a VM whose interface may go meanwhile
	ppsSettle  = 20               // questions, one a second, until the metadata knows of the order
)

// pool is what one first boot knows about its being a pooled VM.
type pool struct {
	kind  provisioning.PPSType // None for most
	told  bool                 // somebody has told the platform Ready
	limit *time.Timer          // ends the first boot; does not run in the pool
}

// askPPS asks the metadata service what kind of VM this is, beside the search
// for the medium, and gives up at stop, which has to be called. No answer is
// "none": most platforms have no such service.
func (a *Agent) askPPS(ctx context.Context) (answer <-chan provisioning.PPSType, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	c := make(chan provisioning.PPSType, 1)
	ended := inBackground(func() error {
		kind := provisioning.ParsePPSType("")
		defer func() { c <- kind }()
		x, err := a.platform.Extended(ctx, ppsAsk)
		if err != nil {
			a.Log.Debug().Err(err).Msg("could not read the pre-provisioning type from the instance metadata")
		}
		kind = provisioning.ParsePPSType(x.PPSType)
		return nil
	})
	return c, func() {
		cancel()
		// wait: it ends with the context
		<-ended //nolint:errcheck // it has none
	}
}

// wasPooled: an earlier start has reported Ready for the pool. Then NotReady
// would take the VM out of it.
func wasPooled(m *provisioning.Machine) bool {
	return m.FindPPSType(provisioning.PPSNone, provisioning.PPSNone) == provisioning.PPSUnknown
}

// finalInput is the order for this machine: the one on the medium, or, if the
// VM waits in a pool, the one of whom it is given to.
func (a *Agent) finalInput(ctx context.Context, m *provisioning.Machine, p *pool) (provisioning.Input, *ovf.Document, error) {
	metadata, stop := a.askPPS(ctx)
	defer stop()
	var first *ovf.Document
	p.kind = m.FindPPSType(provisioning.PPSNone, provisioning.PPSNone)
	if p.kind != provisioning.PPSUnknown {
		in, doc, err := a.provisioningInput(ctx, m.VM)
		if ctx.Err() != nil {
			return in, nil, err
		}
		var told provisioning.PPSType
		select {
		case told = <-metadata:
		case <-ctx.Done():
			return in, nil, context.Cause(ctx)
		}
		p.kind = m.FindPPSType(in.PPS, told)
		if p.kind == provisioning.PPSNone {
			return in, doc, err
		}
		first = doc // with placeholders, or not even that: nobody reads it
		if p.told {
			p.kind = provisioning.PPSUnknown
		}
	}
	raw, err := a.waitInPool(ctx, m, first, p)
	if err != nil {
		return provisioning.Input{}, first, err
	}
	if now, err := provisioning.Identify(a.Root); err == nil && now.Firm() {
		m.VM = now
	}
	return a.reprovisionedInput(ctx, raw, m.VM)
}

// waitInPool reports Ready and waits until somebody orders the VM.
func (a *Agent) waitInPool(ctx context.Context, m *provisioning.Machine, first *ovf.Document, p *pool) ([]byte, error) {
	what := "reprovisioning data: the VM is pre-provisioned (" + string(p.kind) + ")"
	a.Log.Info().Str("pps", string(p.kind)).Msg("VM is pre-provisioned, waiting for reprovisioning data")
	a.live.note("provisioning", "waiting for reprovisioning data ("+string(p.kind)+")")
	a.live.set(func(s *status.Snapshot) { s.Provisioning.Waiting = what })
	defer a.live.set(func(s *status.Snapshot) { s.Provisioning.Waiting = "" })
	if p.kind == provisioning.PPSUnknown {
		p.limit.Stop()
	}
	a.inPool.Store(true)
	defer a.inPool.Store(false)
	defer p.limit.Reset(bootLimit)

	f := &ppsFetch{a: a, medium: first}
	flow := provisioning.PPS{
		Ready: func(ctx context.Context) error {
			a.tellKVP(ctx, provisioning.Success("azguest/"+a.Version, m.VM.ID, p.kind, time.Now()))
			err := a.readyForPool(ctx, p.kind)
			p.limit.Stop()
			return err
		},
		Fetch: f.fetch,
	}
	// Opened before Ready: the change of network may come right after it.
	if a.Kernel.Links != nil && (p.kind == provisioning.PPSRunning || p.kind == provisioning.PPSSavable) {
		next, end, err := a.Kernel.Links()
		if err != nil {
			a.Log.Warn().Err(err).Msg("link events not available, polling for reprovisioning data")
		} else {
			defer end()
			flow.Links = f.links(next)
		}
	}
	raw, err := m.Reprovision(ctx, p.kind, flow)
	if err != nil {
		return nil, err
	}
	a.Log.Info().Str("pps", string(p.kind)).Msg("reprovisioning data received")
	a.live.note("provisioning", "reprovisioning data received")
	p.told = false
	a.platform.Reordered()
	// That Ready was for the pool; the one for the owner is still to come.
	if err := a.Root.Remove(readyMark); err != nil {
		return nil, &provisioning.Error{ID: provisioning.CodePPS, Reason: "failed to write state", Err: err}
	}
	return raw, nil
}

// readyForPool returns when the platform has accepted Ready. A Savable VM may
// lose its interface on the way, which says that the platform knows.
func (a *Agent) readyForPool(ctx context.Context, kind provisioning.PPSType) error {
	a.health.Report(protocol.Health{State: protocol.Ready})
	if kind != provisioning.PPSSavable {
		return a.health.Flush(ctx)
	}
	short, cancel := context.WithTimeoutCause(ctx, ppsGoodbye, errors.New("no answer; the network interface may be gone"))
	defer cancel()
	err := a.health.Flush(short)
	if err != nil {
		// Sent later, it would be the Ready of a machine that is not made.
		a.health.withdraw()
	}
	return err
}

// ppsFetch asks for the document, also while link events are awaited: one
// that was missed must not cost the machine.
type ppsFetch struct {
	a      *Agent
	medium *ovf.Document
	once   sync.Once
	doc    []byte
}

// errOrdered ends the wait for link events.
var errOrdered = errors.New("reprovisioning data received")

func (f *ppsFetch) fetch(ctx context.Context) ([]byte, error) {
	f.once.Do(func() {
		// The note that Ready was reported is on disk: the medium with its
		// placeholders is of no use any more.
		if f.medium != nil && f.medium.Source.Optical {
			if err := ovf.Eject(f.a.Root, f.medium.Source); err != nil {
				f.a.Log.Debug().Err(err).Msg("could not eject provisioning medium")
			}
		}
	})
	if f.doc != nil {
		return f.doc, nil
	}
	b, err := f.a.platform.Reprovision(ctx)
	if err == nil {
		f.doc = b
	}
	return b, err
}

func (f *ppsFetch) links(next func(context.Context) ([]host.LinkEvent, error)) func(context.Context) ([]host.LinkEvent, error) {
	return func(ctx context.Context) ([]host.LinkEvent, error) {
		for {
			short, cancel := context.WithTimeout(ctx, ppsPeek)
			events, err := next(short)
			late := short.Err() != nil
			cancel()
			if err == nil || ctx.Err() != nil || !late {
				return events, err
			}
			if _, err := f.fetch(ctx); err == nil {
				return nil, errOrdered
			}
		}
	}
}

// reprovisionedInput reads the document that replaces the one of the medium.
func (a *Agent) reprovisionedInput(ctx context.Context, raw []byte, id provisioning.Identity) (provisioning.Input, *ovf.Document, error) {
	bad := func(err error) (provisioning.Input, *ovf.Document, error) {
		return provisioning.Input{}, nil, err
	}
	env, err := ovf.Parse(raw)
	if err != nil {
		return bad(noOrder(err))
	}
	doc := &ovf.Document{Environment: env, Raw: host.NewSecret(string(raw)), Source: ovf.Source{Device: "reprovisiondata", Method: "metadata service"}}
	if err := a.checkReordered(ctx); err != nil {
		return bad(err)
	}
	in := a.fromDocument(doc, id)
	if !in.Complete() {
		md, merr := a.metadata(ctx)
		if merr != nil {
			a.Log.Warn().Err(merr).Msg("reprovisioning data incomplete, and instance metadata not available")
		}
		in = in.Fill(md)
	}
	in.VMID = id.ID
	if !in.Complete() {
		return bad(noOrder(errors.New("no account with a password or key in the reprovisioning document and the instance metadata")))
	}
	return in, doc, nil
}

// checkReordered waits until the metadata has noticed that the VM is not a
// pooled one any more. A service that does not answer keeps nobody from
// provisioning: the document was its own word.
func (a *Agent) checkReordered(ctx context.Context) error {
	var bad error
	for range ppsSettle {
		x, err := a.platform.Extended(ctx, ppsAsk)
		if err != nil {
			a.Log.Warn().Err(err).Msg("instance metadata after reprovisioning not available")
			return nil
		}
		if bad = provisioning.CheckReordered(provisioning.ParsePPSType(x.PPSType)); bad == nil {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("wait for instance metadata after reprovisioning: %w", context.Cause(ctx))
		}
	}
	return bad
}
