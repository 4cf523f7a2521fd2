package extensions

import "github.com/azguest/azguest/agent/bound"

// Limits of the documents that packages and handlers bring, with the bytes that
// their files may have. Status files are walked over and not built, see json.go.
var (
	manifestLimits  = bound.Limits{Bytes: maxManifest, Nodes: 20_000, Depth: 64}
	heartbeatLimits = bound.Limits{Bytes: maxHeartbeat, Nodes: 5000, Depth: 64}
	policyLimits    = bound.Limits{Bytes: maxPolicy, Nodes: 50_000, Depth: 64}
)
