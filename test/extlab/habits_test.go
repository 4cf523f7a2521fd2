package extlab

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// reliant is a handler that relies on what agents do differently: enable writes
// no status if it has run before, update does so with an operation of its own,
// and a daemon ignores SIGHUP.
const reliant = `#!/bin/sh
cd "$(dirname "$0")" || exit 1
say() { echo '[{"version":1.0,"timestampUTC":"2026-01-01T00:00:00Z","status":{"operation":"'"$1"'","status":"success","code":0,"formattedMessage":{"lang":"en","message":"m"}}}]' >"status/$ConfigSequenceNumber.status"; }
case $1 in
enable)
	[ -e "/var/tmp/done-$ConfigSequenceNumber" ] && exit 0
	: >"/var/tmp/done-$ConfigSequenceNumber"
	head -c 3000000 /dev/zero | tr '\\0' x
	say ConfigurePatching
	(trap '' HUP; exec setsid sleep 1000 >/dev/null 2>&1 &)
	;;
update) say "" ;;
esac
`

// TestConformanceLAST1LAST2NBR3NBR4: the checks say on which habits of an agent
// a handler relies.
func TestConformanceLAST1LAST2NBR3NBR4(t *testing.T) {
	t.Parallel()
	a := agent(t)
	b := good()
	b.Files["run.sh"] = reliant
	b.Version = "1.0.0"
	old := opened(t, b)
	b.Version = "1.1.0"
	var out bytes.Buffer
	c := &conformance{p: Plan{Bundle: opened(t, b), Old: old, Settings: []byte(`{"a":1}`), Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, version: "1.1.0", out: &out}
	l, err := New(t.Context(), c.p.Lab)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c.Lab, l.handler = l, b.Name
	c.verdict("update from N-1", c.update(t.Context()))
	c.verdict("version change, same number", c.sameNumber(t.Context()))
	c.verdict("signals and output", c.habits(t.Context()))
	for _, w := range []string{
		`to 1.0.0: the status is that of the version before (operation "ConfigurePatching"), and enable has written none`,
		`to 1.1.0: the status is that of update (operation ""), and enable has written none`,
		"handles signals (run.sh:10)", "a command printed 2 MiB", "a process in the background ignores HUP (sleep 1000",
	} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("%q is not in\n%s", w, &out)
		}
	}
	if strings.Contains(out.String(), Fail) {
		t.Errorf("not one of these is a failure:\n%s", &out)
	}
}

// TestSpeaker: the writer of a status is the command that had begun last.
func TestSpeaker(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	steps := []Step{{Op: "disable", Begin: at(10)}, {Op: "update", Begin: at(20)}, {Op: "uninstall", Begin: at(30)}, {Op: "install", Begin: at(40)}, {Op: "enable", Begin: at(50)}}
	// One command follows the other within the accuracy of file times.
	near := []Step{{Op: "update", Begin: at(1), End: at(2)}, {Op: "uninstall", Begin: at(2).Add(time.Millisecond), End: at(3)}}
	if got := speaker(near, at(2).Add(-time.Millisecond), "x"); !strings.Contains(got, "that of update ") {
		t.Errorf("just before the next command: %q", got)
	}
	for when, want := range map[int]string{5: "the version before", 11: "disable", 25: "update", 45: "install", 51: "", 500: ""} {
		got := speaker(steps, at(when), "x")
		if want == "" && got != "" || want != "" && !strings.Contains(got, "that of "+want+" ") {
			t.Errorf("%d: got %q, want %q", when, got, want)
		}
	}
}

// TestSignalUse: what counts as handling signals.
func TestSignalUse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"trap 'rm x' INT TERM\n": true, "  trap '' HUP\n": true, "trap cleanup SIGTERM\n": true, "signal.signal(signal.SIGINT, f)\n": true, "nohup ./x &\n": true,
		"# trap x INT\n": false, "trap cleanup EXIT\n": false, "echo trapped\n": false, "bear trap\n": false,
	} {
		if got := signalUse.MatchString(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
