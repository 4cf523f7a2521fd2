package imds

import "github.com/azguest/azguest/agent/bound"

// limits of the instance document: 64 KiB of user data in base64, and some
// hundred values about interfaces, disks, keys and tags.
var limits = bound.Limits{Bytes: 1 << 20, Nodes: 20_000, Depth: 64}

// maxKeys bounds the public keys that are taken from it.
const maxKeys = 1000
