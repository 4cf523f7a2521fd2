package extensions

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/protocol"
)

// testAgent is an agent process with the engine. It kills itself at the n-th
// step (0: never); otherwise it prints its report when everything is done.
//
//	test-agent ROOT N +|-NAME:VERSION:SEQ …
func testAgent(args []string) int {
	root := host.Root(args[0])
	n, _ := strconv.Atoi(args[1])
	repo := &repository{pkgs: map[string]map[string][]byte{}}
	files, _ := root.Glob("/repo/*/*")
	for _, f := range files {
		parts := strings.Split(f, "/")
		b, err := root.ReadFile(f)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if repo.pkgs[parts[2]] == nil {
			repo.pkgs[parts[2]] = map[string][]byte{}
		}
		repo.pkgs[parts[2]][parts[3]] = b
	}
	m := New(root, launcher(), repo, &events{}, zerolog.Nop(), Config{Agent: "1", StatusPoll: time.Second})
	left := make(chan int, 1)
	left <- n
	m.store.Step = func(string) {
		k := <-left - 1
		if k == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		left <- k
	}
	gs := &protocol.GoalState{Incarnation: "1", ID: "incarnation_1", SeqNo: []byte("1")}
	if len(args) > 3 || strings.HasPrefix(args[2], "-") { // a change: another goal state
		gs.Incarnation, gs.ID = "2", "incarnation_2"
	}
	for _, a := range args[2:] {
		parts := strings.Split(a[1:], ":")
		seq, _ := strconv.Atoi(parts[2])
		h := ext(parts[0], parts[1], seq)
		if a[0] == '-' {
			h = gone(h)
		}
		gs.Handlers = append(gs.Handlers, h)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { _ = m.Run(ctx) }()
	m.Offer(gs)
	for ctx.Err() == nil {
		if s := m.Status(); s.Key == gs.Key() && s.Converged && m.settled() {
			fmt.Print("report\n", show(s))
			return 0
		}
		select {
		case <-m.Changed():
		case <-time.After(20 * time.Millisecond):
		}
	}
	fmt.Print("late\n", show(m.Status()))
	return 1
}

// TestKillAgent kills the agent with SIGKILL at each step of each transition.
// After a restart, the result must be the same as without the kill, and every
// command must have run exactly once (extensions/SPEC.md §21.7, item 6).
func TestKillAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of engines")
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent := func(t *testing.T, root string, n int, args ...string) (string, bool) {
		t.Helper()
		cmd := exec.Command(exe, append([]string{"test-agent", root, strconv.Itoa(n)}, args...)...)
		out, err := cmd.CombinedOutput()
		if ws, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool }); ok && ws.Signaled() {
			return "", true
		}
		if err != nil {
			t.Fatalf("agent: %v\n%s", err, out)
		}
		return string(out), false
	}
	script := `log
sleep 0.01
[ "$op" = enable ] && { echo $seq > mrseq; status success; }
[ "$op" = disable ] && status success Disable
exit 0
`
	fresh := func(t *testing.T) *world {
		w := newWorld(t)
		for _, v := range []string{"1.0", "2.0"} {
			p := pkg{name: "P.X", version: v, script: script}
			writeFile(t, w.root.Path("/repo/P.X/"+v), string(p.build(t)))
		}
		return w
	}
	for _, tc := range []struct {
		name          string
		first, second string
		calls         []string
		report        string
		files         []string // expected files in Lib, besides azguest and calls.log
	}{
		{"install", "", "+P.X:1.0:0", []string{"1.0 install 0", "1.0 enable 0"}, "P.X 1.0 Ready 0 | 0 success 0\n", []string{"P.X-1.0", "events"}},
		{"settings", "+P.X:1.0:0", "+P.X:1.0:1", []string{"1.0 enable 1"}, "P.X 1.0 Ready 0 | 1 success 0\n", []string{"P.X-1.0", "events"}},
		{"update", "+P.X:1.0:0", "+P.X:2.0:1", []string{"1.0 disable 1", "2.0 update 1", "1.0 uninstall 1", "2.0 install 1", "2.0 enable 1"}, "P.X 2.0 Ready 0 | 1 success 0\n", []string{"P.X-2.0", "events"}},
		{"downgrade", "+P.X:2.0:0", "+P.X:1.0:1", []string{"2.0 disable 1", "2.0 update 1", "2.0 uninstall 1", "1.0 install 1", "1.0 enable 1"}, "P.X 1.0 Ready 0 | 1 success 0\n", []string{"P.X-1.0", "events"}},
		{"uninstall", "+P.X:1.0:0", "-P.X:1.0:0", []string{"1.0 disable 0", "1.0 uninstall 0"}, "", []string{"events"}},
	} {
		run := func(t *testing.T, power bool) {
			t.Parallel()
			// All points take minutes; normally only a sample is tested.
			points, stride := 0, 3
			switch {
			case os.Getenv("AZGUEST_TEST_FULL") != "":
				stride = 1
			case power:
				stride = 7
			}
			for n := 1; ; n += stride {
				w := fresh(t)
				if tc.first != "" {
					agent(t, string(w.root), 0, tc.first)
					w.clearCalls()
				}
				out, killed := agent(t, string(w.root), n, tc.second)
				if killed {
					points++
					if power {
						killJobs(w)
					}
					out, _ = agent(t, string(w.root), 0, tc.second)
				}
				if diff := cmp.Diff("report\n"+tc.report, out); diff != "" {
					t.Fatalf("killed at step %d: report (-want +got):\n%s", n, diff)
				}
				if diff := cmp.Diff(tc.calls, w.calls()); diff != "" && !power {
					t.Errorf("killed at step %d: calls (-want +got):\n%s", n, diff)
				}
				var left []string
				entries, err := os.ReadDir(w.root.Path("/var/lib/waagent"))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if e.Name() != "azguest" && e.Name() != "calls.log" {
						left = append(left, e.Name())
					}
				}
				if diff := cmp.Diff(tc.files, left); diff != "" {
					t.Errorf("killed at step %d: files (-want +got):\n%s", n, diff)
				}
				if !killed {
					break
				}
			}
			t.Logf("%d points at which the agent was killed", points)
		}
		t.Run(tc.name, func(t *testing.T) { run(t, false) })
		t.Run(tc.name+", power cut", func(t *testing.T) { run(t, true) })
	}
}

// killJobs kills all processes of a world's jobs, like a power cut.
func killJobs(w *world) {
	dirs, err := w.root.Glob("/var/lib/waagent/azguest/ext/jobs/*")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range dirs {
		st, _ := job.StateOf(w.root.Path(d))
		for _, pid := range []int{st.PID, -st.Child} {
			if pid != 0 {
				_ = unix.Kill(pid, unix.SIGKILL) // mostly gone already
			}
		}
	}
}
