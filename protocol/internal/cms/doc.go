// Package cms opens what the platform encrypts: CMS EnvelopedData and
// AuthEnvelopedData (certificates, passwords, protected settings), PFX
// packets, and verifies detached SignedData (packages). It is written by
// hand because no library reads the platform's envelopes: recipients are
// named by subject key identifier, the key transport is OAEP with empty
// parameters, and the input may be BER (protocol/SPEC.md §5).
//
// All input is untrusted: it is bounded (ber.go), and must never cause a
// panic.
//
// Begin with Decrypt (enveloped.go) and ParsePFX (pfx.go; its ciphers are in
// pbe.go); signed.go has signatures. No other package of protocol is used.
package cms
