package userdata

import (
	"path"

	"github.com/azguest/azguest/provisioning"
)

// configSteps decides which steps carry a configuration out, in the order in
// which cloud-init's modules run on Debian. It is pure.
func configSteps(c Config, f Facts, o Options) []Planned {
	var steps []Planned
	once := func(s ...provisioning.Step) {
		for _, s := range s {
			steps = append(steps, Planned{Step: s})
		}
	}
	once(fileSteps(c, f, o, false)...)
	steps = append(steps, hostSteps(c, f, o)...)
	if len(c.Mounts) > 0 {
		steps = append(steps, Planned{Step: AddMounts{Mounts: c.Mounts, Systemctl: f.Systemctl, Restorecon: f.Restorecon}, Limit: mountLimit})
	}
	once(userSteps(c, f, o)...)
	if c.TimeZone != "" {
		once(SetTimeZone{Zone: c.TimeZone, Name: f.Dpkg, Restorecon: f.Restorecon})
	}
	if c.NTP != nil && c.NTP.Enabled {
		steps = append(steps, Planned{Step: ntpStep(*c.NTP, f, o), Limit: ntpLimit})
	}
	if c.PackageUpdate || c.PackageUpgrade || len(c.Packages) > 0 {
		// Lists of packages in an image are old, so they are always fetched.
		steps = append(steps, Planned{Step: Packages{Packager: f.Packager, Update: true, Upgrade: c.PackageUpgrade, Names: c.Packages, Runs: runs(f, o, "packages")}, Limit: packagesLimit})
	}
	once(fileSteps(c, f, o, true)...)
	return steps
}

// runs returns how programs of a step are run that must not be ended.
func runs(f Facts, o Options, name string) Supervised {
	return Supervised{Launcher: o.Launcher, Dir: path.Join(o.Provisioning.Dir(), "data", name), Scoped: f.Systemd}
}

// fileSteps returns the steps of the files that are deferred, or of those that
// are not.
func fileSteps(c Config, f Facts, o Options, deferred bool) []provisioning.Step {
	var steps []provisioning.Step
	for i, file := range c.Files {
		if file.Defer == deferred {
			steps = append(steps, WriteFile{File: file, Index: i + 1, Ledger: path.Join(o.Provisioning.Dir(), "data/appended.json"), Restorecon: f.Restorecon})
		}
	}
	return steps
}
