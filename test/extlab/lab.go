package extlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/sandbox"
)

// Options of a Lab.
type Options struct {
	Agent string // the agent's binary
	Log   io.Writer
	// SmallDisk gives the agent's folder a file system of its own, which can
	// be filled.
	SmallDisk bool
}

const (
	lib      = "/var/lib/waagent"
	logs     = "/var/log/azure"
	resource = "ext"
	storage  = "192.0.2.10" // TEST-NET, never routed
)

// An account needs an id of its own.
const noAccount = "Provisioning.Mode=ready-only\n"

const conf = "Extensions.GoalStatePeriod=1\nProvisioning.RegenerateSshHostKeyPair=n\nTelemetry.Enabled=n\n"

// A Lab is one virtual machine with the agent on it, and the platform it
// sees.
type Lab struct {
	box     *sandbox.Sandbox
	fab     *fabric.Fabric
	vm      *fabric.VM
	agent   *sandbox.Process
	out     buffer // of the agent
	handler string
	tmp     string
	rights  sandbox.Rights
	deaths  int // of the agent that nobody here ordered
}

// FindAgent finds the agent's binary: where it is said to be, or where it
// usually is.
func FindAgent(said string) (string, error) {
	tries := []string{said}
	if said == "" {
		tries = nil
		if exe, err := os.Executable(); err == nil {
			tries = append(tries, filepath.Join(filepath.Dir(exe), "azguest"))
		}
		if dir := os.Getenv("AZGUEST_BIN"); dir != "" {
			tries = append(tries, filepath.Join(dir, "azguest"))
		}
		tries = append(tries, "/usr/sbin/azguest")
	}
	for _, t := range tries {
		if fi, err := os.Stat(t); err == nil && fi.Mode().IsRegular() {
			return t, nil
		}
	}
	return "", fmt.Errorf("no agent at %s: give --agent, or put the binary in the directory of this program", strings.Join(tries, ", "))
}

// New makes a machine and waits until the agent on it is Ready.
func New(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := sandbox.Available(); err != nil {
		return nil, fmt.Errorf("sandbox is not available: %w", err)
	}
	l := &Lab{rights: sandbox.CurrentRights()}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.tmp, err = os.MkdirTemp("", "extlab-"); err != nil {
		return nil, err
	}
	if l.fab, err = fabric.Open(fabric.Options{BlobURL: "http://" + storage}); err != nil {
		return nil, err
	}
	l.vm = l.fab.CreateVM("vm-01", fabric.Provision(fabric.Provisioning{User: "azureuser", Password: "Extl4b-password!", AllowPasswords: true, HostName: "extlab"}))
	img, err := l.vm.Medium().Image()
	if err != nil {
		return nil, err
	}
	dvd := filepath.Join(l.tmp, "dvd.img")
	if err := os.WriteFile(dvd, img, 0o600); err != nil {
		return nil, err
	}
	machine := sandbox.Options{
		DVD: dvd, DMI: sandbox.AzureDMI("7b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"),
		Addresses: []string{sandbox.WireServer, sandbox.IMDS, storage}, Hostname: "extlab",
	}
	if o.SmallDisk {
		machine.Disk, machine.DiskSize = lib, 512<<20
	}
	if l.box, err = sandbox.New(ctx, machine); err != nil {
		return nil, err
	}
	for service, addr := range map[fabric.Service]string{
		fabric.Wire: sandbox.WireServer + ":80", fabric.HostGA: sandbox.WireServer + ":32526",
		fabric.IMDS: sandbox.IMDS + ":80", fabric.Blob: storage + ":80",
	} {
		if err := l.box.InNetwork(func() error {
			_, err := l.fab.Listen(service, addr, l.vm, false)
			return err
		}); err != nil {
			return nil, err
		}
	}
	if err := l.box.Install(o.Agent, "/usr/sbin/azguest", 0o755); err != nil {
		return nil, err
	}
	settings := conf
	if l.rights == sandbox.Single {
		settings += noAccount
	}
	if err := l.box.WriteFile("/etc/waagent.conf", []byte(settings), 0o644); err != nil {
		return nil, err
	}
	if o.Log != nil {
		l.out.also = o.Log
	}
	if err := l.start(); err != nil {
		return nil, err
	}
	return l, l.until(ctx, "the machine to be Ready", func() (bool, error) {
		h := l.vm.Health()
		if h.SubStatus == "ProvisioningFailed" {
			return false, errors.New(h.Description)
		}
		return h.State == "Ready", nil
	})
}

