package handlers

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
)

// A lookalike imitates a published handler. name is its folder in testdata,
// kind the type of the handler.
type lookalike struct {
	name, kind string
	manifest   string            // HandlerManifest.json
	files      map[string]string // in the package: file in testdata
	dirs       bool              // the package has entries for folders
	bom        bool              // the manifest begins with a byte order mark
	ballast    string            // name of a file of 26 MB
}

const publisher = "Azguest.Lookalike"

func commands(shim string) string {
	var b strings.Builder
	for _, op := range []string{"install", "enable", "update", "disable", "uninstall"} {
		fmt.Fprintf(&b, `"%sCommand": "%s %s",`, op, shim, op)
	}
	return b.String()
}

func lookalikes() []lookalike {
	return []lookalike{
		{
			name: "cse", kind: "CustomScript", dirs: true, bom: true,
			manifest: `[{"version": 1.0, "handlerManifest": {` + commands("bin/custom-script-shim") +
				`"updateMode": "UpdateWithInstall", "rebootAfterInstall": false, "reportHeartbeat": false, "supportsPolicy": true}}]`,
			files: map[string]string{"bin/custom-script-shim": "cse/shim", "bin/custom-script-extension": "cse/program", "seen.sh": "seen.sh"},
		},
		{
			name: "rc", kind: "RunCommandHandler", dirs: true, ballast: "bin/run-command-handler",
			manifest: `[{"version": 1.0, "handlerManifest": {` + commands("bin/run-command-shim") +
				`"updateMode": "UpdateWithInstall", "supportsMultipleExtensions": "true"}}]`,
			files: map[string]string{"bin/run-command-shim": "rc/shim", "seen.sh": "seen.sh"},
		},
		{
			name: "ah", kind: "ApplicationHealth",
			manifest: `[{"version": 1.0, "handlerManifest": {` + commands("bin/health-shim") +
				`"updateMode": "UpdateWithInstall", "reportHeartbeat": false}}]`,
			files: map[string]string{"bin/health-shim": "ah/shim", "bin/applicationhealth-extension": "ah/program", "seen.sh": "seen.sh"},
		},
		{
			name: "gate", kind: "GATestExt", dirs: true,
			manifest: `[{"name": "GATestExtGo", "version": 1.0, "handlerManifest": {
"installCommand": "bin/GuestAgentTestExtension_linux --command=install", "enableCommand": "bin/GuestAgentTestExtension_linux --command=enable",
"updateCommand": "bin/GuestAgentTestExtension_linux --command=update", "disableCommand": "bin/GuestAgentTestExtension_linux --command=disable",
"uninstallCommand": "bin/GuestAgentTestExtension_linux --command=uninstall", "updateMode": "UpdateWithInstall"},
"resourceLimits": {"cpuQuotaPercentage": 60, "services": [{"name": "gate.service", "cpuQuotaPercentage": 10}]}}]`,
			files: map[string]string{"bin/GuestAgentTestExtension_linux": "gate/program", "service.sh": "gate/service.sh", "seen.sh": "seen.sh"},
		},
		{
			name: "vma", kind: "VMAccess",
			manifest: `[{"version": 1.0, "handlerManifest": {"installCommand": "extension_noop.sh install", "enableCommand": "extension_shim.sh -c ./vmaccess.py  -e",
"disableCommand": "extension_noop.sh", "updateCommand": "extension_noop.sh", "uninstallCommand": "extension_noop.sh",
"continueOnUpdateFailure": true, "rebootAfterInstall": false, "reportHeartbeat": false}}]`,
			files: map[string]string{"extension_shim.sh": "vma/extension_shim.sh", "extension_noop.sh": "vma/extension_noop.sh", "vmaccess.py": "vma/vmaccess.py", "seen.sh": "seen.sh"},
		},
		{
			name: "vma17", kind: "VMAccessEdp",
			manifest: `[{"version": 1.0, "handlerManifest": {` + commands("bin/vmaccess") + `"rebootAfterInstall": false},
"signingInfo": {"publisher": "Azguest.Lookalike", "type": "VMAccessEdp", "version": "1.0.0"}}]`,
			files: map[string]string{"bin/vmaccess": "vma17/program", "seen.sh": "seen.sh"},
		},
		{
			name: "cs1", kind: "CustomScriptForLinux",
			manifest: `[{"version": 1.0, "handlerManifest": {"installCommand": "shim.sh -install", "enableCommand": "shim.sh -enable",
"disableCommand": "shim.sh -disable", "updateCommand": "shim.sh -update", "uninstallCommand": "shim.sh -uninstall",
"rebootAfterInstall": false, "reportHeartbeat": false}}]`,
			files: map[string]string{"shim.sh": "cs1/shim.sh", "customscript.py": "cs1/customscript.py", "seen.sh": "seen.sh"},
		},
	}
}

