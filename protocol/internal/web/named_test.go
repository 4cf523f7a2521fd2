package web

import "testing"

// TestERR4OnlyTheServersCodeCounts: a word elsewhere in the body is ignored.
func TestERR4OnlyTheServersCodeCounts(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"errorCode":"InvalidContainerConfiguration","message":"x"}`:                                 "InvalidContainerConfiguration",
		`{"error":{"code":"InvalidContainerConfiguration"}}`:                                          "InvalidContainerConfiguration",
		"\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>InvalidBlobType</Code></Error>": "InvalidBlobType",
		`<Error><Code>InvalidBlobType</Code><Message>x</Message></Error>`:                             "InvalidBlobType",
		`{"errorCode":"NotFound","message":"InvalidContainerConfiguration"}`:                          "NotFound",
		`<Error><Code>NotFound</Code><Message>InvalidBlobType</Message></Error>`:                      "NotFound",
		`no such blob: InvalidBlobType/InvalidContainerConfiguration`:                                 "",
		`<html><body>InvalidContainerConfiguration</body></html>`:                                     "",
		``: "",
	} {
		e := &StatusError{Status: 400, Body: body}
		if got := e.Named(); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
		if got := e.InvalidContainer(); got != (want == "InvalidContainerConfiguration") {
			t.Errorf("%q: invalid container %v", body, got)
		}
	}
}
