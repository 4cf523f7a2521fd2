package extensions

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// TestERR3ExitCodeIsOfThisUpdate: the new version gets the exit code of the old
// version's command in this version change, never that of an earlier command.
func TestERR3ExitCodeIsOfThisUpdate(t *testing.T) {
	t.Parallel()
	t.Run("disable can't be started", func(t *testing.T) {
		t.Parallel()
		tell := strings.Replace(simple, "log", `log "${AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE-none} ${AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE-none}"`, 1)
		w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: tell, manifest: `"continueOnUpdateFailure":true`}).start()
		w.offer(ext("P.X", "1.0", 0))
		w.clearCalls()
		writeFile(t, w.base("P.X-1.0/"+handler.ManifestName), "damaged")
		s := w.processed(ext("P.X", "2.0", 1))
		want := []string{"2.0 update 1 NOT_RUN none", "2.0 install 1 none NOT_RUN", "2.0 enable 1 none NOT_RUN"}
		if diff := cmp.Diff(want, w.calls()); diff != "" {
			t.Errorf("calls (-want +got):\n%s%s", diff, message(s, 0))
		}
	})

	// All ways in which a command of a version change can end, after an earlier
	// operation of the same kind with another result.
	before := &store.Ended{Result: job.Result{Class: job.Failed, Code: 77}}
	for name, tc := range map[string]struct {
		end  func(w *work, r store.Record, d store.Doing) error
		want string
	}{
		"refused": {func(w *work, r store.Record, d store.Doing) error {
			return w.refuse(r, d, fault.Problem{Code: 1008, Cause: fault.CauseNotStarted, Text: "x"})
		}, handler.NotRun},
		"could not start": {func(w *work, r store.Record, d store.Doing) error {
			return w.finish(r, d, result(job.NotStarted, -1))
		}, handler.NotRun},
		"no such command": {func(w *work, r store.Record, d store.Doing) error {
			d.Job = ""
			return w.finish(r, d, result(job.OK, 0))
		}, handler.NotRun},
		"good":     {func(w *work, r store.Record, d store.Doing) error { return w.finish(r, d, result(job.OK, 0)) }, "0"},
		"failed":   {func(w *work, r store.Record, d store.Doing) error { return w.finish(r, d, result(job.Failed, 7)) }, "7"},
		"too long": {func(w *work, r store.Record, d store.Doing) error { return w.finish(r, d, result(job.Timeout, -1)) }, "1011"},
	} {
		for _, op := range []plan.Op{plan.Disable, plan.Uninstall} {
			t.Run(name+" "+string(op), func(t *testing.T) {
				t.Parallel()
				m := New(host.Root(t.TempDir()), launcher(), nil, &events{}, zerolog.Nop(), Config{})
				if err := m.store.Init(); err != nil {
					t.Fatal(err)
				}
				old := store.Record{Name: "P.X", Version: "1.0", State: plan.Enabled, Last: before, Exts: map[string]store.ExtRecord{"": {ExtFact: plan.ExtFact{Enabled: true}, Last: before}}}
				h := &managed{name: "P.X", recs: map[string]store.Record{"1.0": old, "2.0": {Name: "P.X", Version: "2.0", State: plan.Fetched}}}
				task := plan.Task{Op: op, Version: "1.0", From: "1.0", To: "2.0"}
				w := newWork(m, h, nil, task)
				now := time.Now()
				if err := tc.end(w, old, store.Doing{Task: task, Job: "j", Lenient: true, Started: now, Deadline: now.Add(time.Minute)}); err != nil {
					t.Fatal(err)
				}
				ch := w.recs["2.0"].Change
				if ch == nil {
					t.Fatalf("nothing was noted: %+v", w.recs["2.0"])
				}
				got := ch.UninstallCode
				if op == plan.Disable {
					got = ch.DisableCodes[""]
				}
				if got != tc.want {
					t.Errorf("told %q, want %q", got, tc.want)
				}
			})
		}
	}
}

func result(class string, code int) job.Result {
	now := time.Now()
	return job.Result{Class: class, Code: code, Started: now, Finished: now}
}

