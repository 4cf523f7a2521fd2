package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// vandal writes other garbage into each place that the agent reads, every 50
// ms: files of all kinds and sizes, half of them changed while they are read.
// It continues after its enable command has ended.
const vandal = `
case $op in
enable)
	say transitioning 0 "here I am"
	logs=$(sed -n 's/.*"logFolder" *: *"\([^"]*\)".*/\1/p' "$home/HandlerEnvironment.json" | head -n 1)
	events=$(sed -n 's/.*"eventsFolder" *: *"\([^"]*\)".*/\1/p' "$home/HandlerEnvironment.json" | head -n 1)
	export home logs events status seq
	setsid perl -e '
		use Fcntl; use POSIX;
		my ($home, $logs, $events, $status, $seq) = @ENV{qw(home logs events status seq)};
		my $ok = q([{"version":"1.0","timestampUTC":"2024-01-01T00:00:00Z","status":{"operation":"e","status":"success","code":0,"formattedMessage":{"lang":"en","message":"%s"}%s}}]);
		sub put { my ($p, $text) = @_; open(my $f, ">", $p) or return; print $f $text; close $f }
		my @kinds = (
			sub { mkfifo($_[0], 0600) },
			sub { symlink("/dev/zero", $_[0]) },
			sub { symlink($_[0], $_[0]) },
			sub { symlink("/nonexistent/x", $_[0]) },
			sub { symlink("/var/lib/waagent/TransportPrivate.pem", $_[0]) },
			sub { mkdir $_[0]; put("$_[0]/x", "x") },
			sub { put($_[0], ""); truncate($_[0], 10 * 2**30) },
			sub { system("mknod", $_[0], "c", "1", "5") },
			sub { put($_[0], "[" x 2000000) },
			sub { put($_[0], q([{"status":) x 100000) },
			sub { put($_[0], "\xff\xfe[\0{\0") },
			sub { put($_[0], "\xef\xbb\xbf" . sprintf($ok, "BOM", "")) },
			sub { put($_[0], sprintf($ok, "\\ud800 \\udc00 \\ud83d", "")) },
			sub { put($_[0], sprintf($ok, "\xc3\x28 \xed\xa0\x80 \xf0\x9f", "")) },
			sub { put($_[0], q([{"status":{"status":"success","code":1e999,"formattedMessage":{"message":"m"}}}])) },
			sub { put($_[0], q([{"status":{"status":"success","code":-0.0e-999999999,"formattedMessage":{"message":"m"}}}])) },
			sub { put($_[0], q([{"status":{"status":NaN,"code":Infinity,"formattedMessage":{"message":"m"}}}])) },
			sub { put($_[0], q([{"status":{"status":"error","status":"success","code":1,"code":2,"formattedMessage":{"message":"a","message":"b"}}}])) },
			sub { put($_[0], sprintf($ok, "many", q(,"substatus":[) . join(",", map { qq({"name":"s$_","status":"success","code":$_,"formattedMessage":{"lang":"en","message":"$_"}}) } 1..20000) . "]")) },
			sub { put($_[0], sprintf($ok, "x" x 7000000, "")) },
			sub { put($_[0], sprintf($ok, "many", q(,"substatus":[) . ("{}," x 900000) . "{}]")) },
			sub { put($_[0], "null") }, sub { put($_[0], "7") }, sub { put($_[0], q("text")) }, sub { put($_[0], "[[]]") }, sub { put($_[0], "[{}]") },
			sub { put($_[0], sprintf($ok, "mode", "")); chmod 0, $_[0] },
			sub { put($_[0], sprintf($ok, "https://st.example/b?sig=canary00000000000", "")) },
		);
		srand(7);
		my $n = 0;
		while (1) {
			for my $p ("$status/$seq.status", "$home/heartbeat.log", "$home/config/HandlerStatus", "$home/mrseq", "$home/HandlerEnvironment.json", "$home/HandlerManifest.json",
				"$home/config/$seq.settings", "$status/9$seq.status", "$status/a\nb.status", "$logs/a\nb.log", "$events/" . time . ".json", "$events/a\n.json", "/var/lib/waagent/events/" . time . ".tld") {
				unlink $p; if (-d $p && ! -l $p) { unlink "$p/x"; rmdir $p }
				$kinds[int(rand(@kinds))]->($p);
			}
			put("/var/tmp/handler/rounds", ++$n);
			select(undef, undef, undef, 0.05);
		}
	' >/dev/null 2>&1 </dev/null &
	;;
esac
`

