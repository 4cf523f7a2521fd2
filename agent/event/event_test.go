package event

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/test/peak"
)

func TestSpoolRoundTrip(t *testing.T) {
	t.Parallel()
	s := NewSpool(filepath.Join(t.TempDir(), "events"))
	at := time.Date(2025, 1, 2, 3, 4, 5, 6000, time.UTC)
	want := []Event{
		{Kind: Operation, Time: at, Name: "WALinuxAgent", Version: "1.2", Op: "Provision", OK: true, Message: "done", Duration: 1500 * time.Millisecond, TID: "1", PID: "2", Task: "x"},
		{Kind: Metric, Time: at, Category: "CPU", Counter: "% Time", Instance: "i", Value: 1.5},
		{Kind: Log, Time: at, Name: "Contoso.Echo", Version: "1.0", Level: "Error", Message: "m", Timestamp: "t", OperationID: "o"},
	}
	for _, e := range want {
		s.Emit(e)
	}
	got, err := s.Take(10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Take (-want +got):\n%s", diff)
	}
	if again, _ := s.Take(10); len(again) != 0 {
		t.Errorf("taken twice: %v", again)
	}
}

func TestSpoolIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := NewSpool(dir)
	for i := range MaxFiles + 300 {
		s.Emit(Event{Kind: Operation, Name: "n", Message: fmt.Sprint(i)})
		if i%100 == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != MaxFiles {
		t.Errorf("%d files, want %d", len(left), MaxFiles)
	}
	got, _ := s.Take(MaxFiles)
	if len(got) != MaxFiles || got[len(got)-1].Message != fmt.Sprint(MaxFiles+299) {
		t.Errorf("took %d, the last is %v; want the newest kept", len(got), got[len(got)-1].Message)
	}
	if n := s.Dropped(); n != 300 {
		t.Errorf("Dropped() = %d, want 300", n)
	}
}

func TestEmitNeverBlocks(t *testing.T) {
	t.Parallel()
	s := NewSpool("/proc/no/such/place") // can't be written
	for range 10 * maxMemory {
		s.Emit(Event{Kind: Operation, Name: "n"})
	}
	if err := s.Flush(); err != nil {
		t.Logf("flush: %v", err)
	}
	if n := s.Dropped(); n != 10*maxMemory {
		t.Errorf("Dropped() = %d, want all", n)
	}
}

