package wire

import "github.com/azguest/azguest/agent/bound"

// limits are the bounds of a document, by the name under which it is
// requested. Most documents have some KiB; the largest are certificates and
// the settings of extensions with some hundred KiB, and manifests of
// publishers that never withdraw a version. Four documents of a goal state are
// read at the same time, while the previous ones are still in use, so it is
// their sum that counts.
func limits(doc string) bound.Limits {
	const depth = 64
	switch doc {
	case "extensionsConfig":
		return bound.Limits{Bytes: 3 << 20, Nodes: 30_000, Depth: depth}
	case "manifest":
		return bound.Limits{Bytes: MaxManifest, Nodes: 30_000, Depth: depth}
	case "certificates":
		return bound.Limits{Bytes: 1 << 20, Nodes: 1000, Depth: depth}
	case "remoteAccess":
		return bound.Limits{Bytes: 512 << 10, Nodes: 5000, Depth: depth}
	case "hostingEnvironmentConfig", "sharedConfig":
		// In a cloud service they list every instance.
		return bound.Limits{Bytes: 512 << 10, Nodes: 10_000, Depth: depth}
	}
	return bound.Limits{Bytes: 256 << 10, Nodes: 3000, Depth: depth} // goalstate, versions
}

// maxAnswer bounds the WireServer's answers to POST, which are not read.
const maxAnswer = 64 << 10

// MaxManifest is the limit of a version manifest in bytes, for the packages
// that fetch it.
const MaxManifest = 1 << 20

// maxUsers bounds the accounts of a remote access document.
const maxUsers = 100
