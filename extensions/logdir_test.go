package extensions

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// speaker returns an operation that can write to the command log of a handler,
// and the agent's log.
func speaker(t *testing.T) (w *work, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	m := New(host.Root(t.TempDir()), launcher(), nil, &events{}, zerolog.New(log), Config{})
	if err := m.store.Init(); err != nil {
		t.Fatal(err)
	}
	return newWork(m, &managed{name: "P.X", recs: map[string]store.Record{}}, nil, plan.Task{Op: plan.Enable, Version: "1.0"}), log
}

// TestSEC1LogFolderOfOthers: if others than root can write to a log folder or
// replace it, the agent opens nothing there by name. It writes its lines to a
// folder that only root can write to, and logs that once.
func TestSEC1LogFolderOfOthers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		root bool // the case needs root
		make func(azure, dir string) error
	}{
		"folder of a service account": {true, func(_, dir string) error { return errors.Join(os.MkdirAll(dir, 0o755), os.Chown(dir, 1234, 1234)) }},
		"folder of a group":           {false, func(_, dir string) error { return errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o2775)) }},
		"folder of all":               {false, func(_, dir string) error { return errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o1777)) }},
		"above it is somebody's": {true, func(azure, dir string) error {
			return errors.Join(os.MkdirAll(dir, 0o755), os.Chown(azure, 1234, 1234))
		}},
		"above it is a group's": {false, func(azure, dir string) error { return errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(azure, 0o775)) }},
		"another's link above": {true, func(azure, _ string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(azure), 0o755), os.MkdirAll(azure+"-theirs/P.X", 0o755), os.Symlink(azure+"-theirs", azure), os.Lchown(azure, 1234, 1234))
		}},
		"a link in a group's /var/log": {false, func(azure, _ string) error {
			return errors.Join(os.MkdirAll(azure+"-theirs/P.X", 0o755), os.Symlink(azure+"-theirs", azure), os.Chmod(filepath.Dir(azure), 0o775))
		}},
		"a link": {false, func(_, dir string) error {
			return errors.Join(os.MkdirAll(dir+"-theirs", 0o777), os.Symlink(dir+"-theirs", dir))
		}},
		"a file": {false, func(azure, dir string) error {
			return errors.Join(os.MkdirAll(azure, 0o755), os.WriteFile(dir, nil, 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.root && os.Geteuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			w, log := speaker(t)
			azure := w.m.store.Root.Path("/var/log/azure")
			dir := azure + "/P.X"
			if err := tc.make(azure, dir); err != nil {
				t.Fatal(err)
			}
			cron := w.m.store.Root.Path("/etc/cron.d/x")
			real, _ := filepath.EvalSymlinks(dir)
			fi, err := os.Stat(real)
			planted := ""
			if err == nil && fi.IsDir() {
				// The bug that was found: with the next command, the account's text
				// was written to the target of its link.
				planted = real + "/CommandExecution.log"
				writeFile(t, planted, strings.Repeat("* * * * * root touch /pwned\n", maxCommandLog/20))
				symlink(t, cron, planted+".tmp")
				for _, n := range []string{".azg-", "CommandExecution.log.azg-"} {
					symlink(t, cron, real+"/"+n)
				}
			}
			for i := range 3 {
				w.say("", "line %d", i)
			}
			if exists(cron) {
				t.Error("a link of the account was followed")
			}
			if planted != "" {
				if b, err := os.ReadFile(planted); err != nil || strings.Contains(string(b), "line 0") {
					t.Errorf("the account's file was written to (%v)", err)
				}
			}
			b, err := os.ReadFile(w.m.store.Sub("logs", "P.X", "CommandExecution.log"))
			if err != nil || strings.Count(string(b), "line ") != 3 {
				t.Errorf("the lines are lost: %q, %v", b, err)
			}
			if n := strings.Count(log.String(), codeLogFolder); n != 1 {
				t.Errorf("said %d times: %s", n, log)
			}
			if !w.m.refused.has("P.X") {
				t.Error("the refused log folder of P.X is not recorded")
			}
		})
	}
}

// TestSEC1RotationFollowsNothing: cutting the log uses an unpredictable temporary
// name, also in root's own folder.
func TestSEC1RotationFollowsNothing(t *testing.T) {
	t.Parallel()
	w, log := speaker(t)
	dir := w.m.store.Root.Path("/var/log/azure/P.X")
	path := dir + "/CommandExecution.log"
	target := w.m.store.Root.Path("/etc/cron.d/x")
	writeFile(t, path, strings.Repeat("0123456789\n", maxCommandLog/10))
	symlink(t, target, path+".tmp")
	w.say("", "the last line")
	b, err := os.ReadFile(path)
	if err != nil || len(b) > maxCommandLog || !strings.HasSuffix(string(b), "the last line\n") || exists(target) || log.Len() > 0 {
		t.Errorf("%d bytes, %v, target there: %v, log %s", len(b), err, exists(target), log)
	}
}

// TestSEC1AuditLog: the audit log, too, is written where only root can write. Its
// line numbers continue when it moves to the other folder and back.
func TestSEC1AuditLog(t *testing.T) {
	t.Parallel()
	w, _ := speaker(t)
	azure := w.m.store.Root.Path("/var/log/azure")
	w.m.auditLog(store.AuditEntry{What: "begin"})
	if err := os.Chmod(azure, 0o777); err != nil {
		t.Fatal(err)
	}
	w.m.auditLog(store.AuditEntry{What: "end"})
	writeFile(t, azure+"/azguest-audit.log", `{"n": 999, "what": "forged"}`+"\n")
	again := store.NewAuditLog(azure + "/azguest-audit.log")
	again.Instead = w.m.store.Sub("logs")
	if n := again.Seq(); n != 2 {
		t.Errorf("goes on at %d", n)
	}
	if b, err := os.ReadFile(w.m.store.Sub("logs", "azguest-audit.log")); err != nil || !strings.Contains(string(b), `"n":2`) {
		t.Errorf("%q, %v", b, err)
	}
}