func TestLegacyEventsOfHandlers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1.tld", `{"eventId":1,"providerId":"69B669B9-4AF8-4C50-BDC4-6006FA76E975","parameters":[{"name":"Name","value":"CustomScript"},{"name":"Version","value":"2.0"},
{"name":"OperationSuccess","value":true},{"name":"Duration","value":"20"},{"name":"GAVersion","value":"forged"},{"name":"EventPid","value":1}]}`)
	write("2.tld", "no json")
	if err := unix.Mkfifo(filepath.Join(dir, "3.tld"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "4.tld")); err != nil {
		t.Fatal(err)
	}
	s := NewSpool(dir)
	got, err := s.Take(10)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Name != "CustomScript" || !got[0].OK || got[0].Duration != 20*time.Millisecond || got[0].PID != "" {
		t.Errorf("Take() = %+v", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if n := s.Dropped(); n != 3 {
		t.Errorf("Dropped() = %d, want 3", n)
	}
}

func TestExtensionTelemetryPipeline(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	events := filepath.Join(dir, "Contoso.Echo", "events")
	if err := os.MkdirAll(events, 0o700); err != nil {
		t.Fatal(err)
	}
	one := func(msg string) string {
		return fmt.Sprintf(`{"version":"1.0","Timestamp":"ts","TaskName":"T","EventLevel":"Info","Message":%q,"EventPid":5,"EventTid":"6","OperationId":""}`, msg)
	}
	files := map[string]string{
		"200.json": "[" + one("b") + "," + one("") + "]", "100.json": one(strings.Repeat("x", 4000)), "300.json": `{"Version":"1"}`,
		"400.json": "broken", "x.json": one("name"), "500.tmp": one("tmp"),
		"600.json": fmt.Sprintf(`{"version":%q,"Timestamp":"ts","TaskName":"T","EventLevel":"Info","Message":"m","EventPid":5,"EventTid":"6","OperationId":""}`, strings.Repeat("v", 7000)),
	}
	for n, text := range files {
		if err := os.WriteFile(filepath.Join(events, n), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := CollectExtensions(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Events) != 2 || got.Events[0].Message != "b" || got.Events[0].PID != "5" || len(got.Events[1].Message) != 3072 {
		t.Errorf("events: %+v", got.Events)
	}
	want := map[string]int{"EmptyMessageError": 1, "MissingKeyError: Timestamp not found": 1, "InvalidJSON": 1, "OversizeEventError": 1}
	if diff := cmp.Diff(want, got.Dropped["Contoso.Echo"]); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	if left, _ := os.ReadDir(events); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	// With telemetry off, it is emptied as well.
	if err := os.WriteFile(filepath.Join(events, "1.json"), []byte(one("x")), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = CollectExtensions(dir, false)
	if left, _ := os.ReadDir(events); len(left) != 0 || err != nil || len(got.Events) != 0 {
		t.Errorf("off: %v left, %v, %d events", left, err, len(got.Events))
	}
}

// TestHostileEvents: whatever a handler leaves takes little memory and is
// removed.
func TestHostileEvents(t *testing.T) {
	dir := t.TempDir()
	events := filepath.Join(dir, "Contoso.Echo", "events")
	if err := os.MkdirAll(events, 0o700); err != nil {
		t.Fatal(err)
	}
	one := `{"version":"1","Timestamp":"t","TaskName":"T","EventLevel":"Info","Message":"m","EventPid":5,"EventTid":"6","OperationId":""}`
	for i, text := range []string{
		"[" + strings.Repeat("0,", 2_000_000) + "0]",
		`{"a":[` + strings.Repeat("0,", 2_000_000) + "0]}",
		"{" + strings.Repeat(`"a":0,"b":0,`, 300_000) + `"c":0}`,
		strings.Repeat("[", 4_000_000),
		"[" + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "," + one + "]",
		`[NaN,` + one + `]`,
	} {
		if err := os.WriteFile(filepath.Join(events, fmt.Sprintf("9%d.json", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 * pipelineNames {
		text := ""
		if i == 3*pipelineNames-1 {
			text = one
		}
		if err := os.WriteFile(filepath.Join(events, fmt.Sprintf("%d.json", 100000+i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"700.json/x", "800.json/x", "a\nb/x"} {
		if err := os.MkdirAll(filepath.Join(events, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(events, "97.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := CollectExtensions(dir, true)
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 64*pools {
		t.Errorf("%d MiB were needed", n)
	}
	if len(got.Events) != 2 {
		t.Errorf("events: %+v", got.Events)
	}
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("directories in the way: %v", err)
	}
	if left, _ := os.ReadDir(events); len(left) > 3 {
		t.Errorf("%d files are left", len(left))
	}
}

// TestExtensionTelemetryLimits: no handler has more than 360 events in a turn,
// the newest are taken, and what is too large is not read; the folder is
// emptied in any case.
func TestExtensionTelemetryLimits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	events := filepath.Join(dir, "Contoso.Echo", "events")
	if err := os.MkdirAll(events, 0o700); err != nil {
		t.Fatal(err)
	}
	one := func(msg string) string {
		return fmt.Sprintf(`{"Version":"1.0","Timestamp":"ts","TaskName":"T","EventLevel":"Info","Message":%q,"EventPid":5,"EventTid":"6","OperationId":""}`, msg)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(events, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 400 {
		write(fmt.Sprintf("%04d.json", i), one(fmt.Sprint(i)))
	}
	write("9998.json", strings.Repeat(" ", 4<<20)+one("too large"))
	write("9999.json", one("whole")+strings.Repeat(" ", 4<<20-len(one("whole"))))
	got, err := CollectExtensions(dir, true)
	if err != nil || len(got.Events) != 360 || got.Events[0].Message != "whole" || got.Events[1].Message != "399" {
		t.Errorf("%d events, %v", len(got.Events), err)
	}
	if n := got.Dropped["Contoso.Echo"]["OversizeEventFile"]; n != 1 {
		t.Errorf("dropped: %v", got.Dropped)
	}
	if left, _ := os.ReadDir(events); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

func FuzzEventFiles(f *testing.F) {
	f.Add([]byte(`{"eventId":1,"parameters":[{"name":"Name","value":"x"}]}`))
	f.Add([]byte(`[{"Version":"1","Message":"m"}]`))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		_, _ = decodeTLD(b, true, time.Time{})
		_, _ = decodeTLD(b, false, time.Time{})
		c := Collected{Handlers: map[string]int{}, Dropped: map[string]map[string]int{}}
		c.parse("h", b, time.Time{})
	}))
}
