package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning"
)

// bootBeside waits until the other provisioner is done. It reports nothing: the
// other one reports Ready or the failure, and a second report would make the
// state flap. Only if cloud-init ends without having provisioned the machine
// does this agent do it, because nothing else would.
func (a *Agent) bootBeside(ctx context.Context, owner provisioning.Finding, m *provisioning.Machine, standing provisioning.Standing) error {
	by := string(owner.Owner)
	if standing != provisioning.Provisioned {
		a.Log.Info().Str("by", by).Str("because", owner.Because).Msg("another provisioning agent is responsible")
		var out provisioning.Outcome
		err := a.waitFor(ctx, by+" ("+owner.Because+")", bootLimit, func(wctx context.Context) (err error) {
			out, err = m.WaitOwner(wctx, owner)
			return err
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && out.Failed {
			err = &provisioning.Error{
				ID: "AZ-PROV-CLOUDINIT", Reason: by + " did not finish",
				Err: fmt.Errorf("exited without provisioning: %s", strings.Join(out.Errors, "; ")),
			}
			if a.mayTakeOver(owner) {
				return a.takeOver(ctx, err, m)
			}
		}
		if err != nil {
			a.Log.Error().Err(err).Str("by", by).Str("code", provisioning.CodeOf(err)).Msg("provisioning agent did not finish")
			a.finishBoot(status.ProvFailed, err)
			return nil
		}
		a.mark(ctx, m)
		a.live.note("provisioning", "done by "+by)
	}
	if err := a.waitStage(ctx, owner, m); err != nil {
		return err
	}
	if readyIsOurs(owner, m) {
		a.ready(status.ProvDone)
	} else {
		a.finishBoot(status.ProvDone, nil)
	}
	if standing == provisioning.Provisioned {
		a.showSince(a.provisionedSince(m))
	}
	return ctx.Err()
}

// waitFor calls wait with a time limit, and shows meanwhile what is waited for.
func (a *Agent) waitFor(ctx context.Context, what string, limit time.Duration, wait func(context.Context) error) error {
	a.live.set(func(s *status.Snapshot) { s.Provisioning.Waiting = what })
	defer a.live.set(func(s *status.Snapshot) { s.Provisioning.Waiting = "" })
	wctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: not finished after %v", what, limit))
	defer cancel()
	return wait(wctx)
}

// waitStage waits for the stage of cloud-init after which extensions may start.
// It fails only when the context ends.
func (a *Agent) waitStage(ctx context.Context, owner provisioning.Finding, m *provisioning.Machine) error {
	stage := a.stage()
	if owner.Owner != provisioning.OwnerCloudInit || stage == "" {
		return nil
	}
	var out provisioning.Outcome
	err := a.waitFor(ctx, "cloud-init's "+string(stage)+" stage", a.cfg.Extensions.AfterTimeout, func(wctx context.Context) (err error) {
		out, err = m.WaitStage(wctx, stage)
		return err
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil || out.Failed {
		a.Log.Warn().Err(err).Strs("problems", out.Errors).Msg("extensions start without cloud-init's " + string(stage) + " stage")
		a.live.note("cloud-init", string(stage)+" stage did not finish")
	}
	return nil
}

// stage returns the stage of cloud-init that extensions wait for, "" for none.
func (a *Agent) stage() provisioning.Stage {
	switch a.cfg.Extensions.After {
	case config.AfterConfig:
		return provisioning.StageConfig
	case config.AfterFinal:
		return provisioning.StageFinal
	}
	return ""
}

// mayTakeOver reports whether this agent may provision instead of cloud-init:
// not if the administrator has chosen the provisioner by name.
func (a *Agent) mayTakeOver(owner provisioning.Finding) bool {
	return owner.Owner == provisioning.OwnerCloudInit && a.cfg.Provisioning.Agent == config.AgentAuto
}

// takeOver provisions where cloud-init has failed (provisioning/SPEC.md §3.7).
// What cloud-init has done stays: each step checks first. If it has reported
// Ready, which it does before everything else, no other health report is sent.
func (a *Agent) takeOver(ctx context.Context, why error, m *provisioning.Machine) error {
	told := m.CloudInitToldReady()
	a.Log.Warn().Err(why).Str("code", provisioning.CodeOf(why)).Bool("told_ready", told).Msg("cloud-init failed, taking over")
	a.live.note("provisioning", "taken over by this agent: "+why.Error())
	a.live.set(func(s *status.Snapshot) { s.Provisioning.By = string(provisioning.OwnerSelf) })
	return a.provision(ctx, m, told)
}

// readyIsOurs reports whether this agent has to report Ready: after a take-over
// that was interrupted, and where cloud-init used another data source and has
// not reported anything.
func readyIsOurs(owner provisioning.Finding, m *provisioning.Machine) bool {
	if m.ReadyPending() {
		return true
	}
	if owner.Owner != provisioning.OwnerCloudInit {
		return false
	}
	st, ok := provisioning.CloudInit(m.Root)
	return ok && !st.Empty() && !st.Platform() && !m.CloudInitToldReady()
}

// readySent removes the marker that Ready still has to be reported.
func (a *Agent) readySent() {
	if err := a.machine(provisioning.Identity{}).ReadySent(); err != nil {
		a.Log.Debug().Err(err).Msg("could not remove marker for pending Ready")
	}
}
