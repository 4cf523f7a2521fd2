package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// Limits of the search for provisioning data (provisioning/SPEC.md §4.8).
const (
	// mediaWait is for a drive or a medium that comes late.
	mediaWait = 30 * time.Second
	// mediaSpare is the same if a medium could add nothing to the instance
	// metadata.
	mediaSpare = 5 * time.Second
	// mediaHang is for a device that does not answer at all.
	mediaHang   = mediaWait + 10*time.Second
	metadataAsk = time.Second     // between two requests
	metadataTry = 5 * time.Second // for one answer
)

// metadataPatience is how long the metadata is waited for when it is needed, from
// when that is known. The platform waits for a first boot for 20 minutes.
var metadataPatience = platform.MetadataPatience{Answered: 5 * time.Minute, Silent: 10 * time.Second}

// provisioningInput returns what to provision: the document on the medium,
// completed from the instance metadata where it lacks something. Both are
// searched for at the same time.
func (a *Agent) provisioningInput(ctx context.Context, id provisioning.Identity) (provisioning.Input, *ovf.Document, error) {
	known, stop := a.learn(ctx)
	defer stop()
	doc, err := a.search(ctx, known)
	in := provisioning.Input{}
	if err == nil {
		in = a.fromDocument(doc, id)
		if in.Complete() {
			return in, doc, nil
		}
	}
	if ctx.Err() != nil {
		return in, nil, context.Cause(ctx)
	}
	if oe, ok := errors.AsType[*ovf.Error](err); ok {
		// There is a provisioning document, but it can't be parsed. The
		// metadata has no password and no custom data, so a visible failure is
		// better than a machine that is provisioned only in part.
		return in, nil, noOrder(oe)
	}
	md, merr := known.awaitPatiently(ctx, metadataPatience)
	if merr != nil {
		if err == nil { // all there is
			if lacks := in.Lacks(); lacks != nil {
				return in, nil, lacks
			}
			a.Log.Warn().Err(merr).Msg("provisioning document incomplete, and instance metadata not available")
			return in, doc, nil
		}
		return in, nil, noOrder(errors.Join(err, fmt.Errorf("instance metadata: %w", merr)))
	}
	if err != nil {
		a.Log.Warn().Err(err).Func(host.LogStack(err)).Msg("no usable provisioning medium, provisioning from instance metadata only: no password, no custom data")
	}
	in = in.Fill(md)
	in.VMID = id.ID
	if lacks := in.Lacks(); lacks != nil {
		if err != nil {
			return in, nil, noOrder(errors.Join(err, errors.New("no account with a key in the instance metadata")))
		}
		return in, nil, lacks
	}
	if md.HasCustomData && !in.CustomData.Present {
		// Report what could not be provisioned (provisioning/SPEC.md §6.5).
		const lost = "custom data of this VM could not be read"
		a.Log.Warn().Str("code", provisioning.CodeCustomData).Msg(lost)
		a.live.note("provisioning", lost)
	}
	return in, doc, nil
}

func (a *Agent) fromDocument(doc *ovf.Document, id provisioning.Identity) provisioning.Input {
	redacted, err := doc.Redacted()
	if err != nil {
		a.Log.Warn().Err(err).Msg("copy of the provisioning document not kept")
	}
	in := provisioning.FromDocument(doc.Environment, redacted, id.ID)
	if b := doc.CustomDataFile; b.Set() {
		in = in.WithCustomDataFile(b)
	}
	for _, p := range doc.Problems {
		a.Log.Warn().Str("element", p.Element).Msg("provisioning document: " + p.Text)
	}
	return in
}

// search searches for the medium, until the time limit or until the metadata
// makes it unnecessary.
func (a *Agent) search(ctx context.Context, known *knowledge) (*ovf.Document, error) {
	a.live.set(func(s *status.Snapshot) { s.Provisioning.Waiting = "the provisioning medium" })
	defer a.live.set(func(s *status.Snapshot) { s.Provisioning.Waiting = "" })
	ctx, cancel := context.WithTimeoutCause(ctx, mediaHang, fmt.Errorf("no answer from the provisioning medium in %v", mediaHang))
	defer cancel()
	sctx, end := context.WithCancelCause(ctx)
	spare := inBackground(func() error {
		select {
		case <-sctx.Done():
			return nil
		case <-time.After(mediaSpare):
		}
		if md, err := known.await(sctx, mediaWait); err == nil && md.Suffices() {
			end(errors.New("no provisioning medium found, and the instance metadata is sufficient"))
		}
		return nil
	})
	defer func() {
		end(nil)
		// wait: it ends with sctx
		<-spare //nolint:errcheck // the function returns nil
	}()
	return ovf.Load(sctx, ovf.DVD{Root: a.Root, Path: a.cfg.Provisioning.Media, Wait: mediaWait})
}

// knowledge is the answer of the instance metadata, once there is one.
type knowledge struct {
	done chan struct{} // closed when md is there
	md   *provisioning.Metadata
	last atomic.Pointer[error] // the latest error of the metadata service
}

// learn asks the metadata service until it answers or stop is called, which is
// required. The network may still be coming up.
func (a *Agent) learn(ctx context.Context) (k *knowledge, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	k = &knowledge{done: make(chan struct{})}
	ended := inBackground(func() error {
		for {
			md, err := a.metadata(ctx)
			if err == nil {
				k.md = md
				close(k.done)
				return nil
			}
			k.last.Store(&err)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(metadataAsk):
			}
		}
	})
	return k, func() {
		cancel()
		// wait: it ends with the context
		<-ended //nolint:errcheck // its error does not matter once the context has ended
	}
}

// await waits for the metadata, at most for patience.
func (k *knowledge) await(ctx context.Context, patience time.Duration) (*provisioning.Metadata, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer in %v", patience))
	defer cancel()
	select {
	case <-k.done:
		return k.md, nil
	case <-ctx.Done():
	}
	if err := k.last.Load(); err != nil {
		return nil, *err
	}
	return nil, context.Cause(ctx)
}

// awaitPatiently waits for the metadata as long as that is of use.
func (k *knowledge) awaitPatiently(ctx context.Context, p platform.MetadataPatience) (*provisioning.Metadata, error) {
	for began := time.Now(); ; {
		md, err := k.await(ctx, metadataAsk)
		if err == nil || ctx.Err() != nil {
			return md, err
		}
		if p.Left(err, began) <= 0 {
			return nil, err
		}
	}
}

// noOrder is the error of a machine without usable provisioning data. The
// reasons are those that portals know (provisioning/SPEC.md §9.7).
func noOrder(err error) error {
	if oe, ok := errors.AsType[*ovf.Error](err); ok {
		return &provisioning.Error{ID: oe.Code(), Reason: oe.Reason(), Err: inputDetail{oe}}
	}
	return &provisioning.Error{ID: "AZ-PROV-MEDIA", Reason: "error reading provisioning media", Err: err}
}

// inputDetail is the error without its reason, which is shown before it.
type inputDetail struct{ fault *ovf.Error }

func (e inputDetail) Error() string {
	if e.fault.Line > 0 {
		return fmt.Sprintf("%s (line %d)", e.fault.Text, e.fault.Line)
	}
	return e.fault.Text
}

func (e inputDetail) Unwrap() error { return e.fault }
