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

	"github.com/azguest/azguest/test/machine"
)

// signature matches the signature of a SAS URL, which is a secret.
var signature = regexp.MustCompile(`sig=[A-Za-z0-9+/%]{16,}`)

const lib = machine.Lib

// verify compares every source of status with the expected result, and lists
// the differences. Secrets and protocol problems are checked elsewhere.
func (l *life) verify(s *script) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if err := l.AgentEnded(); err != nil {
		complain("%v", err)
		return wrong
	}
	told, err := l.Rows()
	if err != nil {
		complain("%v", err)
	}
	r, _ := l.Run(l.t.Context(), "agentctl", "status", "--output", "json")
	snap, err := machine.ParseStatus([]byte(r.Stdout))
	if err != nil {
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
		state, failure := l.VM.ProvisioningState(name)
		if state != succeeds && state != fails || outcome != either && state != outcome {
			complain("%s: the control plane says %s (%v), want %s", name, state, failure, outcome)
			continue
		}
		// An extension that failed and was tried again by a later goal state
		// may be good, but its finished operation stays failed. After a reboot,
		// an extension may no longer be enabled because its dependency failed;
		// it reports that.
		agrees := func(good bool, why string) bool {
			return good == (state == succeeds) || good && outcome == either ||
				!good && s.blocked(name) && strings.Contains(strings.ToLower(why), "dependent extension")
		}

		// The status document.
		said := ""
		found := false
		for _, h := range told {
			if h.Handler != w.x.Handler || w.multi && h.Extension != name {
				continue
			}
			found = true
			good := strings.EqualFold(h.HandlerStatus, "Ready") && h.HandlerCode == "0" // heartbeats are reported unchanged
			if h.HasStatus {
				good = good && h.Status == "success"
				said = h.StatusMessage
			} else if w.x.Settings != nil {
				good = false
			}
			if !agrees(good, said+h.HandlerMessage) || h.Version != w.version {
				complain("%s %s: the control plane says %s, the status document %s %s %q", name, w.version, state, h.Version, h.HandlerStatus, said)
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
		b, err := l.ReadFile(file)
		if text := string(b); state == succeeds && text != "Enabled" {
			complain("%s: the control plane says %s, %s %q (%v)", name, state, file, text, err)
		} else if err == nil && !slices.Contains([]string{"Enabled", "Installed", "NotInstalled", "FailedUpgrade"}, text) {
			complain("%s: %s is %q", name, file, text)
		}
		if w.multi {
			file := lib + "/" + dir + "/config/" + name + ".HandlerState"
			if b, err := l.ReadFile(file); state == succeeds && string(b) != "enabled" {
				complain("%s: the control plane says %s, %s %q (%v)", name, state, file, b, err)
			}
		}
	}

	// No other extensions.
	for _, h := range told {
		if !rows[h.Handler+"/"+h.Extension] && !rows[h.Handler+"/"] {
			complain("the status document has %s %s, which nobody wants", h.Handler, h.Extension)
		}
	}
	for _, e := range snap.Extensions {
		if !rows[e.Name+"/"+e.Config] {
			complain("agentctl shows %s %s, which nobody wants", e.Name, e.Config)
		}
	}
	return append(wrong, l.leftovers(s, dirs)...)
}

// secretLength is the length of the protected settings as the handler sees
// them.
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

// leftovers lists files and processes that should not exist.
func (l *life) leftovers(s *script, dirs map[string]bool) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	root := fmt.Sprintf("/proc/%d/root", l.PID())
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
	for _, sub := range []string{"tmp", "packages", "records"} {
		entries, err := os.ReadDir(root + lib + "/azguest/ext/" + sub)
		if err != nil {
			complain("%v", err)
		}
		for _, e := range entries {
			name := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".json"), ".zip"), ".sha256")
			// A package is kept as long as its handler fails, so that it can be
			// tried again without a download; a record as long as it has
			// something to report.
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

// mayRemain reports whether a handler's directory may be left: the older
// version stays if an update failed.
func (s *script) mayRemain(dir string) bool {
	for name, w := range s.wants {
		if s.outcome(name) != succeeds && strings.HasPrefix(dir, w.x.Handler+"-") {
			return true
		}
	}
	return false
}

// spilled lists secrets in files, processes and the output of agentctl.
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
	root := fmt.Sprintf("/proc/%d/root", l.PID())
	for _, dir := range []string{lib, "/var/log/azure", "/run/azguest", "/run/systemd"} {
		_ = filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // removed meanwhile
			}
			if b, err := os.ReadFile(path); err == nil {
				look(strings.TrimPrefix(path, root), string(b))
			}
			return nil
		})
	}
	look("what the agent printed", l.Log.String())
	logs, _ := filepath.Glob(root + "/var/log/waagent*")
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			look(strings.TrimPrefix(path, root), string(b))
		}
	}
	for _, p := range l.processes() {
		look("the arguments of "+p.args, p.args)
		look("the environment of "+p.args, p.env)
	}
	for _, args := range [][]string{{"agentctl", "status", "--output", "json"}, {"agentctl", "status"}, {"agentctl", "ext", "history"}, {"agentctl", "ext", "list"}, {"agentctl", "logs"}} {
		r, err := l.Run(l.t.Context(), args...)
		if err != nil && r.Code == 2 {
			wrong = append(wrong, fmt.Sprintf("%v: %v", args, err))
		}
		look(strings.Join(args, " "), r.Stdout+r.Stderr)
	}
	return wrong
}
