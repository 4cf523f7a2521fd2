// Package web is the HTTP layer under every platform channel: one Do with
// the status classes, limits and pace of protocol/SPEC.md §2.3 to §2.5. It
// knows no document.
package web
