package hook

import (
	"context"
	"os"
	"testing"

	"github.com/azguest/azguest/agent/host/job"
)

// TestMain lets the test binary supervise scripts, as the agent's does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == job.SuperviseArg {
		os.Exit(job.Supervise(context.Background(), os.Args[2:]))
	}
	os.Exit(m.Run())
}
