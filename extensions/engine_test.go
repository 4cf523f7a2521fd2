package extensions

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/protocol"
)

// TestContractOnDisk checks the files that handlers find
// (extensions/SPEC.md §4, §5, §6).
func TestContractOnDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "Pub.Type", version: "1.0.0", script: `log "$(pwd) $(ls config | tr '\n' ' ')"
env | sort > $base/env.$op
[ "$op" = enable ] && status success
exit 0
`}).start()
	w.offer(ext("Pub.Type", "1.0.0", 3))
	base := w.base("Pub.Type-1.0.0")
	logs := w.root.Path("/var/log/azure/Pub.Type")
	env := `[{"name": "Pub.Type", "version": 1.0, "handlerEnvironment": {"logFolder": "` + logs + `", "configFolder": "` + base +
		`/config", "statusFolder": "` + base + `/status", "heartbeatFile": "` + base + `/heartbeat.log", "eventsFolder": "` + logs +
		`/events", "eventsFolder_preview": "` + logs + `/events"}}]`
	if diff := cmp.Diff(env, w.read(base+"/HandlerEnvironment.json")); diff != "" {
		t.Errorf("HandlerEnvironment.json (-want +got):\n%s", diff)
	}
	settings := `{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": null, "protectedSettings": null, "publicSettings": {"a": 1.0}}}]}`
	if diff := cmp.Diff(settings, w.read(base+"/config/3.settings")); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for path, mode := range map[string]os.FileMode{
		base + "/config": 0o700, base + "/status": 0o700, base + "/run.sh": 0o744, logs: 0o755, logs + "/events": 0o700,
		base + "/config/3.settings": 0o600, w.root.Path("/var/lib/waagent/events"): 0o700,
	} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", path, fi.Mode(), err, mode)
		}
	}
	if got := w.calls(); len(got) == 0 || !strings.Contains(got[0], base+" ") || !strings.Contains(got[0], "3.settings") {
		t.Errorf("install saw %q", got)
	}
	want := []string{
		"AZGUEST_OPERATION=*", "AZURE_GUEST_AGENT_EXTENSION_PATH=" + base,
		`AZURE_GUEST_AGENT_EXTENSION_SUPPORTED_FEATURES=[{"Key": "ExtensionTelemetryPipeline", "Value": "1.0"}]`,
		"AZURE_GUEST_AGENT_EXTENSION_VERSION=1.0.0", "AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE=NOT_RUN",
		"AZURE_GUEST_AGENT_WIRE_PROTOCOL_ADDRESS=168.63.129.16", "ConfigSequenceNumber=3", "LANG=C.UTF-8",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PWD=" + base,
	}
	for _, v := range host.Root("/").BaseEnvironment() {
		if !slices.Contains(want, v) {
			want = append(want, v)
		}
	}
	slices.Sort(want)
	var got []string
	for line := range strings.Lines(w.read(base + "/env.enable")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "AZGUEST_OPERATION=") {
			line = "AZGUEST_OPERATION=*"
		}
		if !strings.HasPrefix(line, "_=") && !strings.HasPrefix(line, "OLDPWD=") && !strings.HasPrefix(line, "SHLVL=") {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if s := w.read(base + "/config/HandlerState"); s != "Enabled" {
		t.Errorf("HandlerState %q", s)
	}
	if diff := cmp.Diff(`{"name":"Pub.Type","version":"1.0.0","status":"Ready","code":0,"message":"Plugin enabled","supports_multi_config":false,"extension_status":null}`, w.read(base+"/config/HandlerStatus")); diff != "" {
		t.Errorf("HandlerStatus (-want +got):\n%s", diff)
	}
	if log := w.read(logs + "/CommandExecution.log"); !strings.Contains(log, "[Pub.Type-1.0.0] Enable extension: [run.sh enable]") || !strings.Contains(log, "Update settings file: 3.settings") {
		t.Errorf("CommandExecution.log: %s", log)
	}
	if a := w.read(w.root.Path("/var/log/azure/azguest-audit.log")); strings.Count(a, `"what":"begin"`) != 2 || strings.Count(a, `"what":"end"`) != 2 {
		t.Errorf("audit log: %s", a)
	}
}

