package agent

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/access"
	"github.com/azguest/azguest/provisioning/kvp"
)

const (
	// readyMark exists if Ready was accepted in this boot; /run is empty after
	// a reboot.
	readyMark = "/run/azguest/ready-accepted"
	// The platform gives up on a first boot after about 20 minutes.
	bootLimit = 18 * time.Minute
)

// boot provisions the machine, or waits for another provisioner such as
// cloud-init, and makes sure that exactly one of them reports Ready. It returns
// an error only when the context ends: failures are reported and shown, and
// extensions start nevertheless, because one of them may be the repair.
func (a *Agent) boot(ctx context.Context) error {
	id, err := provisioning.Identify(a.Root)
	if err != nil {
		a.Log.Warn().Err(err).Msg("could not identify VM")
	}
	m := a.machine(id)
	a.live.set(func(s *status.Snapshot) {
		s.VM.ID = id.ID
		s.Provisioning.VMID = id.ID
		s.Provisioning.State = status.ProvPending
		s.Provisioning.Started = time.Now().UTC()
	})
	standing, err := m.Stand()
	if err != nil {
		a.Log.Error().Err(err).Msg("provisioned marker not readable, ignored")
		standing = provisioning.Fresh
	}
	if standing == provisioning.Moved {
		gone, err := m.Forget()
		a.Log.Warn().Err(err).Int("files", len(gone)).Str("vm", id.ID).Msg("disk belonged to another VM, its state is deleted")
		a.live.note("vm", "disk of another VM: state deleted")
	}
	owner := m.FindOwner(a.cfg.Provisioning.Agent)
	if owner.Owner == provisioning.OwnerNobody {
		// "disabled" is also configured in images whose provisioner the classic
		// agent does not know. If such a provisioner is found, it is the one
		// that reports Ready (provisioning/SPEC.md §3.9).
		if other := m.FindOwner(config.AgentAuto); other.ReportsReady() {
			owner = other
		}
	}
	a.live.set(func(s *status.Snapshot) { s.Provisioning.By = string(owner.Owner) })
	defer a.diskLatch.open()
	a.decided(owner, standing)

	switch {
	case a.cfg.Provisioning.Mode == config.ModeOff:
		a.finishBoot(status.ProvDisabled, nil)
	case a.cfg.Provisioning.Mode == config.ModeReadyOnly:
		a.ready(status.ProvDisabled)
	case owner.Owner == provisioning.OwnerNobody:
		// No other provisioner was found, and the platform waits for Ready.
		a.mark(ctx, m)
		a.ready(status.ProvDisabled)
	case owner.Owner != provisioning.OwnerSelf:
		a.leaveUserData()
		return a.bootBeside(ctx, owner, m, standing)
	case standing == provisioning.Fresh, standing == provisioning.Moved && a.hasOrder(ctx):
		if err := a.provision(ctx, m, false); err != nil {
			return err
		}
		a.applyUserData(ctx, m)
	case standing == provisioning.Moved:
		// A copy of a provisioned machine, without a provisioning document of
		// its own: it is kept as it is, with its new VM id
		// (provisioning/SPEC.md §11.4).
		a.mark(ctx, m)
		a.ready(status.ProvDone)
		a.applyUserData(ctx, m)
	default:
		since := a.provisionedSince(m)
		if standing == provisioning.Adopted {
			a.mark(ctx, m)
		}
		a.ready(status.ProvDone)
		a.showSince(since)
		a.incomplete(m, nil)
		// An earlier process may have ended after Ready with steps left to do.
		a.afterReady(ctx, m, nil, m.Unfinished())
		a.applyUserData(ctx, m)
	}
	return ctx.Err()
}

// hasOrder reports whether a medium with a provisioning document is present,
// readable or not. It looks only once.
func (a *Agent) hasOrder(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, mediaSpare)
	defer cancel()
	_, err := ovf.Load(ctx, ovf.DVD{Root: a.Root, Path: a.cfg.Provisioning.Media})
	_, malformed := errors.AsType[*ovf.Error](err)
	return err == nil || malformed
}

