// Package pki makes what the platform sends of certificates: identities with
// their keys, the CMS envelopes in which documents and protected settings
// travel (cms.go), the PFX inside of one of them (pfx.go), and an authority for
// https (authority.go). It is written from the standards and imports nothing of
// this repository, so that the agent's readers are not tested with their own
// mistakes.
package pki
