package machine

import (
	"bytes"
	"io"
	"sync"

	"github.com/azguest/azguest/test/fabric"
)

const (
	explainRequests = 300      // maximum number of requests to print after a failure
	explainLog      = 64 << 10 // maximum number of bytes of a log
)

// Explain prints, after a failure, the requests that the platform received and
// what the agent logged.
func (m *Machine) Explain(logf func(format string, args ...any)) {
	var shown []fabric.Entry
	for _, e := range m.Fabric.Journal(fabric.Query{}) {
		if e.Kind != fabric.GoalState && e.Kind != fabric.Control && e.Code != 304 {
			shown = append(shown, e)
		}
	}
	for _, e := range shown[max(0, len(shown)-explainRequests):] {
		logf("fabric: %s %s %s %s %d %s %v %.160q", e.Time.Format("15:04:05.000"), e.Kind, e.Method, e.URL, e.Code, e.Fault, e.Problems, e.Body)
	}
	if doc, n := m.VM.StatusDocument(); n > 0 {
		logf("status document %d: %s", n, doc)
	}
	logf("agent:\n%s", m.Log.Tail(explainLog))
	// The output of an agent that another one started, after an update for
	// instance, is not in m.Log.
	for _, name := range []string{"/var/log/waagent.log", Lib + "/azguest/guard.log", Lib + "/azguest/update.json"} {
		if b, err := m.ReadTail(name, explainLog); err == nil {
			logf("%s:\n%s", name, b)
		}
	}
}

// A Buffer collects the output of processes.
type Buffer struct {
	mu   sync.Mutex // guards the rest
	b    bytes.Buffer
	also io.Writer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.also != nil {
		_, _ = b.also.Write(p) // an error of the copy, such as a closed terminal, is ignored
	}
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Tail returns the end of the output, at most n bytes.
func (b *Buffer) Tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}
