package extensions

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/protocol"
)

// TestAcceptance has the rows of extensions/SPEC.md §21 that have no test of
// their own; matrix_test.go says where each row is tested.
func TestAcceptance(t *testing.T) {
	t.Parallel()
	for row, test := range map[string]func(t *testing.T){
		"ext_handler":                            acceptHandler,
		"rollingupgrade":                         acceptRolling,
		"ext_handler_no_settings":                acceptNoSettings,
		"ext_handler_no_public_settings":         acceptNoPublic,
		"only_download_extension_manifest_once":  acceptManifestOnce,
		"not_delete_events_directory":            acceptEventsStay,
		"no_reporting_status":                    acceptNoStatus,
		"not_create_placeholder_for_single":      acceptNoPlaceholder,
		"include_part_of_status":                 acceptExcerpt,
		"extensions_deleted":                     acceptDeleted,
		"disable_failure":                        acceptDisableFails,
		"upgrade_failure_incorrect_zip":          acceptBadZip,
		"old_handler_reports_failure_on_disable": acceptOldReports,
		"continue_on_update_failure_enable":      acceptLenientEnable,
		"ext_path_and_version_env_variables":     acceptEnvironment,
		"persist_goal_state_aggregate_status":    acceptAggregate,
		"handle_ext_handlers_fallback":           acceptEqualLevels,
		"non_enabled_ext_should_not_be_disabled": acceptNotEnabled,
		"timeout_code_should_set_on_cmd_timeout": acceptTimeoutCode,
		"even_when_config_dir_deleted":           acceptConfigDeleted,
		"process_extensions_only_if_allowed":     acceptOnlyIfAllowed,
		"fail_enable_if_dependent_disallowed":    acceptDependentDenied,
		"retry_update_sequence_per_extension":    acceptMultiUpdateFails,
		"stop_execution_if_status_file_errors":   acceptMultiStops,
		"set_relevant_environment_variables_mc":  acceptMultiEnvironment,
	} {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func versions(name, script string, vs ...string) (ps []pkg) {
	for _, v := range vs {
		ps = append(ps, pkg{name: name, version: v, script: script})
	}
	return ps
}

func acceptHandler(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0.0", "1.0.1", "1.1.0")...).start()
	same(t, "fresh", "P.X 1.0.0 Ready 0 | 0 success 0\n", show(w.offer(ext("P.X", "1.0.0", 0))))
	w.clearCalls()
	w.offer(ext("P.X", "1.0.0", 0))
	same(t, "the same again", []string(nil), w.calls())                         // different by design: DESIGN.md, decision 9
	for _, public := range []string{"{\n  \"a\" : 1.0\n}\n", `"{\"a\":1.0}"`} { // WireServer, vmSettings
		x := ext("P.X", "1.0.0", 0)
		x.Settings[0].Public = []byte(public)
		w.offer(x)
	}
	same(t, "the same from another source", []string(nil), w.calls())
	same(t, "hotfix", "P.X 1.0.1 Ready 0 | 1 success 0\n", show(w.offer(ext("P.X", "1.0.1", 1))))
	same(t, "minor upgrade", "P.X 1.1.0 Ready 0 | 2 success 0\n", show(w.offer(ext("P.X", "1.1.0", 2))))
	w.clearCalls()
	off := ext("P.X", "1.1.0", 2)
	off.Want = protocol.WantDisabled
	same(t, "disable", "P.X 1.1.0 NotReady 0 | 2 success 0\n", show(w.processed(off)))
	w.processed(off)
	same(t, "disabled once", []string{"1.1.0 disable 2"}, w.calls())
	same(t, "enabled again", "P.X 1.1.0 Ready 0 | 2 success 0\n", show(w.offer(ext("P.X", "1.1.0", 2))))
	for range 2 { // the second one must not matter
		same(t, "uninstall", "", show(w.offer(gone(ext("P.X", "1.1.0", 2)))))
	}
	same(t, "calls", []string{"1.1.0 disable 2", "1.1.0 enable 2", "1.1.0 disable 2", "1.1.0 uninstall 2"}, w.calls())
}

func acceptRolling(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0.0", "1.0.1", "1.1.0")...).start()
	for i, v := range []string{"1.0.0", "1.0.1", "1.1.0", "", "1.1.0", "1.0.0"} {
		if v == "" {
			same(t, "uninstalled", "", show(w.offer(gone(ext("P.X", "1.1.0", i)))))
			continue
		}
		same(t, v, fmt.Sprintf("P.X %s Ready 0 | %d success 0\n", v, i), show(w.offer(ext("P.X", v, i))))
	}
	left, err := os.ReadDir(w.base(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "P.X-") && e.Name() != "P.X-1.0.0" {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func acceptNoSettings(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0")...).start()
	same(t, "enabled", "P.X 1.0 Ready 0\n", show(w.offer(ext("P.X", "1.0", -1))))
	same(t, "gone", "", show(w.offer(gone(ext("P.X", "1.0", -1)))))
	same(t, "calls", []string{"1.0 install 0", "1.0 enable 0", "1.0 disable 0", "1.0 uninstall 0"}, w.calls())
}

func acceptNoPublic(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0")...).start()
	x := ext("P.X", "1.0", 0)
	x.Settings[0].Public = nil
	same(t, "null", "P.X 1.0 Ready 0 | 0 success 0\n", show(w.offer(x)))
	if got := w.read(w.base("P.X-1.0/config/0.settings")); !strings.Contains(got, `"publicSettings": null`) {
		t.Errorf("settings %s", got)
	}
	same(t, "ext_handler_no_ext", "", show(w.offer()))
}

func acceptManifestOnce(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0.0", "1.0.1")...).start()
	w.offer(ext("P.X", "1.0.0", 0))
	same(t, "lists of versions", 1, w.repo.manifests)
	w.m.Status()
	w.offer(ext("P.X", "1.0.0", 1)) // different by design: the wanted version is already installed
	same(t, "after new settings", 1, w.repo.manifests)
	w.offer(ext("P.X", "1.0.1", 1))
	same(t, "after an update", 2, w.repo.manifests)
}

func acceptEventsStay(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0")...).start()
	w.offer(ext("P.X", "1.0", 0))
	event := w.root.Path("/var/log/azure/P.X/events/1.json")
	writeFile(t, event, "{}")
	w.offer(gone(ext("P.X", "1.0", 0)))
	if !exists(event) {
		t.Error("the events went with the handler")
	}
}

func acceptNoStatus(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: "log\nexit 0\n"})
	w.cfg.Timeouts.Dead = time.Hour
	w.start()
	s := w.processed(ext("P.X", "1.0", 3))
	same(t, "report", "P.X 1.0 Ready 0 | 3 transitioning 0\n", show(s))
	if m := message(s, 0); !strings.HasPrefix(m, "This status is being reported by the Guest Agent since no status file was reported by extension P.X: [ExtensionStatusError] Status file ") || !strings.HasSuffix(m, "/status/3.status does not exist") {
		t.Errorf("message %q", m)
	}
}

func acceptNoPlaceholder(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: fails("enable", "3")}).start()
	w.processed(ext("P.X", "1.0", 0))
	if exists(w.base("P.X-1.0/status/0.status")) {
		t.Error("a status file was written in the handler's place")
	}
}

func acceptExcerpt(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: "log\n[ \"$op\" = enable ] && { printf 'oops %05000d' 7 >status/$seq.status; touch -d '1 hour ago' status/$seq.status; }\nexit 0\n"}).start()
	s := w.processed(ext("P.X", "1.0", 0))
	same(t, "report", "P.X 1.0 Ready 0 | 0 error 1012\n", show(s))
	if m := message(s, 0); !strings.Contains(m, "in an incorrect format and the agent could not parse it correctly") || !strings.Contains(m, "oops 000") || strings.Count(m, "0") > 2000 {
		t.Errorf("message of %d: %.300q", len(m), m)
	}
}