// ready reports Ready, unless the platform has accepted it in this boot
// already.
func (a *Agent) ready(state string) {
	if a.Root.Exists(readyMark) {
		a.live.set(func(s *status.Snapshot) { s.Platform.Health = string(protocol.Ready) })
	} else {
		a.health.Report(protocol.Health{State: protocol.Ready})
	}
	a.finishBoot(state, nil)
}

func (a *Agent) finishBoot(state string, err error) {
	a.live.set(func(s *status.Snapshot) {
		p := &s.Provisioning
		p.State, p.Finished, p.Waiting = state, time.Now().UTC(), ""
		p.Error, p.Problem = "", status.Problem{}
		if err != nil {
			p.Error = err.Error()
			p.Problem = status.Problem{Code: provisioning.CodeOf(err), Since: p.Finished, Fix: fixOf(provisioning.CodeOf(err))}
		}
	})
}

// provisionedSince returns when the machine was provisioned in an earlier life of
// an agent, zero if that is not known.
func (a *Agent) provisionedSince(m *provisioning.Machine) time.Time {
	fi, err := a.Root.Stat(path.Join(m.Options.Lib, "provisioned"))
	if err != nil {
		return time.Time{} // not known
	}
	return fi.ModTime().UTC()
}

// showSince corrects what finishBoot has shown: this start of the agent has
// provisioned nothing.
func (a *Agent) showSince(since time.Time) {
	a.live.set(func(s *status.Snapshot) { s.Provisioning.Started, s.Provisioning.Finished = time.Time{}, since })
}

func (a *Agent) mark(ctx context.Context, m *provisioning.Machine) {
	step := provisioning.WriteMarker{Path: m.Options.Lib + "/provisioned", VMID: m.VM.ID}
	if err := step.Apply(ctx, m); err != nil {
		a.Log.Error().Err(err).Msg("provisioned marker not written")
	}
}

// provision does the first boot with this agent as the provisioner. told means
// that Ready was already reported to the platform: then no more health reports
// are sent, least of all NotReady.
func (a *Agent) provision(ctx context.Context, m *provisioning.Machine, told bool) error {
	start := time.Now()
	pctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &pool{told: told}
	p.limit = time.AfterFunc(bootLimit, func() { cancel(provisioning.Overdue(bootLimit)) })
	defer p.limit.Stop()
	a.live.set(func(s *status.Snapshot) { s.Provisioning.State = status.ProvRunning })
	if !told && !wasPooled(m) {
		a.health.Report(protocol.Health{State: protocol.NotReady, SubStatus: "Provisioning", Description: "Starting"})
	}

	later, doc, login, err := a.applyPlan(pctx, m, p)
	told = p.told
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx) // stopped; the next start continues from here
		}
		a.Log.Error().Err(err).Str("code", provisioning.CodeOf(err)).Msg("provisioning failed")
		a.live.note("provisioning", "failed: "+provisioning.CodeOf(err))
		rec := provisioning.Failure(err, "azguest/"+a.Version, m.VM.ID, p.kind, time.Now())
		a.tellKVP(ctx, rec)
		if !told {
			a.health.Report(protocol.Health{
				State: protocol.NotReady, SubStatus: "ProvisioningFailed", Description: rec.Encode(provisioning.MaxDescription),
			})
		}
		a.finishBoot(status.ProvFailed, err)
		return nil
	}
	a.Log.Info().Dur("took", time.Since(start)).Str("media", doc.source()).Msg("machine provisioned")
	a.live.note("provisioning", "done")
	var extra []provisioning.Pair
	if codes := login.Codes(); len(codes) > 0 {
		extra = append(extra, provisioning.Pair{Key: "login", Value: strings.Join(codes, ",")})
	}
	a.tellKVP(ctx, provisioning.Success("azguest/"+a.Version, m.VM.ID, p.kind, time.Now(), extra...))
	if told {
		a.live.set(func(s *status.Snapshot) { s.Platform.Health = string(protocol.Ready) })
		a.readySent()
		a.finishBoot(status.ProvDone, nil)
	} else {
		a.ready(status.ProvDone)
	}
	a.afterReady(ctx, m, doc, later)
	return ctx.Err()
}

