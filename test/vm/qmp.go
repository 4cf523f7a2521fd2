package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"
)

// qmp sends one command to QEMU's monitor; the arguments may be nil.
func (m *Machine) qmp(ctx context.Context, command string, arguments, answer any) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", m.lab.path("qmp"))
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	lines := bufio.NewReader(conn)
	ask := func(command string, arguments any) (json.RawMessage, error) {
		if command != "" {
			question := struct {
				Execute   string `json:"execute"`
				Arguments any    `json:"arguments,omitempty"`
			}{command, arguments}
			if err := json.NewEncoder(conn).Encode(question); err != nil {
				return nil, err
			}
		}
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return nil, fmt.Errorf("monitor: %w", err)
			}
			var reply struct {
				QMP, Return json.RawMessage
				Error       *struct{ Desc string }
			}
			if err := json.Unmarshal(line, &reply); err != nil {
				return nil, fmt.Errorf("monitor: %w", err)
			}
			switch {
			case reply.Error != nil:
				return nil, fmt.Errorf("monitor: %s: %s", command, reply.Error.Desc)
			case reply.Return != nil, reply.QMP != nil:
				return reply.Return, nil
			} // else an event
		}
	}
	for _, c := range []string{"", "qmp_capabilities"} {
		if _, err := ask(c, nil); err != nil {
			return err
		}
	}
	got, err := ask(command, arguments)
	if err != nil {
		return err
	}
	return json.Unmarshal(got, answer)
}

// Ejected reports whether the guest has opened the CD-ROM drive.
func (m *Machine) Ejected(ctx context.Context) (bool, error) {
	var drives []struct {
		Device   string
		TrayOpen bool `json:"tray_open"`
	}
	if err := m.qmp(ctx, "query-block", nil, &drives); err != nil {
		return false, err
	}
	for _, d := range drives {
		if d.Device == "cd" {
			return d.TrayOpen, nil
		}
	}
	return false, fmt.Errorf("monitor: no drive cd")
}

// Processors returns the state of each processor of the guest: its position,
// and whether it waits for an interrupt.
func (m *Machine) Processors(ctx context.Context) (string, error) {
	var all string
	question := map[string]string{"command-line": "info registers -a"}
	if err := m.qmp(ctx, "human-monitor-command", question, &all); err != nil {
		return "", err
	}
	var said []string
	for line := range strings.Lines(all) {
		if strings.HasPrefix(line, "RIP=") || strings.HasPrefix(line, "EIP=") {
			said = append(said, strings.TrimSpace(line))
		}
	}
	return strings.Join(said, "\n"), nil
}
