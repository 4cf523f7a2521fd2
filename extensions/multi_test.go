package extensions

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/extensions/handler"
)

const multiManifest = `"supportsMultipleExtensions":"true"`

// TestMultiConfig is extensions/SPEC.md §21.4: install once, enable each,
// delete one, upgrade with two, uninstall.
func TestMultiConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t,
		pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest},
		pkg{name: "P.M", version: "2.0", script: strings.Replace(simple, "log", `log "$AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODES_MULTIPLE_EXTENSIONS"`, 1), manifest: multiManifest},
		pkg{name: "P.S", version: "1.0", script: simple}).start()
	s := w.offer(multi("P.M", "1.0", "a:1", "b:2", "c-d.e:3"), ext("P.S", "1.0", 0))
	want := "P.M 1.0 Ready 0 | a 1 success 0\nP.M 1.0 Ready 0 | b 2 success 0\nP.M 1.0 Ready 0 | c-d.e 3 success 0\nP.S 1.0 Ready 0 | 0 success 0\n"
	if diff := cmp.Diff(want, show(s)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if n := countCalls(w.calls(), "install"); n != 2 {
		t.Errorf("%d installs, want 2: %q", n, w.calls())
	}
	base := w.base("P.M-1.0")
	for _, f := range []string{"config/a.1.settings", "status/a.1.status", "config/a.HandlerState"} {
		if !exists(base + "/" + f) {
			t.Errorf("no %s", f)
		}
	}
	writeFile(t, base+"/a.mrseq", "1")
	w.clearCalls()
	s = w.offer(multi("P.M", "1.0", "-a:1", "b:4", "c-d.e:3"), ext("P.S", "1.0", 0))
	want = "P.M 1.0 Ready 0 | b 4 success 0\nP.M 1.0 Ready 0 | c-d.e 3 success 0\nP.S 1.0 Ready 0 | 0 success 0\n"
	if diff := cmp.Diff(want, show(s)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1.0 disable a 1", "1.0 enable b 4"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for _, f := range []string{"config/a.1.settings", "status/a.1.status", "config/a.HandlerState", "a.mrseq"} {
		if exists(base + "/" + f) {
			t.Errorf("%s is left of a deleted extension", f)
		}
	}
	w.clearCalls()
	s = w.offer(multi("P.M", "2.0", "b:4", "c-d.e:3"), ext("P.S", "1.0", 0))
	calls := []string{
		"1.0 disable b 4", "1.0 disable c-d.e 3",
		`2.0 update b 4 [{"extensionName": "b", "exitCode": "0"}, {"extensionName": "c-d.e", "exitCode": "0"}]`,
		"1.0 uninstall b 4", "2.0 install b 4", "2.0 enable b 4", "2.0 enable c-d.e 3",
	}
	if diff := cmp.Diff(calls, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if got, want := show(s), "P.M 2.0 Ready 0 | b 4 success 0\nP.M 2.0 Ready 0 | c-d.e 3 success 0\nP.S 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	s = w.offer(gone(multi("P.M", "2.0", "-b:4", "-c-d.e:3")), ext("P.S", "1.0", 0))
	if got, want := show(s), "P.S 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// TestMultiConfigEnableFails: if one extension fails, the handler and its other
// extensions do not, and a status file of the handler is not overwritten.
func TestMultiConfigEnableFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.M", version: "1.0", manifest: multiManifest, script: `log
[ "$op$ext" = enablebad ] && { echo broken >&2; exit 5; }
[ "$op$ext" = enableown ] && { status error Enable "own words"; exit 5; }
[ "$op" = enable ] && status success
exit 0
`}).start()
	s := w.processed(multi("P.M", "1.0", "good:1", "bad:1", "own:1", "fine:1"))
	want := "P.M 1.0 Ready 0 | good 1 success 0\nP.M 1.0 Ready 0 | bad 1 error 1009\nP.M 1.0 Ready 0 | own 1 error 0\nP.M 1.0 Ready 0 | fine 1 success 0\n"
	if diff := cmp.Diff(want, show(s)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if m := message(s, 2); m != "own words" {
		t.Errorf("message %q", m)
	}
	// The order of the extensions does not matter.
	s = w.processed(multi("P.M", "1.0", "good:2", "bad:2"))
	if got, want := show(s), "P.M 1.0 Ready 0 | good 2 success 0\nP.M 1.0 Ready 0 | bad 2 error 1009\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// TestMultiConfigUnsupported: the manifest does not declare multi-config support.
func TestMultiConfigUnsupported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: simple}).start()
	s := w.processed(multi("P.M", "1.0", "a:1"))
	if got, want := show(s), "P.M 1.0 NotReady -1 | a 1 error -1\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if m := message(s, 0); !strings.Contains(m, "does not support MultiConfig but CRP expects it") {
		t.Errorf("message %q", m)
	}
	if w.calls() != nil {
		t.Errorf("ran %q", w.calls())
	}
	// check_every_time_if_handler_supports_mc: the manifest may be edited.
	w = newWorld(t, pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest}).start()
	w.offer(multi("P.M", "1.0", "a:1"))
	manifest := w.base("P.M-1.0/" + handler.ManifestName)
	writeFile(t, manifest, strings.Replace(w.read(manifest), multiManifest, `"supportsMultipleExtensions":"no"`, 1))
	w.clearCalls()
	if got, want := show(w.processed(multi("P.M", "1.0", "a:2"))), "P.M 1.0 Ready 0 | a 2 error -1\n"; got != want || w.calls() != nil {
		t.Errorf("got %s want %s; ran %q", got, want, w.calls())
	}
}

// TestMultiConfigGoneWithoutExtensions: a handler to be removed may be listed
// without its extensions; each is disabled anyway. Found by test/chaos.
func TestMultiConfigGoneWithoutExtensions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest}).start()
	w.offer(multi("P.M", "1.0", "a:1", "b:2"))
	w.clearCalls()
	s := w.offer(gone(multi("P.M", "1.0")))
	if got := show(s); got != "" {
		t.Errorf("report of what is gone: %s", got)
	}
	if diff := cmp.Diff([]string{"1.0 disable a 1", "1.0 disable b 2", "1.0 uninstall 0"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if exists(w.base("P.M-1.0")) {
		t.Error("the directory is left over")
	}
}

// TestOwnErrorIsNotTheHandlersWord: the error that the agent has written for a
// failed enable goes with the next enable; a file of the handler's stays.
func TestOwnErrorIsNotTheHandlersWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.M", version: "1.0", manifest: multiManifest, script: `log
[ "$op$ext" = enableown ] && [ ! -e own.once ] && { : > own.once; status error Enable "own words"; exit 5; }
[ "$op$ext" = enablebad ] && [ ! -e bad.once ] && { : > bad.once; exit 5; }
exit 0
`}).start()
	s := w.processed(multi("P.M", "1.0", "bad:1", "own:1"))
	if got, want := show(s), "P.M 1.0 NotReady 0 | bad 1 error 1009\nP.M 1.0 NotReady 0 | own 1 error 0\n"; got != want {
		t.Fatalf("got %s want %s", got, want)
	}
	w.m.Retry("P.M", "bad", "test")
	w.m.Retry("P.M", "own", "test")
	s = w.await("both ran again", func(s Snapshot) bool { return len(w.calls()) == 5 && strings.Contains(show(s), "bad 1 transitioning") })
	if got, want := show(s), "P.M 1.0 Ready 0 | bad 1 transitioning 0\nP.M 1.0 Ready 0 | own 1 error 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if exists(w.base("P.M-1.0/status/bad.1.status")) || !exists(w.base("P.M-1.0/status/own.1.status")) {
		t.Error("the wrong file was removed")
	}
}