// Close ends the machine and everything on it.
func (l *Lab) Close() error {
	var errs []error
	if l.box != nil {
		errs = append(errs, l.box.Close())
	}
	if l.fab != nil {
		errs = append(errs, l.fab.Close())
	}
	if l.tmp != "" {
		errs = append(errs, os.RemoveAll(l.tmp))
	}
	return errors.Join(errs...)
}

func (l *Lab) start() error {
	p, err := l.box.Start(sandbox.Cmd{Args: []string{"/usr/sbin/azguest", "run"}, Stdout: &l.out, Stderr: &l.out})
	l.agent = p
	return err
}

// Publish makes a package known to the platform.
func (l *Lab) Publish(name, version string, zip []byte) error {
	l.handler = name
	return l.fab.AddPackage(name, version, zip)
}

// Put asks for the extension with these settings; tag changes to have it run
// again. seq is the number to use, or negative for the next one.
func (l *Lab) Put(version string, seq int, public, protected json.RawMessage, tag string) error {
	if seq >= 0 {
		l.vm.NextSequence(l.handler, resource, seq)
	}
	x := fabric.Extension{Name: resource, Handler: l.handler, Version: version, ForceUpdateTag: tag}
	if public != nil {
		x.Settings = public
	}
	if protected != nil {
		x.Protected = protected
	}
	return l.vm.Put(x)
}

// Settle waits until the platform has an answer: Succeeded, Failed or gone.
func (l *Lab) Settle(ctx context.Context) (state, failure string, err error) {
	err = l.until(ctx, "the operation to end", func() (bool, error) {
		s, ferr := l.vm.ProvisioningState(resource)
		if state, failure = s, ""; ferr != nil {
			failure = ferr.Error()
		}
		if s == "" {
			state = "gone"
		}
		return s == "" || s == "Succeeded" || s == "Failed", nil
	})
	return state, failure, err
}

// until asks again and again.
func (l *Lab) until(ctx context.Context, what string, ok func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ErrInterrupted
			}
			return fmt.Errorf("timeout waiting for %s", what)
		}
		if err := l.revive(); err != nil {
			return err
		}
	}
}

// maxDeaths of the agent are put up with.
const maxDeaths = 3

// revive starts an agent again that was killed, as systemd does: handlers do
// that, by pkill or kill -1. One that ends by itself has nothing to say any
// more.
func (l *Lab) revive() error {
	if l.agent == nil {
		return nil
	}
	select {
	case <-l.agent.Done():
	default:
		return nil
	}
	if l.agent.Code() >= 0 {
		return fmt.Errorf("the agent exited with code %d: %s", l.agent.Code(), tail(l.out.String(), 2000))
	}
	if l.deaths++; l.deaths > maxDeaths {
		return fmt.Errorf("the agent was killed %d times", l.deaths)
	}
	return l.start()
}

// sh runs a script in the machine.
func (l *Lab) sh(ctx context.Context, script string) (string, error) {
	r, err := l.box.Run(ctx, "sh", "-c", script)
	return strings.TrimSpace(r.Stdout), err
}

// A Row is what the platform is told about the extension.
type Row struct {
	Version, Handler string // version and status of the handler
	Message          string
	Seq              string
	Status           string // of the extension; "" if it has none
	Code             string
	Substatus        []string
}

