package handlers

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
)

// runner is a handler that runs the script in its settings, like Run Command,
// and reports its output.
const runner = `#!/bin/sh
cd "$(dirname "$0")" || exit 51
[ "$1" = enable ] || exit 0
script=$(sed -n 's/.*"script" *: *"\([^"]*\)".*/\1/p' "config/$ConfigSequenceNumber.settings")
out=$(sh -c "$script" 2>&1); code=$?
[ $code = 0 ] && word=success || word=error
printf '[{"version":1.0,"status":{"operation":"Enable","status":"%s","code":%d,"formattedMessage":{"lang":"en","message":"%s"}}}]' $word $code "$out" >"status/$ConfigSequenceNumber.status"
`

func runnerZip(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range map[string]string{
		"run.sh":               runner,
		"HandlerManifest.json": `[{"version": 1.0, "handlerManifest": {` + strings.TrimSuffix(commands("run.sh"), ",") + `}}]`,
	} {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(body))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDiskFull: without free blocks or inodes, the agent keeps reporting, says
// that the disk is full, runs a command that frees space, and recovers by
// itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	h := publisher + ".Runner"
	for name, fill := range map[string]struct{ options, fill, code string }{
		"no blocks": {"size=24m", "cat /dev/zero >" + lib + "/ballast/big 2>/dev/null; df -P " + lib + " | tail -n 1 >&2", "AZ-DISK-FULL"},
		"no inodes": {"size=64m,nr_inodes=1500", "i=0; while : 2>/dev/null >" + lib + "/ballast/f$i; do i=$((i+1)); done", "AZ-DISK-INODES"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			if err := m.Fabric.AddPackage(h, "1.0.0", runnerZip(t)); err != nil {
				t.Fatal(err)
			}
			m.Sh(t, "mkdir -p "+lib+" && mount -t tmpfs -o "+fill.options+",mode=0755 tmpfs "+lib+" && mkdir -m 0700 "+lib+"/ballast")
			start(t, m)
			turn := 0
			run := func(script string) (string, string) {
				turn++
				m.Put(t, fabric.Extension{Name: "runner", Handler: h, Version: "1.0", Settings: map[string]any{"script": script, "turn": turn}})
				return m.Settle(t, "runner")["runner"], m.Rows(t)[h].Message()
			}
			if state, msg := run("echo first"); state != "Succeeded" || msg != "first" {
				t.Fatalf("before: %s %q", state, msg)
			}
			m.Sh(t, "("+fill.fill+"); :")
			m.WaitStatus(t)
			if state, msg := run("echo I ran; test -e " + lib + "/ballast"); state != "Succeeded" || msg != "I ran" {
				t.Errorf("on the full disk: %s %q", state, msg)
			}
			m.WaitStatus(t)
			if out := m.Sh(t, "agentctl status || :"); !strings.Contains(out, fill.code) {
				t.Errorf("agentctl does not say %s:\n%s", fill.code, out)
			}
			if doc, _ := m.VM.StatusDocument(); !strings.Contains(string(doc), fill.code) {
				t.Errorf("the platform is not told %s: %.400s", fill.code, doc)
			}
			// A restarted agent works, too.
			m.RestartAgent(t)
			for range 3 { // more often than reserved space allows
				if state, msg := run("echo again"); state != "Succeeded" || msg != "again" {
					t.Errorf("on the full disk, after a restart: %s %q", state, msg)
				}
				m.Sh(t, "("+fill.fill+"); :")
			}
			// A command that fills the disk itself is not run again because its
			// result could not be stored.
			m.Write(t, "/var/tmp/fill.sh", "rm -r "+lib+"/ballast/; mkdir "+lib+"/ballast; echo once >>/var/tmp/fills\n("+fill.fill+") 2>/dev/null\n", 0o755)
			run("sh /var/tmp/fill.sh")
			if n := strings.Count(m.Read(t, "/var/tmp/fills"), "once"); n != 1 {
				t.Errorf("the command that fills the disk ran %d times", n)
			}
			if state, msg := run("rm -r " + lib + "/ballast; echo room"); state != "Succeeded" || msg != "room" {
				t.Errorf("making room: %s %q", state, msg)
			}
			await(t, "the agent to be well again", func() bool {
				r, _ := m.Run(t.Context(), "agentctl", "status")
				return !strings.Contains(r.Stdout, "AZ-DISK-FULL") && !strings.Contains(r.Stdout, "AZ-DISK-INODES")
			})
			if err := m.VM.DeleteExtension("runner"); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(m.Settle(t, "runner")); got != "map[runner:gone]" {
				t.Errorf("delete: %s", got)
			}
		})
	}
}

// TestReadOnly: the kernel has remounted the agent's file system read-only. No
// command can be run, which is reported; it is run once the file system is
// writable again.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	h := publisher + ".Runner"
	m := newMachine(t)
	if err := m.Fabric.AddPackage(h, "1.0.0", runnerZip(t)); err != nil {
		t.Fatal(err)
	}
	m.Sh(t, "mkdir -p "+lib+" && mount -t tmpfs -o size=64m,mode=0755 tmpfs "+lib)
	start(t, m)
	m.Put(t, fabric.Extension{Name: "runner", Handler: h, Version: "1.0", Settings: map[string]any{"script": "echo first"}})
	m.Settle(t, "runner")
	for _, restart := range []bool{false, true} {
		m.Sh(t, "mount -o remount,ro "+lib)
		if restart {
			m.RestartAgent(t)
		}
		m.WaitStatus(t)
		text := fmt.Sprintf("turn %v", restart)
		m.Put(t, fabric.Extension{Name: "runner", Handler: h, Version: "1.0", Settings: map[string]any{"script": "echo " + text}})
		m.WaitRow(t, h, "told", func(r machine.Row) bool {
			return r.HandlerStatus == "NotReady" && strings.Contains(r.HandlerMessage, "read-only")
		})
		if out := m.Sh(t, "agentctl status || :"); !strings.Contains(out, "AZ-DISK-READONLY") {
			t.Errorf("agentctl does not say it:\n%s", out)
		}
		m.Sh(t, "mount -o remount,rw "+lib)
		m.WaitRow(t, h, "done after all", func(r machine.Row) bool { return r.Word() == "success" && r.Message() == text })
	}
}
