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

// CloudInitToldReady reports whether cloud-init has told the platform Ready in
// this boot. It does so as soon as it has read the provisioning document and
// before it changes the machine; then it leaves a copy of the document where
// the classic agent looks (provisioning/SPEC.md §3.8). If it died in between,
// only its log shows it.
func (m *Machine) CloudInitToldReady() bool {
	r := m.Root
	if st, ok := CloudInit(r); ok && st.Platform() {
		return true
	}
	// /run is empty at boot, and cloud-init's generator writes this file
	// first.
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

// loggedReady looks in cloud-init's log for a line, not older than since,
// which says that Ready was reported. The log is continued from boot to boot,
// and each line is written before cloud-init goes on.
func loggedReady(r host.Root, since time.Time) bool {
	const tail = 1 << 20
	f, err := r.Open("/var/log/cloud-init.log")
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // the file was only read
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
		// The log has milliseconds, file times are more precise.
		if at, err := time.Parse(stamp, line[:len(stamp)]); err == nil && at.After(since.Add(-time.Second)) {
			return true
		}
	}
	return false
}

// CloudInitStatus is what cloud-init reports in /run/cloud-init.
type CloudInitStatus struct {
	Datasource string
	Running    string   // the stage that runs now; empty if none
	Begun      []string // stages that have begun, by cloud-init's names
	Over       []string // those of them that have ended
	Finished   bool     // result.json exists: the last stage has ended
	Errors     []string
}

// stageNames are cloud-init's names of its stages, in the order in which they
// run.
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

// Passed reports whether a stage has ended. The end of a later stage does not
// imply it: after a crash the service manager starts the next stage.
func (s CloudInitStatus) Passed(stage Stage) bool {
	return slices.Contains(s.Over, stage.name()) || s.Finished && len(s.Begun) == 0
}

// Crashed reports whether a stage will never end, because a later one has
// begun without it.
func (s CloudInitStatus) Crashed(stage Stage) bool {
	if s.Passed(stage) {
		return false
	}
	i := slices.Index(stageNames[:], stage.name())
	return s.Finished || slices.ContainsFunc(s.Begun, func(b string) bool { return slices.Index(stageNames[:], b) > i })
}

// Platform reports whether the datasource is this platform's. Otherwise
// cloud-init has used its fallback (DataSourceNone), or a datasource that
// somebody else supplied (NoCloud and such).
func (s CloudInitStatus) Platform() bool { return strings.HasPrefix(s.Datasource, "DataSourceAzure") }

// Empty reports whether cloud-init found no datasource.
func (s CloudInitStatus) Empty() bool {
	return s.Datasource == "" || strings.HasPrefix(s.Datasource, "DataSourceNone")
}

// CloudInit reads result.json and status.json; false if neither can be read
// and parsed.
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
