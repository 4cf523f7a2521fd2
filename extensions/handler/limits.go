package handler

import "github.com/azguest/azguest/agent/bound"

// Limits of the documents that packages and handlers bring, with the bytes that
// their files may have. Status files are walked over and not built, see json.go.
var (
	manifestLimits  = bound.Limits{Bytes: MaxManifest, Nodes: 20_000, Depth: 64}
	heartbeatLimits = bound.Limits{Bytes: MaxHeartbeat, Nodes: 5000, Depth: 64}
)
