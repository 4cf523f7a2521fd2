package agent

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCleanMappings(t *testing.T) {
	t.Parallel()
	const smaps = `00400000-00a00000 r-xp 00000000 fd:00 12 /usr/sbin/azguest
Rss:                4096 kB
Anonymous:             0 kB
00a00000-01000000 r--p 00600000 fd:00 12 /usr/sbin/azguest
Anonymous:             4 kB
01000000-01100000 rw-p 00c00000 fd:00 12 /usr/sbin/azguest
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fd:00 13 /usr/lib/libc.so.6
Anonymous:             0 kB
`
	got := cleanMappings([]byte(smaps), "/usr/sbin/azguest")
	if diff := cmp.Diff([]mapping{{0x400000, 0xa00000}}, got, cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
}

func TestTrimDoesNoHarm(t *testing.T) {
	a := &Agent{started: time.Now().Add(-time.Hour)}
	ballast := make([]byte, trimAbove)
	for i := range ballast {
		ballast[i] = byte(i)
	}
	before, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := a.trim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range ballast {
		if ballast[i] != byte(i) {
			t.Fatalf("byte %d lost", i)
		}
	}
	if len(before) == 0 {
		t.Error("nothing read")
	}
}

// TestTrimIsNotRepeatedForNothing: pages that come back at once are needed by
// the process, and only what it grows by after that is released again.
func TestTrimIsNotRepeatedForNothing(t *testing.T) {
	a := &Agent{started: time.Now().Add(-time.Hour)}
	ballast := make([]byte, 2*trimAbove)
	for i := range ballast {
		ballast[i] = byte(i)
	}
	for range 2 {
		if err := a.trim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	needed := a.memory.needed
	if needed < trimAbove {
		t.Fatalf("needed: %d", needed)
	}
	if err := a.trim(t.Context()); err != nil || a.memory.trimmed || a.memory.needed != needed {
		t.Errorf("trimmed again: %d, needed %d", a.memory.needed, needed)
	}
	more := make([]byte, 2*trimGrowth)
	for i := range more {
		more[i] = byte(i)
	}
	if err := a.trim(t.Context()); err != nil || !a.memory.trimmed {
		t.Errorf("not trimmed after it had grown: %v", err)
	}
	runtime.KeepAlive(ballast)
	runtime.KeepAlive(more)
}
