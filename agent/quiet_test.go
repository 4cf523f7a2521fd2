package agent

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/peak"
)

// TestIdleDayLogsLittle: in a day in which nothing happens, the agent logs at
// most 24 lines, in four hours at most four, with everything on that an
// administrator can switch on.
func TestIdleDayLogsLittle(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
		a := testAgent(t, f, func(c *config.Config) {
			on, _ := config.Parse("/etc/waagent.conf", []byte("Logs.Collect=y\nProvisioning.MonitorHostName=y\nOS.RootDeviceScsiTimeout=300\n"))
			on.Protocol.Endpoint = c.Protocol.Endpoint
			*c = *on
		})
		var log lines
		a.Log = zerolog.New(&log).Level(zerolog.InfoLevel)
		a.startGate.open()
		// An archive as the log collector leaves it.
		a.Runner = &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
		files(t, a.Root, map[string]string{"/var/lib/waagent/logcollector/logs.zip": "PK"})
		stop := serveJobs(t, a)
		time.Sleep(time.Hour) // leave out what is logged after a start
		began := log.count()
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		if n := log.count() - began; n > 4 {
			t.Errorf("%d lines in four idle hours, want at most 4:\n%s", n, log.since(began))
		}
		if n := count(f, time.Time{}, fabric.AgentLog); n < 4 {
			t.Errorf("logs were uploaded %d times, want at least 4: the test did not run with all features on", n)
		}
		stop()
		synctest.Wait()
		_ = f.Close()
	})
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write leaves out what is logged only because the test's clock differs from
// the kernel's.
func (l *lines) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("the clock was set")) {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.b.Bytes(), []byte("\n"))
}

// since returns the lines after the first n.
func (l *lines) since(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.SplitAfter(l.b.String(), "\n")[n:]
	return strings.Join(all[:min(len(all), 40)], "")
}