func acceptDeleted(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0.0")...).start()
	w.offer(ext("P.X", "1.0.0", 0))
	w.repo.mu.Lock()
	delete(w.repo.pkgs["P.X"], "1.0.0")
	w.repo.mu.Unlock()
	w.repo.publish(t, versions("P.X", simple, "1.0.1")...)
	same(t, "moved on", "P.X 1.0.1 Ready 0 | 1 success 0\n", show(w.offer(ext("P.X", "1.0.1", 1))))
}

func acceptDisableFails(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: fails("disable", "8")}).start()
	w.offer(ext("P.X", "1.0", 0))
	w.clearCalls()
	off := ext("P.X", "1.0", 0)
	off.Want = protocol.WantDisabled
	s := w.processed(off)
	same(t, "report", "P.X 1.0 NotReady 1010 | 0 success 0\n", show(s))
	if m := *s.Handlers[0].Message; !strings.Contains(m, "Non-zero exit code: 8") {
		t.Errorf("message %q", m)
	}
	same(t, "calls", []string{"1.0 disable 0"}, w.calls())
}

func acceptBadZip(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", zip: []byte("no zip")}).start()
	w.offer(ext("P.X", "1.0", 0))
	w.clearCalls()
	same(t, "report", "P.X 2.0 NotReady 1001\n", show(w.processed(ext("P.X", "2.0", 1))))
	same(t, "calls", []string(nil), w.calls())
	w.repo.publish(t, pkg{name: "P.X", version: "2.0", script: simple})
	same(t, "recovers_on_next_incarnation", "P.X 2.0 Ready 0 | 2 success 0\n", show(w.offer(ext("P.X", "2.0", 2))))
}

