package imds

import "github.com/azguest/azguest/agent/bound"

// limits of the instance document: 64 KiB of user data in base64, and some
// hundred values about interfaces, disks, keys and tags.
var limits = bound.Limits{Bytes: 1 << 20, Nodes: 20_000, Depth: 64}

// maxKeys bounds the public keys that are taken from it.
const maxKeys = 1000

// eventLimits are the limits of the scheduled events document. It has one event as
// a rule, with the names of up to a few hundred machines, but lists those of a
// whole scale set: when many of its machines are evicted at once, each has an
// event of its own.
var eventLimits = bound.Limits{Bytes: 512 << 10, Nodes: 20_000, Depth: 16}

const (
	maxBadEvents = 10   // that are reported one by one
	maxResources = 1000 // of one event
	maxEventID   = 64
	maxEventText = 500
	maxDuration  = 7 * 24 * 3600 // seconds
)