// TestNoSettings is ext_handler_no_settings: an empty 0.settings, sequence
// number 0, and a row without an extension status.
func TestNoSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}).start()
	s := w.offer(ext("P.X", "1.0", -1))
	if got, want := show(s), "P.X 1.0 Ready 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if fi, err := os.Stat(w.base("P.X-1.0/config/0.settings")); err != nil || fi.Size() != 0 {
		t.Errorf("0.settings: %v %v", fi, err)
	}
	if diff := cmp.Diff([]string{"1.0 install 0", "1.0 enable 0"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestFailures: a failure has one attempt per goal state and the right code, and
// later commands do not run.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		p      pkg
		calls  []string
		report string
		says   []string
	}{
		{name: "install", p: pkg{script: fails("install", "1")}, calls: []string{"1.0 install 0"}, report: "P.X 1.0 NotReady 1007\n"},
		{name: "enable", p: pkg{script: fails("enable", "1")}, calls: []string{"1.0 install 0", "1.0 enable 0"}, report: "P.X 1.0 NotReady 1009 | 0 error 1009\n", says: []string{"Non-zero exit code: 1, "}},
		{name: "bad zip", p: pkg{zip: []byte("this is no zip")}, report: "P.X 1.0 NotReady 1001\n", says: []string{"Failed to download artifacts", "from all URIs"}},
		{name: "no manifest", p: pkg{files: map[string]string{handler.ManifestName: "[]"}}, report: "P.X 1.0 NotReady 1003\n", says: []string{"malformed manifest"}},
		{name: "interpreter", p: pkg{files: map[string]string{"a.sh": "#!/no/such/interp\n", handler.ManifestName: `[{"handlerManifest":{"installCommand":"a.sh"}}]`}}, report: "P.X 1.0 NotReady 1007\n", says: []string{"AZ-EXT-INTERPRETER", "/no/such/interp"}},
		{name: "crlf", p: pkg{files: map[string]string{"a.sh": "#!/bin/sh\r\nexit 0\r\n", handler.ManifestName: `[{"handlerManifest":{"installCommand":"a.sh"}}]`}}, report: "P.X 1.0 NotReady 1007\n", says: []string{"AZ-EXT-CRLF"}},
		{name: "missing program", p: pkg{files: map[string]string{handler.ManifestName: `[{"handlerManifest":{"installCommand":"bin/none -x"}}]`}}, report: "P.X 1.0 NotReady 1007\n", says: []string{"AZ-EXT-NOFILE", "bin/none"}},
		{name: "architecture", p: pkg{files: map[string]string{"a": foreignELF, handler.ManifestName: `[{"handlerManifest":{"installCommand":"a"}}]`}}, report: "P.X 1.0 NotReady 1007\n", says: []string{"AZ-EXT-ARCH", "S390"}},
		{name: "killed", p: pkg{script: "kill -9 $$\n"}, report: "P.X 1.0 NotReady 1007\n", says: []string{"AZ-EXT-SIGNAL", "SIGKILL"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.p.name, tc.p.version = "P.X", "1.0"
			w := newWorld(t, tc.p)
			w.start()
			s := w.processed(ext("P.X", "1.0", 0))
			if got := show(s); got != tc.report {
				t.Errorf("got %s want %s", got, tc.report)
			}
			if diff := cmp.Diff(tc.calls, w.calls()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			for _, word := range tc.says {
				if !strings.Contains(message(s, 0), word) {
					t.Errorf("message %q does not say %q", message(s, 0), word)
				}
			}
			// An uninstall removes it, whatever the failure was.
			if got := show(w.processed(gone(ext("P.X", "1.0", 0)))); got != "" {
				t.Errorf("after uninstall %s", got)
			}
			if exists(w.base("P.X-1.0")) {
				t.Error("the directory is left")
			}
		})
	}
}

// foreignELF is the start of an ELF program for another architecture (s390x).
var foreignELF = "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 9) + "\x00\x02\x00\x16\x00\x00\x00\x01" + strings.Repeat("\x00", 40)

// TestVersionAndManifest: versions that the platform's manifest has or does not
// have.
func TestVersionAndManifest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0.0", script: simple}, pkg{name: "P.X", version: "1.0.3", script: simple}).start()
	if got, want := show(w.offer(ext("P.X", "1.0", 0))), "P.X 1.0.3 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("prefix: got %s want %s", got, want)
	}
	s := w.processed(ext("P.X", "9.0", 1))
	if got, want := show(s), "P.X 9.0 NotReady -1\n"; got != want || message(s, 0) != "Unable to find version 9.0 in manifest for extension P.X" {
		t.Errorf("unknown: got %s %q want %s", got, message(s, 0), want)
	}
	w.repo.noManif = errors.New("the repository is down")
	s = w.processed(ext("P.X", "8.0", 1))
	if got, want := show(s), "P.X 8.0 NotReady -1\n"; got != want || !strings.Contains(message(s, 0), "Failed to retrieve extension manifest") {
		t.Errorf("no manifest: got %s %q want %s", got, message(s, 0), want)
	}
	// When the problem is solved, Retry works without another goal state.
	w.repo.publish(t, pkg{name: "P.X", version: "8.0", script: simple})
	w.repo.mu.Lock()
	w.repo.noManif = nil
	w.repo.mu.Unlock()
	w.m.Retry("P.X", "", "operator: mended")
	w.await("the retry", func(s Snapshot) bool { return show(s) == "P.X 8.0 Ready 0 | 1 success 0\n" })
	w.repo.mu.Lock()
	w.repo.noManif = errors.New("the repository is down")
	w.repo.mu.Unlock()
	// An uninstall needs no manifest from the platform (extensions/SPEC.md §10.9).
	if got := show(w.offer(gone(ext("P.X", "8.0", 1)))); got != "" || exists(w.base("P.X-8.0")) {
		t.Errorf("uninstall without manifest: %s", got)
	}
}

