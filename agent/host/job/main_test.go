package job

import (
	"context"
	"os"
	"testing"
)

// TestMain lets the test binary be its own supervisor, as the agent's is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == SuperviseArg {
		os.Exit(Supervise(context.Background(), os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == endlessArg {
		os.Exit(endless(os.Args[2]))
	}
	if len(os.Args) > 2 && os.Args[1] == agentArg {
		os.Exit(standIn(os.Args[2]))
	}
	os.Exit(m.Run())
}
