package discover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/azguest/azguest/agent/host"
)

const (
	busSocket = "/run/dbus/system_bus_socket"
	// busTime bounds the whole exchange: the answer is only a hint.
	busTime = 2 * time.Second

	nmName   = "org.freedesktop.NetworkManager"
	nmObject = "/org/freedesktop/NetworkManager"
)

// HasBus reports whether there may be a NetworkManager to ask.
func HasBus(root host.Root) bool {
	return root.Exists(busSocket)
}

// networkManager asks NetworkManager for option 245 of its leases: the lease
// files of its own DHCP client do not have the option (protocol/SPEC.md §3.2).
// It never waits longer than busTime, and never starts NetworkManager.
func networkManager(ctx context.Context, root host.Root) ([]Candidate, error) {
	if !HasBus(root) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	conn, err := dialBus(ctx, root.Path(busSocket))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var devices []dbus.ObjectPath
	nm := conn.Object(nmName, nmObject)
	if err := nm.CallWithContext(ctx, nmName+".GetDevices", dbus.FlagNoAutoStart).Store(&devices); err != nil {
		return nil, fmt.Errorf("list devices of NetworkManager: %w", err)
	}
	var out []Candidate
	for _, d := range devices {
		var lease dbus.ObjectPath
		if err := property(ctx, conn, d, nmName+".Device", "Dhcp4Config", &lease); err != nil || lease == "/" {
			continue // gone meanwhile, or configured without DHCP
		}
		var options map[string]dbus.Variant
		if err := property(ctx, conn, lease, nmName+".DHCP4Config", "Options", &options); err != nil {
			continue
		}
		if a := leaseOption(options); a.IsValid() {
			out = append(out, Candidate{a.String(), "NetworkManager"})
		}
	}
	return out, nil
}

// leaseOption is option 245 in the options of a lease.
func leaseOption(options map[string]dbus.Variant) netip.Addr {
	for k, v := range options {
		if s, ok := v.Value().(string); ok && names245(k) {
			if a := Option(s); a.IsValid() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// property reads one property. The call is written out because godbus'
// GetProperty would wait without an end and start the service.
func property(ctx context.Context, conn *dbus.Conn, object dbus.ObjectPath, iface, name string, to any) error {
	var v dbus.Variant
	call := conn.Object(nmName, object).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart, iface, name)
	if err := call.Store(&v); err != nil {
		return err
	}
	return v.Store(to)
}

// dialBus connects to a message bus. The connection ends with the context, so
// a bus that accepts and then does not answer delays the search no longer than
// that.
func dialBus(ctx context.Context, socket string) (*dbus.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the message bus: %w", err)
	}
	conn, err := dbus.NewConn(nc, dbus.WithContext(ctx))
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("connect to the message bus: %w", err)
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("authenticate to the message bus: %w", err)
	}
	if err := conn.Hello(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("register with the message bus: %w", err)
	}
	return conn, nil
}
