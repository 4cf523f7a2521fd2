package update

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/protocol"
)

// Modes, as in the configuration (AutoUpdate.Mode).
const (
	Off     = "off"
	Distro  = "distro"
	Pinned  = "pinned"
	Channel = "channel"
)

// Rules is the configuration of updates.
type Rules struct {
	Mode, Pin  string
	Family     string // AutoUpdate.GAFamily
	Versioning bool   // Debug.EnableGAVersioning: the platform may ask for a version
	Downgrade  bool   // Debug.EnableRsmDowngrade: and for an older one, even if it names another fromVersion
	Hotfix     time.Duration
	Regular    time.Duration // an update is spread over this time from when it was first seen
}

// Facts is everything a decision depends on.
type Facts struct {
	Rules
	Now                time.Time
	Running, Installed string
	Families           []protocol.AgentFamily
	// RSM is whether the marker waagent_rsm_update exists: the platform chooses
	// the version.
	RSM bool
	// Initial: the marker waagent_initial_update is missing, so no update was
	// ever tried here.
	Initial bool
	// Manifest is that of the family, nil if not yet asked for.
	Manifest *protocol.Manifest
	Bad      map[string]Bad
	Plan     Plan
	Dice     float64 // random, in [0,1): the position in the time over which updates are spread
}

