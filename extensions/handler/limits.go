package handler

import "github.com/azguest/azguest/agent/bound"

// Limits of JSON documents from packages and handlers. Status files are not
// decoded as a whole and need none, see json.go.
var (
	manifestLimits  = bound.Limits{Bytes: MaxManifest, Nodes: 20_000, Depth: 64}
	heartbeatLimits = bound.Limits{Bytes: MaxHeartbeat, Nodes: 5000, Depth: 64}
)
