package agent

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestLifeSign(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"": time.Minute, "x": time.Minute, "-1": time.Minute, "0": time.Minute, "300000000": time.Minute, "30000000": 10 * time.Second,
		"1": 10 * time.Millisecond, "9223372036854775807": time.Minute,
	} {
		if got := lifeSign(in); got != want {
			t.Errorf("lifeSign(%q) = %v, want %v", in, got, want)
		}
	}
}

// TestWatchdog: the service manager is notified often enough, also while
// nothing happens.
func TestWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "60000")
	a := testAgent(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		a.runParts(ctx, part{name: "reporter", run: a.reporter}, part{name: "watchdog", run: a.watchdog})
		done <- ctx.Err()
	}()
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<10)
	for signs := 0; signs < 3; {
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if string(buf[:n]) == "WATCHDOG=1" {
			signs++
		}
	}
	cancel()
	<-done //nolint:errcheck // ended by the test; its error does not matter
}