// TestERR3FailureToStartIsReported: if a command could not be started, that is
// shown as the result of its operation, and not the result of an earlier one.
func TestERR3FailureToStartIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}).start()
	w.offer(ext("P.X", "1.0", 0))
	writeFile(t, w.base("P.X-1.0/"+handler.ManifestName), "{")
	h := ext("P.X", "1.0", 0)
	h.Settings[0].Public = []byte(`{"b": 2}`) // the same number, other settings
	s := w.processed(h)
	if got, want := show(s), "P.X 1.0 NotReady 1003 | 0 error 1003\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	d := w.m.Details()[0]
	if d.Exit == nil || d.Exit.Class != job.NotStarted || d.Cause != fault.CauseManifest {
		t.Errorf("%+v: exit %+v", d, d.Exit)
	}
}

// phrases returns texts of the agent's own errors: all codes, and all phrases
// that tools or an earlier version searched for.
func phrases(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("../agent/doctor/codes.go")
	if err != nil {
		t.Fatal(err)
	}
	out := regexp.MustCompile(`AZ-[A-Z]+-[A-Z0-9]+`).FindAllString(string(b), -1)
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, regexp.MustCompile(`\[[A-Z][A-Za-z]+Error\]`).FindAllString(string(b), -1)...)
	}
	slices.Sort(out)
	return append(slices.Compact(out),
		"Extension will not be processed: ", "extension processing is disabled", "invalid package", "Ran into config errors: ",
		"Dependent Extension P.Y did not succeed", "Skipping processing of extensions since execution of dependent extension P.Y failed",
		"Failed to download artifacts: ", "HandlerManifest.json not found", "in the policy file", "denied by policy", "(1011)", "Malformed manifest file",
		"The package of an extension is not valid.", "policy", "deleted", "uninstall")
}

// TestERR4HandlerTextIsNoDiagnosis puts all texts of the agent's errors into
// every place where a handler can write text. The cause must still be what
// happened to the command, or that the handler reported an error, also after a
// restart.
func TestERR4HandlerTextIsNoDiagnosis(t *testing.T) {
	t.Parallel()
	all := phrases(t)
	if len(all) < 60 {
		t.Fatalf("only %d phrases: %q", len(all), all)
	}
	// One run has them all, in the places where they would be found first.
	said := strings.Join(all, ": ")
	quoted := strings.ReplaceAll(said, "'", "")
	for name, tc := range map[string]struct {
		script string
		want   string
	}{
		"stdout":  {"log\n[ \"$op\" = enable ] && { echo '" + quoted + "'; exit 3; }\nexit 0\n", fault.CauseExit},
		"stderr":  {"log\n[ \"$op\" = enable ] && { echo '" + quoted + "' >&2; exit 3; }\nexit 0\n", fault.CauseExit},
		"install": {"log\n[ \"$op\" = install ] && { echo '" + quoted + "' >&2; exit 3; }\nexit 0\n", fault.CauseExit},
		"status":  {"log\n[ \"$op\" = enable ] && status error Enable '" + strings.ReplaceAll(quoted, `"`, "") + "'\nexit 0\n", fault.CauseReported},
		"both":    {"log\n[ \"$op\" = enable ] && { status error Enable '" + strings.ReplaceAll(quoted, `"`, "") + "'; echo '" + quoted + "'; exit 3; }\nexit 0\n", fault.CauseExit},
		"no JSON": {"log\n[ \"$op\" = enable ] && { echo '" + quoted + "' > $base/status/$seq.status; touch -d @1000000000 $base/status/$seq.status; }\nexit 0\n", fault.CauseStatus},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: tc.script}, pkg{name: "P.Y", version: "1.0", script: simple}).start()
			s := w.processed(ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			check := func(when string) {
				t.Helper()
				for _, d := range w.m.Details() {
					want := map[string]string{"P.X": tc.want}[d.Name]
					if d.Cause != want {
						t.Errorf("%s: %s has cause %q, want %q (%s)", when, d.Name, d.Cause, want, show(s))
					}
				}
				if _, refusal := w.m.PolicyExplain("P.X", "1.0", ""); refusal != (fault.Problem{}) {
					t.Errorf("%s: the policy refuses: %+v", when, refusal)
				}
			}
			check("at once")
			w.stop()
			w.start()
			gs := w.state(ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			gs.OnHold = true // reported again without running anything
			w.m.Offer(gs)
			w.await("goal state taken", func(s Snapshot) bool { return s.Key == gs.Key() })
			for _, h := range w.m.view.handlers {
				for _, r := range h.recs {
					if r.Name == "P.X" && tc.want == fault.CauseExit && r.Report.Cause != fault.CauseExit {
						t.Errorf("after a restart the record says %q of %s", r.Report.Cause, r.Report.Message)
					}
				}
			}
		})
	}
}

