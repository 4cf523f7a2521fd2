package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

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
			continue // a disk that was just removed is not an error
		}
		// Not with Root.WriteFile, which replaces files: an attribute of sysfs
		// has to be written in place.
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

// scsiSeconds checks the value of the configuration; "" means that time-outs
// are left alone.
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
