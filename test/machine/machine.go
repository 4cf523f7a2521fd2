package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/sandbox"
)

const (
	// Lib is the agent's state directory.
	Lib = "/var/lib/waagent"
	// Storage is the address of the emulated storage: in TEST-NET, which is
	// never routed.
	Storage = "192.0.2.10"
	// VMUUID is the VM id in the SMBIOS of machines with AzureDMI.
	VMUUID = "7b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
)

// Options of a machine. The zero value is a machine with an account, a DVD and
// a platform, but without the agent.
type Options struct {
	Agent, Ctl string    // binaries to install as azguest and agentctl; empty for none
	Conf       string    // the text of /etc/waagent.conf; empty for no file
	Output     io.Writer // receives a copy of the agent's output; may be nil

	Name         string               // of the VM; default "vm-01"
	Provisioning fabric.Provisioning  // user and host name have defaults
	Configure    func(*fabric.Config) // before the first goal state; may be nil
	Packages     map[string][]byte    // name/version: zip file
	Medium       func(*fabric.Medium) // changes the DVD; may be nil
	NoMedium     bool                 // no DVD in the drive
	NoIMDS       bool                 // no service at the address of IMDS

	Sandbox sandbox.Options // DVD and Addresses are set by New
	Fabric  fabric.Options  // BlobURL: by default, at Storage
}

// A Machine is a virtual machine and its platform.
type Machine struct {
	*sandbox.Sandbox
	Fabric *fabric.Fabric
	VM     *fabric.VM
	Agent  *sandbox.Process // as last started; nil if not started, or killed
	Log    Buffer           // output of all agents

	tmp string
}

// New creates a machine and its platform. Nothing is started on it.
func New(ctx context.Context, o Options) (_ *Machine, err error) {
	m := &Machine{Log: Buffer{also: o.Output}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := m.platform(o); err != nil {
		return nil, err
	}
	box := o.Sandbox
	if !o.NoMedium {
		if box.DVD, err = m.dvd(o.Medium); err != nil {
			return nil, err
		}
	}
	at := Addresses()
	if box.Addresses = []string{sandbox.WireServer, sandbox.IMDS, Storage}; o.NoIMDS {
		delete(at, fabric.IMDS)
	}
	if m.Sandbox, err = sandbox.New(ctx, box); err != nil {
		return nil, err
	}
	if err := Connect(m.Sandbox, m.Fabric, m.VM, at); err != nil {
		return nil, err
	}
	if err := m.InstallAgent(o.Agent, o.Ctl); err != nil {
		return nil, err
	}
	if o.Conf == "" {
		return m, nil
	}
	return m, m.WriteFile("/etc/waagent.conf", []byte(o.Conf), 0o644)
}

// platform opens the fabric and creates the VM in it.
func (m *Machine) platform(o Options) (err error) {
	o.Fabric.BlobURL = or(o.Fabric.BlobURL, "http://"+Storage)
	if m.Fabric, err = fabric.Open(o.Fabric); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(o.Packages)) {
		name, version, _ := strings.Cut(key, "/")
		if err := m.Fabric.AddPackage(name, version, o.Packages[key]); err != nil {
			return err
		}
	}
	p := o.Provisioning
	p.User, p.HostName = or(p.User, "azureuser"), or(p.HostName, "first-light")
	options := []fabric.VMOption{fabric.Provision(p)}
	if o.Configure != nil {
		options = append(options, fabric.WithConfig(o.Configure))
	}
	m.VM = m.Fabric.CreateVM(or(o.Name, "vm-01"), options...)
	return nil
}

// dvd writes the DVD that the platform would attach, and returns its file name.
func (m *Machine) dvd(change func(*fabric.Medium)) (name string, err error) {
	medium := m.VM.Medium()
	if change != nil {
		change(&medium)
	}
	image, err := medium.Image()
	if err != nil {
		return "", err
	}
	if m.tmp, err = os.MkdirTemp("", "azguest-machine-"); err != nil {
		return "", err
	}
	name = filepath.Join(m.tmp, "dvd.img")
	return name, os.WriteFile(name, image, 0o600)
}