// TestERR4FaultsCarryTheirCause: each error of the engine gets its cause where
// it is created, and the cause is in the row.
func TestERR4FaultsCarryTheirCause(t *testing.T) {
	t.Parallel()
	invalid := ext("P.X", "1.0", 0)
	invalid.Invalid = "AZ-NET-DNS [InvalidPolicyError]"
	for name, tc := range map[string]struct {
		set  func(w *world)
		gs   []protocol.Handler
		want string
	}{
		"settings":    {func(*world) {}, []protocol.Handler{invalid}, fault.CauseSettings},
		"download":    {func(w *world) { w.repo.fail = errors.New("AZ-NET-DNS: [InvalidPolicyError]") }, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CauseDownload},
		"no manifest": {func(w *world) { w.repo.noManif = errors.New("AZ-POL-DENIED") }, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CauseDownload},
		"package": {func(w *world) {
			w.cfg.Timeouts.Fetch = time.Millisecond
			w.repo.publish(w.t, pkg{name: "P.X", version: "1.0", zip: []byte("AZ-POL-SIGNATURE")})
		}, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CausePackage},
		"manifest": {func(w *world) {
			w.repo.publish(w.t, pkg{name: "P.X", version: "1.0", files: map[string]string{handler.ManifestName: "{"}})
		}, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CauseManifest},
		"unsigned":        {func(w *world) { w.cfg.RequireSignature = true }, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CausePolicyUnsigned},
		"off":             {func(w *world) { w.cfg.Mode = ModeOff }, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CauseDisabled},
		"report only":     {func(w *world) { w.cfg.Mode = ModeReportOnly }, []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CauseDisabled},
		"denied":          {policyOf(`{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":true}}`), []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CausePolicyDenied},
		"policy damaged":  {policyOf(`{`), []protocol.Handler{ext("P.X", "1.0", 0)}, fault.CausePolicyInvalid},
		"depends on one":  {func(w *world) { w.repo.publish(w.t, pkg{name: "P.A", version: "1.0", script: fails("enable", "1")}) }, []protocol.Handler{ext("P.A", "1.0", 0), level(ext("P.X", "1.0", 0), 1, "P.A")}, fault.CauseBlocked},
		"a defect":        {func(w *world) { w.repo.publish(w.t, pkg{name: "P.Panics", version: "1.0", script: simple}) }, []protocol.Handler{ext("P.Panics", "1.0", 0)}, "AZ-AGENT-FAULT"},
		"nothing is left": {func(*world) {}, []protocol.Handler{ext("P.X", "1.0", 0)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple})
			tc.set(w)
			w.start()
			s := w.processed(tc.gs...)
			ds := w.m.Details()
			if len(ds) == 0 || ds[len(ds)-1].Cause != tc.want {
				t.Errorf("cause %+v, want %s\n%s", ds, tc.want, show(s))
			}
		})
	}
}

func policyOf(text string) func(w *world) {
	return func(w *world) {
		w.cfg.Policy.Mode = policy.Enforce
		writeFile(w.t, w.root.Path("/etc/waagent_policy.json"), text)
	}
}

// TestERR4CauseOfAnError: CauseOf returns the outermost cause that was set, and
// never one found in the text.
func TestERR4CauseOfAnError(t *testing.T) {
	t.Parallel()
	inner := fault.Because(fault.CausePackage, errors.New("x"))
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"text":         {errors.New("AZ-NET-DNS: [InvalidPolicyError] invalid package"), "other"},
		"given":        {fmt.Errorf("at work: %w", inner), fault.CausePackage},
		"given twice":  {fault.Because(fault.CausePolicyUnsigned, fmt.Errorf("AZ-NET-DNS: %w", inner)), fault.CausePolicyUnsigned},
		"joined":       {errors.Join(errors.New("first"), inner), fault.CausePackage},
		"full":         {fmt.Errorf("write: %w", &os.PathError{Op: "write", Err: unix.ENOSPC}), fault.CauseDiskFull},
		"the sentence": {errors.New("no space left on device"), "other"},
		"panic":        {host.Safely(func() error { panic("AZ-NET-DNS") }), "AZ-AGENT-FAULT"},
		"ended":        {context.Canceled, "other"},
	} {
		if got := fault.CauseOf(tc.err, "other"); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
