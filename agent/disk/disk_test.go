package disk_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/disk"
	"github.com/azguest/azguest/agent/host"
)

var dirs = disk.Dirs{Lib: "/var/lib/waagent", HandlerLogs: "/var/log/azure", AgentLog: "/var/log/waagent.log"}

func put(t *testing.T, root host.Root, name string, size int, age time.Duration) {
	t.Helper()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := os.Chtimes(root.Path(name), at, at); err != nil {
		t.Fatal(err)
	}
}

func TestJanitorKeepsTheBudgetAndTheOldestGoFirst(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	keep := []string{
		"/var/lib/waagent/provisioned.json", "/var/lib/waagent/A.B-1.0/bin/payload", "/var/lib/waagent/TransportCert.pem",
		"/var/lib/waagent/history/young/GoalState.xml", "/var/log/waagent.log",
	}
	for _, n := range keep {
		put(t, root, n, 4096, time.Minute)
	}
	for i := range 40 {
		put(t, root, fmt.Sprintf("/var/lib/waagent/history/h%02d/GoalState.xml", i), 8192, time.Duration(100-i)*time.Hour)
	}
	put(t, root, "/var/lib/waagent/A.B__0.9.zip", 1<<20, time.Hour)
	put(t, root, "/var/log/waagent-2026-01-01.log.gz", 4096, 1000*time.Hour)

	u, err := disk.Measure(root, dirs)
	if err != nil {
		t.Fatal(err)
	}
	if u.Free == 0 || u.InodesFree == 0 {
		t.Errorf("no figures of the file system: %+v", u)
	}
	const budget, files = 200 << 10, 30
	plan := disk.Plan(u, budget, files)
	if len(plan) == 0 || filepath.Base(plan[0]) != "waagent-2026-01-01.log.gz" {
		t.Fatalf("plan starts with %v, want the oldest", plan[:min(1, len(plan))])
	}
	freed, err := disk.Clean(u, plan)
	if err != nil || freed == 0 {
		t.Fatalf("Clean = %d, %v", freed, err)
	}
	after, err := disk.Measure(root, dirs)
	if err != nil {
		t.Fatal(err)
	}
	if after.Used > budget || after.Files > files {
		t.Errorf("after cleaning: %d bytes in %d files", after.Used, after.Files)
	}
	for _, n := range keep {
		if !root.Exists(n) {
			t.Errorf("%s is gone", n)
		}
	}
	if root.Exists("/var/lib/waagent/history/h00") {
		t.Error("emptied directory left behind")
	}
	if again := disk.Plan(after, budget, files); len(again) != 0 {
		t.Errorf("second plan: %v", again)
	}
}

func TestPlanNeverTakesMoreThanNeeded(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		root := host.Root(t.TempDir())
		for i := range rng.IntN(30) {
			put(t, root, fmt.Sprintf("/var/lib/waagent/events/%d.tld", i), rng.IntN(20000), time.Duration(rng.IntN(100))*time.Hour)
		}
		u, err := disk.Measure(root, dirs)
		if err != nil {
			t.Fatal(err)
		}
		budget := int64(rng.IntN(200_000))
		freed, err := disk.Clean(u, disk.Plan(u, budget, 2000))
		if err != nil {
			t.Fatal(err)
		}
		after, err := disk.Measure(root, dirs)
		if err != nil {
			t.Fatal(err)
		}
		if after.Used+freed != u.Used {
			t.Errorf("seed %d: %d freed, but %d became %d", seed, freed, u.Used, after.Used)
		}
		if u.Used <= budget && freed > 0 {
			t.Errorf("seed %d: freed %d within the budget", seed, freed)
		}
	}
}

// TestNBR4CommandOutputIsShownAndFreed: what commands have printed is a share of
// its own, is not counted twice, and can be freed although a process that a
// command has left still has the file open.
func TestNBR4CommandOutputIsShownAndFreed(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	const jobs = "/var/lib/waagent/azguest/ext/jobs/"
	put(t, root, jobs+"a/stdout", 1<<20, time.Hour)
	put(t, root, jobs+"a/stderr", 64<<10, 2*time.Hour)
	put(t, root, jobs+"b/stdout", 64<<10, time.Minute) // still young
	put(t, root, jobs+"a/result.json", 4096, time.Hour)
	w, err := os.OpenFile(root.Path(jobs+"a/stdout"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	share := func() (s disk.Share, all int64) {
		t.Helper()
		u, err := disk.Measure(root, dirs)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range u.Shares {
			if s.Name == "command output" {
				return s, u.Used
			}
		}
		t.Fatal("no share of the output of commands")
		return s, 0
	}
	const all = 1<<20 + 128<<10
	if s, used := share(); s.Used != all || s.Files != 3 || s.CanFree != all-64<<10 || used != all+4096 {
		t.Errorf("share %+v of %d", s, used)
	}
	u, err := disk.Measure(root, dirs)
	if err != nil {
		t.Fatal(err)
	}
	if freed, err := disk.Clean(u, disk.Plan(u, 0, 0)); err != nil || freed != all-64<<10 {
		t.Errorf("freed %d, %v", freed, err)
	}
	if _, err := w.WriteString("later\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := root.ReadFile(jobs + "a/stdout"); err != nil || string(b) != "later\n" {
		t.Errorf("the file has %q (%v)", b, err)
	}
	if s, _ := share(); s.Files != 3 || s.Used > 128<<10 {
		t.Errorf("share %+v after cleaning", s)
	}
}