// zip packs it like its publisher: without file modes, so that executables
// appear in unzip -Z with 0644 or less.
func (l lookalike) zip(t testing.TB, version string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string, data []byte) {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if !strings.HasSuffix(name, "/") {
			h.SetMode(0o644)
		}
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if l.dirs {
		add("bin/", nil)
	}
	for _, name := range slices.Sorted(keys(l.files)) {
		data, err := os.ReadFile(filepath.Join("testdata", l.files[name]))
		if err != nil {
			t.Fatal(err)
		}
		add(name, data)
	}
	manifest := []byte(l.manifest)
	if l.bom {
		manifest = append([]byte("\ufeff"), manifest...)
	}
	add("HandlerManifest.json", manifest)
	add("manifest.xml", []byte("<ExtensionImage><Version>"+version+"</Version></ExtensionImage>"))
	if l.ballast != "" {
		data := make([]byte, 0, 26<<20)
		for sum := sha256.Sum256([]byte(version)); len(data) < cap(data)-len(sum); sum = sha256.Sum256(sum[:]) {
			data = append(data, sum[:]...)
		}
		add(l.ballast, data)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func keys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// together makes each first run wait until all five have begun, or for a minute,
// which means that they do not run in parallel.
const together = `for n in $(seq 600); do [ $(grep -c 'begin rc[1-5][.]0 ' /var/tmp/seen/rc.runs) -lt 5 ] || break; sleep 0.1; done`

// names are the resources of the first deployment.
var names = []string{"cse", "rc1", "rc2", "rc3", "rc4", "rc5", "ah", "gate", "vma", "vma17", "cs1"}

// deploy puts all look-alikes in a version, with settings that depend on turn.
func (s *story) deploy(t testing.TB, version string, turn int) {
	t.Helper()
	secret := map[string]any{"secret": fmt.Sprintf("CANARY-%02d", turn)}
	for _, l := range lookalikes() {
		h := publisher + "." + l.kind
		switch l.name {
		case "rc":
			for i := range 5 {
				s.Put(t, fabric.Extension{
					Name: fmt.Sprintf("rc%d", i+1), Handler: h, Version: version,
					Settings: map[string]any{"script": together + fmt.Sprintf("; echo %d", turn)},
				})
			}
		case "cse":
			s.Put(t, fabric.Extension{
				Name: l.name, Handler: h, Version: version, Protected: secret,
				Settings: map[string]any{"commandToExecute": fmt.Sprintf("sleep 2; echo out %d", turn)},
			})
		default:
			s.Put(t, fabric.Extension{Name: l.name, Handler: h, Version: version, Protected: secret, Settings: map[string]any{"turn": turn, "number": json.Number("1.0")}})
		}
	}
}

// A story records what happened to the look-alikes, for the checks that follow.
type story struct {
	*machinetest.Machine
	results  map[string]map[string]string // by chapter and resource
	calls    map[string][]string          // commands by chapter
	runs     map[string]string            // runs so far, by chapter
	rows     map[string]map[string]machine.Row
	shot     map[string]string // files and outputs recorded in the middle of a chapter
	document map[string]string
}

// tell runs the look-alikes through all chapters.
func tell(t *testing.T) *story {
	s := &story{
		Machine: newMachine(t), results: map[string]map[string]string{}, calls: map[string][]string{},
		runs: map[string]string{}, rows: map[string]map[string]machine.Row{}, shot: map[string]string{}, document: map[string]string{},
	}
	for _, l := range lookalikes() {
		for _, v := range []string{"1.0.0", "1.1.0"} {
			if err := s.Fabric.AddPackage(publisher+"."+l.kind, v, l.zip(t, v)); err != nil {
				t.Fatal(err)
			}
		}
	}
	start(t, s.Machine)
	chapter := func(name string) {
		s.calls[name] = strings.Split(s.Sh(t, "cat /var/tmp/seen/calls; mv /var/tmp/seen/calls /var/tmp/seen/calls-"+strings.ReplaceAll(name, " ", "-")+" || :"), "\n")
		s.runs[name] = s.Sh(t, "cd /var/tmp/seen; for h in cse cs1; do sed s/^/$h\\ / $h.runs; done | sort | uniq -c | sed 's/^ *//'; sed 's/ [0-9]*$//' rc.runs | sort | uniq -c | sed 's/^ *//'; sort vma.runs | uniq -c | sed 's/^ */vma /'")
		s.rows[name] = s.Rows(t)
		doc, _ := s.VM.StatusDocument()
		s.document[name] = string(doc)
	}
	s.deploy(t, "1.0", 1)
	s.results["install"] = s.Settle(t, names...)
	s.shot["tree"] = s.Sh(t, "cd "+lib+" && for d in "+publisher+".*; do stat -c '%n %a' $d/config $d/status; head -c 3 $d/HandlerManifest.json | od -An -c; stat -c '%A %n' $d/bin/* $d/*.sh $d/*.py 2>/dev/null | grep -v mrseq | cut -c-10 | grep -vc x; done; :")
	s.shot["environment"] = s.Read(t, lib+"/"+publisher+".CustomScript-1.0.0/HandlerEnvironment.json")
	s.shot["cse log"] = s.Read(t, "/var/log/azure/"+publisher+".CustomScript/handler.log")
	s.shot["stray"] = s.Sh(t, "cd "+lib+" && find . -name '*name*:*' -o -name '*\"*' | grep -v '^./azguest/' || :; ls /var/log/azure")
	s.shot["settings"] = s.Sh(t, "cd "+lib+" && ls -A "+publisher+".*/config")
	s.shot["ah settings"] = s.Sh(t, "cat "+lib+"/"+publisher+".ApplicationHealth-1.0.0/config/*.settings")
	s.shot["vma settings"] = s.Sh(t, "cat "+lib+"/"+publisher+".VMAccess-1.0.0/config/*.settings")
	chapter("install")
	s.deploy(t, "1.0", 2)
	s.results["settings"] = s.Settle(t, names...)
	s.shot["settings 2"] = s.Sh(t, "cd "+lib+" && wc -c "+publisher+".CustomScript-1.0.0/config/*.settings | sed 's/^ *//'; ls "+publisher+".VMAccess-1.0.0/config")
	chapter("settings")
	// Without its children, which look like it until they run a program.
	const health = "all=$(pgrep -f '[a]pplicationhealth-extension enable'); for p in $all; do parent=$(cut -d' ' -f4 /proc/$p/stat 2>/dev/null) || continue; echo \"$all\" | grep -qx $parent || echo $p; done | sort | tr '\\n' ' '"
	before := s.Sh(t, health)
	s.RestartAgent(t)
	s.shot["health"] = fmt.Sprint(before != "" && before == s.Sh(t, health))
	chapter("restart")
	s.Reboot(t)
	s.StartAgent(t)
	// Every handler is enabled again after a boot.
	await(t, "enable after the boot", func() bool {
		calls := s.Read(t, "/var/tmp/seen/calls")
		for _, n := range []string{"cse", "ah", "gate", "vma", "vma17", "cs1"} {
			if !strings.Contains(calls, n+"|1.0.0|enable") {
				return false
			}
		}
		return strings.Count(calls, "rc|1.0.0|enable") == 5
	})
	await(t, "the health look-alike", func() bool { r := s.Rows(t)[publisher+".ApplicationHealth"]; return r.Word() == "success" })
	s.WaitStatus(t)
	chapter("reboot")
	s.deploy(t, "1.1", 2)
	s.results["upgrade"] = s.Settle(t, names...)
	s.WaitStatus(t)
	chapter("upgrade")
	s.deploy(t, "1.0", 3)
	s.results["downgrade"] = s.Settle(t, names...)
	s.WaitStatus(t)
	chapter("downgrade")
	for _, n := range names {
		if err := s.VM.DeleteExtension(n); err != nil {
			t.Fatal(err)
		}
	}
	s.results["delete"] = s.Settle(t, names...)
	s.WaitStatus(t)
	chapter("delete")
	s.shot["left"] = s.Sh(t, "ls "+lib+" | grep "+publisher+" || :; pgrep -fa '[a]pplicationhealth-extension|[s]ervice.sh' || :")
	return s
}

// of returns the calls of one handler in a chapter, as "version op".
func (s *story) of(chapter, handler string) []string {
	var out []string
	for _, c := range s.calls[chapter] {
		f := strings.Split(c, "|")
		if f[0] == handler {
			out = append(out, f[1]+" "+f[2])
		}
	}
	return out
}

func (s *story) all() []string {
	var out []string
	for _, c := range s.calls {
		out = append(out, c...)
	}
	return slices.DeleteFunc(out, func(s string) bool { return !strings.Contains(s, "|") })
}

func field(call, name string) string {
	for f := range strings.SplitSeq(call, "|") {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			return v
		}
	}
	return ""
}

func op(call string) string { return strings.Split(call, "|")[2] }

var chapters = []string{"install", "settings", "restart", "reboot", "upgrade", "downgrade", "delete"}

// TestPublishedHandlers checks extensions/SPEC.md §18.1 point by point.
func TestPublishedHandlers(t *testing.T) {
	t.Parallel()
	s := tell(t)
	want := func(t *testing.T, what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	for _, p := range []struct {
		point string
		check func(t *testing.T)
	}{
		{"0 results", func(t *testing.T) {
			for _, c := range []string{"install", "settings", "upgrade", "downgrade"} {
				for _, n := range names {
					r := s.results[c][n]
					if n == "cs1" && c != "upgrade" {
						if !strings.Contains(r, "VMExtensionProvisioningError") && !strings.Contains(r, "script said") {
							t.Errorf("%s of %s: %s; its status is failed", c, n, r)
						}
					} else if r != "Succeeded" && n != "cs1" {
						t.Errorf("%s of %s: %s", c, n, r)
					}
				}
			}
			for _, n := range names {
				want(t, "delete of "+n, s.results["delete"][n], "gone")
			}
			want(t, "left after the delete", s.shot["left"], "")
		}},
		{"1 settings before install", func(t *testing.T) {
			for _, c := range s.all() {
				if op(c) == "install" && strings.Contains(field(c, "settings"), "*") && !strings.HasPrefix(c, "rc|") {
					t.Errorf("no settings: %s", c)
				}
			}
		}},
		{"2 HandlerEnvironment.json", func(t *testing.T) {
			var list []struct {
				Name    string
				Version json.Number
				Env     map[string]string `json:"handlerEnvironment"`
			}
			d := json.NewDecoder(strings.NewReader(s.shot["environment"]))
			if err := d.Decode(&list); err != nil || len(list) != 1 {
				t.Fatalf("%v: %s", err, s.shot["environment"])
			}
			base := lib + "/" + publisher + ".CustomScript-1.0.0"
			want(t, "version", list[0].Version.String(), "1.0")
			want(t, "config", list[0].Env["configFolder"], base+"/config")
			want(t, "status", list[0].Env["statusFolder"], base+"/status")
			want(t, "events", list[0].Env["eventsFolder"], "/var/log/azure/"+publisher+".CustomScript/events")
			if !strings.Contains(s.shot["environment"], `"version": 1.0,`) {
				t.Errorf("version is not the number 1.0: %s", s.shot["environment"])
			}
		}},
		{"3 its format", func(t *testing.T) {
			if !strings.Contains(s.shot["cse log"], "secret was") {
				t.Errorf("handler.log: %q; the shim did not find the log folder", s.shot["cse log"])
			}
			if strings.Contains(s.shot["stray"], `"`) || strings.Contains(s.shot["stray"], `}`) {
				t.Errorf("stray folders: %s", s.shot["stray"])
			}
		}},
		{"4 working directory", func(t *testing.T) {
			for _, c := range s.all() {
				if field(c, "cwd") != field(c, "path") {
					t.Errorf("%s", c)
				}
			}
		}},
		{"5 double blank", func(t *testing.T) {
			if r := s.rows["install"][publisher+".VMAccess"]; !strings.Contains(r.Message(), "secret of") {
				t.Errorf("the argument was kept: %+v", r)
			}
		}},
		{"6 PATH", func(t *testing.T) {
			for _, k := range []string{"CustomScript", "VMAccess", "VMAccessEdp", "GATestExt", "ApplicationHealth"} {
				if r := s.rows["install"][publisher+"."+k]; !regexp.MustCompile(`\b(22|9|of 9|with 22|secret 22)`).MatchString(r.Message()) {
					t.Errorf("%s did not decrypt: %s", k, r.Message())
				}
			}
		}},
		{"7 outputs are files", func(t *testing.T) {
			for _, c := range s.all() {
				fds := strings.Split(field(c, "fds"), ",")
				if len(fds) != 3 || fds[0] == "" || !strings.HasPrefix(fds[1], "/") && !strings.HasPrefix(c, "vma|") && !strings.HasPrefix(c, "cs1|") || strings.HasPrefix(fds[2], "pipe:") {
					t.Errorf("%s", c)
				}
			}
		}},
		{"8 background work lives on", func(t *testing.T) {
			for _, c := range []string{"install", "settings"} {
				if r := s.rows[c][publisher+".CustomScript"]; !strings.HasPrefix(r.Message(), "Enable succeeded: ran") {
					t.Errorf("%s: %s", c, r.Message())
				}
			}
			want(t, "the same processes after the agent's restart", s.shot["health"], "true")
		}},
		{"9 environment", func(t *testing.T) {
			for _, c := range s.all() {
				rc := strings.HasPrefix(c, "rc|")
				if !regexp.MustCompile(`^\d+$`).MatchString(field(c, "seq")) {
					t.Errorf("ConfigSequenceNumber: %s", c)
				}
				if !rc && field(c, "ext") != "unset" || rc && op(c) == "enable" && field(c, "ext") == "unset" {
					t.Errorf("ConfigExtensionName: %s", c)
				}
				if (field(c, "VERSION") != "unset") != (op(c) == "update" || strings.HasPrefix(c, "vma|") && field(c, "from") != "unset") {
					t.Errorf("VERSION: %s", c)
				}
				if op(c) == "update" && !rc && field(c, "dis") != "0" {
					t.Errorf("exit code of disable: %s", c)
				}
				if op(c) == "install" && field(c, "un") == "unset" {
					t.Errorf("exit code of uninstall: %s", c)
				}
			}
		}},
		{"10 names in config", func(t *testing.T) {
			if bad := regexp.MustCompile(`(?m)^(.*\.tmp|[^0-9\n]*\.settings\S+|foo.*)$`).FindString(s.shot["settings"]); bad != "" {
				t.Errorf("%q in %s", bad, s.shot["settings"])
			}
			for _, c := range s.all() {
				if !strings.HasPrefix(c, "rc|") && op(c) == "enable" {
					for f := range strings.FieldsSeq(field(c, "settings")) {
						var n, seq int
						if _, err := fmt.Sscanf(f+" "+field(c, "seq"), "%d.settings %d", &n, &seq); err != nil || n > seq {
							t.Errorf("%s is there: %s", f, c)
						}
					}
				}
			}
		}},
		{"11 settings are rewritten", func(t *testing.T) {
			if !strings.Contains(s.shot["vma settings"], "*** REDACTED ***") {
				t.Fatalf("the look-alike does not scrub: %s", s.shot["vma settings"])
			}
			// After the boot it could decrypt its settings again.
			if !regexp.MustCompile(`vma [2-9] run 1 9`).MatchString(s.runs["reboot"]) {
				t.Errorf("runs: %s", s.runs["reboot"])
			}
		}},
		{"12 decryption", func(t *testing.T) {
			for _, k := range []string{"ApplicationHealth", "GATestExt"} { // only those that decrypt with smime
				if r := s.rows["settings"][publisher+"."+k]; r.Word() != "success" {
					t.Errorf("%s: %+v", k, r)
				}
			}
		}},
		{"13 settings", func(t *testing.T) {
			shape := regexp.MustCompile(`^\{"runtimeSettings": \[\{"handlerSettings": \{"protectedSettingsCertThumbprint": "[0-9A-F]{40}", "protectedSettings": "[A-Za-z0-9+/]+=*", "publicSettings": \{.*"number": ?1\.0.*\}\}\}\]\}$`)
			if !shape.MatchString(s.shot["ah settings"]) {
				t.Errorf("settings: %s", s.shot["ah settings"])
			}
		}},
		{"14 multi-config in parallel", func(t *testing.T) {
			begins, ends := 0, 0
			for l := range strings.Lines(s.Read(t, "/var/tmp/seen/rc.runs")) {
				if strings.HasPrefix(l, "end") {
					ends++
					break
				}
				begins++
			}
			want(t, "runs begun before the first ended", fmt.Sprint(begins), "5")
			_ = ends
		}},
		{"15 odd statuses", func(t *testing.T) {
			if r := s.rows["install"][publisher+".CustomScriptForLinux"]; r.Word() != "error" || r.Code != "9" {
				t.Errorf("failed with code \"9\": %+v", r)
			}
			if r := s.rows["install"][publisher+".VMAccess"]; r.Word() != "success" {
				t.Errorf("string codes, no name: %+v", r)
			}
			// The status that disable and update write must never be taken for
			// enable's.
			for _, c := range []string{"upgrade", "downgrade"} {
				for k, r := range s.rows[c] {
					if strings.Contains(r.Message(), "disable succeeded") || strings.Contains(r.Message(), "uninstall succeeded") {
						t.Errorf("%s of %s: %s", c, k, r.Message())
					}
				}
			}
		}},
		{"16 order and state of an update", func(t *testing.T) {
			for _, h := range []string{"cse", "ah", "gate", "vma17", "cs1"} {
				want(t, "upgrade of "+h, strings.Join(s.of("upgrade", h), ", "), "1.0.0 disable, 1.1.0 update, 1.0.0 uninstall, 1.1.0 install, 1.1.0 enable")
				want(t, "downgrade of "+h, strings.Join(s.of("downgrade", h), ", "), "1.1.0 disable, 1.1.0 update, 1.1.0 uninstall, 1.0.0 install, 1.0.0 enable")
				want(t, "delete of "+h, strings.Join(s.of("delete", h), ", "), "1.0.0 disable, 1.0.0 uninstall")
			}
			// One run for each sequence number, in spite of all restarts.
			runs := s.runs["delete"]
			for l := range strings.Lines(runs) {
				if !strings.HasPrefix(l, "1 ") && !strings.HasPrefix(l, "vma ") {
					t.Errorf("ran again: %s", l)
				}
			}
			for _, h := range []string{"cse", "cs1"} {
				for seq := range 3 {
					if l := fmt.Sprintf("1 %s run %d\n", h, seq); !strings.Contains(runs, l) && (h != "cs1" || seq < 2) {
						t.Errorf("%q is not among the runs:\n%s", l, runs)
					}
				}
			}
		}},
		{"17 secrets in logs", func(t *testing.T) {
			// Only CommandExecution.log contains the output of commands.
			if got := s.Sh(t, "grep -rl CANARY- /var/log /run /var/lib/waagent /tmp 2>/dev/null | grep -v -e CommandExecution -e /jobs/ || :"); got != "" {
				t.Errorf("secrets in %s", got)
			}
			if strings.Contains(s.Log.String(), "CANARY-") {
				t.Error("secrets in what the agent printed")
			}
			for _, e := range s.Fabric.Journal(fabric.Query{Contains: "CANARY-"}) {
				if e.Kind != fabric.Control {
					t.Errorf("secrets sent: %s %s", e.Kind, e.URL)
				}
			}
		}},
		{"18 what they leave is reaped", func(t *testing.T) {
			await(t, "events to be collected", func() bool {
				return s.Sh(t, "ls /var/log/azure/*/events/ "+lib+"/events | grep -c -e json -e tld || :") == "0"
			})
		}},
		{"19 pkill -f", func(t *testing.T) {
			// It runs in each version change beside ten others; if it had
			// killed a process of theirs, a result above would show it.
			for _, c := range chapters {
				for k, r := range s.rows[c] {
					if m := r.Message(); strings.Contains(m, "SIGTERM") || strings.Contains(m, "AZ-EXT-SIGNAL") || strings.Contains(m, "AZ-EXT-LIMBO") {
						t.Errorf("%s: %s: killed by another handler's pkill: %s", c, k, m)
					}
				}
			}
		}},
		{"packages", func(t *testing.T) {
			if strings.Contains(s.shot["tree"], "357") || strings.Contains(s.shot["tree"], "ï") {
				t.Errorf("a BOM is left: %s", s.shot["tree"])
			}
			for l := range strings.Lines(s.shot["tree"]) {
				if f := strings.Fields(l); len(f) == 2 && strings.Contains(f[0], "Azguest") && f[1] != "700" {
					t.Errorf("mode: %s", l)
				}
				if n := strings.TrimSpace(l); len(n) == 1 && n != "0" {
					t.Errorf("%s files can't be executed:\n%s", n, s.shot["tree"])
				}
			}
		}},
	} {
		t.Run(p.point, p.check)
	}
	if t.Failed() {
		for _, c := range chapters {
			t.Logf("%s: %v\n%s", c, s.results[c], s.runs[c])
		}
	}
}
