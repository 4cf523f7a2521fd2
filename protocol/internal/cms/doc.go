// Package cms opens what the platform encrypts: CMS EnvelopedData and
// AuthEnvelopedData (certificates, passwords, protected settings), PFX
// packets, and verifies detached SignedData (packages). It is written by
// hand because no library reads the platform's envelopes: recipients are
// named by subject key identifier, the key transport is OAEP with empty
// parameters, and the input may be BER (spec/protocol §3).
//
// All input is hostile: it is bounded, and nothing here panics on it.
package cms
