package provisioning

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// CloudInitToldReady reports whether cloud-init has told the platform Ready
// in this boot. It does so as soon as it has read the order and before it
// does anything about it; then it leaves a copy of the document where the
// classic agent looks (provisioning/SPEC.md §3.8). If it died in between,
// its log is the only witness.
func (m *Machine) CloudInitToldReady() bool {
	r := m.Root
	if st, ok := CloudInit(r); ok && st.Platform() {
		return true
	}
	// /run is new at each boot, and the generator is the first to write there.
	began, err := r.Stat("/run/cloud-init/enabled")
	if err != nil {
		return false
	}
	copied, err := r.Stat(path.Join(m.Options.Lib, "ovf-env.xml"))
	if err == nil && copied.ModTime().After(began.ModTime()) {
		return true
	}
	return loggedReady(r, began.ModTime())
}

// loggedReady looks for cloud-init's word that the platform has taken Ready,
// not older than since. Its log goes on from boot to boot; each line is there
// before the next thing is done.
func loggedReady(r host.Root, since time.Time) bool {
	const tail = 1 << 20
	f, err := r.Open("/var/log/cloud-init.log")
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // only read
	if end, err := f.Seek(0, io.SeekEnd); err != nil || end > tail {
		_, _ = f.Seek(max(0, end-tail), io.SeekStart)
	} else {
		_, _ = f.Seek(0, io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return false
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	const stamp = "2006-01-02 15:04:05,000" // in UTC
	for lines.Scan() {
		line := lines.Text()
		if len(line) < len(stamp) || !strings.HasSuffix(strings.TrimSpace(line), ": Reported ready to Azure fabric.") {
			continue
		}
		// The clock of the log has milliseconds, that of files more.
		if at, err := time.Parse(stamp, line[:len(stamp)]); err == nil && at.After(since.Add(-time.Second)) {
			return true
		}
	}
	return false
}

// CloudInitStatus is what cloud-init says of itself in /run/cloud-init.
type CloudInitStatus struct {
	Datasource string
	Running    string   // the stage that runs now; empty if none
	Begun      []string // stages that were begun, in cloud-init's words
	Over       []string // those of them that came to their end
	Finished   bool     // there is a result: the last stage came to its end
	Errors     []string
}

// stageNames are cloud-init's words for its stages, in the order they run.
var stageNames = [...]string{"init-local", "init", "modules-config", "modules-final"}

func (s Stage) name() string {
	switch s {
	case StageInit:
		return "init"
	case StageConfig:
		return "modules-config"
	case StageFinal:
		return "modules-final"
	}
	return ""
}

// Passed reports whether a stage came to its end. What ended later proves
// nothing: after a crash the service manager starts the next stage.
func (s CloudInitStatus) Passed(stage Stage) bool {
	return slices.Contains(s.Over, stage.name()) || s.Finished && len(s.Begun) == 0
}

// Crashed reports whether a stage will never come to its end, because a later
// one was begun without it.
func (s CloudInitStatus) Crashed(stage Stage) bool {
	if s.Passed(stage) {
		return false
	}
	i := slices.Index(stageNames[:], stage.name())
	return s.Finished || slices.ContainsFunc(s.Begun, func(b string) bool { return slices.Index(stageNames[:], b) > i })
}

// Platform is whether the order came from this platform. If it did not, the
// fallback source has set up a machine nobody ordered (DataSourceNone), or
// somebody has brought an order of their own (NoCloud and such).
func (s CloudInitStatus) Platform() bool { return strings.HasPrefix(s.Datasource, "DataSourceAzure") }

// Empty is whether there was no order at all.
func (s CloudInitStatus) Empty() bool {
	return s.Datasource == "" || strings.HasPrefix(s.Datasource, "DataSourceNone")
}

// CloudInit reads result.json and status.json; false if there is neither, or
// only half of one.
func CloudInit(r host.Root) (CloudInitStatus, bool) {
	var st CloudInitStatus
	ok := false
	var status struct {
		V1 map[string]json.RawMessage `json:"v1"`
	}
	if readJSON(r, "/run/cloud-init/status.json", &status) {
		ok = true
		_ = json.Unmarshal(status.V1["stage"], &st.Running)
		_ = json.Unmarshal(status.V1["datasource"], &st.Datasource)
		for _, name := range stageNames {
			var stage struct {
				Start    *float64 `json:"start"`
				Finished *float64 `json:"finished"`
				Errors   []any    `json:"errors"`
			}
			if json.Unmarshal(status.V1[name], &stage) != nil {
				continue
			}
			if stage.Start != nil && *stage.Start > 0 {
				st.Begun = append(st.Begun, name)
			}
			if stage.Finished != nil && *stage.Finished > 0 {
				st.Over = append(st.Over, name)
			}
			for _, e := range stage.Errors {
				st.Errors = append(st.Errors, name+": "+fmt.Sprint(e))
			}
		}
	}
	var result struct {
		V1 struct {
			Datasource string `json:"datasource"`
			Errors     []any  `json:"errors"`
		} `json:"v1"`
	}
	if readJSON(r, "/run/cloud-init/result.json", &result) {
		ok, st.Finished = true, true
		if result.V1.Datasource != "" {
			st.Datasource = result.V1.Datasource
		}
		if len(st.Errors) == 0 {
			for _, e := range result.V1.Errors {
				st.Errors = append(st.Errors, fmt.Sprint(e))
			}
		}
	}
	return st, ok
}
