package extensions

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// say is a shell function that writes a status with a message, and with fields
// of its own in front of the others.
const say = `say() { f="$base/status/${ext:+$ext.}$seq.status"
  printf '[{"version":1.0,"timestampUTC":"2024-01-01T00:00:00Z","status":{%s"status":"%s","code":0,"formattedMessage":{"lang":"en-US","message":"%s"}}}]' "$3" "$1" "$2" >"$f.tmp" && mv "$f.tmp" "$f"; }
`

// lastWord is what the extension of a row says: the message of its status, or
// what the agent says in its place.
func lastWord(h protocol.HandlerStatus) string {
	e := h.Extension
	switch {
	case e == nil:
		return "-"
	case e.Status == handler.Error:
		if e.Message != nil && !strings.HasPrefix(*e.Message, "[") && !strings.HasPrefix(*e.Message, "AZ-") && !strings.HasPrefix(*e.Message, "Error") {
			return "error: " + *e.Message
		}
		return "error " + string(e.Code)
	case e.Message == nil:
		return "none"
	case strings.HasPrefix(*e.Message, "This status is being reported by the Guest Agent"):
		return "missing"
	}
	return *e.Message
}

// words are the last words of a report, by handler, or by extension if it has a
// name of its own.
func words(s Snapshot) map[string]string {
	out := map[string]string{}
	for _, h := range s.Handlers {
		out[h.Name] = lastWord(h)
	}
	return out
}

// TestLAST1AnyWordInTheStatusCounts: what a handler has written last is its
// status, whatever it calls the operation and wherever it keeps the number of
// its last run. A patching handler writes success in update, and its enable
// only if there is no status file.
func TestLAST1AnyWordInTheStatusCounts(t *testing.T) {
	t.Parallel()
	operations := []string{
		`"operation":"",`, ``, `"operation":null,`, `"operation":["Enable"],`, `"operation":"enable ",`, `"operation":"Daemon",`, `"operation":"Assessment",`,
	}
	// Where the handler notes that it has done a number.
	marks := []string{"../$name.done", "mrseq", "bin/mrseq", "../$name.mrseq"}
	script := `name=%s; mark=%s
case $op in
enable) [ -e "$mark" ] && { [ -e status/$seq.status ] || say transitioning working; exit 0; }
  say success "first enable" '%s'; mkdir -p bin; printf '%s' >"$mark" ;;
update) say success "last word" '%s'; mkdir -p bin; [ -e "$mark" ] || echo $seq >"$mark" ;;
esac
exit 0
`
	var old, change []protocol.Handler
	var pkgs []pkg
	for i, op := range operations {
		name := fmt.Sprintf("P.W%d", i)
		body := say + fmt.Sprintf(script, name, marks[i%len(marks)], `"operation":"ConfigurePatching",`, []string{"5", "5\n", " 5", "5.0", "five"}[i%5], op)
		pkgs = append(pkgs, pkg{name: name, version: "1.0", script: body}, pkg{name: name, version: "2.0", script: body})
		old, change = append(old, ext(name, "1.0", 5)), append(change, ext(name, "2.0", 5))
	}
	w := newWorld(t, pkgs...).start()
	w.offer(old...)
	s := w.processed(change...)
	for i, h := range s.Handlers {
		if got := lastWord(h); got != "last word" || h.Version != "2.0" {
			t.Errorf("%s with %q: %s", h.Version, operations[i], got)
		}
	}
	if !s.Converged {
		t.Errorf("not final: %s", show(s))
	}
}

// script is a handler like CustomScript: its program runs in the background once
// for each sequence number, until the file ../go exists, and the other commands
// say that they have succeeded.
const script = say + `case $op in
enable) [ -e mrseq ] && [ "$(cat mrseq)" -ge $seq ] && exit 0
  echo $seq >mrseq; say transitioning running '"operation":"Enable",'
  (while [ ! -e "$base/../go" ] && [ -d "$base" ]; do sleep 0.05; done; say success "ran $seq" '"operation":"Enable",') >/dev/null 2>&1 & ;;
disable | update) say success "$op succeeded" "\"operation\":\"$op\"," ;;
esac
exit 0
`

// TestLAST2VersionChangeWhileTheScriptRuns: the version changes with the same
// sequence number while the script of the old version still runs. The status
// is what the handler has said since, not the "transitioning" from before.
func TestLAST2VersionChangeWhileTheScriptRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}).start()
	w.processed(ext("P.X", "1.0", 3))
	w.await("the script", func(s Snapshot) bool { return len(s.Handlers) == 1 && lastWord(s.Handlers[0]) == "running" })
	s := w.offer(ext("P.X", "2.0", 3))
	if got := lastWord(s.Handlers[0]); got != "update succeeded" {
		t.Errorf("got %q: %s", got, show(s))
	}
}

