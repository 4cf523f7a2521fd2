package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/disk"
)

// installed is closed when it is known what becomes of the machine: it is not
// waiting in a pool, and nobody else is about to make its file systems.
type latch struct {
	once   sync.Once
	opened chan struct{}
}

func newLatch() *latch { return &latch{opened: make(chan struct{})} }

func (k *latch) open() { k.once.Do(func() { close(k.opened) }) }

// openAfter makes it known when f has ended, in whatever way.
func (k *latch) openAfter(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		defer k.open()
		return f(ctx)
	}
}

// Finding the resource disk: it may come later than the agent.
const (
	diskTries = 10
	diskPause = 3 * time.Second
)

// resourceDisk prepares the temporary disk at each start, because after each
// move to another host there is a new one (provisioning/SPEC.md §12.1). It runs
// inBackground provisioning and nothing waits for it. Without ResourceDisk.Format
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

// scsiTimeout is the job that keeps the time-out of every SCSI disk where
// OS.RootDeviceScsiTimeout wants it, those included that are attached later
// (provisioning/SPEC.md §12.6). sysfs is written only where it differs.
func (a *Agent) scsiTimeout(context.Context) error {
	want, err := scsiSeconds(a.cfg.OS.RootDeviceScsiTimeout)
	if err != nil || want == "" {
		return err
	}
	names, err := a.Root.Glob("/sys/block/sd*/device/timeout")
	if err != nil {
		return fmt.Errorf("set SCSI timeouts: %w", err)
	}
	var errs []error
	for _, n := range names {
		b, err := a.Root.ReadFile(n)
		if err != nil || strings.TrimSpace(string(b)) == want {
			continue // a disk that was just taken out is no fault
		}
		// Not through Root.WriteFile: an attribute of sysfs is no file that
		// could be replaced.
		f, err := a.Root.OpenFile(n, os.O_WRONLY, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_, err = f.WriteString(want)
		if err = errors.Join(err, f.Close()); err != nil {
			errs = append(errs, err)
			continue
		}
		a.Log.Debug().Str("disk", n).Str("seconds", want).Msg("SCSI timeout set")
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set SCSI timeouts: %w", err)
	}
	return nil
}

// scsiSeconds checks the value of the configuration; "" is: leave it alone.
func scsiSeconds(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" || strings.EqualFold(s, "none") {
		return "", nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 86400 {
		return "", fmt.Errorf("OS.RootDeviceScsiTimeout is %q, not a number of seconds", s)
	}
	return strconv.Itoa(n), nil
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