// TestUninstallAlways: a handler can be removed in any state.
func TestUninstallAlways(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(base string) error{
		"disable fails":   func(b string) error { return host.Root(b).WriteFile("/run.sh", []byte("#!/bin/sh\nexit 1\n"), 0o755) },
		"manifest gone":   func(b string) error { return os.Remove(b + "/" + handler.ManifestName) },
		"manifest broken": func(b string) error { return os.WriteFile(b+"/"+handler.ManifestName, []byte("{"), 0o644) },
		"directory gone":  os.RemoveAll,
		"state gone":      func(b string) error { return os.RemoveAll(b + "/config") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, restart := range []bool{false, true} {
				w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}).start()
				w.offer(ext("P.X", "1.0", 0))
				if err := harm(w.base("P.X-1.0")); err != nil {
					t.Fatal(err)
				}
				if restart {
					w.restart()
				}
				if got := show(w.offer(gone(ext("P.X", "1.0", 0)))); got != "" {
					t.Errorf("restart %v: after uninstall %s", restart, got)
				}
				if exists(w.base("P.X-1.0")) {
					t.Errorf("restart %v: the directory is left", restart)
				}
			}
		})
	}
}

// TestAbsent: a handler that is not in the goal state is removed without a
// command; other directories stay (extensions/SPEC.md §10.10).
func TestAbsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.Y", version: "1.0", script: simple})
	writeFile(t, w.base("foo-1.2/file"), "not ours")
	writeFile(t, w.base("WALinuxAgent-2.9.9/config/HandlerState"), "Enabled")
	w.start()
	w.offer(ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
	w.clearCalls()
	s := w.offer(ext("P.Y", "1.0", 0))
	if got, want := show(s), "P.Y 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	w.await("P.X gone", func(Snapshot) bool { return !exists(w.base("P.X-1.0")) })
	if w.calls() != nil {
		t.Errorf("ran %q", w.calls())
	}
	if !exists(w.base("foo-1.2/file")) || !exists(w.base("WALinuxAgent-2.9.9")) || !exists(w.root.Path("/var/log/azure/P.X")) {
		t.Error("something was deleted that is not the engine's")
	}
}

// TestHandlerWithoutName: if a handler in the goal state has no name, it is not
// known which ones are absent, so none is removed.
func TestHandlerWithoutName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.Y", version: "1.0", script: simple}).start()
	w.offer(ext("P.X", "1.0", 0))
	lost := ext("", "1.0", 0)
	lost.Invalid = "received empty name"
	if got, want := show(w.offer(lost, ext("P.Y", "1.0", 0))), "P.Y 1.0 Ready 0 | 0 success 0\nP.X 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	w.offer(lost, ext("P.Y", "1.0", 1))
	if !exists(w.base("P.X-1.0/run.sh")) {
		t.Error("a handler was deleted although the one without a name may have been it")
	}
	w.offer(ext("P.Y", "1.0", 1))
	w.await("P.X gone", func(Snapshot) bool { return !exists(w.base("P.X-1.0")) })
}

// TestStatesOfClassicAgent: the states of another agent are taken over, and it
// finds the files that it expects.
func TestStatesOfClassicAgent(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		state string
		calls []string
	}{
		{"Enabled", []string{"1.0 enable 2"}},
		{"Installed", []string{"1.0 enable 2"}},
		{"NotInstalled", []string{"1.0 install 2", "1.0 enable 2"}},
		{"FailedUpgrade", []string{"1.0 install 2", "1.0 enable 2"}},
	} {
		t.Run(tc.state, func(t *testing.T) {
			t.Parallel()
			p := pkg{name: "P.X", version: "1.0", script: simple}
			w := newWorld(t, p)
			base := w.base("P.X-1.0")
			zip := w.base("x.zip")
			writeFile(t, zip, string(p.build(t)))
			if err := unpack(zip, base, 1<<20); err != nil {
				t.Fatal(err)
			}
			writeFile(t, base+"/config/HandlerState", tc.state)
			writeFile(t, base+"/config/2.settings", "")
			writeFile(t, base+"/mrseq", "1")
			w.start()
			s := w.offer(ext("P.X", "1.0", 2))
			if diff := cmp.Diff(tc.calls, w.calls()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if got, want := show(s), "P.X 1.0 Ready 0 | 2 success 0\n"; got != want {
				t.Errorf("got %s want %s", got, want)
			}
			if w.read(base+"/mrseq") != "1" {
				t.Error("mrseq is lost")
			}
		})
	}
}

// TestDownloadOnce: a package is downloaded only once, even if its install fails
// in each goal state.
func TestDownloadOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: fails("install", "1")}).start()
	for i := range 4 {
		w.processed(ext("P.X", "1.0", i))
	}
	if w.repo.downloads != 1 {
		t.Errorf("%d downloads", w.repo.downloads)
	}
	if n := countCalls(w.calls(), "install"); n != 4 {
		t.Errorf("%d installs, want 4", n)
	}
}

