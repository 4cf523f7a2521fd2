package extensions

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/extensions/handler"
)

// fails returns a script that fails in one operation.
func fails(op string, code string) string {
	return "log\n[ \"$op\" = " + op + " ] && exit " + code + "\n[ \"$op\" = enable ] && status success\nexit 0\n"
}

// TestUpdateOnFailure is TestExtensionUpdateOnFailure of extensions/SPEC.md §21.1
// and the upgrade_failure rows.
func TestUpdateOnFailure(t *testing.T) {
	t.Parallel()
	const lenient = `"continueOnUpdateFailure":"true"`
	for _, tc := range []struct {
		name     string
		old, new pkg
		calls    []string
		report   string
		message  string
	}{
		{
			name:  "old disable fails",
			old:   pkg{script: fails("disable", "7")},
			new:   pkg{script: simple},
			calls: []string{"1.0 disable 1"}, report: "P.X 2.0 NotReady 1008\n", message: "[ExtensionUpdateError] [ExtensionOperationError] Non-zero exit code: 7",
		},
		{
			name:  "old disable fails, forgiven",
			old:   pkg{script: fails("disable", "7")},
			new:   pkg{script: strings.Replace(simple, "log", `log "${AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE-none} ${AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE-none}"`, 1), manifest: lenient},
			calls: []string{"1.0 disable 1", "2.0 update 1 7 none", "1.0 uninstall 1", "2.0 install 1 none 0", "2.0 enable 1 none 0"}, report: "P.X 2.0 Ready 0 | 1 success 0\n",
		},
		{
			name:  "old uninstall fails",
			old:   pkg{script: fails("uninstall", "151")},
			new:   pkg{script: simple},
			calls: []string{"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1"}, report: "P.X 2.0 NotReady 1008\n", message: "exit code: 151",
		},
		{
			name:  "old uninstall fails, forgiven",
			old:   pkg{script: fails("uninstall", "151")},
			new:   pkg{script: strings.Replace(simple, "log", `log "${AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE-none}"`, 1), manifest: lenient},
			calls: []string{"1.0 disable 1", "2.0 update 1 none", "1.0 uninstall 1", "2.0 install 1 151", "2.0 enable 1 151"}, report: "P.X 2.0 Ready 0 | 1 success 0\n",
		},
		{
			name:  "update fails",
			old:   pkg{script: simple},
			new:   pkg{script: fails("update", "9"), manifest: lenient},
			calls: []string{"1.0 disable 1", "2.0 update 1"}, report: "P.X 2.0 NotReady 1008 | 1 error 1008\n", message: "exit code: 9",
		},
		{
			name:  "install fails",
			old:   pkg{script: simple},
			new:   pkg{script: fails("install", "52")},
			calls: []string{"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 install 1"}, report: "P.X 2.0 NotReady 1007\n", message: "AZ-EXT-DEPENDENCY",
		},
		{
			name:  "enable fails",
			old:   pkg{script: simple},
			new:   pkg{script: fails("enable", "3")},
			calls: []string{"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 install 1", "2.0 enable 1"}, report: "P.X 2.0 NotReady 1009 | 1 error 1009\n",
		},
		{
			name:  "update without install",
			old:   pkg{script: simple},
			new:   pkg{script: simple, manifest: `"updateMode":"UpdateWithoutInstall"`},
			calls: []string{"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 enable 1"}, report: "P.X 2.0 Ready 0 | 1 success 0\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.old.name, tc.old.version, tc.new.name, tc.new.version = "P.X", "1.0", "P.X", "2.0"
			w := newWorld(t, tc.old, tc.new).start()
			w.offer(ext("P.X", "1.0", 0))
			w.clearCalls()
			s := w.processed(ext("P.X", "2.0", 1))
			if diff := cmp.Diff(tc.calls, w.calls()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.report, show(s)); diff != "" {
				t.Errorf("report (-want +got):\n%s%s", diff, message(s, 0))
			}
			if !strings.Contains(message(s, 0), tc.message) {
				t.Errorf("message %q does not say %q", message(s, 0), tc.message)
			}
		})
	}
}