// applyPlan reads the provisioning document, makes the plan and applies it. It
// returns the steps that are left for after Ready, and whether the person can
// get in.
func (a *Agent) applyPlan(ctx context.Context, m *provisioning.Machine, p *pool) (later []provisioning.Step, from *origin, login access.Report, err error) {
	if m.Options.RegenerateHostKeys {
		// Made early: sshd starts at the same time and needs a host key.
		m.HostKeys = provisioning.MakeHostKeys(provisioning.HostKeyTypes(a.cfg.OS.EnableFIPS))
	}
	facts, err := m.Gather(ctx)
	if err != nil {
		return nil, nil, login, err
	}
	in, doc, err := a.finalInput(ctx, m, p)
	if err != nil {
		return nil, nil, login, err
	}
	a.account = in.UserName
	if p.kind != provisioning.PPSNone && m.HostKeys != nil {
		// Copies of a saved VM must not share host keys.
		m.HostKeys = provisioning.MakeHostKeys(provisioning.HostKeyTypes(a.cfg.OS.EnableFIPS))
	}
	a.diskLatch.open()
	from = (*origin)(doc)
	a.live.set(func(s *status.Snapshot) { s.Provisioning.Media = from.source() })
	if need := in.NeedsCertificates(); len(need) > 0 {
		if err := a.fetchCertificates(ctx, need); err != nil {
			a.Log.Warn().Err(err).Strs("thumbprints", need).Msg("could not fetch certificates for keys")
			// The instance metadata has the values of the same keys.
			if md, merr := a.metadata(ctx); merr == nil {
				in.Keys = append(in.Keys, md.Keys...)
			}
		}
	}
	steps, err := provisioning.Plan(in, facts, m.Options)
	if err != nil {
		return nil, from, login, err
	}
	now, later := provisioning.Split(steps)
	check := &loginStep{agent: a, in: in, later: later}
	now = provisioning.BeforeMarker(now, check)
	journal, err := m.OpenJournal()
	if err != nil {
		return nil, from, login, err
	}
	a.showSteps(slices.Concat(now, later))
	res, err := m.Apply(ctx, now, journal, a.observe)
	a.incomplete(m, res.Warnings)
	return later, from, check.report, err
}

// origin is where the provisioning data came from; nil means the instance
// metadata.
type origin ovf.Document

func (o *origin) source() string {
	if o == nil {
		return "instance metadata"
	}
	return o.Source.String()
}

// afterReady applies the steps that Ready does not wait for. It also ejects the
// medium, which must not happen earlier: until the marker is on disk, the
// medium has the only copy of the password.
func (a *Agent) afterReady(ctx context.Context, m *provisioning.Machine, from *origin, later []provisioning.Step) {
	if from != nil && from.Source.Optical {
		if err := ovf.Eject(a.Root, from.Source); err != nil {
			a.Log.Debug().Err(err).Msg("could not eject provisioning medium")
		}
	}
	if len(later) == 0 {
		return
	}
	journal, err := m.OpenJournal()
	if err != nil {
		a.Log.Error().Err(err).Msg("could not write provisioning journal")
		return
	}
	res, err := m.Apply(ctx, later, journal, a.observe)
	a.incomplete(m, res.Warnings)
	if err != nil && ctx.Err() == nil {
		a.Log.Error().Err(err).Msg("step after Ready failed")
	}
}

// incomplete logs warnings of steps, and shows in the status every step of this
// boot's provisioning that ended with one, before or after Ready, also after a
// restart of the agent.
func (a *Agent) incomplete(m *provisioning.Machine, warnings []*provisioning.Warning) {
	for _, w := range warnings {
		line := a.Log.Warn().Err(w).Str("code", w.Code())
		if w.Words != "" {
			line = line.Str(secret.Printed, w.Words)
		}
		line.Msg("provisioning step incomplete")
	}
	for _, e := range m.Incomplete() {
		text := e.Error
		if e.Words != "" {
			text += ": " + e.Words
		}
		a.live.problem("provisioning step "+e.ID, e.Code, fixOf(e.Code), errors.New(text))
	}
}