// TestTransitioningWithoutProcess: a transitioning status becomes an error if
// no process is left to change it, and only then (extensions/SPEC.md §7.6).
func TestTransitioningWithoutProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t,
		pkg{name: "P.Dead", version: "1.0", script: "log\necho last words\n[ \"$op\" = enable ] && status transitioning Enable working\nexit 0\n"},
		pkg{name: "P.Mute", version: "1.0", script: "log\nexit 0\n"},
		pkg{name: "P.Live", version: "1.0", script: "log\n[ \"$op\" = enable ] && { status transitioning; setsid sh -c 'while [ -d $0 ]; do sleep 0.1; done' $base >/dev/null 2>&1 & }\nexit 0\n"},
	).start()
	w.processed(ext("P.Dead", "1.0", 0), ext("P.Mute", "1.0", 0), ext("P.Live", "1.0", 0))
	s := w.await("dead", func(s Snapshot) bool {
		return len(s.Handlers) == 3 && s.Handlers[0].Extension.Status == handler.Error && s.Handlers[1].Extension.Status == handler.Error
	})
	if got, want := show(s), "P.Dead 1.0 Ready 0 | 0 error -1\nP.Mute 1.0 Ready 0 | 0 error -1\nP.Live 1.0 Ready 0 | 0 transitioning 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if m := message(s, 0); !strings.Contains(m, "AZ-EXT-LIMBO") || !strings.Contains(m, "working") || !strings.Contains(m, "last words") {
		t.Errorf("message %q", m)
	}
}

// TestInvalidFilesAffectOneHandler: invalid files of a handler affect only its
// own row.
func TestInvalidFilesAffectOneHandler(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path string) error{
		"fifo":       func(p string) error { return unix.Mkfifo(p, 0o600) },
		"symlink":    func(p string) error { return os.Symlink("/etc/passwd", p) },
		"directory":  func(p string) error { return os.Mkdir(p, 0o700) },
		"sparse":     func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 10<<30)) },
		"null":       func(p string) error { return os.WriteFile(p, []byte("[null]"), 0o600) },
		"string":     func(p string) error { return os.WriteFile(p, []byte(`[{"status":"success"}]`), 0o600) },
		"deep":       func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("[", 1<<20)), 0o600) },
		"utf-8":      func(p string) error { return os.WriteFile(p, []byte("\xff\xfe[{\x80"), 0o600) },
		"nul":        func(p string) error { return os.WriteFile(p, make0(4096), 0o600) },
		"no array":   func(p string) error { return os.WriteFile(p, []byte(`{"status":{"status":"success"}}`), 0o600) },
		"socket-ish": func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.Bad", version: "1.0", script: simple}, pkg{name: "P.Good", version: "1.0", script: simple}).start()
			w.offer(ext("P.Bad", "1.0", 0), ext("P.Good", "1.0", 0))
			path := w.base("P.Bad-1.0/status/0.status")
			for _, p := range []string{path, w.base("P.Bad-1.0/config/HandlerStatus"), w.base("P.Bad-1.0/config/0.settings"), w.base("P.Bad-1.0/heartbeat.log"), w.base("P.Bad-1.0/mrseq")} {
				if err := errors.Join(os.RemoveAll(p), make(p)); err != nil {
					t.Fatal(err)
				}
			}
			s := w.await("told", func(s Snapshot) bool {
				return len(s.Handlers) == 2 && s.Handlers[0].Extension != nil && s.Handlers[0].Extension.Status == handler.Error
			})
			if !strings.Contains(show(s), "P.Good 1.0 Ready 0 | 0 success 0\n") {
				t.Errorf("the good one suffers: %s", show(s))
			}
			w.restart()
			s = w.offer(ext("P.Bad", "1.0", 0), ext("P.Good", "1.0", 1))
			if !strings.Contains(show(s), "P.Good 1.0 Ready 0 | 1 success 0\n") {
				t.Errorf("after a restart the good one suffers: %s", show(s))
			}
		})
	}
}

func make0(n int) []byte { return make([]byte, n) }

// TestIncompleteStatusFile: many handlers write their status in place. Until
// the file can be parsed, the previous status is reported. If it stays
// incomplete, it is an error.
func TestIncompleteStatusFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}).start()
	w.offer(ext("P.X", "1.0", 0))
	path := w.base("P.X-1.0/status/0.status")
	half := w.read(path)[:40]
	writeFile(t, path, half)
	if got, want := show(w.m.Status()), "P.X 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("being written: got %s want %s", got, want)
	}
	if err := os.Chtimes(path, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	if got, want := show(w.m.Status()), "P.X 1.0 Ready 0 | 0 error 1012\n"; got != want {
		t.Errorf("left like this: got %s want %s", got, want)
	}
	// The first status of a new number, too, is no error while incomplete.
	writeFile(t, w.base("P.X-1.0/status/1.status"), half)
	if st, _, partial := handler.ReadStatus(w.base("P.X-1.0/status/1.status"), "P.X", "1.0", 1); !partial {
		t.Errorf("status %+v", st)
	}
}

// TestInvalidHandler: a config error of one handler is reported and does not
// affect others.
func TestInvalidHandler(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.Good", version: "1.0", script: simple}).start()
	bad := ext("P.Bad", "1.0", 0)
	bad.Invalid = "two sets of settings"
	s := w.offer(bad, ext("P.Good", "1.0", 0))
	if got, want := show(s), "P.Bad 1.0 NotReady -1\nP.Good 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if m := message(s, 0); m != "Ran into config errors: two sets of settings. \nPlease retry again as another operation with updated settings" {
		t.Errorf("message %q", m)
	}
}