// Row is the last word about the extension; nil if there is none.
func (l *Lab) Row() *Row {
	doc, n := l.vm.StatusDocument()
	if n == 0 {
		return nil
	}
	type message struct{ Message string }
	var d struct {
		AggregateStatus struct {
			HandlerAggregateStatus []struct {
				HandlerName, HandlerVersion, Status string
				FormattedMessage                    message
				RuntimeSettingsStatus               *struct {
					SequenceNumber json.RawMessage
					SettingsStatus struct {
						Status struct {
							Status           string
							Code             json.RawMessage
							FormattedMessage message
							Substatus        []struct {
								Name, Status     string
								FormattedMessage message
							}
						}
					}
				}
			}
		}
	}
	if json.Unmarshal(doc, &d) != nil {
		return nil
	}
	for _, h := range d.AggregateStatus.HandlerAggregateStatus {
		if !strings.EqualFold(h.HandlerName, l.handler) {
			continue
		}
		r := &Row{Version: h.HandlerVersion, Handler: h.Status, Message: h.FormattedMessage.Message}
		if s := h.RuntimeSettingsStatus; s != nil {
			st := s.SettingsStatus.Status
			r.Seq, r.Status, r.Code, r.Message = strings.Trim(string(s.SequenceNumber), `"`), st.Status, strings.Trim(string(st.Code), `"`), st.FormattedMessage.Message
			for _, sub := range st.Substatus {
				r.Substatus = append(r.Substatus, fmt.Sprintf("%s: %s: %s", sub.Name, sub.Status, sub.FormattedMessage.Message))
			}
		}
		return r
	}
	return nil
}

// maxOutput of a command is kept: a handler may print any amount.
const maxOutput = 16 << 10

// A Step is one command that the agent ran.
type Step struct {
	Op, Version, Why string
	Class            string
	Code             int
	Begin, End       time.Time
	Stdout, Stderr   string
	Cause            string
}

// Steps are the commands so far, in the order in which they began. It reads
// the agent's audit log.
func (l *Lab) Steps() ([]Step, error) {
	log, err := l.box.ReadTail(logs+"/azguest-audit.log", 4<<20)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Step
	at := map[string]int{}
	for line := range bytes.Lines(log) {
		var e struct {
			Time                                              time.Time
			What, Handler, Version, Op, Why, Job, Class, Text string
			Code                                              int
		}
		if json.Unmarshal(line, &e) != nil || !strings.EqualFold(e.Handler, l.handler) || e.Job == "" {
			continue
		}
		switch e.What {
		case "begin":
			at[e.Job] = len(out)
			out = append(out, Step{Op: e.Op, Version: e.Version, Why: e.Why, Begin: e.Time})
		case "end":
			i, ok := at[e.Job]
			if !ok {
				continue
			}
			s := &out[i]
			s.End, s.Class, s.Code, s.Cause = e.Time, e.Class, e.Code, e.Text
			for name, dst := range map[string]*string{"stdout": &s.Stdout, "stderr": &s.Stderr} {
				if b, err := l.box.ReadTail(lib+"/azguest/ext/jobs/"+e.Job+"/"+name, maxOutput); err == nil {
					*dst = strings.ToValidUTF8(string(b), "")
				}
			}
		}
	}
	return out, nil
}

// Restart kills the agent and starts it again.
func (l *Lab) Restart(ctx context.Context) error {
	if err := l.agent.Kill(); err != nil {
		return err
	}
	l.agent = nil
	if err := l.start(); err != nil {
		return err
	}
	return l.alive(ctx)
}

// Reboot ends everything that runs on the machine and starts it again.
func (l *Lab) Reboot(ctx context.Context) error {
	l.agent = nil
	if err := l.box.Reboot(ctx); err != nil {
		return err
	}
	if _, err := l.sh(ctx, "mkdir -p /run/lock"); err != nil {
		return err
	}
	return l.start()
}

// alive waits for another status document.
func (l *Lab) alive(ctx context.Context) error {
	_, before := l.vm.StatusDocument()
	l.vm.Announce(false)
	return l.until(ctx, "a status document", func() (bool, error) {
		_, n := l.vm.StatusDocument()
		return n > before, nil
	})
}

// buffer collects the output of processes.
type buffer struct {
	mu   sync.Mutex // guards b
	b    bytes.Buffer
	also io.Writer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.also != nil {
		_, _ = b.also.Write(p)
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
