// Package media writes disc images as provisioning media are: UDF 1.02 (ECMA-167
// 2nd edition, OSTA UDF 1.02), ISO 9660 with Joliet and Rock Ridge, or both over
// the same data, with files in the root directory only. It is written from the
// standards and imports nothing of this repository, so that the agent's readers
// are not tested with their own mistakes.
//
// Begin with image.go; udf.go and iso9660.go write the structures of each.
package media