// TestExecDir: packages may be unpacked in ExecDir; handlers see the usual path.
func TestExecDir(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: simple})
	w.cfg.ExecDir = "/opt/azguest/ext"
	w.start()
	w.offer(ext("P.X", "1.0", 0))
	s := w.offer(ext("P.X", "2.0", 1))
	if got, want := show(s), "P.X 2.0 Ready 0 | 1 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if to, err := os.Readlink(w.base("P.X-2.0")); err != nil || to != w.root.Path("/opt/azguest/ext/P.X-2.0") {
		t.Errorf("link to %q: %v", to, err)
	}
	w.offer(gone(ext("P.X", "2.0", 1)))
	if exists(w.base("P.X-2.0")) || exists(w.root.Path("/opt/azguest/ext/P.X-2.0")) || exists(w.root.Path("/opt/azguest/ext/P.X-1.0")) {
		t.Error("a directory of the removed handler is left")
	}
}

// TestHeartbeat tests extensions/SPEC.md §8.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", manifest: `"reportHeartbeat":true`, script: simple +
		""}).start()
	hb := w.base("P.X-1.0/heartbeat.log")
	s := w.offer(ext("P.X", "1.0", 0))
	if s.Handlers[0].Status != "Ready" {
		t.Errorf("before the first beat: %s", show(s))
	}
	writeFile(t, hb, `[{"version":1.0,"heartbeat":{"status":"notready","code":5,"formattedMessage":{"lang":"en-US","message":"tired"}}}]`)
	if s := w.m.Status(); s.Handlers[0].Status != "notready" || message(s, 0) != "tired" {
		t.Errorf("beat: %s %q", show(s), message(s, 0))
	}
	writeFile(t, hb, `[]`)
	if err := os.Chtimes(hb, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	if s := w.m.Status(); s.Handlers[0].Status != "NotReady" || s.Handlers[0].Code != -1 {
		t.Errorf("malformed: %s", show(s))
	}
	writeFile(t, hb, `[{"heartbeat":{"status":"ready"}}]`)
	if err := os.Chtimes(hb, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	if s := w.m.Status(); s.Handlers[0].Status != "Unresponsive" {
		t.Errorf("old beat: %s", show(s))
	}
	for age, want := range map[time.Duration]string{595 * time.Second: "ready", 601 * time.Second: "Unresponsive"} {
		at := time.Now().Add(-age)
		if err := os.Chtimes(hb, at, at); err != nil {
			t.Fatal(err)
		}
		if s := w.m.Status(); s.Handlers[0].Status != want {
			t.Errorf("a beat of %v ago: %s", age, show(s))
		}
	}
}

// TestSequenceNumberReused: if a sequence number is used again, the status file
// of its earlier use is not reported for the running enable.
func TestSequenceNumberReused(t *testing.T) {
	t.Parallel()
	script := "log\n[ \"$op\" = enable ] && { while [ -e ../hold ]; do sleep 0.05; done; status success Enable \"$(wc -l <../calls.log)\"; }\nexit 0\n"
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}).start()
	w.offer(ext("P.X", "1.0", 1))
	w.offer(ext("P.X", "1.0", 5))
	writeFile(t, w.base("hold"), "")
	gs := w.state(ext("P.X", "1.0", 1))
	w.m.Offer(gs)
	s := w.await("the enable", func(s Snapshot) bool { return s.Key == gs.Key() && len(w.calls()) == 4 })
	if got, want := show(s), "P.X 1.0 Ready 0 | 1 transitioning 0\n"; got != want || !strings.Contains(message(s, 0), "is being processed: enable") {
		t.Errorf("got %s %q want %s", got, message(s, 0), want)
	}
	if exists(w.base("P.X-1.0/config/5.settings")) {
		t.Error("a handler would take 5.settings for the newest")
	}
	if err := os.Remove(w.base("hold")); err != nil {
		t.Fatal(err)
	}
	s = w.await("its end", func(s Snapshot) bool { return s.Converged && w.m.settled() })
	if e := s.Handlers[0].Extension; e == nil || e.Message == nil || *e.Message != "4" {
		t.Errorf("report %s", show(s))
	}
}

// TestHeartbeatOfDeniedExtension is
// report_both_policy_failure_and_heartbeat_in_status: the heartbeat of a denied
// extension is reported, but does not make the handler ready.
func TestHeartbeatOfDeniedExtension(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", manifest: `"reportHeartbeat":true`, script: simple})
	w.cfg.Policy.Mode = policy.Enforce
	w.start()
	w.offer(ext("P.X", "1.0", 0))
	writeFile(t, w.base("P.X-1.0/heartbeat.log"), `[{"heartbeat":{"status":"ready","code":0,"formattedMessage":{"lang":"en-US","message":"all is well"}}}]`)
	writeFile(t, w.root.Path("/etc/waagent_policy.json"), `{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":true}}`)
	w.clearCalls()
	s := w.processed(ext("P.X", "1.0", 1))
	if got, want := show(s), "P.X 1.0 NotReady 1009 | 1 error 1009\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if m := *s.Handlers[0].Message; !strings.Contains(m, "not specified as an allowed extension") ||
		!strings.HasSuffix(m, " Extension was previously enabled and reported the following heartbeat:\nready: all is well") {
		t.Errorf("message %q", m)
	}
	if w.calls() != nil || !exists(w.base("P.X-1.0/run.sh")) {
		t.Errorf("ran %q, or its files are gone", w.calls())
	}
}

