package provisioning_test

import (
	"os"
	"testing"
	"time"
)

// cloud-init reports Ready before it leaves any trace other than its log.
func TestCloudInitToldReadyByItsLog(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	line := func(at time.Time, text string) string {
		return at.Format("2006-01-02 15:04:05,000") + " - azure.py[INFO]: " + text + "\n"
	}
	const ready = "Reported ready to Azure fabric."
	for _, tc := range []struct {
		name, log string
		want      bool
	}{
		{"in this boot", line(now.Add(2*time.Second), ready), true},
		{"in an earlier boot", line(now.Add(-time.Hour), ready), false},
		{"in an earlier boot, and a failure in this", line(now.Add(-time.Hour), ready) + line(now.Add(time.Second), "Reported failure to Azure fabric."), false},
		{"quoted by somebody", line(now.Add(time.Second), "args: "+ready+" x"), false},
		{"half a line", now.Format("2006-01-02") + " " + ready, false},
		{"nothing", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.write("/run/cloud-init/enabled", "", 0o644)
			if err := os.Chtimes(m.root.Path("/run/cloud-init/enabled"), now, now); err != nil {
				t.Fatal(err)
			}
			m.write("/var/log/cloud-init.log", tc.log, 0o640)
			if got := m.prov().CloudInitToldReady(); got != tc.want {
				t.Errorf("told Ready: %v, want %v", got, tc.want)
			}
		})
	}
}
