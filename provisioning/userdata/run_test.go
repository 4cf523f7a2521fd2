package userdata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/peak"
)

// A box is a directory that is the root of a machine for the state and for what
// scripts write, and whose boots and identity can be changed.
type box struct {
	t   *testing.T
	dir string
	vm  string
}

func newBox(t *testing.T) *box {
	b := &box{t: t, dir: t.TempDir(), vm: testVM}
	b.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	b.boot("first")
	return b
}

func (b *box) write(name, text string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.dir+name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.dir+name, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) boot(id string) { b.write("/proc/sys/kernel/random/boot_id", id+"\n") }

// log is what scripts have written, on one line.
func (b *box) log() string {
	text, err := os.ReadFile(b.dir + "/log")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

func runnerAt(dir, vm string, docs []Document) *Runner {
	m := provisioning.NewMachine(&provisioning.System{
		Root: host.Root(dir), Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.Nop(),
	}, provisioning.Options{}, provisioning.Identity{ID: vm})
	return &Runner{
		Machine: m, Launcher: job.SelfLauncher(), Timeout: time.Minute,
		Fetch: func(context.Context) ([]Document, []Problem, error) { return docs, nil, nil },
	}
}

func (b *box) run(docs []Document, change ...func(*Runner)) Journal {
	b.t.Helper()
	r := runnerAt(b.dir, b.vm, docs)
	for _, c := range change {
		c(r)
	}
	j, err := r.Run(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return j
}

func states(j Journal) string {
	out := []string{string(j.State)}
	for _, e := range j.Items {
		out = append(out, e.ID+":"+string(e.State))
	}
	return strings.Join(out, " ")
}

// logging is a script that writes a word to the log of the box.
func (b *box) logging(word string) string {
	return fmt.Sprintf("#!/bin/sh\necho %s >>%s/log\n", word, b.dir)
}

func part(kind, name, text string) string {
	return "Content-Type: " + kind + "\nContent-Disposition: attachment; filename=" + name + "\n\n" + text
}

// all is a document with everything that runs at some time.
func (b *box) all() []Document {
	return user(message(
		part("text/cloud-config", "c", fmt.Sprintf("bootcmd: [echo boot >>%s/log]\nruncmd: [echo run >>%[1]s/log]\n", b.dir)),
		part("text/x-shellscript", "a", b.logging("a")),
		part("text/x-shellscript", "z", b.logging("z")),
		part("text/x-shellscript-per-boot", "b", b.logging("perboot")),
		part("text/x-shellscript-per-once", "o", b.logging("once")),
		part("text/x-shellscript-per-instance", "i", b.logging("instance")),
	))
}

// TestOnceAndAtEveryBoot: what runs again at a restart of the agent, in another
// boot, and in a copy of the disk.
func TestOnceAndAtEveryBoot(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	b := newBox(t)
	const first = "boot once perboot instance a run z"
	if j := b.run(b.all()); j.State != Done || b.log() != first || len(j.Bad()) > 0 {
		t.Fatalf("%s, log %q", states(j), b.log())
	}
	if b.run(b.all()); b.log() != first {
		t.Errorf("restart: %q", b.log())
	}
	b.boot("second")
	// What was fetched at the first boot counts.
	if b.run(user("#!/bin/sh\nexit 1\n")); b.log() != first+" boot perboot" {
		t.Errorf("second boot: %q", b.log())
	}
	b.vm = "d92bd1d2-6a47-4b49-9d5b-000000000002"
	if j := b.run(b.all()); b.log() != first+" boot perboot boot perboot instance a run z" || j.entry("user-data/per-once/o").State != Skipped {
		t.Errorf("copy: %q, %s", b.log(), states(j))
	}
}

// TestFailures: what fails is reported, and the rest is carried out.
func TestFailures(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := b.run(user(message(
		part("text/x-shellscript", "1", "#!/bin/sh\necho out; echo err >&2; exit 7\n"),
		part("text/x-shellscript", "2", "#!/no/such/interpreter\n"),
		part("text/x-shellscript", "3", "#!/bin/sh\nkill -KILL $$\n"),
		part("text/x-shellscript", "4", b.logging("last")),
	)))
	if b.log() != "last" {
		t.Errorf("log %q", b.log())
	}
	var got []string
	for _, e := range j.Bad() {
		got = append(got, e.Code+" "+strings.ReplaceAll(e.Error, e.Output, "OUT"))
	}
	want := []string{
		"AZ-DATA-SCRIPT exit code 7, output in OUT",
		"AZ-DATA-SCRIPT exit code 127, output in OUT",
		"AZ-DATA-SCRIPT ended by SIGKILL, output in OUT",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out, err := os.ReadFile(b.dir + j.Items[0].Output + "/stdout"); err != nil || string(out) != "out\n" || *j.Items[0].Exit != 7 {
		t.Errorf("output %q, %v", out, err)
	}
}

// TestTimeLimit: a script that takes too long is ended, with what it has started,
// and the next one is run.
func TestTimeLimit(t *testing.T) {
	t.Parallel()
	var b *box
	var j Journal
	limit := time.Second
	// How long scripts must be given to begin depends on the speed of the machine.
	for ; ; limit *= 3 {
		b = newBox(t)
		j = b.run(user(message(
			part("text/x-shellscript", "1", "#!/bin/sh\nsetsid sleep 600 &\necho $! >>"+b.dir+"/log\nwait\n"),
			part("text/x-shellscript", "2", b.logging("last")),
		)), func(r *Runner) { r.Timeout = limit })
		if len(strings.Fields(b.log())) == 2 || limit > time.Minute {
			break
		}
	}
	child, last, _ := strings.Cut(b.log(), " ")
	want := fmt.Sprintf("AZ-DATA-SCRIPT not finished after %v and ended, output in %s", limit, j.Items[0].Output)
	if bad := j.Bad(); last != "last" || len(bad) != 1 || bad[0].Code+" "+bad[0].Error != want {
		t.Errorf("log %q, %+v, want %s", b.log(), bad, want)
	}
	n, err := strconv.Atoi(child)
	if p, ok := process.Look("/", n); err != nil || ok && !p.Ended {
		t.Error("what the script has started is still there")
	}
}

// TestRefusedChangesNothing: a fault in the user's document leaves the machine
// as it was, for good; one in the vendor's leaves the vendor's out.
func TestRefusedChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	docs := []Document{{Layer: VendorPlatform, Data: []byte(b.logging("vendor"))}, {Layer: UserData, Data: []byte("#cloud-config\nruncmd: [echo >/log]\nfrob: 1\n")}}
	for range 2 {
		if j := b.run(docs); states(j) != "refused" || len(j.Problems) != 1 || j.Problems[0].ID != CodeKey || b.log() != "" {
			t.Errorf("%s %v, log %q", states(j), j.Problems, b.log())
		}
		b.boot("second")
	}
	v := newBox(t)
	docs = []Document{{Layer: VendorFiles, Name: "x", Data: []byte("#cloud-config\nfrob: 1\n")}, {Layer: UserData, Data: []byte(v.logging("user"))}}
	if j := v.run(docs); j.State != Done || len(j.Problems) != 1 || v.log() != "user" {
		t.Errorf("%s %v, log %q", states(j), j.Problems, v.log())
	}
}

// TestFetchIsRepeated: a service that does not answer is asked again by the next
// start, and an answer is not asked for again.
func TestFetchIsRepeated(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	r := runnerAt(b.dir, b.vm, nil)
	r.Fetch = func(context.Context) ([]Document, []Problem, error) { return nil, nil, errors.New("no answer") }
	if _, err := r.Run(t.Context()); provisioning.CodeOf(err) != CodeFetch {
		t.Error(err)
	}
	if j := b.run(user(b.logging("a"))); j.State != Done || b.log() != "a" {
		t.Errorf("%s, log %q", states(j), b.log())
	}
	b.boot("second")
	r.Fetch = func(context.Context) ([]Document, []Problem, error) { t.Error("asked again"); return nil, nil, nil }
	if _, err := r.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// agentEnv makes the test binary an agent of the box at its value.
const agentEnv = "USERDATA_TEST_AGENT"

// dieEnv is the item and the state at which that agent kills itself.
const dieEnv = "USERDATA_TEST_DIE"

func standIn(dir string) int {
	doc, err := os.ReadFile(filepath.Join(dir, "doc"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r := runnerAt(dir, testVM, user(string(doc)))
	r.Observe = func(p provisioning.Progress) {
		if os.Getenv(dieEnv) == p.Step.ID()+":"+string(p.State) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if _, err := r.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (b *box) agent(die string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), agentEnv+"="+b.dir, dieEnv+"="+die)
	c.Stderr = os.Stderr
	return c
}

// TestKilledAgent: the agent is killed at every item, before it and after it.
// Each script still runs exactly once.
func TestKilledAgent(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	for _, at := range []provisioning.State{provisioning.Doing, provisioning.Planned, provisioning.Done} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			docs := b.all()
			b.write("/doc", string(docs[0].Data))
			for _, i := range plan(Load(docs), Facts{}, Options{}) {
				if err := b.agent(i.ID() + ":" + string(at)).Run(); err == nil {
					t.Errorf("the agent was not killed at %s", i.ID())
				}
			}
			if j := b.run(docs); j.State != Done || len(j.Bad()) > 0 {
				t.Error(states(j))
			}
			if got := b.log(); got != "boot once perboot instance a run z" {
				t.Errorf("log %q", got)
			}
		})
	}
}

// TestScriptOutlivesAgent: the agent is killed while a script runs. The next one
// waits for it and takes its result.
func TestScriptOutlivesAgent(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	gate := filepath.Join(b.dir, "gate")
	doc := b.logging("begun") + fmt.Sprintf("until [ -e %s ]; do sleep 0.01; done\necho ended >>%s/log\nexit 3\n", gate, b.dir)
	b.write("/doc", doc)
	c := b.agent("")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	hosttest.Until(t, "the script", func() bool { return b.log() == "begun" })
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
	ended := make(chan Journal)
	go func() {
		j, err := runnerAt(b.dir, testVM, user(doc)).Run(context.Background())
		if err != nil {
			t.Error(err)
		}
		ended <- j
	}()
	b.write("/gate", "")
	if j := <-ended; b.log() != "begun ended" || *j.Items[0].Exit != 3 {
		t.Errorf("%s, log %q", states(j), b.log())
	}
}

// TestPowerCut: the machine goes down while scripts run, or before one has
// started. What may have run is not run again.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	doc := message(
		part("text/x-shellscript", "a", b.logging("a")+"exec sleep 600\n"),
		part("text/x-shellscript", "b", b.logging("b")),
	)
	b.write("/doc", doc)
	c := b.agent("")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	hosttest.Until(t, "the script", func() bool { return b.log() == "a" })
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
	s := Store{host.Root(b.dir), "/var/lib/waagent/azguest"}
	j, err := s.Journal()
	if err != nil {
		t.Fatal(err)
	}
	run := j.entry("user-data/script/a").Output
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	job.End(ctx, b.dir+run)
	b.boot("second")
	if j := b.run(nil); b.log() != "a b" || j.entry("user-data/script/a").State != Interrupted || j.entry("user-data/script/b").State != Done {
		t.Errorf("%s, log %q", states(j), b.log())
	}

	// The directory of the run did not reach the disk.
	lost := newBox(t)
	lost.write("/doc", lost.logging("a"))
	if err := lost.agent("user-data/script/part-001:doing").Run(); err == nil {
		t.Error("not killed")
	}
	if err := os.RemoveAll(lost.dir + s.path(runsName)); err != nil {
		t.Fatal(err)
	}
	if j := lost.run(nil); lost.log() != "" || len(j.Bad()) != 1 || j.Bad()[0].State != Interrupted {
		t.Errorf("%s, log %q", states(j), lost.log())
	}
}