var longAgo = time.Now().Add(-time.Hour)

// TestPackageManager: handlers that may use the package manager run one after
// the other, others in parallel.
func TestPackageManager(t *testing.T) {
	t.Parallel()
	apt := `log
[ "$op" = install ] && { : apt-get; mkdir $base/../lock || exit 9; sleep 0.1; rmdir $base/../lock; }
[ "$op" = enable ] && status success
exit 0
`
	w := newWorld(t, pkg{name: "P.A", version: "1.0", script: apt}, pkg{name: "P.B", version: "1.0", script: apt}, pkg{name: "P.C", version: "1.0", script: apt}).start()
	s := w.offer(ext("P.A", "1.0", 0), ext("P.B", "1.0", 0), ext("P.C", "1.0", 0))
	if strings.Count(show(s), "success") != 3 {
		t.Errorf("report %s", show(s))
	}
}

// TestPackageManagerInUse: a handler waits while another program uses the
// package manager. The wait is reported and limited.
func TestPackageManagerInUse(t *testing.T) {
	t.Parallel()
	apt := ": apt-get\n" + simple
	for _, patient := range []bool{true, false} {
		w := newWorld(t, pkg{name: "P.A", version: "1.0", script: apt}, pkg{name: "P.B", version: "1.0", script: simple})
		if !patient {
			w.cfg.Timeouts.Packages = 500 * time.Millisecond
		}
		writeFile(t, w.root.Path("/var/lib/dpkg/lock-frontend"), "")
		f, err := os.OpenFile(w.root.Path("/var/lib/dpkg/lock-frontend"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lock := func(kind int16) {
			t.Helper()
			if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind}); err != nil {
				t.Fatal(err)
			}
		}
		lock(unix.F_WRLCK)
		w.start()
		gs := w.state(ext("P.A", "1.0", 0), ext("P.B", "1.0", 0))
		began := time.Now()
		w.m.Offer(gs)
		if patient { // otherwise the wait may be over before P.B is done
			w.await("the wait", func(s Snapshot) bool {
				return strings.Contains(show(s), "P.B 1.0 Ready 0 | 0 success 0\n") && strings.HasPrefix(show(s), "P.A 1.0 Installing 0 | 0 transitioning 0\n") &&
					strings.Contains(message(s, 0), "is waiting for the package manager, used by another program")
			})
			if n := countCalls(w.calls(), "install"); n != 1 {
				t.Errorf("%d installs: %q", n, w.calls())
			}
			lock(unix.F_UNLCK)
		}
		w.await("its turn", func(s Snapshot) bool { return strings.Count(show(s), "success") == 2 })
		if took := time.Since(began); !patient && took < w.cfg.Timeouts.Packages {
			t.Errorf("it did not wait: %v", took)
		}
		lock(unix.F_WRLCK)
		w.offer(gone(ext("P.A", "1.0", 0)), ext("P.B", "1.0", 0)) // a removal does not wait for other programs
	}
}

// TestPackageManagerBetweenTwo: updates are several programs in a row, so a lock
// that was held is waited for until it has been free for some seconds. Each wait
// has its own limit, and where nothing was held nothing is waited for.
func TestPackageManagerBetweenTwo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := host.Root(t.TempDir())
		m := New(root, job.Launcher{}, &repository{}, &events{}, zerolog.Nop(), Config{})
		m.pass = &pass{locked: map[string]lockWait{}}
		h := m.handler("P.A")
		writeFile(t, root.Path("/var/lib/dpkg/lock-frontend"), "")
		f, err := os.OpenFile(root.Path("/var/lib/dpkg/lock-frontend"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		free, long := m.cfg.Timeouts.PackagesFree, m.cfg.Timeouts.Packages
		for i, step := range []struct {
			held  bool
			after time.Duration
			waits bool
		}{
			{false, 0, false},
			{true, 0, true},
			{false, time.Second, true},
			{true, free - time.Second, true},
			{false, free - 1, true},
			{false, 1, false},
			{false, long, false},
			{true, 0, true}, // another wait
			{true, long, true},
			{true, 1, false}, // too long
		} {
			kind := int16(unix.F_UNLCK)
			if step.held {
				kind = unix.F_WRLCK
			}
			if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(step.after)
			if who := m.packagesLocked(h); (who != "") != step.waits {
				t.Errorf("step %d %+v: waits for %q", i, step, who)
			}
		}
	})
}

