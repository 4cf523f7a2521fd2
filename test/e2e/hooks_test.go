package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// hooked is a machine with hooks switched on, and scripts by "HOOK/NAME".
func hooked(t testing.TB, conf string, scripts map[string]string) *cloud {
	t.Helper()
	c := newAgentCloud(t, blank())
	c.Sh(t, "mkdir -p /etc/waagent.conf.d /var/tmp/hooks; printf '%b' 'Hooks.Enabled=y\\n"+conf+"' >/etc/waagent.conf.d/hooks.conf")
	for name, text := range scripts {
		c.hook(t, name, text)
	}
	return c
}

// hook installs a script.
func (c *cloud) hook(t testing.TB, name, text string) {
	t.Helper()
	hook, _, _ := strings.Cut(name, "/")
	c.Sh(t, "mkdir -p /etc/azguest/hooks.d/"+hook)
	if err := c.WriteFile("/etc/azguest/hooks.d/"+name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// hookRun is one entry of agentctl events.
type hookRun struct {
	Key     string
	Hook    string
	Ended   time.Time
	Refused string
	Scripts []struct {
		Name, State, Error, Code string
		Finished                 time.Time
	}
	Event *struct {
		ID, Type, Status, Outcome string
		Here                      bool
	}
	Ack *struct {
		State, Why string
		At         time.Time
	}
}

// is describes a run in one line.
func (r hookRun) is() string {
	var out []string
	for _, s := range r.Scripts {
		out = append(out, s.Name+" "+s.State)
	}
	if r.Ack != nil {
		out = append(out, "ack "+r.Ack.State)
	}
	if r.Event != nil && r.Event.Outcome != "" {
		out = append(out, r.Event.Outcome)
	}
	return strings.Join(out, ", ")
}

// hookRuns returns what agentctl events shows, nothing while it has nothing to
// show.
func (c *cloud) hookRuns(t testing.TB, as string) []hookRun {
	t.Helper()
	var out struct{ Runs []hookRun }
	r, _ := c.Run(t.Context(), "sh", "-c", as+"agentctl events --json")
	if r.Code == 4 {
		return nil // there is no status yet
	}
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil {
		t.Fatalf("agentctl events: exit %d, %v: %s", r.Code, err, r.Stderr)
	}
	return out.Runs
}

// hookRun returns the run of an event, or the oldest whose key begins so.
func (c *cloud) hookRun(t testing.TB, key, as string) (r hookRun, ok bool) {
	t.Helper()
	key = strings.ToLower(key)
	for _, r := range c.hookRuns(t, as) {
		if r.Key == key || r.Key == "event-"+key || strings.HasPrefix(r.Key, key+"-") {
			return r, true
		}
	}
	return hookRun{}, false
}

// becomes waits until a run is described by a text, for root, who reads the
// records, and for others, who read the status.
func (c *cloud) becomes(t testing.TB, key, want string) {
	t.Helper()
	got := "absent"
	defer func() {
		if t.Failed() {
			t.Logf("%s is: %s", key, got)
		}
	}()
	is := func(as string) bool {
		r, ok := c.hookRun(t, key, as)
		if ok {
			got = r.is()
		}
		return ok && got == want
	}
	await(t, key+" to be "+want, func() bool { return is("") && is(asNobody) })
}

func (c *cloud) schedule(t testing.TB, x fabric.ScheduledEvent) string {
	t.Helper()
	id, err := c.VM.ScheduleEvent(x)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// event returns what the platform knows about an event.
func (c *cloud) event(t testing.TB, id string) fabric.Event {
	t.Helper()
	for _, e := range c.VM.ScheduledEvents() {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("no event %s", id)
	return fabric.Event{}
}

const asNobody = "setpriv --reuid=65534 --regid=65534 --clear-groups "

// TestHooks: startup scripts run once, scripts for events in their order and with
// the event; an event is acknowledged when all have succeeded, and not when one
// has failed, is refused, is about another machine or about several.
func TestHooks(t *testing.T) {
	t.Parallel()
	const log = "echo \"$(basename $0) $1 $AZGUEST_EVENT_TYPE $AZGUEST_EVENT_SOURCE\" >>/var/tmp/hooks/log\n"
	c := hooked(t, "", map[string]string{
		"startup/10-a":       log + "id -un azureuser >>/var/tmp/hooks/log\n",
		"freeze/20-b":        log + "cat >/var/tmp/hooks/event\n",
		"freeze/10-a":        log + "read x </var/tmp/hooks/go\necho quiesced\n",
		"freeze/README.txt~": "exit 1\n",
		"redeploy/10-a":      "echo hunter2; echo no >&2; exit 3\n",
		"redeploy/20-b":      log,
		"reboot/10-a":        log,
		"terminate/10-a":     log,
		"preempt/10-a":       log,
		"ended/10-a":         "echo \"ended $AZGUEST_EVENT_TYPE $AZGUEST_EVENT_OUTCOME\" >>/var/tmp/hooks/ended\n",
	})
	c.Sh(t, "mkfifo /var/tmp/hooks/go; chmod 777 /etc/azguest/hooks.d/terminate/10-a; touch '/etc/azguest/hooks.d/preempt/$(reboot)'")
	c.StartAgent(t)
	c.WaitReady(t)
	c.becomes(t, "startup", "10-a ok")
	if got := c.Sh(t, "cat /var/tmp/hooks/log"); got != "10-a startup\nazureuser" && got != "10-a startup  \nazureuser" {
		t.Errorf("startup: %q", got)
	}

	id := c.schedule(t, fabric.ScheduledEvent{Type: fabric.Freeze, Source: fabric.FromUser, Duration: 9 * time.Second, Description: `$(touch /tmp/pwned) "'`, Lasts: time.Hour})
	c.becomes(t, id, "10-a running, 20-b pending")
	c.screen(t, 0, "hooks      freeze scheduled, not before ", "(scripts: 1 running, 1 pending; acknowledged: not yet)")
	if e := c.event(t, id); !e.Acknowledged.IsZero() {
		t.Error("acknowledged before its scripts have ended")
	}
	c.Sh(t, "echo >/var/tmp/hooks/go")
	c.becomes(t, id, "10-a ok, 20-b ok, ack sent")
	e := c.event(t, id)
	if e.Acknowledged.IsZero() || e.State != fabric.EventStarted {
		t.Errorf("the platform has %+v", e)
	}
	if got := c.Sh(t, "tail -n 2 /var/tmp/hooks/log; test ! -e /tmp/pwned"); got != "10-a freeze Freeze User\n20-b freeze Freeze User" {
		t.Errorf("freeze: %q", got)
	}
	var doc struct {
		Hook  string
		Event struct {
			ID, Type, Status, Description string
			DurationS                     int `json:"duration_s"`
			Resources                     []string
		}
	}
	if err := json.Unmarshal([]byte(c.Sh(t, "cat /var/tmp/hooks/event")), &doc); err != nil || doc.Hook != "freeze" || doc.Event.ID != id || doc.Event.DurationS != 9 || fmt.Sprint(doc.Event.Resources) != "[vm-01]" || doc.Event.Description != `$(touch /tmp/pwned) "'` {
		t.Errorf("standard input %v: %+v", err, doc)
	}
	if got := c.Sh(t, "agentctl events show "+strings.ToLower(id[:13])); !strings.Contains(got, "acknowledged yes: all scripts have succeeded") || !strings.Contains(got, "  quiesced\n") {
		t.Errorf("agentctl events show: %s", got)
	}
	// A user sees the status, which is written a little later.
	await(t, "the status to show the end of the script", func() bool {
		got := c.Sh(t, asNobody+"agentctl events show "+id)
		if strings.Contains(got, "quiesced") {
			t.Errorf("agentctl events show of a user: %s", got)
		}
		return strings.Contains(got, "10-a  ok after ")
	})

	// One script fails: the other runs, too, and the event is not acknowledged.
	id = c.schedule(t, fabric.ScheduledEvent{Type: fabric.Redeploy})
	c.becomes(t, id, "10-a failed, 20-b ok, ack none")
	if r, _ := c.Run(t.Context(), "agentctl", "events", "show", id); r.Code != 0 || !strings.Contains(r.Stdout, "no: not all scripts have succeeded") || !strings.Contains(r.Stdout, "exit status 3") || !strings.Contains(r.Stdout, "AZ-HOOK-FAILED") {
		t.Errorf("agentctl events show: %s", r.Stdout+r.Stderr)
	}
	c.screen(t, 1, "AZ-HOOK-FAILED", "fix: agentctl events show event-"+strings.ToLower(id))
	if e := c.event(t, id); !e.Acknowledged.IsZero() || e.State != fabric.EventScheduled {
		t.Errorf("the platform has %+v", e)
	}
	if err := c.VM.CancelEvent(id); err != nil {
		t.Fatal(err)
	}
	c.becomes(t, id, "10-a failed, 20-b ok, ack none, cancelled")
	c.becomes(t, "ended-"+id, "10-a ok, cancelled")
	if got := c.Sh(t, "cat /var/tmp/hooks/ended"); got != "ended Redeploy cancelled" {
		t.Errorf("after the event: %q", got)
	}

	// Of another machine, of several, of one that can be changed by others, and
	// with a name that nobody can mean.
	for _, tc := range []struct {
		event fabric.ScheduledEvent
		want  string
		why   string
	}{
		{fabric.ScheduledEvent{Type: fabric.Reboot, Resources: []string{"vm-02", "vm"}}, "ack none", "it is about other machines"},
		{fabric.ScheduledEvent{Type: fabric.Reboot, Resources: []string{"vm-02", "VM-01"}}, "10-a ok, ack none", "other machines that it is about may not be ready"},
		{fabric.ScheduledEvent{Type: fabric.Terminate}, "10-a refused, ack none", "not all scripts have succeeded"},
		{fabric.ScheduledEvent{Type: fabric.Preempt, Notice: time.Hour}, `"$(reboot)" refused, 10-a ok, ack none`, "not all scripts have succeeded"},
		{fabric.ScheduledEvent{Type: fabric.Reboot, Notice: -1, Lasts: time.Hour}, "ack none", "there is no script for it"},
	} {
		id := c.schedule(t, tc.event)
		c.becomes(t, id, tc.want)
		for _, r := range c.hookRuns(t, asNobody) {
			if r.Event != nil && r.Event.ID == id && r.Ack.Why != tc.why {
				t.Errorf("%+v: %+v", tc.event, r.Ack)
			}
		}
		if e := c.event(t, id); !e.Acknowledged.IsZero() {
			t.Errorf("acknowledged: %+v", e)
		}
	}
	id = c.schedule(t, fabric.ScheduledEvent{Type: fabric.Freeze, Resources: []string{"vm-02"}})
	c.becomes(t, id, "ack none")
	if got := c.Sh(t, "agentctl events approve "+id); got != id+" acknowledged" || c.event(t, id).Acknowledged.IsZero() {
		t.Errorf("agentctl events approve: %q", got)
	}
	for do, want := range map[string]string{
		"agentctl events approve 00000000-dead":                      "400",
		asNobody + "agentctl events approve " + id:                   "only root may do this",
		"agentctl events show nothing":                               `no event "nothing"`,
		"azguest hooks list":                                         "refused: /etc/azguest/hooks.d/terminate/10-a can be changed by others than root (mode 0777)",
		"azguest hooks run redeploy":                                 "10-a: failed (exit status 3), ",
		"azguest hooks run reeboot":                                  `did you mean "reboot"?`,
		"echo '{\"event\":1}' | azguest hooks run -json - reboot":    "cannot unmarshal",
		"azguest hooks shutdown; echo \"ended with $?\"; agentctl x": "ended with 0",
	} {
		r, _ := c.Run(t.Context(), "sh", "-c", do)
		if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, want) {
			t.Errorf("%s: exit %d: %s%s", do, r.Code, r.Stdout, r.Stderr)
		}
	}
	if got := c.Sh(t, "azguest hooks run reboot; tail -n 1 /var/tmp/hooks/log; stat -c %a /var/lib/waagent/azguest/hooks /var/lib/waagent/azguest/hooks/jobs/*/stdout | sort -u"); !strings.Contains(got, "10-a: ok, ") || !strings.HasSuffix(got, "10-a reboot Reboot User\n600\n700") {
		t.Errorf("azguest hooks run: %s", got)
	}
}

// TestHooksAreNotRepeated: the agent is killed and the machine restarted while a
// script runs. It goes on, or is lost, and is not repeated; the next script runs
// as long as the event waits.
func TestHooksAreNotRepeated(t *testing.T) {
	t.Parallel()
	const slow = "echo $$ $(basename $0) >>/var/tmp/hooks/log; while [ ! -e /var/tmp/hooks/go ]; do sleep 0.05; done\n"
	c := hooked(t, "", map[string]string{"startup/10-a": "echo startup >>/var/tmp/hooks/log\n", "redeploy/10-a": slow, "redeploy/20-b": slow, "reboot/10-a": "exit 0\n"})
	p := c.StartAgent(t)
	c.WaitReady(t)
	c.becomes(t, "startup", "10-a ok")
	first := c.schedule(t, fabric.ScheduledEvent{Type: fabric.Redeploy, Notice: time.Hour, Lasts: time.Hour})
	c.becomes(t, first, "10-a running, 20-b pending")
	began := func() bool { r, _ := c.Run(t.Context(), "grep", "10-a", "/var/tmp/hooks/log"); return r.Code == 0 }
	await(t, "the script", began)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, "kill -0 $(sed -n 's/ 10-a//p' /var/tmp/hooks/log)")
	p = c.StartAgent(t)
	c.Sh(t, "touch /var/tmp/hooks/go")
	c.becomes(t, first, "10-a ok, 20-b ok, ack sent")
	if got := c.Sh(t, "cut -d' ' -f2 /var/tmp/hooks/log; grep -c startup /var/tmp/hooks/log"); got != "startup\n10-a\n20-b\n1" {
		t.Errorf("scripts: %q", got)
	}

	c.Sh(t, "rm /var/tmp/hooks/go /var/tmp/hooks/log")
	second := c.schedule(t, fabric.ScheduledEvent{Type: fabric.Redeploy, Notice: time.Hour})
	c.becomes(t, second, "10-a running, 20-b pending")
	await(t, "the script", began)
	await(t, "the record that the first event has started", func() bool {
		r, ok := c.hookRun(t, first, "")
		return ok && r.Event.Status == fabric.EventStarted
	})
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.VM.EndEvent(first); err != nil {
		t.Fatal(err)
	}
	c.Reboot(t)
	c.Sh(t, "touch /var/tmp/hooks/go")
	c.StartAgent(t)
	c.becomes(t, second, "10-a interrupted, 20-b ok, ack none")
	// In no order with the scripts of events.
	c.becomes(t, "startup-"+strings.TrimSpace(c.Sh(t, "cat /proc/sys/kernel/random/boot_id")), "10-a ok")
	if got := c.Sh(t, "cut -d' ' -f2 /var/tmp/hooks/log | sort"); got != "10-a\n20-b\nstartup" {
		t.Errorf("scripts after the restart: %q", got)
	}
	if e := c.event(t, second); !e.Acknowledged.IsZero() {
		t.Errorf("acknowledged: %+v", e)
	}
	c.screen(t, 0, "hooks      ")
	// What the platform does meanwhile is noticed: the first event is over.
	c.becomes(t, first, "10-a ok, 20-b ok, ack sent, completed")
}

// TestHooksNearTheDeadline: with Hooks.Acknowledge=deadline an event is
// acknowledged although its script has not ended, shortly before it starts; the
// script ends when the event starts.
func TestHooksNearTheDeadline(t *testing.T) {
	t.Parallel()
	c := hooked(t, "Hooks.Acknowledge=deadline\\n", map[string]string{"preempt/10-a": "exec sleep 1000\n", "freeze/10-a": "exit 1\n"})
	c.StartAgent(t)
	c.WaitReady(t)
	await(t, "a request for events", func() bool { return len(c.Fabric.Journal(fabric.Query{Kind: fabric.ScheduledEvents})) > 0 })
	id := c.schedule(t, fabric.ScheduledEvent{Type: fabric.Preempt, Notice: 20 * time.Second, Lasts: time.Hour})
	c.becomes(t, id, "10-a timeout, ack sent")
	if r, ok := c.hookRun(t, id, ""); !ok || !r.Ack.At.Before(r.Scripts[0].Finished) {
		t.Errorf("acknowledged after the end of the script: %+v", r)
	}
	if e := c.event(t, id); e.Acknowledged.IsZero() || e.Acknowledged.After(e.NotBefore) || e.NotBefore.Sub(e.Acknowledged) > 6*time.Second {
		t.Errorf("the platform has %+v", e)
	}
}

// TestHooksWithoutTheService: the service is down, answers with garbage, and has
// an event that cannot be used; the others are handled as soon as they can be
// read. An acknowledgement is repeated until it was taken.
func TestHooksWithoutTheService(t *testing.T) {
	t.Parallel()
	c := hooked(t, "", map[string]string{"preempt/10-a": "echo ran >>/var/tmp/hooks/log\n"})
	down := fail(t, c, fabric.Fault{Kind: fabric.ScheduledEvents, Reset: true})
	c.StartAgent(t)
	c.WaitReady(t)
	c.screen(t, 1, "AZ-EVENT-SERVICE")
	id := c.schedule(t, fabric.ScheduledEvent{Type: fabric.Preempt, Notice: time.Hour})
	for _, body := range []string{"<html>", `{"Events":{}}`, `{"error":"busy"}`, strings.Repeat("[", 1<<20)} {
		asked := len(c.Fabric.Journal(fabric.Query{Kind: fabric.ScheduledEvents}))
		next := fail(t, c, fabric.Fault{Kind: fabric.ScheduledEvents, Status: 200, Body: &body})
		c.Fabric.RemoveFault(down)
		await(t, "two requests", func() bool { return len(c.Fabric.Journal(fabric.Query{Kind: fabric.ScheduledEvents})) >= asked+2 })
		down = next
	}
	bad := fmt.Sprintf(`{"DocumentIncarnation":9,"Events":[{"EventId":"../../../etc/x","EventType":"Preempt","EventStatus":"Scheduled","Resources":["vm-01"]},
{"EventId":%q,"EventType":"Preempt","EventStatus":"Scheduled","Resources":["vm-01"],"NotBefore":"whenever"}]}`, id)
	next := fail(t, c, fabric.Fault{Kind: fabric.ScheduledEvents, Status: 200, Body: &bad})
	c.Fabric.RemoveFault(down)
	c.screen(t, 1, "AZ-EVENT-DOCUMENT", `EventId "../../../etc/x" is not an id`)
	c.becomes(t, id, "10-a ok, ack sent") // the faulty answer has status 200
	c.Fabric.RemoveFault(next)
	c.screen(t, 0, "hooks      preempt scheduled")

	// The next acknowledgement gets no answer at first.
	id = c.schedule(t, fabric.ScheduledEvent{Type: fabric.Preempt, Notice: time.Hour, Lasts: time.Hour})
	c.becomes(t, id, "10-a ok, ack sent")
	if e := c.event(t, id); e.Acknowledged.IsZero() {
		t.Errorf("the platform has %+v", e)
	}
	if got := c.Sh(t, "cat /var/tmp/hooks/log"); got != "ran\nran" {
		t.Errorf("scripts: %q", got)
	}
}

// TestHooksAreOff: nothing is asked and nothing is run by default.
func TestHooksAreOff(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	c.hook(t, "startup/10-a", "touch /var/tmp/ran\n")
	c.StartAgent(t)
	c.WaitReady(t)
	c.WaitStatus(t)
	if got := c.Sh(t, "agentctl events; ls /var/tmp/ran 2>/dev/null; agentctl config show Hooks.Enabled"); !strings.HasPrefix(got, "hooks are off (Hooks.Enabled=n)\nno events") {
		t.Errorf("%s", got)
	}
	if n := len(c.Fabric.Journal(fabric.Query{Kind: fabric.ScheduledEvents})); n > 0 {
		t.Errorf("%d requests for events", n)
	}
}

// TestHooksAndWrongAnswers: an event that one answer of the service lacks goes on
// as if nothing had been, and one whose time had passed before it was seen, as
// with a wrong clock, is prepared for.
func TestHooksAndWrongAnswers(t *testing.T) {
	t.Parallel()
	c := hooked(t, "Hooks.Acknowledge=deadline\\n", map[string]string{
		"freeze/10-a": "echo ten >>/var/tmp/hooks/log; read x </var/tmp/hooks/go\n",
		"freeze/20-b": "echo twenty >>/var/tmp/hooks/log\n",
		"ended/10-a":  "echo ended >>/var/tmp/hooks/log\n",
		"redeploy/10": "exit 0\n",
	})
	c.Sh(t, "mkfifo /var/tmp/hooks/go")
	last := 0
	answer := func(events string) {
		t.Helper()
		body := `{"DocumentIncarnation":1,"Events":[` + events + `]}`
		next := fail(t, c, fabric.Fault{Kind: fabric.ScheduledEvents, Status: 200, Body: &body})
		if last != 0 {
			c.Fabric.RemoveFault(last)
		}
		last = next
	}
	const event = `{"EventId":%q,"EventType":%q,"EventStatus":"Scheduled","Resources":["vm-01"],"NotBefore":%q}`
	freeze := fmt.Sprintf(event, "f1", "Freeze", time.Now().Add(time.Hour).UTC().Format(time.RFC1123))
	answer(freeze)
	c.StartAgent(t)
	c.WaitReady(t)
	c.becomes(t, "f1", "10-a running, 20-b pending")
	answer("")
	c.becomes(t, "f1", "10-a running, 20-b pending, cancelled")
	answer(freeze)
	c.becomes(t, "f1", "10-a running, 20-b pending")
	c.Sh(t, "echo >/var/tmp/hooks/go")
	c.becomes(t, "f1", "10-a ok, 20-b ok, ack sent")
	answer(fmt.Sprintf(event, "p1", "Redeploy", time.Now().Add(-time.Hour).UTC().Format(time.RFC1123)))
	c.becomes(t, "p1", "10 ok, ack sent")
	c.becomes(t, "ended-f1", "10-a ok, over")
	if got := c.Sh(t, "cat /var/tmp/hooks/log"); got != "ten\ntwenty\nended" {
		t.Errorf("scripts: %q", got)
	}
}