// TestUpdateFailsWithTheSameSettings: the success that the old version has
// reported for the same settings is not reported for the new one. Found by
// test/chaos.
func TestUpdateFailsWithTheSameSettings(t *testing.T) {
	t.Parallel()
	for op, report := range map[string]string{
		"update":  "P.X 2.0 NotReady 1008 | 0 error 1008\n",
		"install": "P.X 2.0 NotReady 1007\n",
		"enable":  "P.X 2.0 NotReady 1009 | 0 error 1009\n",
	} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: fails(op, "9")}).start()
			w.offer(ext("P.X", "1.0", 0))
			s := w.processed(ext("P.X", "2.0", 0))
			if diff := cmp.Diff(report, show(s)); diff != "" {
				t.Errorf("report (-want +got):\n%s%s", diff, message(s, 0))
			}
			// The next goal state tries again, and the new failure is reported.
			if diff := cmp.Diff(report, show(w.processed(ext("P.X", "2.0", 0)))); diff != "" {
				t.Errorf("once more (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUpdateRecovers: after each failure, the next goal state continues as
// described in extensions/SPEC.md §10.6, now with a good package.
func TestUpdateRecovers(t *testing.T) {
	t.Parallel()
	for op, calls := range map[string][]string{
		"update":  {"1.0 disable 1", "2.0 update 1", "2.0 update 2", "1.0 uninstall 2", "2.0 install 2", "2.0 enable 2"},
		"install": {"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 install 1", "2.0 install 2", "2.0 enable 2"},
		"enable":  {"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 install 1", "2.0 enable 1", "2.0 enable 2"},
	} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			once := "log\n[ \"$op\" = " + op + " ] && [ $seq = 1 ] && exit 4\n[ \"$op\" = enable ] && status success\nexit 0\n"
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: once}).start()
			w.offer(ext("P.X", "1.0", 0))
			w.clearCalls()
			w.processed(ext("P.X", "2.0", 1))
			s := w.offer(ext("P.X", "2.0", 2))
			if diff := cmp.Diff(calls, w.calls()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if got, want := show(s), "P.X 2.0 Ready 0 | 2 success 0\n"; got != want {
				t.Errorf("got %s want %s", got, want)
			}
			if w.repo.downloads != 2 {
				t.Errorf("%d downloads, want one per version", w.repo.downloads)
			}
		})
	}
}

