// Package media writes disc images in the formats of provisioning media: UDF
// 1.02 (ECMA-167 2nd edition, OSTA UDF 1.02), ISO 9660 with Joliet and Rock
// Ridge, or both over the same data, with files in the root directory only. It
// is written from the standards and imports nothing of this repository, so that
// it does not repeat mistakes of the agent's readers.
//
// Begin with image.go; udf.go and iso9660.go write the structures of each
// format.
package media
