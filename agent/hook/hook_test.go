package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/status"
)

// put makes a file below the root, and the directories above it.
func put(t *testing.T, root host.Root, name, text string, perm os.FileMode) {
	t.Helper()
	full := root.Path(name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(full, perm); err != nil {
		t.Fatal(err)
	}
}

func TestFindTakesAndRefuses(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	dir := Dir + "/preempt/"
	for name, perm := range map[string]os.FileMode{
		"20-b.sh": 0o755, "10-a": 0o700, "30_c": 0o500, "README": 0o644, "40-off": 0o644, ".hidden": 0o755, "50~": 0o755,
		"60.dpkg-old": 0o755, "70.bak": 0o755, "80-all": 0o777, "81-group": 0o775, "90 $(reboot)": 0o755, "91\n": 0o755, "-r": 0o755, "92'": 0o755,
		strings.Repeat("n", 200): 0o755,
	} {
		put(t, root, dir+name, "#!/bin/sh\n", perm)
	}
	put(t, root, "/opt/script", "#!/bin/sh\n", 0o755)
	put(t, root, "/tmp/script", "#!/bin/sh\n", 0o755)
	if err := os.Chmod(root.Path("/tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(root.Path(dir+"95-dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for to, link := range map[string]string{"/opt/script": "15-link", "/tmp/script": "16-link", "/nowhere": "17-link", "16-link": "18-link"} {
		if err := os.Symlink(to, root.Path(dir+link)); err != nil {
			t.Fatal(err)
		}
	}
	scripts, err := Find(root, Preempt)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var runs []string
	for _, s := range scripts {
		if s.Err == nil {
			runs = append(runs, s.Name+" "+s.Path)
			continue
		}
		if _, ok := errors.AsType[*FileError](s.Err); !ok {
			t.Errorf("%s: %v has no code", s.Name, s.Err)
		}
		got[s.Name] = s.Err.Error()
	}
	if diff := cmp.Diff([]string{"10-a " + dir + "10-a", "15-link /opt/script", "20-b.sh " + dir + "20-b.sh", "30_c " + dir + "30_c"}, runs); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
	for name, why := range map[string]string{
		"80-all": "mode 0777", "81-group": "mode 0775", `"90 $(reboot)"`: "a name may contain", `"91\n"`: "a name may contain", `"-r"`: "a name may contain", `"92'"`: "a name may contain",
		"95-dir": "not a regular file", "16-link": "/tmp", "17-link": "no such file", "18-link": "/tmp", `"` + strings.Repeat("n", 200) + `"`: "a name may contain",
	} {
		if !strings.Contains(got[name], why) {
			t.Errorf("%s: %q, want %q", name, got[name], why)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("also refused: %q", got)
	}
}

func TestFindRefusesDirectories(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, root host.Root){
		"own":   func(t *testing.T, root host.Root) { chmod(t, root, Dir+"/freeze", 0o777) },
		"above": func(t *testing.T, root host.Root) { chmod(t, root, "/etc/azguest", 0o775) },
		"number": func(t *testing.T, root host.Root) {
			for i := range maxScripts + 1 {
				put(t, root, fmt.Sprintf("%s/freeze/%d", Dir, i), "", 0o755)
			}
		},
		"a file": func(t *testing.T, root host.Root) {
			if err := os.RemoveAll(root.Path(Dir + "/freeze")); err != nil {
				t.Fatal(err)
			}
			put(t, root, Dir+"/freeze", "", 0o755)
		},
	} {
		root := host.Root(t.TempDir())
		put(t, root, Dir+"/freeze/10-x", "#!/bin/sh\n", 0o755)
		spoil(t, root)
		scripts, err := Find(root, Freeze)
		if _, ok := errors.AsType[*FileError](err); !ok || len(scripts) > 0 {
			t.Errorf("%s: %v, %v", name, scripts, err)
		}
	}
	if scripts, err := Find(host.Root(t.TempDir()), Freeze); err != nil || scripts != nil {
		t.Errorf("no directory: %v, %v", scripts, err)
	}
}

func chmod(t *testing.T, root host.Root, name string, perm os.FileMode) {
	t.Helper()
	if err := os.Chmod(root.Path(name), perm); err != nil {
		t.Fatal(err)
	}
}

// TestDecide is the table of decisions about a scheduled event.
func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	const failed = status.HookFailed
	type event = status.HookEvent
	open := event{Status: "Scheduled", Here: true, Resources: []string{"vm"}, NotBefore: in(15 * time.Minute)}
	with := func(e event, change func(*event)) event { change(&e); return e }
	soon := with(open, func(e *event) { e.NotBefore = in(30 * time.Second) })
	near := with(open, func(e *event) { e.NotBefore = in(5 * time.Second) })
	late := with(open, func(e *event) { e.NotBefore = in(-time.Second) })
	started := with(open, func(e *event) { e.Status = "Started" })
	gone := with(open, func(e *event) { e.Gone = now })
	others := with(open, func(e *event) { e.Here = false })
	several := with(open, func(e *event) { e.Resources = []string{"vm", "other"} })
	timeless := with(open, func(e *event) { e.NotBefore = time.Time{} })
	past := with(open, func(e *event) { e.NotBefore = in(-2 * time.Hour) }) // before it was seen
	sent := &status.HookAck{State: status.AckSent}
	for _, tc := range []struct {
		name   string
		event  event
		states string
		mode   string
		ack    *status.HookAck
		want   Action
	}{
		{"first script", open, "pending pending", OnSuccess, nil, Action{Do: Start, Script: 0, Timeout: 5 * time.Minute}},
		{"second script, also after a failure", open, "failed pending", OnSuccess, nil, Action{Do: Start, Script: 1, Timeout: 5 * time.Minute}},
		{"not longer than the event waits", soon, "pending", OnSuccess, nil, Action{Do: Start, Timeout: 30 * time.Second}},
		{"no time given", timeless, "pending", OnSuccess, nil, Action{Do: Start, Timeout: 5 * time.Minute}},
		{"its time had passed when it was seen", past, "pending", OnSuccess, nil, Action{Do: Start, Timeout: 5 * time.Minute}},
		{"its time had passed, deadline", past, "pending", Deadline, nil, Action{Do: Start, Timeout: 5 * time.Minute}},
		{"its time had passed, one failed, deadline", past, "failed", Deadline, nil, Action{Do: Settle, Why: "not all scripts have succeeded"}},
		{"its time had passed, all succeeded", past, "ok", OnSuccess, nil, Action{Do: Acknowledge, Why: "all scripts have succeeded"}},
		{"one at a time", open, "running pending", OnSuccess, nil, Action{Do: Wait}},
		{"too late", late, "ok pending", OnSuccess, nil, Action{Do: Skip, Why: "the event had started"}},
		{"started", started, "pending", OnSuccess, nil, Action{Do: Skip, Why: "the event had started"}},
		{"cancelled", gone, "pending", OnSuccess, nil, Action{Do: Skip, Why: "the event was over"}},
		{"all succeeded", open, "ok ok", OnSuccess, nil, Action{Do: Acknowledge, Why: "all scripts have succeeded"}},
		{"all succeeded, deadline", open, "ok ok", Deadline, nil, Action{Do: Acknowledge, Why: "all scripts have succeeded"}},
		{"never", open, "ok", Never, nil, Action{Do: Settle, Why: "Hooks.Acknowledge=never"}},
		{"one failed", open, "ok failed", OnSuccess, nil, Action{Do: Settle, Why: "not all scripts have succeeded"}},
		{"one refused", open, "ok refused", OnSuccess, nil, Action{Do: Settle, Why: "not all scripts have succeeded"}},
		{"one failed, deadline", open, "failed", Deadline, nil, Action{Do: Wait, At: in(15*time.Minute - 5*time.Second)}},
		{"one failed, deadline near", near, "failed", Deadline, nil, Action{Do: Acknowledge, Why: "the event starts in any case (Hooks.Acknowledge=deadline)"}},
		{"still running, deadline", soon, "running", Deadline, nil, Action{Do: Wait, At: in(25 * time.Second)}},
		{"still running, deadline near", near, "running", Deadline, nil, Action{Do: Acknowledge, Why: "the event starts in any case (Hooks.Acknowledge=deadline)"}},
		{"still running, acknowledged", near, "running", Deadline, sent, Action{Do: Wait}},
		{"still running, no time given", timeless, "running", Deadline, nil, Action{Do: Wait}},
		{"nobody has prepared", open, "", OnSuccess, nil, Action{Do: Settle, Why: "there is no script for it"}},
		{"nobody has prepared, deadline", near, "", Deadline, nil, Action{Do: Settle, Why: "there is no script for it"}},
		{"of others", others, "", OnSuccess, nil, Action{Do: Settle, Why: "it is about other machines"}},
		{"of others, deadline", with(others, func(e *event) { e.NotBefore = in(time.Second) }), "", Deadline, nil, Action{Do: Settle, Why: "it is about other machines"}},
		{"of several", several, "ok", OnSuccess, nil, Action{Do: Settle, Why: "other machines that it is about may not be ready"}},
		{"of several, deadline", several, "ok", Deadline, nil, Action{Do: Wait, At: in(15*time.Minute - 5*time.Second)}},
		{"succeeded too late", started, "ok", OnSuccess, nil, Action{Do: Settle, Why: "it did not wait for an acknowledgement any more"}},
		{"cancelled meanwhile", gone, "ok", OnSuccess, nil, Action{Do: Settle, Why: "it did not wait for an acknowledgement any more"}},
		{"acknowledged", open, "ok", OnSuccess, sent, Action{Do: Wait}},
		{"over", gone, "ok", OnSuccess, sent, Action{Do: End}},
		{"over, one still runs", gone, "running", OnSuccess, sent, Action{Do: Wait}},
	} {
		r := status.HookRun{Hook: Freeze, Seen: in(-time.Hour), Event: &tc.event, Ack: tc.ack}
		for s := range strings.FieldsSeq(tc.states) {
			sc := status.HookScript{Name: "x", State: s}
			if s == failed || s == status.HookRefused {
				sc.Code = CodeFailed
			}
			r.Scripts = append(r.Scripts, sc)
		}
		if diff := cmp.Diff(tc.want, Decide(r, now, Policy{Acknowledge: tc.mode, Timeout: 5 * time.Minute})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// machine is a root with a runner.
func machine(t *testing.T) (host.Root, Runner) {
	t.Helper()
	root := host.Root(t.TempDir())
	put(t, root, "/proc/sys/kernel/random/boot_id", "boot-1\n", 0o644)
	x := Runner{Store: Store{Root: root, Lib: "/var/lib/waagent"}, Launcher: job.SelfLauncher(), Log: zerolog.Nop()}
	if err := x.Store.Open(); err != nil {
		t.Fatal(err)
	}
	return root, x
}

func begin(t *testing.T, x Runner, hook string) status.HookRun {
	t.Helper()
	scripts, err := Find(x.Store.Root, hook)
	r := x.Store.New(hook+"-1", hook, "vm-1", x.Store.Root.BootID(), scripts, err)
	if err := x.Store.Save(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func ignore(status.HookRun) {}

func TestScriptsRunInOrderWithTheEvent(t *testing.T) {
	t.Parallel()
	root, x := machine(t)
	log := root.Path("/log")
	put(t, root, Dir+"/reboot/20-env", "#!/bin/sh\necho \"20 $1 $AZGUEST_HOOK $AZGUEST_EVENT_TYPE $AZGUEST_EVENT_NOT_BEFORE $AZGUEST_EVENT_DURATION\" >>"+log+"\n", 0o755)
	put(t, root, Dir+"/reboot/10-stdin", "#!/bin/sh\ncat >"+root.Path("/stdin")+"\necho 10 >>"+log+"\necho out\necho err >&2\nexit 3\n", 0o755)
	put(t, root, Dir+"/reboot/30-signal", "#!/bin/sh\nkill -TERM $$\n", 0o755)
	put(t, root, Dir+"/reboot/40-nobody", "#!/nowhere\n", 0o755)
	put(t, root, Dir+"/reboot/50-slow", "#!/bin/sh\necho 50 >>"+log+"\nexec sleep 1000\n", 0o755)
	r := begin(t, x, Reboot)
	r.Event = &status.HookEvent{ID: "id-1", Type: "Reboot", Status: "Scheduled", NotBefore: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), DurationS: 9, Description: "$(touch /x) `id` \"'", Here: true}
	for i := range 4 {
		var err error
		if r, err = x.Start(r, i, time.Minute); err == nil {
			r, err = x.Await(t.Context(), r, i)
		}
		if err != nil {
			t.Error(err)
		}
	}
	// The slow one has its own, short time limit. How long it must be, so that the
	// script begins, depends on the speed of the machine.
	limit := time.Second
	for ; ; limit *= 3 {
		slow := r
		slow.Scripts = slices.Clone(r.Scripts)
		slow, err := x.All(t.Context(), slow, limit, time.Time{}, ignore)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(log); strings.HasSuffix(string(b), "\n50\n") || limit > time.Minute {
			r = slow
			break
		}
	}
	want := []string{
		"10-stdin failed 3 exit status 3", "20-env ok 0 ", "30-signal failed -1 ended by SIGTERM", "40-nobody failed 127 exit status 127",
		"50-slow timeout -1 ended after " + limit.String() + ".",
	}
	var got []string
	for _, s := range r.Scripts {
		got = append(got, fmt.Sprintf("%s %s %d %s", s.Name, s.State, s.Exit, s.Error))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b, err := os.ReadFile(log)
	if want := "10\n20 reboot reboot Reboot 2026-12-01T00:00:00Z 9\n50\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v; want %q", b, err, want)
	}
	var d Document
	b, err = os.ReadFile(root.Path("/stdin"))
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if diff := cmp.Diff(Input(r), d); err != nil || diff != "" {
		t.Errorf("standard input %v (-want +got):\n%s", err, diff)
	}
	out, _ := os.ReadFile(root.Path(r.Scripts[0].Dir + "/stdout"))
	errs, _ := os.ReadFile(root.Path(r.Scripts[0].Dir + "/stderr"))
	fi, err := os.Stat(root.Path(r.Scripts[0].Dir + "/stdout"))
	if string(out) != "out\n" || string(errs) != "err\n" || err != nil || fi.Mode() != 0o600 {
		t.Errorf("output %q %q %v %v", out, errs, fi, err)
	}
	saved, ok := x.Store.Load(r.Key)
	if diff := cmp.Diff(r, saved); !ok || diff != "" || r.Ended.IsZero() {
		t.Errorf("record: %v (-want +got):\n%s", ok, diff)
	}
}

// TestScriptsAreNotRepeated: who finds a record goes on with what is not done,
// and never starts anything twice, whatever has ended the first process.
func TestScriptsAreNotRepeated(t *testing.T) {
	t.Parallel()
	root, x := machine(t)
	for _, n := range []string{"10", "20", "30"} {
		put(t, root, Dir+"/startup/"+n, "#!/bin/sh\necho "+n+" >>"+root.Path("/log")+"\nwhile [ ! -e "+root.Path("/go")+" ]; do sleep 0.02; done\n", 0o755)
	}
	r := begin(t, x, Startup)
	ctx, stop := context.WithCancel(t.Context())
	_, err := x.All(ctx, r, time.Minute, time.Time{}, func(status.HookRun) { stop() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r, ok := x.Store.Load(r.Key)
	if !ok || r.Scripts[0].State != status.HookRunning || r.Scripts[1].State != status.HookPending {
		t.Fatalf("%v %+v", ok, r)
	}
	put(t, root, "/go", "", 0o600)
	if r, err = x.All(t.Context(), r, time.Minute, time.Time{}, ignore); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(root.Path("/log")); string(b) != "10\n20\n30\n" || r.Scripts[0].State != status.HookOK {
		t.Errorf("%q %+v", b, r)
	}

	// After a restart of the machine: the one that ran is lost, the others run.
	r = begin(t, x, Startup)
	r.Scripts[0].State, r.Scripts[0].Job, r.Scripts[0].Boot = status.HookRunning, "0123456789abcdef", "boot-0"
	if err := os.Remove(root.Path("/log")); err != nil {
		t.Fatal(err)
	}
	if r, err = x.All(t.Context(), r, time.Minute, time.Time{}, ignore); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(root.Path("/log")); string(b) != "20\n30\n" || r.Scripts[0].State != status.HookInterrupted || r.Scripts[0].Code != CodeLost {
		t.Errorf("%q %+v", b, r)
	}
}

// TestAbort: a run that nobody goes on with ends, and so does its script.
func TestAbort(t *testing.T) {
	t.Parallel()
	root, x := machine(t)
	put(t, root, Dir+"/freeze/10", "#!/bin/sh\nexec sleep 1000\n", 0o755)
	put(t, root, Dir+"/freeze/20", "#!/bin/sh\n", 0o755)
	ctx, stop := context.WithCancel(t.Context())
	r, err := x.All(ctx, begin(t, x, Freeze), time.Minute, time.Time{}, func(status.HookRun) { stop() })
	if !errors.Is(err, context.Canceled) || r.Scripts[0].State != status.HookRunning {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err = x.Abort(ctx, r); err != nil || r.Scripts[0].State != status.HookInterrupted || r.Scripts[1].State != status.HookSkipped {
		t.Errorf("%+v, %v", r, err)
	}
	if s := job.SupervisorState(root.Path(r.Scripts[0].Dir)); s != job.SupervisorState(root.Path("/nowhere")) {
		t.Errorf("the supervisor is %s", s)
	}
	if saved, ok := x.Store.Load(r.Key); !ok || saved.Ended.IsZero() {
		t.Errorf("record: %+v", saved)
	}
}

// TestScriptIsJudgedAgain: a file that has become unsafe since it was found is
// not run, and what is left is skipped when the time is up.
func TestScriptIsJudgedAgain(t *testing.T) {
	t.Parallel()
	root, x := machine(t)
	put(t, root, Dir+"/freeze/10", "#!/bin/sh\n", 0o755)
	put(t, root, Dir+"/freeze/20", "#!/bin/sh\n", 0o755)
	r := begin(t, x, Freeze)
	chmod(t, root, Dir+"/freeze/10", 0o777)
	r, err := x.Start(r, 0, time.Minute)
	if err != nil || r.Scripts[0].State != status.HookRefused || r.Scripts[0].Code != CodeFile {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = x.All(t.Context(), r, time.Minute, time.Now(), ignore)
	if err != nil || r.Scripts[1].State != status.HookSkipped || r.Ended.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRecordsAreKeptWithinLimits(t *testing.T) {
	t.Parallel()
	root, x := machine(t)
	now := time.Now().UTC()
	for i := range keptRuns + 20 {
		r := status.HookRun{Key: fmt.Sprintf("run-%d", i), Hook: Freeze, Seen: now.Add(time.Duration(i) * time.Second), Ended: now}
		if i == 0 {
			r.Ended = time.Time{} // it is not over
		}
		r.Scripts = []status.HookScript{{Name: "x", State: status.HookOK, Job: fmt.Sprintf("job%d", i)}}
		put(t, root, fmt.Sprintf("%s/job%d/stdout", x.Store.Jobs(), i), "x", 0o600)
		if err := x.Store.Save(r); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, x.Store.Jobs()+"/stranger/stdout", "x", 0o600)
	// This boot has had its startup scripts, long ago.
	for _, boot := range []string{"boot-0", "boot-1"} {
		if err := x.Store.Save(status.HookRun{Key: Startup + "-" + boot, Hook: Startup, Boot: boot, Seen: now.Add(-2 * keptFor), Ended: now}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Store.Prune(now); err != nil {
		t.Fatal(err)
	}
	runs, err := x.Store.List()
	jobs, jerr := os.ReadDir(root.Path(x.Store.Jobs()))
	if err != nil || jerr != nil || len(runs) != keptRuns+2 || runs[0].Key != "startup-boot-1" || runs[1].Key != "run-0" || len(jobs) != keptJobs {
		t.Errorf("%d runs, %d jobs, %v, %v", len(runs), len(jobs), err, jerr)
	}
	// One that cannot be read is left out, and nothing else.
	put(t, root, "/var/lib/waagent/azguest/hooks/runs/broken.json", "{", 0o600)
	if again, err := x.Store.List(); err == nil || len(again) != len(runs) {
		t.Errorf("%d runs, %v", len(again), err)
	}
}
