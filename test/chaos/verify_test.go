package chaos

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// signature of a shared access URL: worth as much as what it opens.
var signature = regexp.MustCompile(`sig=[A-Za-z0-9+/%]{16,}`)

// document is what is looked at in the status document.
type document struct {
	Aggregate struct {
		Handlers []struct {
			Name    string `json:"handlerName"`
			Version string `json:"handlerVersion"`
			Status  string `json:"status"`
			Code    int    `json:"code"`
			Message struct {
				Message string `json:"message"`
			} `json:"formattedMessage"`
			Settings *struct {
				Extension string `json:"extensionName"`
				Status    struct {
					Status struct {
						Status  string `json:"status"`
						Message struct {
							Message string `json:"message"`
						} `json:"formattedMessage"`
					} `json:"status"`
				} `json:"settingsStatus"`
			} `json:"runtimeSettingsStatus"`
		} `json:"handlerAggregateStatus"`
	} `json:"aggregateStatus"`
}

// snapshot is what is looked at in the JSON of agentctl status.
type snapshot struct {
	Written time.Time `json:"written_at"`
	Agent   struct {
		Goroutines int `json:"goroutines"`
	} `json:"agent"`
	Extensions []struct {
		Name    string `json:"name"`
		Config  string `json:"config"`
		Version string `json:"version"`
		Actual  string `json:"actual"`
		Phase   string `json:"phase"`
		Status  string `json:"status"`
		Ready   string `json:"ready"`
		Message string `json:"message"`
	} `json:"extensions"`
}

const lib = "/var/lib/waagent"

// verify compares what everybody says with what is wanted, and lists what is
// wrong. Secrets and objections are not among it.
func (l *life) verify(s *script) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if err := l.alive(); err != nil {
		complain("%v", err)
		return wrong
	}
	raw, _ := l.vm.StatusDocument()
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		complain("status document: %v", err)
	}
	r, _ := l.sb.Run(l.t.Context(), "agentctl", "status", "--output", "json")
	var snap snapshot
	if err := json.Unmarshal([]byte(r.Stdout), &snap); err != nil {
		complain("agentctl status: %v: %.200s%s", err, r.Stdout, r.Stderr)
	}

	dirs, rows := map[string]bool{}, map[string]bool{}
	for _, name := range s.names() {
		w := s.wants[name]
		outcome := s.outcome(name)
		config := ""
		if w.multi {
			config = name
		}
		rows[w.x.Handler+"/"+config] = true
		dir := w.x.Handler + "-" + w.version
		dirs[dir] = true
		state, failure := l.vm.ProvisioningState(name)
		if state != succeeds && state != fails || outcome != either && state != outcome {
			complain("%s: the control plane says %s (%v), want %s", name, state, failure, outcome)
			continue
		}
		// What failed once and was tried again by a later goal state is well, but
		// an operation that has ended stays as it ended.
		// Nor is an extension well any more whose turn does not come after a
		// reboot, because what it waits for failed; it says so.
		agrees := func(good bool, why string) bool {
			return good == (state == succeeds) || good && outcome == either ||
				!good && s.blocked(name) && strings.Contains(strings.ToLower(why), "dependent extension")
		}

		// The status document.
		said := ""
		found := false
		for _, h := range doc.Aggregate.Handlers {
			if h.Name != w.x.Handler || w.multi && (h.Settings == nil || h.Settings.Extension != name) {
				continue
			}
			found = true
			good := strings.EqualFold(h.Status, "Ready") && h.Code == 0 // heartbeats are passed on as they are
			if h.Settings != nil {
				good = good && h.Settings.Status.Status.Status == "success"
				said = h.Settings.Status.Status.Message.Message
			} else if w.x.Settings != nil {
				good = false
			}
			if !agrees(good, said+h.Message.Message) || h.Version != w.version {
				complain("%s %s: the control plane says %s, the status document %s %s %q", name, w.version, state, h.Version, h.Status, said)
			}
		}
		if !found {
			complain("%s: no row in the status document", name)
		}
		if outcome == w.outcome && outcome != either && !strings.Contains(said, w.says) {
			complain("%s: the status says %.200q, want %q", name, said, w.says)
		}
		if n := w.secretLength(); n > 0 && outcome == succeeds && state == succeeds && !strings.Contains(said, fmt.Sprintf("protected settings decrypted, %d bytes", n)) {
			complain("%s: the status says %.200q, want %d bytes decrypted", name, said, n)
		}

		// agentctl.
		found = false
		for _, e := range snap.Extensions {
			if e.Name != w.x.Handler || e.Config != config {
				continue
			}
			found = true
			good := strings.EqualFold(e.Ready, "Ready") && (e.Status == "success" || w.x.Settings == nil && e.Status == "")
			if !agrees(good, e.Message) || e.Version != w.version || e.Phase != "" || state == succeeds && e.Actual != "Enabled" {
				complain("%s %s: the control plane says %s, agentctl %s %s %s %s, phase %q", name, w.version, state, e.Version, e.Actual, e.Ready, e.Status, e.Phase)
			}
		}
		if !found {
			complain("%s: agentctl does not show it", name)
		}

		// The disk.
		file := lib + "/" + dir + "/config/HandlerState"
		b, err := l.sb.ReadFile(file)
		if text := string(b); state == succeeds && text != "Enabled" {
			complain("%s: the control plane says %s, %s %q (%v)", name, state, file, text, err)
		} else if err == nil && !slices.Contains([]string{"Enabled", "Installed", "NotInstalled", "FailedUpgrade"}, text) {
			complain("%s: %s is %q", name, file, text)
		}
		if w.multi {
			file := lib + "/" + dir + "/config/" + name + ".HandlerState"
			if b, err := l.sb.ReadFile(file); state == succeeds && string(b) != "enabled" {
				complain("%s: the control plane says %s, %s %q (%v)", name, state, file, b, err)
			}
		}
	}

	// Nothing else.
	for _, h := range doc.Aggregate.Handlers {
		config := ""
		if h.Settings != nil {
			config = h.Settings.Extension
		}
		if !rows[h.Name+"/"+config] && !rows[h.Name+"/"] {
			complain("the status document has %s %s, which nobody wants", h.Name, config)
		}
	}
	for _, e := range snap.Extensions {
		if !rows[e.Name+"/"+e.Config] {
			complain("agentctl shows %s %s, which nobody wants", e.Name, e.Config)
		}
	}
	return append(wrong, l.leftovers(s, dirs)...)
}

