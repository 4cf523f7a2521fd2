package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/host/process"
)

// agentArg makes the test binary a stand-in for the agent: see standIn.
const agentArg = "stand-in"

// facts is a shell script that prints what a process has inherited.
const facts = `grep -E '^(SigBlk|SigIgn)' /proc/self/status
for s in HUP INT QUIT PIPE ALRM TERM USR1 USR2 CHLD TSTP TTIN TTOU; do
	trap "echo trapped $s" $s; kill -s $s $$; trap - $s
done
for s in HUP INT QUIT TERM PIPE USR1; do
	(trap - $s; kill -s $s $(exec sh -c 'echo $PPID'); echo survived $s)
done
echo umask $(umask)
echo oom $(cat /proc/self/oom_score_adj)
echo fds $(ls /proc/self/fd | tr '\n' ' ')
echo nice $(cut -d' ' -f19 /proc/self/stat)
echo fsize $(ulimit -f)
echo files $(ulimit -Sn)
echo core $(ulimit -Hc)
echo home $HOME user $USER logname $LOGNAME shell $SHELL
echo proxy $https_proxy tz $TZ
echo "version '$VERSION' socket '$NOTIFY_SOCKET' goal '$ConfigSequenceNumber' gc '$GOGC' mark '$AZGUEST_TEST_X'"
echo path $PATH
read x || echo eof
`