// TestOfferedAgain: the same goal state comes again, now with a part that could
// not be fetched before, while handlers are busy. No step is lost.
func TestOfferedAgain(t *testing.T) {
	t.Parallel()
	script := "log\n[ \"$op\" = enable ] && { log begun; while [ ! -e ../go ]; do sleep 0.05; done; status success; }\nexit 0\n"
	slowInstall := "log\n[ \"$op\" = install ] && { log begun; while [ ! -e ../go ]; do sleep 0.05; done; }\n[ \"$op\" = enable ] && status success\nexit 0\n"
	w := newWorld(t, pkg{name: "P.A", version: "1.0", script: slowInstall}, pkg{name: "P.B", version: "1.0", script: script},
		pkg{name: "P.C", version: "1.0", script: simple}, pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest}).start()
	last := level(multi("P.M", "1.0", "a:1", "b:2"), 1)
	gs := w.state(ext("P.A", "1.0", 0), ext("P.B", "1.0", 0), level(ext("P.C", "1.0", 0), 1), last)
	w.m.Offer(gs)
	w.await("both to begin", func(Snapshot) bool { return strings.Count(strings.Join(w.calls(), "\n"), "begun") == 2 })
	for range 2 {
		again := *gs
		w.m.Offer(&again)
		w.m.Wake()
	}
	writeFile(t, w.base("go"), "")
	s := w.await("all of it", func(s Snapshot) bool { return w.m.settled() && s.Converged })
	if n := strings.Count(show(s), "success"); n != 5 {
		t.Errorf("%d of 5: %s%q", n, show(s), w.calls())
	}
	if n := countCalls(w.calls(), "enable"); n != 6 { // P.B logs it twice
		t.Errorf("%d enables: %q", n, w.calls())
	}
}

// TestCertificateComesLate: a handler waits for the certificate of its protected
// settings, and one that had to run without it runs again when it arrives.
func TestCertificateComesLate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script string }{
		{"enable fails", "log\n[ \"$op\" = enable ] && { [ -e ../ABCD.prv ] || exit 7; status success; }\nexit 0\n"},
		{"its status says so", "log\n[ \"$op\" = enable ] && { [ -e ../ABCD.prv ] && status success || status error; }\nexit 0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, patient := range []bool{true, false} {
				w := newWorld(t, pkg{name: "P.A", version: "1.0", script: c.script}, pkg{name: "P.B", version: "1.0", script: simple})
				if w.cfg.Timeouts.Certificate = time.Hour; !patient {
					w.cfg.Timeouts.Certificate = 300 * time.Millisecond
				}
				w.start()
				a := ext("P.A", "1.0", 3)
				a.Settings[0].Protected, a.Settings[0].Thumbprint = secret.New("MIIB"), "abcd"
				gs := w.state(a, ext("P.B", "1.0", 0))
				gs.CertsErr = protocol.Judge(protocol.Later, errors.New("status 503"))
				w.m.Offer(gs)
				if patient {
					w.await("the wait", func(s Snapshot) bool {
						return strings.Contains(show(s), "P.B 1.0 Ready 0 | 0 success 0\n") && strings.Contains(message(s, 0), "is waiting for the certificate ABCD")
					})
				} else {
					w.await("a failure", func(s Snapshot) bool { return strings.Contains(show(s), "3 error ") && w.m.settled() })
				}
				writeFile(t, w.base("ABCD.prv"), "key")
				w.m.Offer(gs) // only the certificates changed; the key is the same
				w.await("success", func(s Snapshot) bool { return strings.Count(show(s), "success") == 2 && w.m.settled() })
				want := map[bool]int{true: 1, false: 2}[patient]
				w.m.Offer(gs)
				w.await("rest", func(Snapshot) bool { return w.m.settled() })
				if n := countCalls(w.calls(), "enable"); n != want+1 {
					t.Errorf("patient %v: %d enables: %q", patient, n, w.calls())
				}
			}
		})
	}
}

// TestAnsweredWithoutTheCertificate: a platform that has answered is not waited
// for as long as one that does not.
func TestAnsweredWithoutTheCertificate(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"missing": protocol.Judge(protocol.Absent, errors.New("not in it")),
		"foreign": protocol.Judge(protocol.Never, errors.New("not for us")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.A", version: "1.0", script: simple})
			w.cfg.Timeouts.Certificate = time.Hour
			w.start()
			a := ext("P.A", "1.0", 3)
			a.Settings[0].Protected, a.Settings[0].Thumbprint = secret.New("MIIB"), "abcd"
			gs := w.state(a)
			gs.CertsErr = err
			w.m.Offer(gs)
			w.await("success", func(s Snapshot) bool { return strings.Contains(show(s), "3 success ") })
		})
	}
}

// TestExistingPackage is use_existing_package and ignore_existing_invalid: a
// package that an operator has put in place is not downloaded; an invalid one is
// replaced.
func TestExistingPackage(t *testing.T) {
	t.Parallel()
	p := pkg{name: "P.X", version: "1.0", script: simple}
	w := newWorld(t, p).start()
	writeFile(t, w.base("P.X__1.0.zip"), string(p.build(t)))
	if s := w.offer(ext("P.X", "1.0", 0)); !strings.Contains(show(s), "success") || w.repo.downloads != 0 {
		t.Errorf("%d downloads, %s", w.repo.downloads, show(s))
	}
	w.offer(gone(ext("P.X", "1.0", 0)))
	if exists(w.base("P.X__1.0.zip")) {
		t.Error("the package is left after the uninstall")
	}
	writeFile(t, w.base("P.X__1.0.zip"), "rubbish")
	if s := w.offer(ext("P.X", "1.0", 1)); !strings.Contains(show(s), "success") || w.repo.downloads != 1 {
		t.Errorf("%d downloads, %s", w.repo.downloads, show(s))
	}
}