// TestHandlerWritesGarbage: while one handler writes garbage wherever it can,
// the agent keeps reporting, another handler gets its new settings, agentctl
// answers, and the agent's memory stays small.
func TestHandlerWritesGarbage(t *testing.T) {
	t.Parallel()
	o := blank()
	o.telemetry = true
	o.Packages = samples(t)
	o.Packages["Azguest.E2E.Vandal/1.0.0"] = handler(t, vandal)
	c := newAgentCloud(t, o)
	c.Sh(t, `mkdir -p /etc/waagent.conf.d && printf 'Telemetry.Period=1\nDebug.EtpCollectionPeriod=1\n' >/etc/waagent.conf.d/vandal.conf`)
	p := c.StartAgent(t)
	c.WaitReady(t)
	c.put(t, extension{name: "vandal", publisher: "Azguest.E2E", kind: "Vandal", version: "1.0"})
	await(t, "the vandal", func() bool { return c.Sh(t, "cat /var/tmp/handler/rounds 2>/dev/null || :") != "" })
	rounds := func() int {
		n, _ := strconv.Atoi(c.Sh(t, "cat /var/tmp/handler/rounds"))
		return n
	}
	for i := range 4 {
		e := helloExtension
		e.settings = map[string]any{"greeting": fmt.Sprintf("hello %d", i)}
		if got := c.follow(t, c.put(t, e)); got != "" {
			t.Errorf("round %d: the other handler: %s", i, got)
		}
		if v := c.view(t); !strings.Contains(v, fmt.Sprintf("hello %d", i)) {
			t.Errorf("round %d: instance view: %s", i, v)
		}
		from := rounds()
		await(t, "more of the vandal", func() bool { return rounds() >= from+40 })
		report, _ := c.VM.StatusDocument()
		doc := string(report)
		if !json.Valid(report) || strings.Contains(doc, "PRIVATE KEY") || strings.Contains(doc, "canary0") || len(doc) > 1<<20 {
			t.Errorf("round %d: status document of %d bytes: %.300s", i, len(doc), doc)
		}
		for _, args := range [][]string{{"status", "-o", "json"}, {"ext", "list", "-o", "json"}, {"telemetry", "show"}, {"logs", "Azguest.E2E.Vandal"}} {
			r, err := c.Run(t.Context(), append([]string{"timeout", "10", "agentctl"}, args...)...)
			if r.Code == 124 || args[len(args)-1] == "json" && !json.Valid([]byte(r.Stdout)) {
				t.Errorf("round %d: agentctl %v: %v %d %.200s", i, args, err, r.Code, r.Stdout+r.Stderr)
			}
		}
	}
	select {
	case <-p.Done():
		t.Fatal("the agent has ended")
	default:
	}
	usage := c.Sh(t, `pid=$(pgrep -xo azguest); grep -e VmHWM -e VmRSS /proc/$pid/status; ls /proc/$pid/fd | wc -l; cut -d' ' -f14,15 /proc/$pid/stat`)
	t.Logf("%d rounds: %s", rounds(), usage)
	var hwm int
	for line := range strings.Lines(usage) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			hwm, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	if hwm == 0 || hwm > 96<<10 {
		t.Errorf("the agent needed %d KiB", hwm)
	}
	c.objections(t)
}
