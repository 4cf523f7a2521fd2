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
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// Limits for a pre-provisioned VM (provisioning/SPEC.md §10), which waits in a
// pool until it gets an owner. That wait itself has no limit.
const (
	ppsAsk     = 2 * time.Second  // for one answer of the metadata service
	ppsAgain   = time.Second      // between two requests for the type
	ppsPeek    = 30 * time.Second // between requests for the document while no link event comes
	ppsGoodbye = time.Minute      // for the Ready of a VM whose interface may be removed meanwhile
	ppsSettle  = 20               // requests, one a second, until the metadata show the new owner's order, if they are needed
)

// pool is what a first boot knows about being pre-provisioned.
type pool struct {
	kind  provisioning.PPSType // None for most
	told  bool                 // Ready was already reported to the platform
	limit *time.Timer          // ends the first boot; stopped while the VM is in the pool
}

// ppsPatience is how long the type is waited for. A pooled VM that takes itself
// for none would be provisioned with placeholders and reported as Ready; most
// platforms have no such service.
var ppsPatience = platform.MetadataPatience{Answered: 75 * time.Second, Silent: 4 * time.Second}

// askPPS asks the metadata service for the pre-provisioning type, concurrently
// with the search for the medium, until stop is called, which is required. No
// answer counts as "none" once ppsPatience is over.
func (a *Agent) askPPS(ctx context.Context) (answer <-chan provisioning.PPSType, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	c := make(chan provisioning.PPSType, 1)
	ended := inBackground(func() error {
		kind := provisioning.ParsePPSType("")
		defer func() { c <- kind }()
		for began := time.Now(); ; {
			x, err := a.platform.Extended(ctx, ppsAsk)
			if err == nil {
				kind = provisioning.ParsePPSType(x.PPSType)
				return nil
			}
			if ppsPatience.Left(err, began) < ppsAgain {
				a.Log.Debug().Err(err).Msg("could not read the pre-provisioning type from the instance metadata")
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(ppsAgain):
			}
		}
	})
	return c, func() {
		cancel()
		// wait: it ends with the context
		<-ended //nolint:errcheck // the function returns nil
	}
}

// wasPooled reports whether an earlier start has reported Ready for the pool.
// NotReady would take the VM out of the pool.
func wasPooled(m *provisioning.Machine) bool {
	return m.FindPPSType(provisioning.PPSNone, provisioning.PPSNone) == provisioning.PPSUnknown
}

// finalInput returns the provisioning data of this machine: that of the medium,
// or, if the VM is pre-provisioned, that of the VM's new owner.
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
		first = doc // it has placeholders at best, so it is not used
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

// waitInPool reports Ready and waits until the VM gets an owner. It returns the
// reprovisioning document.
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
	// Opened before Ready is reported: the network may change right after it.
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
	// That Ready was for the pool; the one for the new owner has yet to be
	// reported.
	if err := a.Root.Remove(readyMark); err != nil {
		return nil, &provisioning.Error{ID: provisioning.CodePPS, Reason: "failed to write state", Err: err}
	}
	return raw, nil
}

// readyForPool returns when the platform has accepted Ready. A Savable VM may
// lose its network interface meanwhile, which shows that the platform knows.
func (a *Agent) readyForPool(ctx context.Context, kind provisioning.PPSType) error {
	a.health.Report(protocol.Health{State: protocol.Ready})
	if kind != provisioning.PPSSavable {
		return a.health.Flush(ctx)
	}
	short, cancel := context.WithTimeoutCause(ctx, ppsGoodbye, errors.New("no answer; the network interface may be gone"))
	defer cancel()
	err := a.health.Flush(short)
	if err != nil {
		// Sent later, it would report a machine as ready that is not
		// provisioned.
		a.health.withdraw()
	}
	return err
}

// ppsFetch fetches the reprovisioning document, also while link events are
// awaited, because an event may be missed.
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
		// It is saved on disk that Ready was reported, so the medium with its
		// placeholders is no longer needed.
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
	in := a.fromDocument(doc, id)
	if !in.Complete() {
		if err := a.awaitReordered(ctx); err != nil {
			return bad(err)
		}
		md, merr := a.metadata(ctx)
		if merr != nil {
			a.Log.Warn().Err(merr).Msg("reprovisioning data incomplete, and instance metadata not available")
		}
		in = in.Fill(md)
	}
	in.VMID = id.ID
	if lacks := in.Lacks(); lacks != nil {
		return bad(lacks)
	}
	return in, doc, nil
}

// awaitReordered waits until the metadata describes the VM's new owner, because
// something of it is needed. The order itself is proof that the VM has one, so
// metadata that stay as they were in the pool are used as they are.
func (a *Agent) awaitReordered(ctx context.Context) error {
	for range ppsSettle {
		x, err := a.platform.Extended(ctx, ppsAsk)
		if err != nil {
			a.Log.Warn().Err(err).Msg("instance metadata after reprovisioning not available")
			return nil
		}
		if provisioning.ParsePPSType(x.PPSType) == provisioning.PPSNone {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("wait for instance metadata after reprovisioning: %w", context.Cause(ctx))
		}
	}
	a.Log.Warn().Msg("instance metadata still describe a VM in the pool after it was ordered")
	return nil
}