// A Network is a place where sockets can be opened: a sandbox, or a network
// namespace.
type Network interface {
	InNetwork(func() error) error
}

// Addresses returns the addresses at which a guest finds the platform's
// services.
func Addresses() map[fabric.Service]string {
	return map[fabric.Service]string{
		fabric.Wire:   sandbox.WireServer + ":80",
		fabric.HostGA: sandbox.WireServer + ":32526",
		fabric.IMDS:   sandbox.IMDS + ":80",
		fabric.Blob:   Storage + ":80",
	}
}

// Connect serves the platform in a network, at these addresses. They must
// already be assigned in the network.
func Connect(n Network, f *fabric.Fabric, vm *fabric.VM, at map[fabric.Service]string) error {
	for service, address := range at {
		err := n.InNetwork(func() error {
			_, err := f.Listen(service, address, vm, false)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// InstallAgent installs binaries at the paths that the package uses; one whose
// argument is empty is skipped.
func (m *Machine) InstallAgent(agent, ctl string) error {
	for to, from := range map[string]string{"/usr/sbin/azguest": agent, "/usr/bin/agentctl": ctl} {
		if from == "" {
			continue
		}
		if err := m.Install(from, to, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the machine and its platform. It may be called more than once.
func (m *Machine) Close() error {
	var errs []error
	if m.Sandbox != nil {
		errs = append(errs, m.Sandbox.Close())
	}
	if m.Fabric != nil {
		errs = append(errs, m.Fabric.Close())
	}
	if m.tmp != "" {
		errs = append(errs, os.RemoveAll(m.tmp))
	}
	return errors.Join(errs...)
}

// StartAgent starts the agent with the command line of its unit.
func (m *Machine) StartAgent(env ...string) (err error) {
	m.Agent, err = m.Start(sandbox.Cmd{Args: []string{"/usr/sbin/azguest", "run"}, Env: env, Stdout: &m.Log, Stderr: &m.Log})
	return err
}

// KillAgent ends the agent at once, like a crash.
func (m *Machine) KillAgent() error {
	p := m.Agent
	m.Agent = nil
	return p.Kill()
}

// StopAgent ends the agent with SIGTERM, as its unit does, and returns its exit
// code.
func (m *Machine) StopAgent(ctx context.Context) (code int, err error) {
	p := m.Agent
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case <-p.Done():
		m.Agent = nil
		return p.Code(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("the agent does not end after SIGTERM: %w", context.Cause(ctx))
	}
}

// RestartAgent kills the agent, starts it again and waits for its status.
func (m *Machine) RestartAgent(ctx context.Context) error {
	if err := m.KillAgent(); err != nil {
		return err
	}
	if err := m.StartAgent(); err != nil {
		return err
	}
	return m.WaitStatus(ctx)
}

// Reboot ends every process of the machine and boots it. The agent is not
// started.
func (m *Machine) Reboot(ctx context.Context) error {
	m.Agent = nil
	if err := m.Sandbox.Reboot(ctx); err != nil {
		return err
	}
	_, err := m.Sh(ctx, "mkdir -p /run/lock") // as systemd-tmpfiles does
	return err
}

// AgentEnded returns an error if the agent was started and has ended
// unexpectedly.
func (m *Machine) AgentEnded() error {
	if m.Agent == nil {
		return nil
	}
	select {
	case <-m.Agent.Done():
		return fmt.Errorf("the agent ended by itself, code %d: %s", m.Agent.Code(), m.Log.Tail(2000))
	default:
		return nil
	}
}

// Sh runs a script on the machine and returns what it printed.
func (m *Machine) Sh(ctx context.Context, script string) (string, error) {
	r, err := m.Run(ctx, "sh", "-c", script)
	return strings.TrimSpace(r.Stdout), err
}

func or(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
