package ctl

import (
	"slices"
	"testing"
)

// TestTagsAreCompleted: a tag is completed unless a shell would take it for
// something else.
func TestTagsAreCompleted(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "/run/azguest/metadata.json", `{"schema_version":1,"fetched":"2026-11-22T11:00:00Z","document":{"compute":{"tagsList":[`+
		`{"name":"a b","value":""},{"name":"a;$(c)","value":""},{"name":"aü","value":""},{"name":"a\nb","value":""},{"name":"a\tb","value":""},{"name":"a\u001b[2J","value":""},{"name":"a\u202e","value":""}]}}}`)
	a := &app{Env: Env{Root: root}}
	got, _ := a.completeMetadata(nil, nil, "compute/tags/a")
	if want := []string{"compute/tags/a b", "compute/tags/a;$(c)", "compute/tags/aü"}; !slices.Equal(got, want) {
		t.Errorf("completed %q, want %q", got, want)
	}
}
