package extensions

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/azguest/azguest/extensions/handler"
)

// TestSEC10AUserDoesNotKeepAHandlerAlive: a user's process with the handler's
// name, or a user's crontab that mentions it, does not count as the handler's.
func TestSEC10AUserDoesNotKeepAHandlerAlive(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root to run processes as another user")
	}
	w := newWorld(t, pkg{name: "P.Dead", version: "1.0", script: "log\n[ \"$op\" = enable ] && status transitioning\nexit 0\n"})
	base := w.root.Path("/var/lib/waagent/P.Dead-1.0")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	user := &exec.Cmd{Path: sleep, Args: []string{base + "/bin/x", "1000"}, SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = user.Process.Kill(); _ = user.Wait() }()
	for _, f := range []struct {
		name string
		uid  int
		perm os.FileMode
	}{
		{"/var/spool/cron/crontabs/eve", 1234, 0o600},
		{"/var/spool/cron/eve", 0, 0o600}, // with some cron daemons, the files of users belong to root
		{"/var/spool/cron/tabs/root", 1234, 0o600},
		{"/etc/cron.d/x", 0, 0o666},
		{"/etc/cron.d/y", 1234, 0o644},
	} {
		if err := w.root.MkdirAll(f.name[:strings.LastIndex(f.name, "/")], 0o755); err != nil {
			t.Fatal(err)
		}
		if err := w.root.WriteFileAs(f.name, []byte("* * * * * root "+base+"/bin/x # P.Dead\n"), f.perm, f.uid, f.uid); err != nil {
			t.Fatal(err)
		}
	}
	w.start().processed(ext("P.Dead", "1.0", 0))
	s := w.await("the end of waiting", func(s Snapshot) bool {
		return len(s.Handlers) == 1 && s.Handlers[0].Extension.Status == handler.Error
	})
	if m := message(s, 0); !strings.Contains(m, "AZ-EXT-LIMBO") {
		t.Errorf("message %q", m)
	}
	w.stop()
	if err := w.root.WriteFile("/etc/cron.d/z", []byte("* * * * * root "+base+"/bin/x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !w.m.handedOver("P.Dead", base) {
		t.Error("root's cron job does not count")
	}
}