// TestHandlerStateMigration is the suite of that name: state files of very old
// agents are moved, but never over newer ones.
func TestHandlerStateMigration(t *testing.T) {
	t.Parallel()
	p := pkg{name: "P.X", version: "1.0", script: simple}
	w := newWorld(t, p)
	zip := w.base("x.zip")
	writeFile(t, zip, string(p.build(t)))
	if err := errors.Join(unpack(zip, w.base("P.X-1.0"), 1<<20), os.Mkdir(w.base("P.X-1.0/config"), 0o700)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, w.base("P.X-1.0/config/HandlerStatus"), `{"status":"Ready","code":0,"message":"new"}`)
	writeFile(t, w.base("handler_state/P.X-1.0/state"), "Installed")
	writeFile(t, w.base("handler_state/P.X-1.0/status"), "old")
	writeFile(t, w.base("handler_state/P.Gone-1.0/state"), "Enabled")
	w.start()
	w.offer(ext("P.X", "1.0", 0))
	if diff := cmp.Diff([]string{"1.0 enable 0"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if exists(w.base("handler_state")) {
		t.Error("handler_state is left")
	}
}

// TestMultiConfigOfClassicAgent: extensions that another agent has enabled can
// be deleted.
func TestMultiConfigOfClassicAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest}).start()
	w.offer(multi("P.M", "1.0", "a:1", "b:1"))
	w.stop()
	if err := os.RemoveAll(w.base("azguest")); err != nil { // all state of this agent
		t.Fatal(err)
	}
	w.clearCalls()
	w.start()
	s := w.offer(multi("P.M", "1.0", "-a:1", "b:1"))
	if got, want := show(s), "P.M 1.0 Ready 0 | b 1 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if diff := cmp.Diff([]string{"1.0 disable a 1", "1.0 enable b 1"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestSignature: a package without a valid signature is not used if one is
// required. Otherwise an invalid signature is only logged.
func TestSignature(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, signature string
		required, ok    bool
		marker          bool
	}{
		{"unsigned", "", false, true, false},
		{"unsigned, required", "", true, false, false},
		{"bad", "bad", false, true, false},
		{"bad, required", "bad", true, false, false},
		{"good, required", "good", true, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple, manifest: `"signingInfo":{"publisher":"P","type":"X","version":"1.0"}`})
			w.cfg.RequireSignature = tc.required
			w.cfg.Verify = func(_ context.Context, _, sig string) (string, error) {
				if sig != "good" {
					return "", errors.New("it was tampered with")
				}
				return "CN=Publisher", nil
			}
			w.start()
			h := ext("P.X", "1.0", 0)
			h.Signature = tc.signature
			s := w.processed(h)
			if ok := strings.Contains(show(s), "success"); ok != tc.ok || (w.calls() != nil) != tc.ok {
				t.Errorf("report %s; ran %q", show(s), w.calls())
			}
			if exists(w.base("P.X-1.0/package_validated")) != tc.marker {
				t.Errorf("package_validated: %v", !tc.marker)
			}
		})
	}
}

// TestOneHandlerPanics: if one package triggers a panic in the agent, the error
// is reported for that handler, and others run.
func TestOneHandlerPanics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.Panics", version: "1.0", script: simple}, pkg{name: "P.Good", version: "1.0", script: simple}).start()
	w.m.Offer(w.state(ext("P.Panics", "1.0", 0), ext("P.Good", "1.0", 0)))
	s := w.await("both", func(s Snapshot) bool {
		return len(s.Handlers) == 2 && strings.Contains(show(s), "P.Good 1.0 Ready 0 | 0 success 0") && s.Handlers[0].Status == "NotReady"
	})
	if m := message(s, 0); !strings.Contains(m, "AZ-AGENT-FAULT: nobody thought of this") {
		t.Errorf("message %q", m)
	}
}

// TestERR8RetryBeforeTheFirstGoalState: the request is kept for that goal state.
func TestERR8RetryBeforeTheFirstGoalState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0.0", script: simple}).start()
	if got, want := show(w.offer(ext("P.X", "1.0.0", 0))), "P.X 1.0.0 Ready 0 | 0 success 0\n"; got != want {
		t.Fatalf("got %s want %s", got, want)
	}
	w.restart()
	w.clearCalls()
	w.m.Retry("P.X", "", "operator: before")
	for len(w.m.wake) > 0 { // until the engine has received it
		runtime.Gosched()
	}
	w.offer(ext("P.X", "1.0.0", 0))
	w.await("the retry", func(Snapshot) bool { return countCalls(w.calls(), "enable") == 1 })
}

// TestTOOL5DurationOfARetry: the line that tools look for has the duration of the
// work, not the age of a goal state that is worked on again.
func TestTOOL5DurationOfARetry(t *testing.T) {
	t.Parallel()
	p := &pass{gs: &protocol.GoalState{ID: "7"}, began: time.Now().Add(-time.Hour), opened: time.Now().Add(-time.Hour)}
	p.settle(true)
	if p.settled || time.Since(p.opened) < time.Hour {
		t.Errorf("the first time: %+v", p)
	}
	if took := p.settle(false); took < time.Hour || !p.settled {
		t.Errorf("the first time took %s", took)
	}
	p.settle(true)
	if took := p.settle(false); took > time.Minute || !p.settled {
		t.Errorf("the retry took %s", took)
	}
}
