package agent

import (
	"context"
	"errors"
	"time"

	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/disk"
)

// The resource disk may appear after the agent has started.
const (
	diskTries = 10
	diskPause = 3 * time.Second
)

// resourceDisk prepares the temporary disk at each start, because after each
// move to another host there is a new one (provisioning/SPEC.md §12.1). It runs
// concurrently with provisioning, and nothing waits for it. Without
// ResourceDisk.Format it does nothing.
func (a *Agent) resourceDisk(ctx context.Context) error {
	if !a.cfg.ResourceDisk.Format {
		return nil
	}
	select {
	case <-a.diskLatch.opened:
	case <-ctx.Done():
		return nil // what has ended the context reports the reason
	}
	err := a.prepareDisk(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // ended on purpose; the next boot looks again
	}
	if err != nil {
		a.Log.Warn().Err(err).Str("code", codeDisk).Msg("resource disk")
	}
	a.live.problem("resource disk", codeDisk, "agentctl explain "+codeDisk, err)
	return nil
}

const codeDisk = "AZ-PROV-DISK"

func (a *Agent) diskOptions() disk.Options {
	r := a.cfg.ResourceDisk
	return disk.Options{Format: r.Format, FileSystem: r.FileSystem, MountPoint: r.MountPoint, MountOptions: r.MountOptions, Swap: r.EnableSwap, SwapMiB: r.SwapSizeMB, Note: a.cfg.Paths.Lib + "/azguest/disk.json"}
}

func (a *Agent) prepareDisk(ctx context.Context) error {
	o := a.diskOptions()
	if a.cfg.ResourceDisk.SwapEncryption && o.Swap {
		a.Log.Warn().Msg("ResourceDisk.EnableSwapEncryption has no effect on Linux")
	}
	disks, err := a.findDisk(ctx, o)
	if err != nil {
		return err
	}
	if len(disks) == 0 && !o.Swap {
		// Most VM sizes have none, and packages enable ResourceDisk.Format:
		// this is an error only if swap was asked for.
		a.Log.Debug().Msg("no resource disk")
		return nil
	}
	actions, reason := disk.Plan(disks, o)
	if len(actions) == 0 {
		return errors.New(reason)
	}
	begin := time.Now()
	err = disk.Apply(ctx, a.Root, a.Runner, actions, func(act disk.Action) {
		a.Log.Debug().Str("what", act.String()).Msg("resource disk")
	})
	if err != nil {
		return err
	}
	changed := 0
	for _, act := range actions {
		if act.Kind != disk.Readme && act.Kind != disk.Swap {
			changed++
		}
	}
	if changed > 0 {
		a.Log.Info().Str("disk", disks[0].Name).Str("at", o.MountPoint).Dur("took", time.Since(begin)).Msg("resource disk mounted")
		a.live.note("resource disk", "mounted on "+o.MountPoint)
	}
	return nil
}

// findDisk waits a while for the resource disk. If there is none, the result is
// empty: the VM's size may not include one.
func (a *Agent) findDisk(ctx context.Context, o disk.Options) ([]disk.Disk, error) {
	for try := 1; ; try++ {
		disks, err := disk.Look(a.Root, o)
		if err != nil || len(disks) > 0 || try == diskTries {
			return disks, err
		}
		select {
		case <-time.After(diskPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// decided lets the preparation of the resource disk begin, unless provisioning
// has to come first.
func (a *Agent) decided(owner provisioning.Finding, standing provisioning.Standing) {
	if owner.Owner == provisioning.OwnerSelf && standing == provisioning.Fresh {
		return // applyPlan opens the latch when the provisioning data is known
	}
	if owner.Owner != provisioning.OwnerSelf && owner.Owner != provisioning.OwnerNobody && standing != provisioning.Provisioned {
		return // the other provisioner may still set up file systems
	}
	a.diskLatch.open()
}