// TestSEC1StatusReplacedByLink: if a service account replaces its status file
// with a link to a file of others, the content is neither reported nor shown.
func TestSEC1StatusReplacedByLink(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	for name, put := range map[string]func(shadow, dir string) error{
		"second name": func(shadow, dir string) error { return os.Link(shadow, dir+"/status/0.status") },
		"link":        func(shadow, dir string) error { return os.Symlink(shadow, dir+"/status/0.status") },
		"fifo":        func(_, dir string) error { return unix.Mkfifo(dir+"/status/0.status", 0o666) },
		"directory":   func(_, dir string) error { return os.Mkdir(dir+"/status/0.status", 0o755) },
		"folder a link": func(shadow, dir string) error {
			return errors.Join(os.RemoveAll(dir+"/status"), os.Symlink(filepath.Dir(shadow), dir+"/status"), os.Link(shadow, filepath.Dir(shadow)+"/0.status"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.X", version: "2.0", script: simple}).start()
			w.offer(ext("P.X", "1.0", 0))
			shadow := w.root.Path("/etc/shadow")
			writeFile(t, shadow, "root:hash-of-roots-password:1::::::\n")
			base := w.base("P.X-1.0")
			if err := errors.Join(os.Remove(base+"/status/0.status"), put(shadow, base), os.Chown(base, 1234, 1234), os.Lchown(base+"/status", 1234, 1234)); err != nil {
				t.Fatal(err)
			}
			said := fmt.Sprintf("%+v", w.m.Details())
			for _, h := range w.m.Status().Handlers {
				if h.Extension != nil && h.Extension.Message != nil {
					said += *h.Extension.Message
				}
			}
			// Only this version's own files are copied to the next version.
			w.processed(ext("P.X", "2.0", 0))
			if b, err := os.ReadFile(w.base("P.X-2.0/status/0.status")); err == nil {
				said += string(b)
			}
			if strings.Contains(said, "hash-of-roots-password") {
				t.Errorf("the content of the other file was copied: %s", said)
			}
			if b, err := os.ReadFile(shadow); err != nil || string(b) != "root:hash-of-roots-password:1::::::\n" {
				t.Errorf("it was changed: %q %v", b, err)
			}
		})
	}
}

// TestSEC1UnderAttack: a local user who owns a folder keeps replacing everything
// in it while the agent works there.
func TestSEC1UnderAttack(t *testing.T) {
	t.Run("log folder", func(t *testing.T) {
		w, _ := speaker(t)
		hosttest.Attack(t, w.m.store.Root.Path("/var/log/azure/P.X"), []string{"CommandExecution.log", "CommandExecution.log.tmp", "events/"}, func(round int) {
			w.say("", "round %d", round)
			_ = w.m.environment("P.X", "1.0")
		})
	})
	t.Run("folder of all logs", func(t *testing.T) {
		w, _ := speaker(t)
		hosttest.Attack(t, w.m.store.Root.Path("/var/log/azure"), []string{"P.X/", "P.X/CommandExecution.log", "P.X/events/", "azguest-audit.log", "azguest-audit.log.1"}, func(round int) {
			w.say("", "round %d", round)
			w.m.auditLog(store.AuditEntry{What: "begin"})
		})
	})
	t.Run("directory of the handler", func(t *testing.T) {
		w, _ := speaker(t)
		s := w.m.store
		w.wish, w.want = plan.Wish{Name: "P.X", Exts: []plan.ExtWish{{}}}, &protocol.Handler{Name: "P.X", Version: "1.0", Settings: []protocol.Settings{{}}}
		rec := store.Record{Name: "P.X", Version: "1.0", State: plan.Enabled, Report: handler.Report{Status: "Ready"}, Exts: map[string]store.ExtRecord{"a": {ExtFact: plan.ExtFact{Enabled: true, Hash: "x"}}}}
		w.recs["1.0"] = rec
		hosttest.Attack(t, s.Base("P.X", "1.0"), []string{
			"config/", "config/HandlerState", "config/0.settings", "config/9.settings", "status/", "status/0.status", "mrseq", "heartbeat.log",
			handler.ManifestName, handler.EnvironmentName, "package_validated", "a.mrseq", "download/", "download/x",
		}, func(round int) {
			base := s.Base("P.X", "1.0")
			_ = s.SaveFiles(rec)
			_ = w.m.environment("P.X", "1.0")
			_ = w.prepare(base, "", 0, &w.want.Settings[0])
			_ = w.stamps(base)
			_ = w.m.placeholder(rec, "", 0, "Enable", 1, "x")
			_ = handler.ForgetExtension(base, "a")
			_, _, _ = handler.ReadStatus(base+"/status/0.status", "P.X", "1.0", 0)
			_ = handler.WithHeartbeat(handler.Report{Status: "Ready"}, base+"/heartbeat.log", 0, w.m.files.Age)
			_, _ = w.m.store.Manifest("P.X", "1.0")
			_ = w.copyState(base, s.Base("P.X", "2.0"))
			_, _, _ = s.Load()
			to := s.Sub("tmp", store.NewID())
			if err := os.MkdirAll(to, 0o755); err == nil {
				_ = store.CarryFrom(base, to)
				_ = folder.Root.RemoveAll(to)
			}
		})
	})
}
