package agent

import (
	"context"
	"errors"
	"time"

	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/disk"
)

// Finding the resource disk: it may come later than the agent.
const (
	diskTries = 10
	diskPause = 3 * time.Second
)

// resourceDisk prepares the temporary disk at each start, because after each
// move to another host there is a new one (provisioning/SPEC.md §12.1). It runs
// beside provisioning, and nothing waits for it. Without ResourceDisk.Format
// it does not so much as look.
func (a *Agent) resourceDisk(ctx context.Context) error {
	if !a.cfg.ResourceDisk.Format {
		return nil
	}
	select {
	case <-a.diskLatch.opened:
	case <-ctx.Done():
		return nil // whoever ended us says why
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
		// Most sizes have none, and packages ship with Format on: nothing is
		// missing, unless somebody wants swap on it.
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

// findDisk waits for the disk for a while. That it was taken out of the VM's
// size is no fault of the machine, but of its configuration: it is told.
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

// decided tells the resource disk that it may begin: the order is known, and
// the one who provisions is us, or has done it.
func (a *Agent) decided(owner provisioning.Finding, standing provisioning.Standing) {
	if owner.Owner == provisioning.OwnerSelf && standing == provisioning.Fresh {
		return // provision will say it, when the VM is not a pooled one
	}
	if owner.Owner != provisioning.OwnerSelf && owner.Owner != provisioning.OwnerNobody && standing != provisioning.Provisioned {
		return // theirs are the file systems until they are done
	}
	a.diskLatch.open()
}
