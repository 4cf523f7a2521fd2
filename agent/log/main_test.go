package log

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// TestMain lets a test run this binary with signals as the agent has them.
func TestMain(m *testing.M) {
	if os.Getenv("AZGUEST_TEST_SWALLOW") != "" { // as process.Swallow does, which this package need not import
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	os.Exit(m.Run())
}