// machine returns this machine as package provisioning sees it. id may be empty
// where it does not matter which VM this is.
func (a *Agent) machine(id provisioning.Identity) *provisioning.Machine {
	sys := &provisioning.System{Root: a.Root, Run: a.Runner, Kernel: a.Kernel, Events: a.events, Log: a.Log}
	return provisioning.NewMachine(sys, a.provisioningOptions(), id)
}

func (a *Agent) showSteps(steps []provisioning.Step) {
	a.live.set(func(s *status.Snapshot) {
		s.Provisioning.Steps = nil
		for _, st := range steps {
			s.Provisioning.Steps = append(s.Provisioning.Steps, status.Step{Name: st.ID(), State: "pending"})
		}
	})
}

// observe shows progress, and kills the process at the step that a power cut
// test has chosen.
func (a *Agent) observe(p provisioning.Progress) {
	name := map[provisioning.State]string{
		provisioning.Doing: "running", provisioning.Done: "done", provisioning.Warned: "done",
		provisioning.Broken: "failed", provisioning.Skipped: "skipped",
	}[p.State]
	if name != "" {
		a.live.set(func(s *status.Snapshot) {
			steps := append([]status.Step{}, s.Provisioning.Steps...)
			for i := range steps {
				if steps[i].Name == p.Step.ID() {
					steps[i].State, steps[i].At, steps[i].TookS = name, time.Now().UTC(), p.Took.Seconds()
					if p.Err != nil {
						steps[i].Error, steps[i].Code = provisioning.ForRoot(p.Err), provisioning.CodeOf(p.Err)
					}
				}
			}
			s.Provisioning.Steps = steps
		})
		a.Log.Debug().Str("step", p.Step.String()).Str("state", string(p.State)).Dur("took", p.Took).Msg("provisioning step")
	}
	if a.dieAt != nil {
		a.dieAt(p)
	}
}

// healthDone records the result of a health report.
func (a *Agent) healthDone(h protocol.Health, err error) {
	now := time.Now().UTC()
	a.live.set(func(s *status.Snapshot) {
		r := &s.Platform.LastHealth
		r.At, r.Sent, r.Accepted, r.Error = now, true, err == nil, ""
		s.Platform.Health = string(h.State)
		if err != nil {
			r.Error = err.Error()
		} else {
			r.AcceptedAt = now
		}
	})
	switch {
	case err == nil && h.State == protocol.Ready:
		a.Log.Info().Dur("since_start", now.Sub(a.started)).Msg("platform accepted Ready")
		if werr := a.Root.WriteFile(readyMark, []byte(now.Format(time.RFC3339)+"\n"), 0o644); werr != nil {
			a.Log.Warn().Err(werr).Msg("could not save that Ready was sent; it is sent again at the next start")
		}
		if !a.inPool.Load() {
			if ferr := a.machine(provisioning.Identity{}).FinishPPS(); ferr != nil {
				a.Log.Warn().Err(ferr).Msg("could not remove marker for pre-provisioning")
			}
			a.readySent()
		}
	case err == nil:
		a.Log.Info().Str("state", string(h.State)).Str("sub", h.SubStatus).Msg("platform accepted health report")
	case protocol.Loud(err):
		a.Log.Warn().Err(err).Str("state", string(h.State)).Msg("health report not accepted yet")
	}
}

// tellKVP writes the report to the KVP pool, which the host reads when health
// is posted: it must be there before the post (provisioning/SPEC.md §9.8). Only
// Hyper-V guests have the directory.
func (a *Agent) tellKVP(ctx context.Context, rec provisioning.Record) {
	if !a.Root.Exists(path.Dir(kvp.GuestPool)) {
		return
	}
	pool := kvp.Open(a.Root)
	err := errors.Join(pool.DropStale(ctx), pool.Set(ctx, kvp.Record{Key: provisioning.ReportKey, Value: rec.Encode(provisioning.MaxReport)}))
	if err != nil {
		a.Log.Warn().Err(err).Msg("could not write report to the KVP pool")
	}
}
