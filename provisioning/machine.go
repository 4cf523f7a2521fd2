package provisioning

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
)

// A Machine is one machine as this package sees it: the system that is
// changed, what is configured, and which VM it is.
type Machine struct {
	*System
	Options Options // complete, see NewMachine
	VM      Identity
}

// NewMachine fills the options that are empty.
func NewMachine(sys *System, o Options, vm Identity) *Machine {
	return &Machine{System: sys, Options: o.WithDefaults(), VM: vm}
}

// System is how a machine is reached. Every field is required, HostKeys
// excepted.
type System struct {
	Root   host.Root
	Run    host.Runner
	Kernel host.Kernel
	Events event.Sink
	Log    zerolog.Logger

	// HostKeys may hold keys that are already being generated: sshd cannot
	// start without one.
	HostKeys *HostKeyMaker

	// sshdChanged is when a step last changed what sshd reads when it
	// starts, by bootClock; 0 if none did.
	sshdChanged time.Duration
}