// TestStateIsPrivate: nobody but root reads what belongs to the user data.
func TestStateIsPrivate(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	b := newBox(t)
	b.run(b.all())
	var open []string
	err := filepath.Walk(b.dir+"/var/lib/waagent", func(name string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			open = append(open, name)
		}
		return err
	})
	if err != nil || len(open) > 0 {
		t.Error(open, err)
	}
}

// TestDamagedState: files that are damaged, or something else than they should
// be.
func TestDamagedState(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	b := newBox(t)
	b.run(b.all())
	const dir = "/var/lib/waagent/azguest/"
	b.boot("second")
	b.write(dir+docsName+"/000", "#!/bin/sh\n")
	if _, err := runnerAt(b.dir, b.vm, nil).Run(t.Context()); provisioning.CodeOf(err) != CodeState {
		t.Error(err)
	}
	for _, text := range []string{"", "{", "null", "[]"} {
		b.write(dir+journalName, text)
		if _, err := runnerAt(b.dir, b.vm, b.all()).Run(t.Context()); provisioning.CodeOf(err) != CodeState {
			t.Errorf("journal %q: %v", text, err)
		}
	}
	if b.log() != "boot once perboot instance a run z" {
		t.Error(b.log())
	}
}

// TestPer: what runs once, on a machine without the program of cloud-init.
func TestPer(t *testing.T) {
	if _, err := exec.LookPath(perName); err == nil {
		t.Skip("this machine has " + perName)
	}
	t.Parallel()
	b := newBox(t)
	log := b.dir + "/log"
	docs := user(fmt.Sprintf(`#cloud-config
bootcmd:
- [ cloud-init-per, once, mark, sh, -c, 'echo "o $1" >>%[1]s; exit 3', x, 'a b' ]
- [ cloud-init-per, instance, mark, sh, -c, 'echo i >>%[1]s' ]
- cloud-init-per always mark sh -c 'echo a >>%[1]s'
- [ cloud-init-per, never, mark, sh, -c, 'echo n >>%[1]s' ]
- [ cloud-init-per, once, ../x, sh, -c, 'echo n >>%[1]s' ]
- test $? = 1 && echo end >>%[1]s
`, log))
	for i, want := range []string{"o a b i a end", "o a b i a end a end", "o a b i a end a end i a end"} {
		b.boot(fmt.Sprint("boot", i))
		if i == 2 {
			b.vm = "d92bd1d2-6a47-4b49-9d5b-000000000002"
		}
		if j := b.run(docs); b.log() != want || len(j.Bad()) > 0 {
			t.Errorf("boot %d: %q, want %q, %s", i, b.log(), want, states(j))
		}
	}
}