func acceptOldReports(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: fails("disable", "7")}, pkg{name: "P.X", version: "2.0", script: simple}).start()
	w.offer(ext("P.X", "1.0", 0))
	same(t, "status of the new one", "P.X 2.0 NotReady 1008\n", show(w.processed(ext("P.X", "2.0", 1))))
	w.evs.mu.Lock()
	defer w.evs.mu.Unlock()
	for _, e := range w.evs.all {
		if !e.OK && e.Op == "Disable" && e.Version == "1.0" && strings.Contains(e.Message, "exit code: 7") {
			return
		}
	}
	t.Errorf("no event of the old version: %+v", w.evs.all)
}

func acceptLenientEnable(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: fails("disable", "7")},
		pkg{name: "P.X", version: "2.0", script: fails("enable", "5"), manifest: `"continueOnUpdateFailure":true`}).start()
	w.offer(ext("P.X", "1.0", 0))
	same(t, "report", "P.X 2.0 NotReady 1009 | 1 error 1009\n", show(w.processed(ext("P.X", "2.0", 1))))
}

func acceptEnvironment(t *testing.T) {
	script := `log "$AZURE_GUEST_AGENT_EXTENSION_PATH $AZURE_GUEST_AGENT_WIRE_PROTOCOL_ADDRESS ${VERSION-none} ${AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE-none} ${ConfigExtensionName-none}"
[ "$op" = enable ] && status success
exit 0
`
	w := newWorld(t, versions("P.X", script, "1.0", "2.0")...).start()
	w.offer(ext("P.X", "1.0", 3))
	w.offer(ext("P.X", "2.0", 4))
	w.offer(gone(ext("P.X", "2.0", 4)))
	one, two := w.base("P.X-1.0")+" 168.63.129.16 ", w.base("P.X-2.0")+" 168.63.129.16 "
	same(t, "calls", []string{
		"1.0 install 3 " + one + "none NOT_RUN none", "1.0 enable 3 " + one + "none NOT_RUN none",
		"1.0 disable 4 " + one + "none none none", "2.0 update 4 " + two + "2.0 none none", "1.0 uninstall 4 " + one + "none none none",
		"2.0 install 4 " + two + "none 0 none", "2.0 enable 4 " + two + "none 0 none",
		"2.0 disable 4 " + two + "none none none", "2.0 uninstall 4 " + two + "none none none",
	}, w.calls())
}

func acceptAggregate(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0")...).start()
	first := w.offer(ext("P.X", "1.0", 0)).GoalState
	slow := w.state(ext("P.X", "1.0", 1))
	w.repo.publish(t, pkg{name: "P.Y", version: "1.0", script: "sleep 1\n" + simple})
	slow.Handlers = append(slow.Handlers, ext("P.Y", "1.0", 0))
	w.m.Offer(slow)
	s := w.await("the next one to begin", func(s Snapshot) bool { return s.Key == slow.Key() })
	if !w.m.settled() {
		same(t, "until it is processed", first, s.GoalState)
	}
	s = w.await("its end", func(s Snapshot) bool { return s.Converged })
	same(t, "its own", string(slow.SeqNo), string(s.GoalState.SeqNo))
}

func acceptEqualLevels(t *testing.T) {
	w := newWorld(t, append(named(simple, "P.A", "P.C"), pkg{name: "P.B", version: "1.0", script: fails("enable", "1")})...).start()
	s := w.processed(level(ext("P.A", "1.0", 0), 3), level(ext("P.B", "1.0", 0), 3), level(ext("P.C", "1.0", 0), 3))
	same(t, "report", "P.A 1.0 Ready 0 | 0 success 0\nP.B 1.0 NotReady 1009 | 0 error 1009\nP.C 1.0 Ready 0 | 0 success 0\n", show(s))
}

func acceptNotEnabled(t *testing.T) {
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: fails("enable", "1")}, pkg{name: "P.X", version: "2.0", script: "[ \"$op\" = update ] && seq=\"$seq $AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE\"\n" + simple}).start()
	w.processed(ext("P.X", "1.0", 0))
	w.clearCalls()
	w.offer(ext("P.X", "2.0", 1))
	same(t, "calls", []string{"2.0 update 1 NOT_RUN", "1.0 uninstall 1", "2.0 install 1", "2.0 enable 1"}, w.calls())
}

func acceptTimeoutCode(t *testing.T) {
	script := strings.Replace(simple, "log", `log "${AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE-none}"`, 1)
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: "[ \"$op\" = disable ] && exec sleep 60\n" + simple},
		pkg{name: "P.X", version: "2.0", script: script, manifest: `"continueOnUpdateFailure":true`})
	w.cfg.Timeouts.Disable = 300 * time.Millisecond
	w.start()
	w.offer(ext("P.X", "1.0", 0))
	w.clearCalls()
	w.offer(ext("P.X", "2.0", 1))
	if got := w.calls(); !slices.Contains(got, "2.0 update 1 1011") {
		t.Errorf("calls %q", got)
	}
}

