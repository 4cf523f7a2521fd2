package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

// patience is the time limit of every wait. How soon something must happen is
// tested in protocol/platform, with a simulated clock.
const patience = 10 * time.Minute

// conf sets short intervals and enables all that can run in a sandbox.
const conf = `
Extensions.GoalStatePeriod=1
Status.HeartbeatPeriod=5
Telemetry.Period=2
Debug.EtpCollectionPeriod=3
`

// password is one of the secrets that must not be found anywhere.
const password = "canary-Pa55w0rd: <b&ttery>"

// A life is one machine with its agent, and its platform.
type life struct {
	*machine.Machine
	t       testing.TB
	started int // length of the agents' output at the last start
	heard   *heard
	kills   int // processes of extensions that were killed
}

// verdicts are the errors of all tests, which TestMain prints again at the end,
// because they are hard to find in the log of all steps.
var verdicts struct {
	sync.Mutex // guards the list
	list       []string
}

// A verdict is a test whose errors are added to the verdicts.
type verdict struct{ testing.TB }

func (v verdict) Errorf(format string, args ...any) {
	v.Helper()
	v.keep(fmt.Sprintf(format, args...))
	v.TB.Errorf(format, args...)
}

func (v verdict) Fatalf(format string, args ...any) {
	v.Helper()
	v.keep(fmt.Sprintf(format, args...))
	v.TB.Fatalf(format, args...)
}

func (v verdict) Error(args ...any) { v.Helper(); v.Errorf("%s", fmt.Sprint(args...)) }

func (v verdict) Fatal(args ...any) { v.Helper(); v.Fatalf("%s", fmt.Sprint(args...)) }

func (v verdict) keep(text string) {
	verdicts.Lock()
	defer verdicts.Unlock()
	verdicts.list = append(verdicts.list, fmt.Sprintf("%s: %.1000s", v.Name(), text))
}

// newLife creates a provisioned machine; all samples are published.
func newLife(t testing.TB, s *script) *life {
	t.Helper()
	t = verdict{t}
	l := &life{t: t, heard: &heard{}}
	packages := map[string][]byte{}
	for _, b := range bundles.Samples() {
		data, err := b.Zip()
		if err != nil {
			t.Fatal(err)
		}
		packages[b.Name+"/"+b.Version] = data
	}
	l.Machine = machinetest.WithAgent(t, machine.Options{
		Conf: conf, Packages: packages,
		Provisioning: fabric.Provisioning{Password: password, HostName: "chaos"},
		Configure: func(c *fabric.Config) {
			if s.pages {
				c.StatusBlob = "PageBlob"
			}
		},
		Sandbox: sandbox.Options{PlainDVD: true},
		Fabric:  fabric.Options{Journal: l.heard, JournalKeep: 3000},
	}).Machine
	t.Cleanup(func() {
		if t.Failed() {
			l.keepLog()
		}
	})
	if err := l.start(); err != nil {
		t.Fatal(err)
	}
	l.await("Ready", func() bool { return l.VM.Health().State == "Ready" })
	return l
}

// start starts the agent with the command line of its unit.
func (l *life) start() error {
	l.started = len(l.Log.String())
	err := l.StartAgent()
	l.heard.started()
	return err
}

// restart ends the agent, by SIGTERM if kindly, otherwise by SIGKILL, and
// starts it again.
func (l *life) restart(kindly bool, down time.Duration) error {
	l.heard.ending()
	if kindly {
		ctx, cancel := context.WithTimeout(l.t.Context(), patience)
		defer cancel()
		code, err := l.StopAgent(ctx)
		if err != nil {
			return err
		}
		// An agent that has not installed its signal handlers yet is killed by
		// the signal.
		if code != 0 && l.said("agent started") {
			return fmt.Errorf("the agent ended with code %d after SIGTERM", code)
		}
	} else if err := l.KillAgent(); err != nil {
		return err
	}
	time.Sleep(down)
	return l.start()
}

// said reports whether the agent has printed a text since it was last started.
func (l *life) said(what string) bool { return strings.Contains(l.Log.String()[l.started:], what) }

// reboot ends every process of the machine and boots it again.
func (l *life) reboot(down time.Duration) error {
	l.heard.ending()
	if err := l.Reboot(l.t.Context()); err != nil {
		return err
	}
	time.Sleep(down)
	return l.start()
}

// A process of the machine; pid is in this program's namespace.
type process struct {
	pid          int
	args, env    string
	isSupervisor bool
	ofExtension  bool
}

