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
	once(userSteps(c, f, o)...)
	once(fileSteps(c, f, o, true)...)
	return steps
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
