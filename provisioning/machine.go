package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
)

// A Machine is the machine that is provisioned: the system that is changed,
// its configuration, and which VM it is.
type Machine struct {
	*System
	Options Options // complete, see NewMachine
	VM      Identity
}

// NewMachine returns a Machine. Empty options get their defaults.
func NewMachine(sys *System, o Options, vm Identity) *Machine {
	return &Machine{System: sys, Options: o.WithDefaults(), VM: vm}
}

// System is the access to a machine. Every field is required, except HostKeys.
type System struct {
	Root   host.Root
	Run    host.Runner
	Kernel host.Kernel
	Events event.Sink
	Log    zerolog.Logger

	// HostKeys may hold keys that are already being generated: sshd cannot
	// start without one.
	HostKeys *HostKeyMaker

	// sshdChanged is when a step last changed what sshd reads when it
	// starts, by bootClock; 0 if none did.
	sshdChanged time.Duration
}

// toolTimeout bounds the tools of the machine: useradd, visudo, sshd and such.
const toolTimeout = 60 * time.Second

// put writes a file of the agent, and makes missing directories with mode
// 0700.
func (m *Machine) put(name string, data []byte, perm fs.FileMode) error {
	if err := m.Root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return m.Root.WriteFile(name, data, perm)
}

// putFrom is put for content that is too large to be in memory twice.
func (m *Machine) putFrom(name string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := m.Root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	d, err := m.Root.OpenDir(path.Dir(name), nil)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	f, tmp, err := d.CreateTemp(path.Base(name))
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, d.Remove(tmp))
	}
	if err := d.Rename(tmp, d, path.Base(name)); err != nil {
		return errors.Join(err, d.Remove(tmp))
	}
	d.Sync()
	return nil
}

// readJSON reads a JSON file into v, and reports whether it exists and is
// valid.
func readJSON(r host.Root, name string, v any) bool {
	b, err := r.ReadFile(name)
	return err == nil && json.Unmarshal(b, v) == nil
}

// Restorecon sets the SELinux labels of files according to the policy, if the
// tool of Facts is given. Errors are only logged.
func (m *Machine) Restorecon(ctx context.Context, tool string, args ...string) {
	if tool == "" {
		return
	}
	if _, err := m.Run.Run(ctx, host.Cmd{Name: tool, Args: append([]string{"-F"}, args...), Timeout: toolTimeout}); err != nil {
		m.Log.Debug().Err(err).Strs("files", args).Msg("could not set SELinux labels")
	}
}
