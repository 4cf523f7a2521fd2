// Package udf reads UDF volumes (ECMA-167 as narrowed by OSTA UDF 1.02 to
// 2.60) in user space, as an fs.FS over an io.ReaderAt. The provisioning DVD
// is such a volume, and hardened kernels refuse to load the module that would
// mount it (provisioning/SPEC.md §4.9).
//
// It reads media of many writers: bridges with ISO 9660 and pure UDF, logical
// block sizes from 512 to 32768, plain, sparable, virtual (VAT) and metadata
// partitions, ICB strategies 4 and 4096, all kinds of allocation descriptors.
// It does not read named streams, and does not follow symlinks.
//
// The image is taken to be hostile. Every table, chain and directory is
// bounded (constants here and in package image), and so is every allocation,
// whatever sizes the image claims. An operation reads only what it needs;
// nothing is cached.
//
// Descriptors are verified (checksum, CRC, place) as strictly as Linux does,
// no stricter: media exist whose CRC length is wrong.
package udf