// Plan is when an update will be made.
type Plan struct {
	Version string    `json:"version,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

// Kinds of a Bad version.
const (
	RolledBack = "rolled-back" // was tried and failed; not tried again
	Refused    = "refused"     // was not accepted; tried again after a day
	Withdrawn  = "withdrawn"   // the platform requested another version instead
)

// refusedFor is how long a refused package is not tried again.
const refusedFor = 24 * time.Hour

// Bad says why a version is not used.
type Bad struct {
	Kind   string    `json:"kind"`
	Code   string    `json:"code,omitempty"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Decision is what to do next about the version.
type Decision struct {
	Want      string // version to bring up, "" for none
	Requested string // version the platform or the administrator asks for
	// RSM is whether the platform chooses the version from now on; the status
	// document then has updateStatus.
	RSM bool
	// NeedManifest: call Decide again with the manifest.
	NeedManifest bool
	// Withdraw the running version: the platform requested a downgrade.
	Withdraw bool
	// Attempted: the initial update needs no further try.
	Attempted bool
	Family    protocol.AgentFamily
	Plan      Plan
	Err       error // *Error; why the requested version is not used
}

// Decide decides which version to update to. It is a pure function and may be
// called at any time: a version that is already running is not wanted again.
func Decide(f Facts) Decision {
	switch f.Mode {
	case Pinned:
		return f.pinned()
	case Channel:
		return f.channel()
	}
	return Decision{}
}

func (f Facts) pinned() Decision {
	d := Decision{Requested: f.Pin}
	switch bad, isBad := f.Bad[f.Pin]; {
	case f.Pin == "" || Compare(f.Pin, f.Running) == 0:
		return d
	case !Valid(f.Pin):
		d.Err = refuse("AutoUpdate.Pin %q is not a version (numbers and dots)", f.Pin)
		return d
	case isBad && bad.blocks(f.Now, false):
		d.Err = bad.error(f.Pin)
		return d
	}
	if f.Pin != f.Installed {
		fam, err := f.family()
		if err != nil {
			d.Err = err
			return d
		}
		d.Family = fam
	}
	d.Want = f.Pin
	return d
}

func (f Facts) channel() Decision {
	d := Decision{RSM: f.RSM && f.Versioning, Plan: f.Plan}
	fam, err := f.family()
	if err != nil {
		d.Err = err
		return d
	}
	d.Family = fam
	// The very first update always goes to the newest version of the manifest.
	if f.Versioning && !f.Initial {
		switch {
		case fam.RSMEnabled != nil:
			d.RSM = *fam.RSMEnabled
		case f.RSM:
			d.Err = refuse("goal state has no isVMEnabledForRSMUpgrades")
			return d
		}
	}
	if d.RSM && !f.Initial {
		return f.ordered(d)
	}
	return f.latest(d)
}

// ordered decides by the platform's request.
func (f Facts) ordered(d Decision) Decision {
	fam := d.Family
	d.Plan = Plan{}
	switch {
	case fam.VersionByRSM == nil:
		d.Err = refuse("goal state has no isVersionFromRSM")
		return d
	case fam.Version == "":
		d.Err = refuse("goal state has no version")
		return d
	}
	d.Requested = fam.Version
	bad, isBad := f.Bad[fam.Version]
	switch {
	case !*fam.VersionByRSM || Compare(fam.Version, f.Running) == 0:
	case !Valid(fam.Version):
		d.Err = refuse("requested version %q is not a version (numbers and dots)", fam.Version)
	case Compare(fam.Version, f.Installed) < 0:
		d.Err = refuse("requested version %s is older than the installed version %s", fam.Version, f.Installed)
	case Compare(fam.Version, f.Running) < 0 && fam.FromVersion != f.Running && !f.Downgrade:
		d.Err = refuse("requested version %s is older than %s, and the request is for %q", fam.Version, f.Running, fam.FromVersion)
	case isBad && bad.blocks(f.Now, false):
		d.Err = bad.error(fam.Version)
	default:
		d.Want = fam.Version
		d.Withdraw = Compare(fam.Version, f.Running) < 0
	}
	return d
}

// latest decides for the newest version of the manifest, at a random time so
// that not all VMs of the platform update at once.
func (f Facts) latest(d Decision) Decision {
	if f.Manifest == nil {
		d.NeedManifest = true
		return d
	}
	top := ""
	for _, v := range f.Manifest.Versions {
		if Valid(v.Version) && (top == "" || Compare(v.Version, top) > 0) {
			top = v.Version
		}
	}
	d.Attempted = f.Initial
	if top == "" || Compare(top, f.Running) <= 0 || Compare(top, f.Installed) < 0 {
		d.Plan = Plan{}
		return d
	}
	d.Requested = top
	// Only the newest is considered: stepping down through the versions
	// below a bad one would try them all.
	if bad, ok := f.Bad[top]; ok && bad.blocks(f.Now, true) {
		d.Plan = Plan{}
		d.Err = bad.error(top)
		return d
	}
	if f.Initial {
		d.Want, d.Plan = top, Plan{}
		return d
	}
	spread := f.Regular
	if hotfix(top, f.Running) {
		spread = f.Hotfix
	}
	if d.Plan.Version != top || d.Plan.At.Sub(f.Now) > spread { // the clock was set back
		d.Plan = Plan{Version: top, At: f.Now.Add(time.Duration(f.Dice * float64(spread))).UTC()}
	}
	if !f.Now.Before(d.Plan.At) {
		d.Want = top
	}
	return d
}

// family returns the family that has the configured name and a manifest.
func (f Facts) family() (protocol.AgentFamily, error) {
	i := slices.IndexFunc(f.Families, func(a protocol.AgentFamily) bool {
		return strings.EqualFold(a.Name, f.Family) && len(a.ManifestURIs) > 0
	})
	if i < 0 {
		return protocol.AgentFamily{}, refuse("goal state has no agent family %q with a manifest", f.Family)
	}
	return f.Families[i], nil
}

// blocks reports whether the version must not be used. byOurselves means that
// the platform has not asked for it: a version that it withdrew, it may request
// again.
func (b Bad) blocks(now time.Time, byOurselves bool) bool {
	switch b.Kind {
	case Refused:
		age := now.Sub(b.At) // negative if the clock was set back
		return age >= 0 && age < refusedFor
	case Withdrawn:
		return byOurselves
	}
	return true
}

func (b Bad) error(version string) error {
	if b.Kind == Withdrawn {
		return nil
	}
	return &Error{Kind: b.Code, Err: fmt.Errorf("version %s: %s", version, b.Reason)}
}

// Moment is what decides whether a hand-over has to wait.
type Moment struct {
	Now time.Time
	// Ready is when extensions were allowed to start in this process; zero if
	// they were not yet.
	Ready time.Time
	Quiet time.Duration // after Ready
	// Busy has the names of what is running, for the log.
	Busy []string
	// Accepted is when the platform last accepted a status document.
	Accepted  time.Time
	Heartbeat time.Duration // how often one is sent
	// Closed is the window of maintenance, if Now is not in it.
	Closed string
}

// WaitFor names what a hand-over waits for.
type WaitFor string

// What a hand-over waits for.
const (
	WaitNothing      WaitFor = ""
	WaitProvisioning WaitFor = "provisioning"
	WaitQuiet        WaitFor = "quiet"     // some time after the start
	WaitExtension    WaitFor = "extension" // one that is running
	WaitReport       WaitFor = "report"    // to be accepted by the platform
	WaitWindow       WaitFor = "window"    // of maintenance
)

// Wait returns what a hand-over has to wait for, and a text for people. A new
// version is judged by its status reports, so the platform has to accept
// reports; and the first minutes after a start are left to other work.
func Wait(m Moment) (what WaitFor, text string) {
	switch left := m.Ready.Add(m.Quiet).Sub(m.Now); {
	case m.Ready.IsZero():
		return WaitProvisioning, "provisioning"
	case left > 0:
		return WaitQuiet, fmt.Sprintf("the end of the quiet period after start, %v left", left.Round(time.Second))
	case len(m.Busy) > 0:
		return WaitExtension, "a running extension: " + strings.Join(m.Busy, ", ")
	case m.Accepted.IsZero() || m.Now.Sub(m.Accepted) > 3*m.Heartbeat:
		return WaitReport, "the platform to accept a status report"
	case m.Closed != "":
		return WaitWindow, "the maintenance window " + m.Closed
	}
	return WaitNothing, ""
}
