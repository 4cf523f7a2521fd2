package hostga

import "github.com/azguest/azguest/agent/bound"

// limits of vmSettings. What handlers get as their settings is text in it, and
// counts as one; real documents have some hundred values and some hundred KiB.
var limits = bound.Limits{Bytes: 3 << 20, Nodes: 30_000, Depth: 64}

// maxAnswer bounds the plugin's answers to PUT, and that of its health.
const maxAnswer = 64 << 10