// TestLAST3VersionChangeOfAScript: after a version change with the same sequence
// number, the status is the last one that a command of the handler has written:
// update's after an upgrade, and disable's after a downgrade, because the old
// package's update writes to a directory that is removed.
func TestLAST3VersionChangeOfAScript(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ from, to, want string }{
		"upgrade":   {"1.0", "2.0", "update succeeded"},
		"downgrade": {"2.0", "1.0", "disable succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}).start()
			writeFile(t, w.root.Path("/var/lib/waagent/go"), "")
			if s := w.offer(ext("P.X", tc.from, 3)); lastWord(s.Handlers[0]) != "ran 3" {
				t.Fatalf("got %q", lastWord(s.Handlers[0]))
			}
			s := w.offer(ext("P.X", tc.to, 3))
			if got := lastWord(s.Handlers[0]); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			w.restart()
			if s := w.offer(ext("P.X", tc.to, 3)); lastWord(s.Handlers[0]) != tc.want {
				t.Errorf("after a restart of the agent: %q, want %q", lastWord(s.Handlers[0]), tc.want)
			}
		})
	}
}

// A changeCase is one cell of the matrix of version changes.
type changeCase struct {
	change string // what happens
	seq    string // of the sequence number: same or new
	writer string // the command that writes a status during the change, or "none"
	script string // when the script that the old version has started ends, or "none"
	multi  bool
}

func (c changeCase) String() string {
	kind := "single"
	if c.multi {
		kind = "multi"
	}
	return fmt.Sprintf("%s, %s number, written by %s, script %s, %s", c.change, c.seq, c.writer, c.script, kind)
}

var (
	changes = []string{"upgrade", "downgrade", "failed upgrade", "failed downgrade"}
	writers = []string{"none", "disable", "update", "install", "enable"}
	endings = []string{"none", "in disable", "in update", "never"}
)

// classic is the last word that the classic agent reports: it reads the status
// file of the number in the directory of the version that is asked for, after
// the last command, and nothing else. "-": the extension has no status;
// "missing": the agent says that there is no file.
func (c changeCase) classic() string {
	down, failed := strings.HasSuffix(c.change, "downgrade"), strings.HasPrefix(c.change, "failed")
	// What was copied, after disable.
	word := map[string]string{"none": "old enable", "in disable": "old script", "in update": "working", "never": "working"}[c.script]
	if c.seq == "new" {
		word = "missing"
	}
	if c.writer == "disable" {
		word = "old disable"
	}
	switch {
	case failed && down && !c.multi:
		return "-" // the target is not installed
	case c.writer == "update" && !down: // a downgrade runs update in the directory that goes
		word = "new update"
	case c.writer == "install" && !failed, c.writer == "enable" && !failed:
		word = "new " + c.writer
	}
	if c.multi && failed && word == "missing" {
		word = "error 1008" // it writes a file
	}
	return word
}

// differences lists where this agent reports something else than the classic
// one, and why (DESIGN.md decision 99). "" stands for any value.
var differences = []struct {
	changeCase
	bothKinds bool
	ours, why string
}{
	{changeCase{change: "failed upgrade"}, true, "error 1008", "a control plane takes a success of the wanted number for the success of the failed change"},
	{changeCase{change: "failed downgrade", multi: true}, false, "error 1008", "the same"},
	{changeCase{change: "upgrade", seq: "same", writer: "none", script: "in update"}, true, "old script", "the script's last word is lost there, and its status stays transitioning for ever"},
}

// ours is the last word that this agent reports. It marks the difference that
// it has used.
func (c changeCase) ours(used []bool) string {
	any := func(want, got string) bool { return want == "" || want == got }
	for i, d := range differences {
		if any(d.change, c.change) && any(d.seq, c.seq) && any(d.writer, c.writer) && any(d.script, c.script) && (d.bothKinds || d.multi == c.multi) {
			used[i] = used[i] || d.ours != c.classic()
			return d.ours
		}
	}
	return c.classic()
}

// cases are the cells to be tested: all of them, or a selection that has every
// rule of classic and every difference.
func cases(all bool) []changeCase {
	var out []changeCase
	for _, change := range changes {
		for _, seq := range []string{"same", "new"} {
			for _, writer := range writers {
				for _, end := range endings {
					for _, multi := range []bool{false, true} {
						c := changeCase{change, seq, writer, end, multi}
						up := change == "upgrade"
						plain := end == "none" && !multi && (up || writer == "none" || writer == "update" && seq == "same" || writer == "disable" && change == "downgrade")
						several := end == "none" && multi && seq == "same" && writer == "none"
						running := end != "none" && seq == "same" && !multi && (up && writer == "none" || change == "downgrade" && writer == "none" && end == "in update")
						if all || plain || several || running {
							out = append(out, c)
						}
					}
				}
			}
		}
	}
	return out
}