// processes lists the processes of the machine. Those that end meanwhile are
// left out.
func (l *life) processes() []process {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", l.PID()))
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + e.Name()
		if own, err := os.Readlink(dir + "/ns/pid"); err != nil || own != ns {
			continue
		}
		args, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(args) == 0 {
			continue // a zombie
		}
		env, err := os.ReadFile(dir + "/environ")
		if err != nil {
			continue
		}
		p := process{pid: pid, args: string(bytes.ReplaceAll(args, []byte{0}, []byte(" "))), env: string(env)}
		p.isSupervisor = strings.Contains(p.args, "azguest supervise ")
		p.ofExtension = !p.isSupervisor && strings.Contains(p.env, "AZGUEST_OPERATION=")
		out = append(out, p)
	}
	return out
}

// killOne kills one of the processes that belong to extensions, if there is one
// at this moment.
func (l *life) killOne(what string, n int) error {
	all := slices.DeleteFunc(l.processes(), func(p process) bool {
		return !(what == "supervisor" && p.isSupervisor || what == "handler" && p.ofExtension)
	})
	if len(all) == 0 {
		return nil
	}
	p := all[n%len(all)]
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	l.kills++
	l.t.Logf("        killed %s", strings.TrimSpace(p.args))
	return nil
}

// wait waits until ok returns true, but no longer than most.
func (l *life) wait(most time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(l.t.Context(), most)
	defer cancel()
	return l.Wait(ctx, "", func() (bool, error) { return ok(), nil }) == nil
}

func (l *life) await(what string, ok func() bool) {
	l.t.Helper()
	if !l.wait(patience, ok) {
		l.t.Fatalf("waited %v in vain for %s", patience, what)
	}
}

// pending returns the extensions whose operation has not ended.
func (l *life) pending(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		state, _ := l.VM.ProvisioningState(n)
		return state == succeeds || state == fails || state == ""
	})
}

// keepLog saves all output of the agents.
func (l *life) keepLog() {
	keep := filepath.Join(os.TempDir(), "chaos-"+strings.ReplaceAll(l.t.Name(), "/", "-")+"-agent.log")
	if err := os.WriteFile(keep, []byte(l.Log.String()), 0o600); err == nil {
		l.t.Logf("the agent's log is in %s", keep)
	}
}

// heard receives the fabric's journal and checks it for secrets, and for
// requests that a strict platform would reject.
type heard struct {
	mu       sync.Mutex // guards what follows
	canaries []string
	bad      []string
	down     bool      // the agent is being ended, or has been
	since    time.Time // when the agent that runs was started
}

// ending records that the agent is about to be ended, which may cut off its
// requests.
func (h *heard) ending() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = true
}

// started records that another agent is running, which has not sent anything
// yet.
func (h *heard) started() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down, h.since = false, time.Now()
}

func (h *heard) expect(canary string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.canaries = append(h.canaries, canary)
}

func (h *heard) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.canaries)
}

// Write receives one line of the journal.
func (h *heard) Write(line []byte) (int, error) {
	var e fabric.Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return 0, fmt.Errorf("read journal: %w", err)
	}
	if e.Kind == fabric.Control || e.Kind == fabric.Change {
		return len(line), nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// A new goal state may be announced between the agent's request for the
	// goal state and its health report; that cannot be avoided.
	overtaken := func(p string) bool { return e.Kind == fabric.Health && strings.HasPrefix(p, "health for incarnation ") }
	// An agent that was ended does not finish its requests, and the platform
	// may notice that only when the next one is running. The requests of the
	// latter must be complete.
	cut := func(p string) bool {
		return strings.HasPrefix(p, "body did not arrive: ") && (h.down || e.Began.Before(h.since))
	}
	e.Problems = slices.DeleteFunc(slices.DeleteFunc(e.Problems, overtaken), cut)
	if len(e.Problems) > 0 {
		h.bad = append(h.bad, fmt.Sprintf("%s the platform objects to %s %s: %s (fault: %q)", e.Time.Format("15:04:05.000"), e.Method, e.URL, strings.Join(e.Problems, "; "), e.Fault))
	}
	for _, c := range h.canaries {
		if strings.Contains(e.Body, c) {
			h.bad = append(h.bad, fmt.Sprintf("%s secret in %s %s: %.300s", e.Time.Format("15:04:05.000"), e.Method, e.URL, e.Body))
		}
	}
	// Requests to the host's relay contain the blob's URL with its signature.
	if e.Kind != fabric.PluginStatus && e.Kind != fabric.Artifact && signature.MatchString(e.Body) {
		h.bad = append(h.bad, fmt.Sprintf("%s signature in %s %s: %.300s", e.Time.Format("15:04:05.000"), e.Method, e.URL, e.Body))
	}
	return len(line), nil
}

// takeBad returns the problems since the last call.
func (h *heard) takeBad() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	bad := h.bad
	h.bad = nil
	return bad
}
