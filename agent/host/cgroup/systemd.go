package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemdSocket is systemd's private D-Bus socket. It works without
// dbus-daemon, for root only.
const systemdSocket = "/run/systemd/private"

// scopeTime bounds the whole exchange with systemd, which delays a handler by
// no more than that.
const scopeTime = 3 * time.Second

// HasSystemd reports whether systemd is the init of this machine, as
// sd_booted(3) does.
func HasSystemd() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// A Scope is a systemd scope: a unit for processes that systemd did not start.
type Scope struct {
	Name, Description string
	Slice             string // of the scope; "" for system.slice
	Limits            []UnitLimit
}

// Join moves the calling process into a new scope, as `systemd-run --scope`
// does, sets the limits, and returns its cgroup. It talks to systemd
// itself instead of running that command because then a refusal and a
// failure of the handler can't be mistaken for each other (the classic
// agent has to guess from stderr; extensions/SPEC.md §9.8).
func (s Scope) Join(ctx context.Context) (string, error) {
	if !HasSystemd() {
		return "", errors.New("systemd is not running")
	}
	ctx, cancel := context.WithTimeout(ctx, scopeTime)
	defer cancel()
	conn, err := dialSystemd(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	manager := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	props := []property{
		{"Description", dbus.MakeVariant(s.Description)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(os.Getpid())})},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	if s.Slice != "" {
		props = append(props, property{"Slice", dbus.MakeVariant(s.Slice)})
	}
	before := ownCgroup()
	call := manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.StartTransientUnit", 0,
		s.Name, "fail", props, []auxUnit{})
	if call.Err != nil {
		return "", fmt.Errorf("start scope: %w", call.Err)
	}
	// systemd moves us asynchronously; start nothing before that is done.
	for {
		if now := ownCgroup(); now != before && strings.Contains(now, s.Name) {
			break
		}
		select {
		case <-ctx.Done():
			return "", errors.New("start scope: systemd did not move the process in time")
		case <-time.After(2 * time.Millisecond):
		}
	}
	for _, u := range s.limits() {
		// A quota that can't be set, as of a service that is not there yet,
		// must not keep the handler from running.
		_ = manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.SetUnitProperties", 0, u.Name, true, quota(u.CPUPercent)).Err
	}
	return ownCgroup(), nil
}

type property struct {
	Name  string
	Value dbus.Variant
}

type auxUnit struct {
	Name  string
	Props []property
}

func dialSystemd(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.Dial("unix:path="+systemdSocket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(fmt.Errorf("authenticate to systemd: %w", err), conn.Close())
	}
	return conn, nil
}