// TestDowngrade: the old package's update runs and gets the target in both
// version variables.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	script := strings.Replace(simple, "log", `log "${VERSION-none} ${AZURE_GUEST_AGENT_UPDATING_FROM_VERSION-none}"`, 1)
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}).start()
	w.offer(ext("P.X", "2.0", 0))
	w.clearCalls()
	s := w.offer(ext("P.X", "1.0", 1))
	want := []string{"2.0 disable 1 none none", "2.0 update 1 1.0 1.0", "2.0 uninstall 1 none none", "1.0 install 1 none none", "1.0 enable 1 none none"}
	if diff := cmp.Diff(want, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if got, want := show(s), "P.X 1.0 Ready 0 | 1 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// TestUpdateKeepsState: mrseq and status files are copied before update runs.
func TestUpdateKeepsState(t *testing.T) {
	t.Parallel()
	script := `log "mrseq=$(cat mrseq 2>/dev/null) status=$(ls status | grep -v seen | tr '\n' ' ')"
[ "$op" = update ] && for f in mrseq status/4.status; do touch -d @$(stat -c %Y $f) $f.seen; done
[ "$op" = enable ] && { echo $seq > mrseq; status success; }
exit 0
`
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}).start()
	w.offer(ext("P.X", "1.0", 4))
	for _, name := range []string{"mrseq", "status/4.status"} {
		if err := os.Chtimes(w.base("P.X-1.0/"+name), longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
	w.clearCalls()
	w.offer(ext("P.X", "2.0", 4))
	for _, name := range []string{"mrseq", "status/4.status"} {
		if fi, err := os.Stat(w.base("P.X-2.0/" + name + ".seen")); err != nil || !fi.ModTime().Equal(longAgo.Truncate(time.Second)) {
			t.Errorf("%s was copied with another time: %v, %v", name, fi, err)
		}
	}
	want := []string{
		"1.0 disable 4 mrseq=4 status=4.status", "2.0 update 4 mrseq=4 status=4.status", "1.0 uninstall 4 mrseq=4 status=4.status",
		"2.0 install 4 mrseq=4 status=4.status", "2.0 enable 4 mrseq=4 status=4.status",
	}
	got := w.calls()
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestUpdateSuccessIsNotEnableSuccess tests extensions/SPEC.md §10.7: disable
// and update write "success" for a sequence number whose enable has not run.
func TestUpdateSuccessIsNotEnableSuccess(t *testing.T) {
	t.Parallel()
	script := `log "$([ -e status/$seq.status ] && cut -d'"' -f 14-22 status/$seq.status)"
case $op in
enable) [ -e mrseq ] && [ $(cat mrseq) -ge $seq ] && exit 0
  echo $seq > mrseq
  [ -e status/$seq.status ] || status transitioning Enable
  (sleep 0.3; status success Enable "ran $seq") >/dev/null 2>&1 & ;;
disable|update) status success $op ;;
esac
exit 0
`
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}, pkg{name: "P.Y", version: "1.0", script: simple}).start()
	w.offer(ext("P.X", "1.0", 0))
	// A new number: success must only be reported after the script has run.
	early := false
	gs := w.state(ext("P.X", "2.0", 1))
	w.m.Offer(gs)
	w.await("done", func(s Snapshot) bool {
		if s.Key != gs.Key() || len(s.Handlers) == 0 {
			return false
		}
		e := s.Handlers[0].Extension
		ok := e != nil && e.Status == handler.Success
		if ok && e.Seq == 1 && (e.Message == nil || *e.Message != "ran 1") {
			early = true
		}
		return ok && e.Seq == 1
	})
	if early {
		t.Error("the update's success was reported as the script's")
	}
	// The same number: the status is the last word of the handler, update's.
	w2 := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}).start()
	w2.offer(ext("P.X", "1.0", 5))
	s := w2.offer(ext("P.X", "2.0", 5))
	if e := s.Handlers[0].Extension; e == nil || e.Operation != "update" || e.Status != handler.Success {
		t.Errorf("not the last word of the handler: %s %+v", show(s), e)
	}
}

// TestUpdateSettingsForAll: a handler whose commands all need a settings file of
// the current sequence number can be upgraded and downgraded with new settings,
// and removed.
func TestUpdateSettingsForAll(t *testing.T) {
	t.Parallel()
	picky := "log\ngrep -q runtimeSettings config/$seq.settings || exit 1\n[ \"$op\" = enable ] && status success\nexit 0\n"
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: picky}, pkg{name: "P.X", version: "2.0", script: picky}).start()
	w.offer(ext("P.X", "1.0", 0))
	for i, version := range []string{"2.0", "1.0"} {
		s := w.processed(ext("P.X", version, i+1))
		if got, want := show(s), "P.X "+version+" Ready 0 | "+strconv.Itoa(i+1)+" success 0\n"; got != want {
			t.Errorf("got %s want %s%s", got, want, message(s, 0))
		}
	}
	want := []string{
		"1.0 install 0", "1.0 enable 0",
		"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 install 1", "2.0 enable 1",
		"2.0 disable 2", "2.0 update 2", "2.0 uninstall 2", "1.0 install 2", "1.0 enable 2",
	}
	if diff := cmp.Diff(want, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
