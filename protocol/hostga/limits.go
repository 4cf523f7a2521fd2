package hostga

import "github.com/azguest/azguest/agent/bound"

// limits of vmSettings. The settings of a handler are one string in it and
// count as one node; real documents have some hundred values and some hundred
// KiB.
var limits = bound.Limits{Bytes: 3 << 20, Nodes: 30_000, Depth: 64}

// maxAnswer bounds the plugin's answers to PUT and to the health request.
const maxAnswer = 64 << 10