func acceptConfigDeleted(t *testing.T) {
	w := newWorld(t, versions("P.X", simple, "1.0")...).start()
	w.offer(ext("P.X", "1.0", 0))
	if err := os.RemoveAll(w.base("P.X-1.0/config")); err != nil {
		t.Fatal(err)
	}
	same(t, "still reported", "P.X 1.0 Ready 0 | 0 success 0\n", show(w.m.Status()))
	same(t, "and works", "P.X 1.0 Ready 0 | 1 success 0\n", show(w.offer(ext("P.X", "1.0", 1))))
}

func acceptOnlyIfAllowed(t *testing.T) {
	for _, on := range []bool{true, false} {
		for _, over := range []bool{true, false} { // EnableOverProvisioning
			for _, hold := range []bool{true, false} {
				w := newWorld(t, versions("P.X", simple, "1.0")...)
				if w.cfg.IgnoreHold = !over; !on {
					w.cfg.Mode = ModeOff
				}
				w.start()
				gs := w.state(ext("P.X", "1.0", 0))
				gs.OnHold = hold
				w.m.Offer(gs)
				held := hold && over
				s := w.await("an answer", func(s Snapshot) bool { return s.Key == gs.Key() && (held || w.m.settled()) })
				if ran := w.calls() != nil; ran != (on && !held) {
					t.Errorf("enabled %v, over-provisioning %v, hold %v: ran %q", on, over, hold, w.calls())
				}
				if held && s.GoalState != nil {
					t.Errorf("a held goal state has an aggregate: %+v", s.GoalState)
				}
			}
		}
	}
}

func acceptDependentDenied(t *testing.T) {
	w := newWorld(t, named(simple, "P.A", "P.B")...)
	w.cfg.Policy.Mode = policy.Enforce
	writeFile(t, w.root.Path("/etc/waagent_policy.json"), `{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":true,"extensions":{"P.B":{}}}}`)
	w.start()
	s := w.processed(level(ext("P.A", "1.0", 0), 0), level(ext("P.B", "1.0", 0), 1, "P.A"))
	same(t, "report", "P.A 1.0 NotReady 1009 | 0 error 1009\nP.B 1.0 NotReady -1 | 0 error -1\n", show(s))
	if m := message(s, 1); m != "Skipping processing of extensions since execution of dependent extension P.A failed" {
		t.Errorf("message %q", m)
	}
}

func acceptMultiUpdateFails(t *testing.T) {
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: fails("disable", "6"), manifest: multiManifest}, pkg{name: "P.M", version: "2.0", script: simple, manifest: multiManifest}).start()
	w.offer(multi("P.M", "1.0", "a:1", "b:1"))
	w.clearCalls()
	s := w.processed(multi("P.M", "2.0", "a:2", "b:2"))
	// report_disabled_extension_errors_if_update_failed: each extension reports it.
	same(t, "report", "P.M 2.0 NotReady 1008 | a 2 error 1008\nP.M 2.0 NotReady 1008 | b 2 error 1008\n", show(s))
	// Different by design: once for the handler, not once for each extension.
	same(t, "calls", []string{"1.0 disable a 2"}, w.calls())
}

func acceptMultiStops(t *testing.T) {
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: "log\n[ \"$op$ext\" = enablea ] && status error\n[ \"$op$ext\" = enableb ] && status success\nexit 0\n", manifest: multiManifest}).start()
	m := multi("P.M", "1.0", "a:1", "b:1")
	m.Settings[1].Level = 1
	m.Settings[1].After = []protocol.Dependency{{Handler: "P.M", Extension: "a"}}
	s := w.processed(m)
	same(t, "report", "P.M 1.0 Ready 0 | a 1 error 0\nP.M 1.0 Ready 0 | b 1 error -1\n", show(s))
	if got := message(s, 1); got != "Dependent Extension P.M.a did not succeed. Status was error" {
		t.Errorf("message %q", got)
	}
}

func acceptMultiEnvironment(t *testing.T) {
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest}).start()
	w.offer(multi("P.M", "1.0", "a:4", "b:9"))
	same(t, "calls", []string{"1.0 install a 4", "1.0 enable a 4", "1.0 enable b 9"}, w.calls())
	for _, e := range []string{"a", "b"} { // create_command_execution_log_per_extension
		if log := w.root.Path("/var/log/azure/P.M/CommandExecution_" + e + ".log"); !exists(log) {
			t.Error(errors.New("no " + log))
		}
	}
}