// body is the script of both versions of a handler. In the first goal state
// enable writes a status; in the second one only the writer does.
func (c changeCase) body(from, to string) string {
	fail := ""
	if strings.HasPrefix(c.change, "failed") {
		fail = "[ $op = update ] && exit 1"
	}
	return say + fmt.Sprintf(`from=%s; to=%s; end='%s'; writer=%s
case $AZURE_GUEST_AGENT_EXTENSION_VERSION in $from) who=old ;; *) who=new ;; esac
old=${base%%-*}-$from
finish() { touch $old/go; while ! grep -q 'old script' $old/status/${ext:+$ext.}1.status; do sleep 0.02; done; }
if [ ! -e "$base/../change" ]; then
  [ $op = enable ] || exit 0
  [ "$end" = none ] && { say success "old enable"; exit 0; }
  say transitioning working
  (while [ ! -e $base/go ] && [ -d $base ]; do sleep 0.05; done; say success "old script") >/dev/null 2>&1 &
  exit 0
fi
[ "in $op" = "$end" ] && finish
[ $op = $writer ] && say success "$who $op"
%s
exit 0
`, from, to, c.script, c.writer, fail)
}

// TestVersionChangeMatrix: for every kind of version change, the status is the
// one that the classic agent reports, or a difference that is listed.
func TestVersionChangeMatrix(t *testing.T) {
	t.Parallel()
	all := cases(os.Getenv("AZGUEST_ALL_CHANGES") != "")
	var pkgs []pkg
	var before, after []protocol.Handler
	for i, c := range all {
		from, to := "1.0", "2.0"
		if strings.HasSuffix(c.change, "downgrade") {
			from, to = to, from
		}
		name := fmt.Sprintf("P.M%d", i)
		p := pkg{name: name, script: c.body(from, to)}
		seq := map[string]int{"same": 1, "new": 2}[c.seq]
		if c.multi {
			p.manifest = `"supportsMultipleExtensions":true`
			before, after = append(before, multi(name, from, "a:1")), append(after, multi(name, to, fmt.Sprintf("a:%d", seq)))
		} else {
			before, after = append(before, ext(name, from, 1)), append(after, ext(name, to, seq))
		}
		for _, v := range []string{"1.0", "2.0"} {
			p.version = v
			pkgs = append(pkgs, p)
		}
	}
	w := newWorld(t, pkgs...)
	w.cfg.Timeouts.Dead = time.Hour // what becomes of a status that stays transitioning is tested elsewhere
	w.start()
	w.processed(before...)
	writeFile(t, w.root.Path("/var/lib/waagent/change"), "")
	got := words(w.processed(after...))
	used := make([]bool, len(differences))
	for i, c := range all {
		if g, want := got[fmt.Sprintf("P.M%d", i)], c.ours(used); g != want {
			t.Errorf("%s: got %q, want %q", c, g, want)
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		t.Errorf("there is no such difference: %+v", differences[i])
	}
	if diff := cmp.Diff(len(all), len(got)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// TestLastWordOfAFailedUpdate: after a failed update, a success in the status
// file is not reported, and an error that update has written is. The next
// attempt starts from the status of the old version again.
func TestLastWordOfAFailedUpdate(t *testing.T) {
	t.Parallel()
	script := `[ $op = enable ] && [ ! -e ../change ] && say success "old enable"
[ $op = update ] || exit 0
[ -e ../ok ] && { %s exit 0; }
%s
exit 1
`
	var pkgs []pkg
	var old, change []protocol.Handler
	for name, body := range map[string][2]string{
		"P.Own":     {`say success "retried";`, `say error "own words"`},
		"P.Success": {"", `say success "not quite"`},
		"P.Mute":    {"", ""},
	} {
		p := pkg{name: name, version: "1.0", script: say + fmt.Sprintf(script, body[0], body[1])}
		pkgs = append(pkgs, p)
		p.version = "2.0"
		pkgs = append(pkgs, p)
		old, change = append(old, ext(name, "1.0", 4)), append(change, ext(name, "2.0", 4))
	}
	w := newWorld(t, pkgs...).start()
	w.offer(old...)
	writeFile(t, w.root.Path("/var/lib/waagent/change"), "")
	want := map[string]string{"P.Own": "error: own words", "P.Success": "error 1008", "P.Mute": "error 1008"}
	if diff := cmp.Diff(want, words(w.processed(change...))); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	writeFile(t, w.root.Path("/var/lib/waagent/ok"), "")
	want = map[string]string{"P.Own": "retried", "P.Success": "old enable", "P.Mute": "old enable"}
	if diff := cmp.Diff(want, words(w.processed(change...))); diff != "" {
		t.Errorf("tried again (-want +got):\n%s", diff)
	}
}

// TestLastWordIsAlwaysCopied: the status file of the current number is among
// those that are copied, even if it is the oldest of very many, and the agent
// writes nothing over it.
func TestLastWordIsAlwaysCopied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: "log\nexit 0\n"}).start()
	w.offer(ext("P.X", "1.0", 5))
	dir := w.base("P.X-1.0/status")
	wanted := w.read(dir + "/5.status")
	if err := os.Chtimes(dir+"/5.status", longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	for i := range handler.MaxPastFiles + 100 {
		writeFile(t, fmt.Sprintf("%s/%d.status.tmp", dir, i), "x")
	}
	s := w.offer(ext("P.X", "2.0", 5))
	if got := show(s); got != "P.X 2.0 Ready 0 | 5 success 0\n" {
		t.Errorf("got %s", got)
	}
	if err := w.m.placeholder(store.Record{Name: "P.X", Version: "2.0"}, "", 5, "Enable", 1009, "denied"); err != nil {
		t.Error(err)
	}
	fi, err := os.Stat(w.base("P.X-2.0/status/5.status"))
	if err != nil || !fi.ModTime().Equal(longAgo) || w.read(w.base("P.X-2.0/status/5.status")) != wanted {
		t.Errorf("it was changed: %v %v", fi, err)
	}
	if names, err := os.ReadDir(w.base("P.X-2.0/status")); err != nil || len(names) != handler.MaxPastFiles {
		t.Errorf("%d files, %v", len(names), err)
	}
}

// TestK16: the number of the last settings that a handler has applied survives
// an install that fails after a version change, and the fresh install of the
// next goal state: otherwise it applies the same settings twice.
func TestK16(t *testing.T) {
	t.Parallel()
	script := `log "mrseq=$(cat mrseq 2>/dev/null)"
[ "$op" = install ] && [ -e broken ] && [ ! -e once ] && { : > once; exit 7; }
[ "$op" = enable ] && { echo "$seq" > mrseq; status success; }
exit 0
`
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script},
		pkg{name: "P.X", version: "2.0", script: script, files: map[string]string{"broken": "", "status/old": "x"}}).start()
	w.offer(ext("P.X", "1.0", 4))
	if s := w.processed(ext("P.X", "2.0", 4)); !strings.Contains(show(s), "NotReady") {
		t.Fatalf("install has not failed: %s", show(s))
	}
	w.clearCalls()
	if got := show(w.processed(ext("P.X", "2.0", 4))); got != "P.X 2.0 Ready 0 | 4 success 0\n" {
		t.Errorf("got %s", got)
	}
	if diff := cmp.Diff([]string{"2.0 install 4 mrseq=4", "2.0 enable 4 mrseq=4"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestK26: what another agent has left in the middle of a version change is
// taken over, with the number of the last settings.
func TestK26(t *testing.T) {
	t.Parallel()
	script := `log "mrseq=$(cat mrseq 2>/dev/null)"
[ "$op" = enable ] && status success
exit 0
`
	for state, want := range map[string][]string{
		"FailedUpgrade": {"2.0 install 4 mrseq=4", "2.0 enable 4 mrseq=4"},
		"NotInstalled":  {"2.0 install 4 mrseq=4", "2.0 enable 4 mrseq=4"},
		"Installed":     {"2.0 enable 4 mrseq=4"},
	} {
		w := newWorld(t, pkg{name: "P.X", version: "2.0", script: script}).start()
		w.offer(ext("P.X", "2.0", 4))
		w.stop()
		base := w.base("P.X-2.0")
		writeFile(t, base+"/mrseq", "4")
		writeFile(t, base+"/config/HandlerState", state)
		writeFile(t, base+"/config/HandlerStatus", `{"name":"P.X","version":"2.0","status":"NotReady","code":1008,"message":"failed"}`)
		if err := os.RemoveAll(w.m.store.Sub("records")); err != nil { // the other agent has none
			t.Fatal(err)
		}
		w.clearCalls()
		w.start()
		if got := show(w.processed(ext("P.X", "2.0", 4))); got != "P.X 2.0 Ready 0 | 4 success 0\n" {
			t.Errorf("%s: got %s", state, got)
		}
		if diff := cmp.Diff(want, w.calls()); diff != "" {
			t.Errorf("%s: calls (-want +got):\n%s", state, diff)
		}
	}
}
