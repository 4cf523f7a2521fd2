package extensions

import (
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/store"
)

// TestThrottledTimeout: the error of a command that timed out has the time for
// which its CPU limit throttled it, in the format that tools parse.
func TestThrottledTimeout(t *testing.T) {
	t.Parallel()
	at := time.Now()
	d := store.Doing{Command: "run enable", Started: at, Deadline: at.Add(5 * time.Minute)}
	for throttled, want := range map[time.Duration]string{
		0:                           "[ExtensionError] Timeout(300): /base/run enable\n",
		12345678 * time.Microsecond: "[ExtensionError] Timeout(300);CPUThrottledTime(12.346secs): /base/run enable\n",
	} {
		code, got := (&work{}).failureText("/base", d, job.Result{Class: job.Timeout, Throttled: throttled}, handler.Cause{}, "", "", 1009)
		if code != fault.CodeTimeout || !strings.HasPrefix(got, want) {
			t.Errorf("code %d, %q, want %q", code, got, want)
		}
	}
}