// standIn does what the agent does, in a process that was started in the way of
// the test: it starts facts in each way in which the agent starts programs.
func standIn(dir string) int {
	crash.Private()
	err := process.Normalize()
	process.Swallow(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE) // as the guard of an update does
	ctx, cancel := context.WithTimeout(context.Background(), lastResort)
	defer cancel()
	if err == nil {
		err = SelfLauncher().Start(dir+"/job", Job{ID: "j", Shell: facts, Dir: "/", Timeout: lastResort, Env: []string{"ConfigSequenceNumber=7"}})
	}
	if err == nil {
		_, err = Wait(ctx, dir+"/job")
	}
	var res host.Result
	if err == nil {
		res, err = host.Exec{}.Run(ctx, host.Cmd{Name: "sh", Args: []string{"-c", facts}})
	}
	err = errors.Join(err, os.WriteFile(dir+"/tool", res.Stdout, 0o600))
	if err == nil {
		err = process.Detach(ctx, process.Daemon{
			Path: "/bin/sh", Args: []string{"-c", facts + "echo over"}, Log: dir + "/daemon", Env: host.Environ(os.Environ()),
		})
	}
	for err == nil {
		var b []byte
		if b, err = os.ReadFile(dir + "/daemon"); strings.Contains(string(b), "over\n") {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestNBR3NothingIsInherited: however the agent was started, what it starts has
// default dispositions of all signals and no blocked one, and nothing else that
// is meant for the agent.
func TestNBR3NothingIsInherited(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to lower the OOM score and the nice value")
	}
	const all = "HUP,INT,QUIT,PIPE,ALRM,TERM,USR1,USR2,CHLD,TSTP,TTIN,TTOU"
	for name, with := range map[string][]string{
		"ignored":    {"--ignore-signal=" + all},
		"blocked":    {"--block-signal=" + all},
		"both":       {"--ignore-signal=" + all, "--block-signal=" + all},
		"background": {"--ignore-signal=INT,QUIT"}, // a shell without job control
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// What else a unit may set.
			const unit = `echo 100 >/proc/$$/oom_score_adj; umask 0077; ulimit -f 100000; ulimit -c 0; exec 7</dev/null 9>/dev/null; exec nice -n 7 "$@"`
			args := append([]string{"-c", unit, "sh", "env"}, with...)
			cmd := exec.CommandContext(t.Context(), "sh", append(args, "/proc/self/exe", agentArg, dir)...)
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Args[slices.Index(cmd.Args, "/proc/self/exe")] = exe
			cmd.Env = append(os.Environ(),
				"https_proxy=http://192.0.2.1:3128", "TZ=Europe/Vienna", "VERSION=9", "NOTIFY_SOCKET=/x", "ConfigSequenceNumber=1", "GOGC=77", "AZGUEST_TEST_X=1",
				"PATH=/opt/tools:relative::"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, from := range []string{"job/" + Stdout, "tool", "daemon"} {
				b, err := os.ReadFile(filepath.Join(dir, from))
				if err != nil {
					t.Fatal(err)
				}
				checkFacts(t, from, string(b))
			}
		})
	}
}

// limitOfFirst returns a hard limit of process 1 as a shell prints it.
func limitOfFirst(t *testing.T, what int) string {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Prlimit(1, what, nil, &l); err != nil {
		t.Fatal(err)
	}
	if l.Max == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(l.Max/512, 10)
}

func checkFacts(t *testing.T, from, got string) {
	t.Helper()
	want := []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "umask 0022", "oom 0", "eof"}
	for s := range strings.FieldsSeq("HUP INT QUIT PIPE ALRM TERM USR1 USR2 CHLD TSTP TTIN TTOU") {
		want = append(want, "trapped "+s)
	}
	root, err := host.Root("/").Accounts()
	if err != nil {
		t.Fatal(err)
	}
	want = append(want,
		fmt.Sprintf("home %s user %s logname %s shell %s", root[0].Home, root[0].Name, root[0].Name, root[0].Shell),
		"proxy http://192.0.2.1:3128 tz Europe/Vienna")
	goal := "" // set by the contract only
	if strings.HasPrefix(from, "job/") {
		goal = "7"
		want = append(want, "nice 0")
		if mayRaiseLimits() {
			want = append(want, "fsize unlimited", "core "+limitOfFirst(t, unix.RLIMIT_CORE))
		}
	}
	want = append(want, fmt.Sprintf("version '' socket '' goal '%s' gc '' mark ''", goal))
	lines := strings.Split(got, "\n")
	for _, w := range want {
		if !slices.Contains(lines, w) {
			t.Errorf("%s: no line %q", from, w)
		}
	}
	for _, l := range lines {
		what, value, _ := strings.Cut(l, " ")
		switch what {
		case "survived":
			t.Errorf("%s: %s", from, l)
		case "fds":
			for fd := range strings.FieldsSeq(value) {
				if n, err := strconv.Atoi(fd); err != nil || n > 3 { // 3 is the directory that ls reads
					t.Errorf("%s: descriptors %s", from, value)
				}
			}
		case "path":
			if value != host.DefaultPath+":/opt/tools" && !strings.HasPrefix(value, host.DefaultPath+":/opt/tools:/") {
				t.Errorf("%s: PATH=%s", from, value)
			}
		}
	}
	if t.Failed() {
		t.Log(from + ":\n" + got)
	}
}

// mayRaiseLimits reports whether this process has CAP_SYS_RESOURCE.
func mayRaiseLimits() bool {
	var caps [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0])
	return err == nil && caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// TestNBR3SupervisorIgnoresWhatStopsTheAgent: signals of a terminal or of a
// service manager end neither the supervisor nor the command, which has the
// default dispositions all the same.
func TestNBR3SupervisorIgnoresWhatStopsTheAgent(t *testing.T) {
	t.Parallel()
	sign := filepath.Join(t.TempDir(), "go")
	dir, st := runningJob(t, "until [ -e "+sign+" ]; do sleep 0.02; done", lastResort)
	for _, sig := range []string{"HUP", "INT", "QUIT", "TERM"} {
		if err := exec.CommandContext(t.Context(), "kill", "-s", sig, strconv.Itoa(st.PID)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	if !process.Alive(st.PID, st.Ticks) {
		t.Fatal("the supervisor has ended")
	}
	if err := os.WriteFile(sign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hosttest.Until(t, "the result", func() bool { _, ok := ResultOf(dir); return ok })
	if res, _ := ResultOf(dir); res.Class != OK {
		t.Errorf("result %+v", res)
	}
}
