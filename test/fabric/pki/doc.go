// Package pki creates the platform's certificates and encrypted documents:
// identities with their keys, CMS envelopes for documents and protected
// settings (cms.go), the PFX inside one of them (pfx.go), and a certificate
// authority for https (authority.go). It is written from the standards and
// imports nothing of this repository, so that it does not repeat mistakes of
// the agent's readers.
package pki
