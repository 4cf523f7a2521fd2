package userdata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// mountLimit bounds the step; network file systems may be slow.
const mountLimit = 5 * time.Minute

// AddMounts adds lines to /etc/fstab, in a block of their own, and mounts what
// they say. As with cloud-init, a device that has a line already is left out, and
// one that is missing gets its line: a disk may be attached later. Without
// "nofail" its line is left out, because the next boot would wait for the disk and
// end in the emergency shell.
type AddMounts struct {
	Mounts     []Mount
	Systemctl  string // only if systemd runs
	Restorecon string
}

// ID implements provisioning.Step.
func (AddMounts) ID() string { return "mounts" }

func (s AddMounts) String() string {
	return fmt.Sprintf("add %s to /etc/fstab", count(len(s.Mounts), "mount"))
}

// Apply implements provisioning.Step.
func (s AddMounts) Apply(ctx context.Context, m *provisioning.Machine) error {
	const name = "/etc/fstab"
	bad := func(err error) error { return failed(CodeMount, "failed to add mounts", err) }
	old, err := readText(m.Root, name)
	if err != nil {
		return bad(err)
	}
	others := provisioning.WithoutFstabBlock(old)
	ours, problems := s.choose(m, others)
	next := fstabWith(others, ours)
	if next != old {
		if err := m.Root.WriteFile(name, []byte(next), 0o644); err != nil {
			return bad(err)
		}
		m.Restorecon(ctx, s.Restorecon, name)
		if s.Systemctl != "" {
			// Units of mounts are made of fstab (systemd-fstab-generator(8)).
			if _, err := m.Run.Run(ctx, host.Cmd{Name: s.Systemctl, Args: []string{"daemon-reload"}, Timeout: toolTimeout}); err != nil {
				problems = append(problems, err)
			}
		}
	}
	for _, mt := range ours {
		if err := activate(ctx, m, mt); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", mt.Point, err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return partly(CodeMount, "mounts: %w", err)
	}
	return nil
}

// choose returns the mounts that get a line, with their devices as fstab names
// them.
func (s AddMounts) choose(m *provisioning.Machine, others string) (ours []Mount, problems []error) {
	taken := map[string]bool{}
	for line := range strings.Lines(others) {
		if f := strings.Fields(line); len(f) > 1 && f[0][0] != '#' {
			taken[f[0]] = true
		}
	}
	for _, mt := range s.Mounts {
		dev, ok := device(m.Root, mt)
		switch {
		case !ok && (dev == "" || !mayBeAbsent(mt)):
			problems = append(problems, fmt.Errorf("no device %s for %s", mt.Device, mt.Point))
			continue
		case taken[dev] && strings.HasPrefix(dev, "/dev/"), taken[dev] && strings.Contains(dev, "="):
			m.Log.Info().Str("device", dev).Msg("device is in /etc/fstab already")
			continue
		}
		if !ok {
			problems = append(problems, fmt.Errorf("no device %s for %s yet", mt.Device, mt.Point))
		}
		mt.Device = dev
		ours = append(ours, mt)
	}
	return ours, problems
}

// mayBeAbsent reports whether the machine boots without the device of a mount.
func mayBeAbsent(mt Mount) bool {
	options := strings.Split(mt.Options, ",")
	return slices.Contains(options, "nofail") || slices.Contains(options, "noauto")
}

// fstabWith adds our block.
func fstabWith(text string, ours []Mount) string {
	if len(ours) == 0 {
		return text
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	var b strings.Builder
	b.WriteString(text + provisioning.FstabBegin + "\n")
	for _, mt := range ours {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%d\t%d\n", mt.Device, mt.Point, mt.Type, mt.Options, mt.Dump, mt.Pass)
	}
	b.WriteString(provisioning.FstabEnd + "\n")
	return b.String()
}

// shortDevice matches names of disks that may be given without /dev.
var shortDevice = regexp.MustCompile(`^(x?[shv]d[a-z][0-9]*|sr[0-9]+|nvme[0-9]+n[0-9]+(p[0-9]+)?)$`)

// resourceName matches the names that cloud-init has for the temporary disk and
// its partitions, and otherName those of other disks of platforms.
var (
	resourceName = regexp.MustCompile(`^ephemeral0?(?:\.([1-9][0-9]?))?$`)
	otherName    = regexp.MustCompile(`^(?:ephemeral[0-9]*(?:\..*)?|ebs[0-9]+|ami|root|swap)$`)
)

// resourceLinks are the names of the partitions of the temporary disk, without
// their numbers: by the rules for udev of this agent and of WALinuxAgent, and by
// those of cloud-init.
var resourceLinks = []string{"/dev/disk/azure/resource-part", "/dev/disk/cloud/azure_resource-part"}

// device returns the device of a mount as fstab names it, and whether it is
// there. Of a disk that has partitions, it is the first one. What is no device
// below /dev (a label, a network file system, tmpfs, a directory) is taken as it
// is.
func device(r host.Root, mt Mount) (string, bool) {
	dev := mt.Device
	switch {
	case resourceName.MatchString(dev):
		part := cmp.Or(resourceName.FindStringSubmatch(dev)[1], "1")
		for _, link := range resourceLinks {
			if r.Exists(link + part) {
				return link + part, true
			}
		}
		return "", false
	case otherName.MatchString(dev): // a disk that only other platforms have
		return "", false
	case shortDevice.MatchString(dev):
		dev = "/dev/" + dev
	case !strings.HasPrefix(dev, "/dev/"):
		return dev, true
	}
	for _, part := range []string{"1", "p1", "-part1"} {
		if r.Exists(dev + part) {
			return dev + part, true
		}
	}
	return dev, r.Exists(dev)
}

// activate mounts what a line says, unless it is mounted or is not to be. The
// mount point is made in any case.
func activate(ctx context.Context, m *provisioning.Machine, mt Mount) error {
	later := slices.Contains(strings.Split(mt.Options, ","), "noauto") || strings.HasPrefix(mt.Device, "/dev/") && !m.Root.Exists(mt.Device)
	point := host.Unescape(mt.Point)
	if mt.Type == "swap" {
		if later {
			return nil
		}
		active, err := swapActive(m.Root, mt.Device)
		if err != nil || active {
			return err
		}
		_, err = m.Run.Run(ctx, host.Cmd{Name: "swapon", Args: []string{mt.Device}, Timeout: toolTimeout})
		return err
	}
	if err := makeDirs(m.Root, point); err != nil || later {
		return err
	}
	mounts, err := m.Root.Mounts(point)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(mounts, func(o host.Mount) bool { return o.Point == point }) {
		return nil
	}
	_, err = m.Run.Run(ctx, host.Cmd{Name: "mount", Args: []string{point}, Timeout: toolTimeout})
	return err
}

// swapActive reports whether a device or file is used for swap. The kernel names
// a device without links.
func swapActive(r host.Root, dev string) (bool, error) {
	full, err := r.Resolve(dev)
	if err != nil {
		full = dev
	}
	text, err := readText(r, "/proc/swaps")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && path.Clean(host.Unescape(f[0])) == full {
			return true, nil
		}
	}
	return false, nil
}
