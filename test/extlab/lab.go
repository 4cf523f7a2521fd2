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
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// Options of a Lab.
type Options struct {
	Agent string // the agent's binary
	Log   io.Writer
	// SmallDisk gives the agent's directory a small file system of its own,
	// which tests can fill.
	SmallDisk bool
}

const (
	lib      = machine.Lib
	logs     = "/var/log/azure"
	resource = "ext"
)

// noAccount is the configuration for a sandbox with a single id, where no
// account can be created.
const noAccount = "Provisioning.Mode=ready-only\n"

const conf = "Extensions.GoalStatePeriod=1\nProvisioning.RegenerateSshHostKeyPair=n\nTelemetry.Enabled=n\n"

// A Lab is one virtual machine with the agent, and its emulated platform.
type Lab struct {
	*machine.Machine
	handler string
	rights  sandbox.Rights
	deaths  int // how often the agent was killed by a handler
}

// FindAgent returns the path of the agent's binary: said if it is set,
// otherwise one of the usual places.
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

// New creates a machine and waits until its agent is Ready.
func New(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := sandbox.Available(); err != nil {
		return nil, fmt.Errorf("sandbox is not available: %w", err)
	}
	l := &Lab{rights: sandbox.CurrentRights()}
	with := machine.Options{
		Agent: o.Agent, Conf: conf, Output: o.Log,
		Provisioning: fabric.Provisioning{Password: "Extl4b-password!", AllowPasswords: true, HostName: "extlab"},
		Sandbox:      sandbox.Options{DMI: sandbox.AzureDMI(machine.VMUUID), Hostname: "extlab"},
	}
	if l.rights == sandbox.Single {
		with.Conf += noAccount
	}
	if o.SmallDisk {
		with.Sandbox.Disk, with.Sandbox.DiskSize = lib, 512<<20
	}
	if l.Machine, err = machine.New(ctx, with); err != nil {
		return nil, err
	}
	if err = l.StartAgent(); err == nil {
		err = l.until(ctx, "the machine to be Ready", func() (bool, error) {
			h := l.VM.Health()
			if h.SubStatus == "ProvisioningFailed" {
				return false, errors.New(h.Description)
			}
			return h.State == "Ready", nil
		})
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Publish adds a package to the platform.
func (l *Lab) Publish(name, version string, zip []byte) error {
	l.handler = name
	return l.Fabric.AddPackage(name, version, zip)
}

// Put creates or updates the extension with these settings; another tag makes
// it run again. seq is the sequence number, or negative for the next one.
func (l *Lab) Put(version string, seq int, public, protected json.RawMessage, tag string) error {
	if seq >= 0 {
		l.VM.NextSequence(l.handler, resource, seq)
	}
	x := fabric.Extension{Name: resource, Handler: l.handler, Version: version, ForceUpdateTag: tag}
	if public != nil {
		x.Settings = public
	}
	if protected != nil {
		x.Protected = protected
	}
	return l.VM.Put(x)
}

// Settle waits until the operation ends, with the state Succeeded, Failed or
// gone.
func (l *Lab) Settle(ctx context.Context) (state, failure string, err error) {
	err = l.until(ctx, "the operation to end", func() (bool, error) {
		s, ferr := l.VM.ProvisioningState(resource)
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

// until waits for a condition, and restarts the agent if it was killed.
func (l *Lab) until(ctx context.Context, what string, ok func() (bool, error)) error {
	err := l.Wait(ctx, what, func() (bool, error) {
		if done, err := ok(); done || err != nil {
			return done, err
		}
		return false, l.revive()
	})
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return ErrInterrupted
	}
	return err
}

// maxDeaths is how often the agent may be killed by a handler.
const maxDeaths = 3

// revive restarts an agent that was killed by a signal, as systemd does: some
// handlers do that, by pkill or kill -1. An agent that exits by itself is an
// error.
func (l *Lab) revive() error {
	err := l.AgentEnded()
	if err == nil || l.Agent.Code() >= 0 {
		return err
	}
	if l.deaths++; l.deaths > maxDeaths {
		return fmt.Errorf("the agent was killed %d times", l.deaths)
	}
	return l.StartAgent()
}

// Row returns the row of the extension in the last status document; nil if
// there is none.
func (l *Lab) Row() *machine.Row {
	rows, err := l.Rows()
	if err != nil {
		return nil
	}
	for _, r := range rows {
		if strings.EqualFold(r.Handler, l.handler) {
			return &r
		}
	}
	return nil
}

// maxOutput is how many bytes of a command's output are kept.
const maxOutput = 16 << 10

// A Step is one command that the agent ran.
type Step struct {
	Op, Version, Why string
	Class            string
	Code             int
	Begin, End       time.Time
	Stdout, Stderr   string
	Printed          int64 // bytes
	Cause            string
}

// Steps returns the commands so far, in the order of their start. It reads the
// agent's audit log.
func (l *Lab) Steps() ([]Step, error) {
	log, err := l.ReadTail(logs+"/azguest-audit.log", 4<<20)
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
			Output                                            int64
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
			s.End, s.Class, s.Code, s.Cause, s.Printed = e.Time, e.Class, e.Code, e.Text, e.Output
			for name, dst := range map[string]*string{"stdout": &s.Stdout, "stderr": &s.Stderr} {
				if b, err := l.ReadTail(lib+"/azguest/ext/jobs/"+e.Job+"/"+name, maxOutput); err == nil {
					*dst = strings.ToValidUTF8(string(b), "")
				}
			}
		}
	}
	return out, nil
}

// Restart kills the agent and starts it again.
func (l *Lab) Restart(ctx context.Context) error {
	if err := l.KillAgent(); err != nil {
		return err
	}
	if err := l.StartAgent(); err != nil {
		return err
	}
	return l.alive(ctx)
}

// Reboot ends every process of the machine and boots it again.
func (l *Lab) Reboot(ctx context.Context) error {
	if err := l.Machine.Reboot(ctx); err != nil {
		return err
	}
	return l.StartAgent()
}

// alive waits for another status document.
func (l *Lab) alive(ctx context.Context) error {
	_, before := l.VM.StatusDocument()
	l.VM.Announce(false)
	return l.until(ctx, "a status document", func() (bool, error) {
		_, n := l.VM.StatusDocument()
		return n > before, nil
	})
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
