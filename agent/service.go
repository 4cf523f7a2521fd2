package agent

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kardianos/service"

	"github.com/azguest/azguest/agent/crash"
)

// ServiceName is the name of the unit. The packages add the classic names
// waagent and walinuxagent as aliases.
const ServiceName = "azguest"

// unit is the systemd unit, for "azguest install"; the packages ship the
// same file.
//
//go:embed azguest.service
var unit string

// program implements service.Interface with a function that runs until its
// context ends.
type program struct {
	run    func(context.Context) error
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	asked  bool // a signal has asked it to stop
}

// Start implements service.Interface; it must not block.
func (p *program) Start(service.Service) error {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // the root of the process
	p.cancel = cancel
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		defer crash.Guard()
		p.err = p.run(ctx)
	}()
	return nil
}

// Stop implements service.Interface.
func (p *program) Stop(service.Service) error {
	p.cancel()
	// wait: the context was ended; the service manager bounds the stop
	<-p.done
	if h, ok := errors.AsType[*Handover](p.err); ok && p.asked {
		return h.Abandon() // stopped, not replaced
	}
	if errors.Is(p.err, context.Canceled) {
		return nil
	}
	return p.err
}

func newService(p *program) (service.Service, error) {
	// The library's own wait ends only at a signal: if the agent ended by
	// itself, the process would go on without doing anything, and the service
	// manager would consider it active.
	wait := func() {
		sig := make(chan os.Signal, 1)
		signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT)
		// wait: a service runs until it is told to end
		select {
		case <-sig:
			p.asked = true
		case <-p.done:
		}
	}
	return service.New(p, &service.Config{
		Name:        ServiceName,
		DisplayName: "Azure guest agent",
		Description: "Provisions the VM and runs its extensions",
		Arguments:   []string{"run"},
		Option: service.KeyValue{
			// The library executes this text as a template; the unit has no
			// template actions.
			"SystemdScript": unit,
			"RunWait":       wait,
		},
	})
}

// RunService runs until a termination signal arrives or run returns. It
// works the same under systemd, another service manager, or none.
func RunService(run func(context.Context) error) error {
	s, err := newService(&program{run: run})
	if err != nil {
		return fmt.Errorf("set up service: %w", err)
	}
	return s.Run()
}

// ControlService performs install, uninstall, start, stop, restart or status
// with the machine's service manager.
func ControlService(action string) error {
	s, err := newService(&program{})
	if err != nil {
		return fmt.Errorf("set up service: %w", err)
	}
	if err := service.Control(s, action); err != nil {
		return fmt.Errorf("%s service: %w", action, err)
	}
	return nil
}

// notifyPatience limits the wait for a service manager that does not read.
const notifyPatience = time.Second

// notify sends a state to the service manager (sd_notify); without one it does
// nothing.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET") //nolint:forbidigo // the service manager's own interface
	if name == "" {
		return
	}
	if name[0] == '@' {
		name = "\x00" + name[1:]
	}
	// wait: connecting a datagram socket does not block
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(notifyPatience))
	_, _ = c.Write([]byte(state)) // ignored: the manager may be gone
	_ = c.Close()
}