// secretLength is that of the protected settings as the handler sees them.
func (w *want) secretLength() int {
	if w.secret == "" {
		return 0
	}
	b, err := json.Marshal(w.x.Protected)
	if err != nil {
		return 0
	}
	return len(b)
}

// leftovers are files and processes that should not be there.
func (l *life) leftovers(s *script, dirs map[string]bool) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	root := fmt.Sprintf("/proc/%d/root", l.sb.PID())
	entries, err := os.ReadDir(root + lib)
	if err != nil {
		complain("%v", err)
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), publisher) && !dirs[e.Name()] && !s.mayRemain(e.Name()) {
			complain("%s/%s is left over", lib, e.Name())
		}
		if strings.HasSuffix(e.Name(), ".zip") {
			complain("%s/%s is left over", lib, e.Name())
		}
	}
	for _, dir := range []string{lib, "/var/log/azure", "/run/azguest", "/etc", "/home"} {
		_ = filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.Contains(d.Name(), ".azg-") {
				if fi, err := d.Info(); err == nil && time.Since(fi.ModTime()) > 10*time.Second {
					complain("temporary file %s", strings.TrimPrefix(path, root))
				}
			}
			return nil
		})
	}
	for _, sub := range []string{"tmp", "packages", "saved", "records"} {
		entries, err := os.ReadDir(root + lib + "/azguest/ext/" + sub)
		if err != nil {
			complain("%v", err)
		}
		for _, e := range entries {
			name := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".json"), ".zip"), ".sha256")
			// A package stays as long as its handler fails, to be tried again
			// without a download; a record as long as there is something to say.
			if sub == "tmp" || !dirs[name] && !s.mayRemain(name) {
				complain("%s/azguest/ext/%s/%s is left over", lib, sub, e.Name())
			}
		}
	}
	for _, p := range l.processes() {
		if p.isSupervisor || p.ofExtension {
			complain("process %d is left over: %s", p.pid, p.args)
		}
	}
	return wrong
}

// mayRemain: the older version stays when an update failed.
func (s *script) mayRemain(dir string) bool {
	for name, w := range s.wants {
		if s.outcome(name) != succeeds && strings.HasPrefix(dir, w.x.Handler+"-") {
			return true
		}
	}
	return false
}

// spilled lists secrets in files, processes and what agentctl says.
func (l *life) spilled() []string {
	var wrong []string
	canaries := l.heard.list()
	look := func(where, text string) {
		for _, c := range canaries {
			if i := strings.Index(text, c); i >= 0 {
				wrong = append(wrong, fmt.Sprintf("secret in %s: …%.60q", where, text[max(0, i-40):]))
				return
			}
		}
		if i := signature.FindStringIndex(text); i != nil {
			wrong = append(wrong, fmt.Sprintf("signature in %s: %.160q", where, text[max(0, i[0]-60):i[1]]))
		}
	}
	root := fmt.Sprintf("/proc/%d/root", l.sb.PID())
	for _, dir := range []string{lib, "/var/log/azure", "/run/azguest", "/run/systemd"} {
		_ = filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // gone meanwhile
			}
			if b, err := os.ReadFile(path); err == nil {
				look(strings.TrimPrefix(path, root), string(b))
			}
			return nil
		})
	}
	logs, _ := filepath.Glob(root + "/var/log/waagent*")
	for _, path := range append(logs, l.log.Name()) {
		if b, err := os.ReadFile(path); err == nil {
			look(strings.TrimPrefix(path, root), string(b))
		}
	}
	for _, p := range l.processes() {
		look("the arguments of "+p.args, p.args)
		look("the environment of "+p.args, p.env)
	}
	for _, args := range [][]string{{"agentctl", "status", "--output", "json"}, {"agentctl", "status"}, {"agentctl", "ext", "history"}, {"agentctl", "ext", "list"}, {"agentctl", "logs"}} {
		r, err := l.sb.Run(l.t.Context(), args...)
		if err != nil && r.Code == 2 {
			wrong = append(wrong, fmt.Sprintf("%v: %v", args, err))
		}
		look(strings.Join(args, " "), r.Stdout+r.Stderr)
	}
	return wrong
}
