package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/test/peak"
)

// TestParseStatus has the rows of parse_ext_status (extensions/SPEC.md §21.2).
func TestParseStatus(t *testing.T) {
	t.Parallel()
	zero := json.RawMessage("0")
	for _, tc := range []struct {
		name, in string
		want     protocol.ExtensionStatus
		err      error
	}{
		{name: "all fields", in: `[{"version":1.0,"timestampUTC":"x","status":{"name":"n","operation":"Enable","configurationAppliedTime":"t","status":"warning","code":3,"formattedMessage":{"lang":"de","message":"m"},"substatus":[{"name":"s","status":"success","code":"9","formattedMessage":{"lang":"en","message":"sm"}},null]}}]`, want: protocol.ExtensionStatus{
			Name: "n", Operation: "Enable", AppliedTime: "t", Status: "warning", Code: json.RawMessage("3"), Message: new("m"), Lang: "de",
			Substatus: []protocol.Substatus{{Name: "s", Status: "success", Code: json.RawMessage(`"9"`), Message: new("sm"), Lang: "en"}},
		}},
		{name: "failed is error", in: `[{"status":{"status":"failed"}}]`, want: protocol.ExtensionStatus{Status: "error", Code: zero}},
		{name: "Success is error", in: `[{"status":{"status":"Success"}}]`, want: protocol.ExtensionStatus{Status: "error", Code: zero}},
		{name: "string code", in: `[{"version":"1.0","status":{"status":"success","code":"0"}}]`, want: protocol.ExtensionStatus{Status: "success", Code: json.RawMessage(`"0"`)}},
		{name: "python's code", in: `[{"status":{"status":"success","code":3.0}}]`, want: protocol.ExtensionStatus{Status: "success", Code: json.RawMessage("3")}},
		{name: "negative code", in: `[{"status":{"status":"success","code":-100}}]`, want: protocol.ExtensionStatus{Status: "success", Code: json.RawMessage("-100")}},
		{name: "infinite code", in: `[{"status":{"status":"success","code":1e999}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "endless code", in: `[{"status":{"status":"success","code":` + strings.Repeat("9", 60) + `}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "null code", in: `[{"status":{"status":"success","code":null}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "long operation", in: `[{"status":{"status":"success","operation":"` + strings.Repeat("o", 300<<10) + `"}}]`, want: protocol.ExtensionStatus{Status: "success", Operation: strings.Repeat("o", maxWord), Code: zero}},
		{name: "empty array", in: `[]`},
		{name: "null", in: `null`},
		{name: "null substatus", in: `[{"status":{"status":"success","substatus":null}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "byte order mark", in: "\xef\xbb\xbf[{\"status\":{\"status\":\"success\"}}]\n", want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "raw control characters", in: "[{\"status\":{\"status\":\"success\",\"formattedMessage\":{\"message\":\"a\x1b[0m\nb\tc\"}}}]", want: protocol.ExtensionStatus{Status: "success", Code: zero, Message: new("a\x1b[0m\nb\tc")}},
		{name: "sas is redacted", in: `[{"status":{"status":"success","formattedMessage":{"message":"got https://a.blob/c?sv=1&sig=abcdefghijkl done"}}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero, Message: new("got https://a.blob/c?<redacted> done")}},
		{name: "keys are exact", in: `[{"status":{"status":"success","Status":"error","CODE":7}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "null message", in: `[{"status":{"status":"success","formattedMessage":{"lang":"en","message":null}}}]`, want: protocol.ExtensionStatus{Status: "success", Code: zero, Lang: "en"}},
		{name: "object", in: `{"status":{}}`, err: errStatusShape},
		{name: "null element", in: `[null]`, err: errStatusShape},
		{name: "number element", in: `[5]`, err: errStatusShape},
		{name: "status string", in: `[{"status":"success"}]`, err: errStatusShape},
		{name: "no status word", in: `[{"status":{"code":1}}]`, err: errStatusShape, want: protocol.ExtensionStatus{Code: json.RawMessage("1")}},
		{name: "bad substatus", in: `[{"status":{"status":"success","substatus":[{"status":"failed"}]}}]`, err: errStatusShape, want: protocol.ExtensionStatus{Status: "success", Code: zero}},
		{name: "no message in message", in: `[{"status":{"status":"success","formattedMessage":{"lang":"en"}}}]`, err: errStatusShape, want: protocol.ExtensionStatus{Status: "success", Code: zero, Lang: "en"}},
		{name: "cut", in: `[{"status":{"sta`, err: errStatusJSON},
		{name: "nothing", in: ``, err: errStatusJSON},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseStatus([]byte(tc.in))
			if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if tc.name == "no message in message" {
				got.Lang = "en"
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLargeStatus: for files above 128 KiB, messages are cut and substatuses
// dropped, but never inside of a character (very_large_status_message).
func TestLargeStatus(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 20000)
	var subs []string
	for i := range 41 {
		subs = append(subs, fmt.Sprintf(`{"name":"s%d","status":"success","formattedMessage":{"lang":"en","message":%q}}`, i, long))
	}
	doc := `[{"status":{"status":"success","formattedMessage":{"lang":"en","message":"` + long + `"},"substatus":[` + strings.Join(subs, ",") + `]}}]`
	path := t.TempDir() + "/0.status"
	writeFile(t, path, doc)
	st, _, _ := ReadStatus(path, "P.X", "1.0", 0)
	if got := utf8.RuneCountInString(*st.Message); got != bigMessage+len(truncatedMark) {
		t.Errorf("message of %d characters", got)
	}
	if len(st.Substatus) != 12 {
		t.Errorf("%d substatuses kept, want 12", len(st.Substatus))
	}
	for _, s := range st.Substatus {
		if !utf8.ValidString(*s.Message) || !strings.HasSuffix(*s.Message, truncatedMark) {
			t.Errorf("substatus %s: the message is not valid UTF-8, or has no mark that it was cut", s.Name)
		}
	}
	writeFile(t, path, `[{"status":{"status":"success","formattedMessage":{"lang":"en","message":"`+strings.Repeat("x", 60000)+`"}}}]`)
	if st, _, _ := ReadStatus(path, "P.X", "1.0", 0); len(*st.Message) != 60000 {
		t.Error("a status below the limit was cut")
	}
}

// TestHandlerManifest has the cases of TestExtensionHandlerManifest.
func TestHandlerManifest(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in string
		want     Manifest
		bad      bool
	}{
		{name: "defaults", in: `[{"handlerManifest":{}}]`, want: Manifest{Commands: map[plan.Op]string{}}},
		{name: "full", in: `[{"name":"x","version":"1.13.19","handlerManifest":{"installCommand":"a","enableCommand":"b  -e","disableCommand":"c","updateCommand":"d","uninstallCommand":"e","reportHeartbeat":true,"continueOnUpdateFailure":"True","supportsMultipleExtensions":"true","updateMode":"UpdateWithoutInstall","rebootAfterInstall":false,"new":{}},"resourceLimits":{"cpuQuotaPercentage":-1}}]`, want: Manifest{
			Commands: map[plan.Op]string{plan.Install: "a", plan.Enable: "b  -e", plan.Disable: "c", plan.Update: "d", plan.Uninstall: "e"}, Heartbeat: true, ContinueOnFailure: true, Multi: true, NoInstallOnUpdate: true,
		}},
		{name: "odd booleans", in: `[{"version":1.0,"handlerManifest":{"reportHeartbeat":"yes","continueOnUpdateFailure":1,"supportsMultipleExtensions":null,"updateMode":"updatewithinstall"}}]`, want: Manifest{Commands: map[plan.Op]string{}, Odd: []string{"reportHeartbeat", "continueOnUpdateFailure"}}},
		{name: "limits", in: `[{"handlerManifest":{"resourceLimits":{"cpuQuotaPercentage":25,"memoryQuotaInMB":"x","services":[{"name":"a.service","cpuQuotaPercentage":5},{}]},"updateMode":null}}]`, want: Manifest{Commands: map[plan.Op]string{}, CPUPercent: 25, Services: []cgroup.UnitLimit{{Name: "a.service", CPUPercent: 5}}}},
		{name: "limits at their place", in: `[{"handlerManifest":{"updateMode":""},"resourceLimits":{"cpuQuotaPercentage":60.5,"services":[{"name":"b.service"}]}}]`, want: Manifest{Commands: map[plan.Op]string{}, NoInstallOnUpdate: true, CPUPercent: 60, Services: []cgroup.UnitLimit{{Name: "b.service"}}}},
		{name: "unknown mode", in: `[{"handlerManifest":{"updateMode":"Something"}}]`, want: Manifest{Commands: map[plan.Op]string{}, NoInstallOnUpdate: true}},
		{name: "signing", in: `[{"signingInfo":{"publisher":"P","type":"T","version":"1.0"},"handlerManifest":{}}]`, want: Manifest{Commands: map[plan.Op]string{}, Publisher: "P", Type: "T", Version: "1.0"}},
		{name: "byte order mark", in: "\xef\xbb\xbf[{\"handlerManifest\":{}}]", want: Manifest{Commands: map[plan.Op]string{}}},
		{name: "object", in: `{"handlerManifest":{}}`, bad: true},
		{name: "empty", in: `[]`, bad: true},
		{name: "null manifest", in: `[{"handlerManifest":null}]`, bad: true},
		{name: "no json", in: `x`, bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseManifest([]byte(tc.in))
			if (err != nil) != tc.bad {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSettingsDocument: absent keys are null, and public settings do not change.
func TestSettingsDocument(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		s    *protocol.Settings
		want string
	}{
		{name: "none"},
		{name: "nulls", s: &protocol.Settings{}, want: `{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": null, "protectedSettings": null, "publicSettings": null}}]}`},
		{name: "all", s: &protocol.Settings{Public: []byte(`{"n":1.50,"k": [1e3]}`), Protected: secret.New("QUJD"), Thumbprint: "AB"}, want: `{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": "AB", "protectedSettings": "QUJD", "publicSettings": {"n": 1.50, "k": [1e3]}}}]}`},
		{name: "many lines", s: &protocol.Settings{Public: []byte("{\r\n\t\"a b\" : [ 1,\n 2 ], \"c\":\"x:,\\n\"\n}")}, want: `{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": null, "protectedSettings": null, "publicSettings": {"a b": [1, 2], "c": "x:,\n"}}}]}`},
		{name: "garbage", s: &protocol.Settings{Public: []byte(`{"a"`)}, want: `{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": null, "protectedSettings": null, "publicSettings": null}}]}`},
		{name: "string", s: &protocol.Settings{Public: []byte(`"{\"a\":1}"`)}, want: `{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": null, "protectedSettings": null, "publicSettings": {"a": 1}}}]}`},
	} {
		if diff := cmp.Diff(tc.want, string(SettingsFile(tc.s))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// TestClassify: each kind of failure has its cause (extensions/SPEC.md §15.8).
func TestClassify(t *testing.T) {
	t.Parallel()
	fail := func(code int) job.Result { return job.Result{Class: job.Failed, Code: code} }
	for _, tc := range []struct {
		want   string
		res    job.Result
		p      Probe
		stderr string
	}{
		{"", job.Result{Class: job.OK}, Probe{}, ""},
		{"AZ-EXT-TIMEOUT", job.Result{Class: job.Timeout}, Probe{}, ""},
		{"AZ-EXT-SIGNAL", job.Result{Class: job.Signal, Signal: "SIGSEGV"}, Probe{}, ""},
		{"AZ-EXT-SIGNAL", fail(139), Probe{}, ""},
		{"AZ-EXT-OOM", job.Result{Class: job.Failed, Code: 137, OOM: true}, Probe{}, ""},
		{"AZ-EXT-NOEXEC", fail(126), Probe{Noexec: "/var"}, "Permission denied"},
		{"AZ-EXT-ARCH", fail(126), Probe{Machine: "AARCH64"}, ""},
		{"AZ-EXT-ARCH", fail(1), Probe{}, "bin/x: cannot execute binary file: Exec format error"},
		{"AZ-EXT-CRLF", fail(127), Probe{CRLF: true}, ""},
		{"AZ-EXT-CRLF", fail(1), Probe{}, "./x: /bin/sh^M: bad interpreter: No such file"},
		{"AZ-EXT-INTERPRETER", fail(127), Probe{Interp: "/usr/bin/python", NoInterp: true}, ""},
		{"AZ-EXT-LIBRARY", fail(127), Probe{}, "x: error while loading shared libraries: libssl.so.1.1: cannot open"},
		{"AZ-EXT-NOFILE", fail(127), Probe{Missing: true}, "not found"},
		{"AZ-EXT-NOTFOUND", fail(127), Probe{}, "sh: 1: jq: not found"},
		{"AZ-EXT-NOTFOUND", fail(127), Probe{}, "shim: line 9: bin/program: No such file or directory"},
		{"AZ-EXT-NOTFOUND", fail(127), Probe{}, ""},
		{"AZ-EXT-SELINUX", fail(126), Probe{Enforcing: true}, ""},
		{"AZ-EXT-DISK", fail(1), Probe{}, "cp: write error: No space left on device"},
		{"AZ-EXT-PKGLOCK", fail(100), Probe{}, "E: Could not get lock /var/lib/dpkg/lock-frontend"},
		{"AZ-EXT-UNSUPPORTED", fail(51), Probe{}, ""},
		{"AZ-EXT-DEPENDENCY", fail(52), Probe{}, ""},
		{"AZ-EXT-LOST", job.Result{Class: job.Lost}, Probe{}, ""},
		{"AZ-EXT-EXIT", fail(1), Probe{}, "something"},
	} {
		// Published shims send both streams to stdout.
		for _, says := range []string{Complaints("output", tc.stderr), Complaints(tc.stderr, "\n")} {
			if got := Classify(tc.res, time.Minute, tc.p, says); got.Code != tc.want || strings.HasSuffix(strings.TrimSpace(got.Text), ":") {
				t.Errorf("%+v %+v %q: got %v, want %s", tc.res, tc.p, says, got, tc.want)
			}
		}
	}
}

// TestOutputText: the result is within the limit and has the end of each output.
func TestOutputText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 3000)
	for _, tc := range [][2]string{{"a", "b"}, {long, "b"}, {"a", long}, {long, long}} {
		got := OutputText(tc[0], tc[1])
		if len(got) > outputLimit || !utf8.ValidString(got) {
			t.Errorf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
	}
	if got := OutputText("out", "err"); got != "[stdout]\nout\n\n[stderr]\nerr" {
		t.Errorf("got %q", got)
	}
	path := t.TempDir() + "/o"
	writeFile(t, path, "\xff\xfeok\xc3")
	if got := Tail(path, 100); got != `\xff\xfeok\xc3` {
		t.Errorf("tail %q", got)
	}

	// Wherever a URL is cut, no part of its signature is shown.
	const sig = "AAAABBBBCCCCDDDDEEEEFFFFGGGGHHHHIIIIJJJJKKKK"
	line := "get https://st.example/c/b?sv=1&sig=" + sig
	for n := range 2 * len(line) {
		after := " " + strings.Repeat("x", outputLimit-n)
		writeFile(t, path, line+after)
		for _, got := range []string{OutputText(line+after, ""), OutputText("", line+after), OutputText(Tail(path, int64(n+outputLimit-len(line))), "")} {
			if i := strings.IndexAny(got, "ABCDEFGHIJK"); i >= 0 {
				t.Fatalf("%d: %.120q", n, got[i:])
			}
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`[{"status":{"status":"success","substatus":[{"status":"error"}],"formattedMessage":{"message":"x"}}}]`))
	f.Add([]byte(`[null]`))
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		st, err := ParseStatus(b)
		shorten(&st)
		if err == nil && len(st.Code) > 0 && !json.Valid(st.Code) {
			t.Errorf("code %q would break the report", st.Code)
		}
		if _, err := json.Marshal(st); err != nil {
			t.Error(err)
		}
	}))
}

func FuzzHandlerManifest(f *testing.F) {
	f.Add([]byte(`[{"handlerManifest":{"installCommand":"a","resourceLimits":{"services":[{"name":"x"}]}}}]`))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) { _, _ = ParseManifest(b) }))
}

func FuzzHeartbeat(f *testing.F) {
	f.Add([]byte(`[{"heartbeat":{"status":"ready","formattedMessage":{"message":"x"}}}]`))
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		if h, err := ParseHeartbeat(b); err == nil && h.Status == "" {
			t.Error("accepted a heartbeat without a status")
		}
	}))
}
