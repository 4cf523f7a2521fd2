package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/update/updatetest"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// build builds a program with variables set by the linker.
func build(t testing.TB, pkg string, set ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	flags := "-s -w"
	for _, s := range set {
		flags += " -X " + s
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const agentPackage = "github.com/azguest/azguest/agent/cmd/azguest"

func newerAgent(t testing.TB, version string) []byte {
	return updatetest.Zip(updatetest.Manifest(version), updatetest.File{Name: "bin/azguest", Data: build(t, agentPackage, "github.com/azguest/azguest/agent/version.number="+version)})
}

func stray(t testing.TB, version, how string) []byte {
	return updatetest.Zip(updatetest.Manifest(version), updatetest.File{Name: "bin/azguest", Data: build(t, "./testdata/stray", "main.version="+version, "main.how="+how)})
}

// updateConf looks for updates at once; other settings of updates have their
// defaults.
const updateConf = `
AutoUpdate.Mode=channel
Autoupdate.Frequency=1
AutoUpdate.QuietPeriod=0
AutoUpdate.HealthTimeout=600
Debug.SelfUpdateHotfixFrequency=1
Debug.SelfUpdateRegularFrequency=1
Status.HeartbeatPeriod=2
`

// updatable is a machine that trusts the authority.
func updatable(t testing.TB, ca *updatetest.Authority, extra string, change func(*fabric.Config)) *cloud {
	t.Helper()
	o := blank()
	o.Configure = change
	o.Packages["Azguest.E2E.Slow/1.0.0"] = handler(t, slow)
	c := newAgentCloud(t, o)
	c.Sh(t, "mkdir -p /etc/azguest; cat >>/etc/waagent.conf <<'END'\n"+updateConf+extra+"END")
	if err := c.WriteFile("/etc/azguest/update-roots.pem", ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	c.publish(t, nil, "0.0.0.0", updatetest.Python("0.0.0.0")) // so that the family exists
	return c
}

// shown returns the agent's status file; empty before the first one.
func (c *cloud) shown() machine.Status {
	s, _ := c.ReadStatus()
	return s
}

// reported returns guestAgentStatus of the last status document.
func (c *cloud) reported(t testing.TB) (version, updateStatus string) {
	t.Helper()
	var doc struct {
		AggregateStatus struct {
			GuestAgentStatus struct {
				Version      string          `json:"version"`
				UpdateStatus json.RawMessage `json:"updateStatus"`
			} `json:"guestAgentStatus"`
		} `json:"aggregateStatus"`
	}
	raw, _ := c.VM.StatusDocument()
	_ = json.Unmarshal(raw, &doc) // no document yet
	g := doc.AggregateStatus.GuestAgentStatus
	return g.Version, string(g.UpdateStatus)
}

func (c *cloud) publish(t testing.TB, ca *updatetest.Authority, version string, zip []byte) {
	t.Helper()
	var err error
	if ca == nil {
		err = c.Fabric.AddPackage("WALinuxAgent", version, zip)
	} else {
		err = c.Fabric.AddSigned("WALinuxAgent", version, zip, ca.Sign(zip, nil))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestUpdate: a good version takes over in the same process while the lock is
// held, and still runs after a reboot. SIGHUP at any moment of it is no reason to
// end (NBR6).
func TestUpdate(t *testing.T) {
	t.Parallel()
	ca := updatetest.NewAuthority()
	c := updatable(t, ca, "", nil)
	c.StartAgent(t)
	c.WaitReady(t)
	before := c.shown().Agent
	newer := newerAgent(t, "9.0.0.1")
	hangUp, err := c.Start(sandbox.Cmd{Args: []string{"sh", "-c", fmt.Sprintf("while kill -HUP %d; do sleep 0.02; done", before.PID)}})
	if err != nil {
		t.Fatal(err)
	}
	c.publish(t, ca, "9.0.0.1", newer)
	await(t, "the new version's report", func() bool { v, _ := c.reported(t); return v == "9.0.0.1" })
	await(t, "the commit", func() bool { return strings.Contains(c.shown().Agent.Update.LastResult, "updated from") })
	after := c.shown().Agent
	if err := hangUp.Kill(); err != nil {
		t.Error(err)
	}
	if after.PID != before.PID || after.Version != "9.0.0.1" || after.Update.Code != "" {
		t.Errorf("after the update: %+v, before: %+v", after, before)
	}
	if r, _ := c.Run(t.Context(), "/usr/sbin/azguest", "run"); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr+c.Log.String(), "another agent is running") {
		t.Errorf("a second agent: exit %d %s", r.Code, r.Stderr)
	}
	if got := c.Sh(t, "ls /var/lib/waagent/waagent_initial_update; test -e /var/lib/waagent/waagent_rsm_update || echo none"); got != "/var/lib/waagent/waagent_initial_update\nnone" {
		t.Errorf("markers: %s", got)
	}
	// The guard must have ended by itself.
	await(t, "the end of the guard", func() bool {
		r, _ := c.Run(t.Context(), "pgrep", "-f", "update-guard")
		return r.Code != 0
	})
	c.Reboot(t)
	c.StartAgent(t)
	await(t, "the new version after a reboot", func() bool { return c.shown().Agent.Version == "9.0.0.1" })
}

// TestUpdateWaitsForExtension: no update while a command of a handler is
// running.
func TestUpdateWaitsForExtension(t *testing.T) {
	t.Parallel()
	ca := updatetest.NewAuthority()
	c := updatable(t, ca, "", nil)
	c.StartAgent(t)
	c.WaitReady(t)
	op := c.put(t, extension{name: "slow", publisher: "Azguest.E2E", kind: "Slow", version: "1.0"})
	await(t, "enable to run", func() bool {
		b, _ := c.ReadFile("/var/tmp/handler/calls")
		return strings.Contains(string(b), "enable")
	})
	c.publish(t, ca, "9.0.0.2", newerAgent(t, "9.0.0.2"))
	await(t, "the update to be ready", func() bool {
		b, _ := c.ReadFile("/var/log/waagent.log")
		return strings.Contains(string(b)+c.Log.String(), "ready, waiting")
	})
	if v := c.shown().Agent.Version; v == "9.0.0.2" {
		t.Error("handed over while a handler ran")
	}
	c.Sh(t, "touch /var/tmp/handler/go")
	if got := c.follow(t, op); got != "" {
		t.Errorf("extension: %s", got)
	}
	await(t, "the new version", func() bool { v, _ := c.reported(t); return v == "9.0.0.2" })
	// A new agent enables existing extensions once, as the classic one does at
	// every restart; no other command may run.
	calls := c.Sh(t, "cut -d' ' -f1 /var/tmp/handler/calls")
	if calls != "install\nenable" && calls != "install\nenable\nenable" {
		t.Errorf("commands of the handler: %q", calls)
	}
}

// TestUpdateRollsBack: a version that crashes or hangs is rolled back
// automatically, reported, and not tried again until a newer one is published.
func TestUpdateRollsBack(t *testing.T) {
	t.Parallel()
	for how, reason := range map[string]string{"crash": "it exited before", "hang": "no status report"} {
		t.Run(how, func(t *testing.T) {
			ca := updatetest.NewAuthority()
			c := updatable(t, ca, "", nil)
			if how == "hang" {
				// The version that hangs gets a short time limit, the one after
				// it the time that a slow machine needs.
				const long, short = "HealthTimeout=600", "HealthTimeout=15"
				c.Sh(t, "sed -i s/"+long+"/"+short+"/ /etc/waagent.conf")
				c.StartAgent(t)
				c.WaitReady(t)
				c.Sh(t, "sed -i s/"+short+"/"+long+"/ /etc/waagent.conf")
			} else {
				c.StartAgent(t)
				c.WaitReady(t)
			}
			old := c.shown().Agent
			c.publish(t, ca, "9.0.1.0", stray(t, "9.0.1.0", how))
			await(t, "the start of the bad version", func() bool {
				_, err := c.ReadFile("/var/tmp/stray-9.0.1.0")
				return err == nil
			})
			began := time.Now()
			await(t, "the old version to be back", func() bool {
				a := c.shown().Agent
				return a.Version == old.Version && a.PID != old.PID && a.Update.Code == "AZ-UPD-ROLLBACK"
			})
			t.Logf("rolled back after %v", time.Since(began))
			if got := c.shown().Agent.Update.LastResult; !strings.Contains(got, reason) {
				t.Errorf("reason %q does not say %q", got, reason)
			}
			await(t, "its report", func() bool { v, _ := c.reported(t); return v == old.Version })
			c.Sh(t, "rm /var/tmp/stray-9.0.1.0")
			c.publish(t, ca, "9.0.1.1", newerAgent(t, "9.0.1.1"))
			await(t, "the repaired version", func() bool { v, _ := c.reported(t); return v == "9.0.1.1" })
			if _, err := c.ReadFile("/var/tmp/stray-9.0.1.0"); err == nil {
				t.Error("the bad version was tried again")
			}
		})
	}
}

// TestUpdateRefused: a package that is unsigned, or is not of this agent, is
// neither unpacked nor run.
func TestUpdateRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		conf   string
		signed bool
		zip    func(testing.TB) []byte
		code   string
		loads  bool // the package may be downloaded
	}{
		"unsigned":        {"", false, func(t testing.TB) []byte { return stray(t, "9.0.2.0", "crash") }, "AZ-UPD-UNSIGNED", false},
		"python":          {"", false, func(testing.TB) []byte { return updatetest.Python("9.0.2.0") }, "AZ-UPD-UNSIGNED", false},
		"python, signed":  {"", true, func(testing.TB) []byte { return updatetest.Python("9.0.2.0") }, "AZ-UPD-FOREIGN", true},
		"python, allowed": {"AutoUpdate.RequireSignature=n\n", false, func(testing.TB) []byte { return updatetest.Python("9.0.2.0") }, "AZ-UPD-FOREIGN", true},
		"other version":   {"", true, func(t testing.TB) []byte { return stray(t, "9.0.1.9", "crash") }, "AZ-UPD-REFUSED", true},
	} {
		t.Run(name, func(t *testing.T) {
			ca := updatetest.NewAuthority()
			c := updatable(t, ca, tc.conf, nil)
			by := ca
			if !tc.signed {
				by = nil
			}
			c.publish(t, by, "9.0.2.0", tc.zip(t))
			c.StartAgent(t)
			c.WaitReady(t)
			await(t, tc.code, func() bool { return strings.Contains(c.shown().Agent.Update.LastResult, tc.code) })
			if got := c.Sh(t, "ls -d /var/lib/waagent/WALinuxAgent-* /var/lib/waagent/azguest/stage-* /var/tmp/stray-* 2>/dev/null || :"); got != "" {
				t.Errorf("left on the disk: %s", got)
			}
			loads := 0
			for _, e := range c.Fabric.Journal(fabric.Query{Contains: "9.0.2.0.zip"}) {
				if !strings.Contains(e.URL+string(e.Body), ".zip.sig") && e.Code/100 == 2 {
					loads++
				}
			}
			if loads > 1 || loads > 0 && !tc.loads {
				t.Errorf("downloaded %d times", loads)
			}
			if r, _ := c.Run(t.Context(), "agentctl", "status"); r.Code != 0 {
				t.Errorf("agentctl status: exit %d %s", r.Code, r.Stdout)
			}
		})
	}
}

// TestUpdateByPlatform: the platform selects the version, up and down, and the
// result is reported to it.
func TestUpdateByPlatform(t *testing.T) {
	t.Parallel()
	ca := updatetest.NewAuthority()
	yes, no := true, false
	want := func(c *cloud, version, from string) {
		c.VM.Configure(func(f *fabric.Config) {
			f.AgentFamilies = []fabric.AgentFamily{{Name: "Prod", Version: version, FromVersion: from, IsVersionFromRSM: &yes, IsVMEnabledForRSMUpgrades: &yes}}
		})
	}
	c := updatable(t, ca, "", func(f *fabric.Config) {
		f.AgentFamilies = []fabric.AgentFamily{{Name: "Prod", Version: "9.1.0.0", IsVersionFromRSM: &no, IsVMEnabledForRSMUpgrades: &yes}}
	})
	c.StartAgent(t)
	c.WaitReady(t)
	await(t, "the marker", func() bool {
		_, err := c.ReadFile("/var/lib/waagent/waagent_rsm_update")
		return err == nil
	})
	c.publish(t, ca, "9.1.0.0", newerAgent(t, "9.1.0.0"))
	c.publish(t, ca, "9.2.0.0", newerAgent(t, "9.2.0.0"))
	want(c, "9.2.0.0", "")
	await(t, "9.2.0.0", func() bool {
		v, u := c.reported(t)
		return v == "9.2.0.0" && strings.Contains(u, `"Success"`) && strings.Contains(u, `"expectedVersion":"9.2.0.0"`)
	})
	want(c, "9.1.0.0", "9.9.9.9")
	await(t, "a refusal", func() bool {
		v, u := c.reported(t)
		return v == "9.2.0.0" && strings.Contains(u, `"Error"`) && strings.Contains(u, "older")
	})
	want(c, "9.1.0.0", "9.2.0.0")
	await(t, "9.1.0.0", func() bool {
		v, u := c.reported(t)
		return v == "9.1.0.0" && strings.Contains(u, `"Success"`)
	})
	if got := c.Sh(t, "cd /var/lib/waagent && ls -d WALinuxAgent-*"); got != "WALinuxAgent-9.1.0.0\nWALinuxAgent-9.2.0.0" {
		t.Errorf("versions on the disk: %s", got)
	}
	want(c, "9.3.0.0", "")
	await(t, "a version that does not exist to be reported", func() bool {
		v, u := c.reported(t)
		return v == "9.1.0.0" && strings.Contains(u, `"Error"`) && strings.Contains(u, "9.3.0.0")
	})
}

// TestUpdateThroughAnOutage: neither the manifest nor the package of the ordered
// version can be had at first: 503, then resets, then half of the body. It is
// not reported as failed, and the agent is updated soon after the end.
func TestUpdateThroughAnOutage(t *testing.T) {
	t.Parallel()
	ca := updatetest.NewAuthority()
	yes, no := true, false
	c := updatable(t, ca, "", func(f *fabric.Config) {
		f.AgentFamilies = []fabric.AgentFamily{{Name: "Prod", Version: "9.4.0.0", IsVersionFromRSM: &no, IsVMEnabledForRSMUpgrades: &yes}}
	})
	c.StartAgent(t)
	c.WaitReady(t)
	await(t, "the marker", func() bool {
		_, err := c.ReadFile("/var/lib/waagent/waagent_rsm_update")
		return err == nil
	})
	c.publish(t, ca, "9.4.0.0", newerAgent(t, "9.4.0.0"))
	half := 1000
	end := func() {}
	for i, f := range []fabric.Fault{{Match: "_manifest.xml", Status: 503}, {Match: "9.4.0.0", Reset: true}, {Match: "9.4.0.0", Truncate: &half}} {
		var ids []int
		for _, f.Kind = range []fabric.Kind{fabric.Artifact, fabric.BlobGet} {
			id, err := c.Fabric.Fail(f)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		end()
		end = func() {
			for _, id := range ids {
				c.Fabric.RemoveFault(id)
			}
		}
		if i == 0 {
			c.VM.Configure(func(f *fabric.Config) { f.AgentFamilies[0].IsVersionFromRSM = &yes })
		}
		await(t, "a failed request", func() bool {
			return slices.ContainsFunc(c.Fabric.Journal(fabric.Query{}), func(e fabric.Entry) bool {
				return strings.HasPrefix(e.Fault, fmt.Sprintf("#%d ", ids[0])) || strings.HasPrefix(e.Fault, fmt.Sprintf("#%d ", ids[1]))
			})
		})
	}
	end()
	await(t, "the new version's report", func() bool {
		v, u := c.reported(t)
		if strings.Contains(u, `"Error"`) {
			t.Fatalf("reported as failed: %s", u)
		}
		return v == "9.4.0.0"
	})
}

// TestUpdateCrashLoop: if a version that was committed keeps crashing later,
// the installed version takes over.
func TestUpdateCrashLoop(t *testing.T) {
	t.Parallel()
	ca := updatetest.NewAuthority()
	c := updatable(t, ca, "", nil)
	c.StartAgent(t)
	c.WaitReady(t)
	c.publish(t, ca, "9.4.0.0", newerAgent(t, "9.4.0.0"))
	await(t, "the new version", func() bool { return strings.Contains(c.shown().Agent.Update.LastResult, "updated from") })
	for i := range 3 {
		pid := c.shown().Agent.PID
		c.Sh(t, fmt.Sprintf("kill -9 %d; while kill -0 %d 2>/dev/null; do sleep 0.05; done", pid, pid))
		c.StartAgent(t)
		var v string
		await(t, "the next agent", func() bool {
			a := c.shown().Agent
			v = a.Version
			return a.PID != 0 && a.PID != pid
		})
		if i < 2 != (v == "9.4.0.0") {
			t.Errorf("start %d is version %s", i+1, v)
		}
	}
	await(t, "the reason to be shown", func() bool { return c.shown().Agent.Update.Code == "AZ-UPD-ROLLBACK" })
}
