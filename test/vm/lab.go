package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The network as the guest sees it. Only 168.63.129.16 and 169.254.169.254 are
// specific to the platform.
const (
	gateway      = "10.0.0.1"
	guestAddress = "10.0.0.4"
	guestMAC     = "00:0d:3a:00:00:01"
	endpoint     = "168.63.129.16"
	metadata     = "169.254.169.254"
)

// A Lab is a network namespace with the platform's addresses, a bridge for the
// guest and a DHCP server with the platform's options.
type Lab struct {
	Dir string // scratch, removed by Close unless Keep
	// Keep keeps the scratch directory, with the console and all logs.
	Keep bool
	Log  func(format string, args ...any)

	ns    string
	guest string // network namespace of a machine attached with Plug
	dhcp  *process
}

const (
	netnsDir  = "/run/netns"
	labPrefix = "azguest-vm-" // followed by the process id of its creator
	keepFile  = "keep"        // marks a scratch directory that must be kept
)

// NewLab creates the namespace and starts the DHCP server in it.
func NewLab(ctx context.Context, log func(string, ...any)) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("root is needed for namespaces, tap devices and images with other users' files")
	}
	sweep(ctx)
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", labPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	// Named after the directory, so that one process can have several labs.
	l := &Lab{Dir: dir, Log: log, ns: filepath.Base(dir)}
	if err := l.up(ctx); err != nil {
		l.Close()
		return nil, fmt.Errorf("set up the network: %w", err)
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context) error {
	if out, err := run(ctx, nil, "ip", "netns", "add", l.ns); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	batch := strings.Join([]string{
		"link set lo up",
		"address add " + endpoint + "/32 dev lo",
		"address add " + metadata + "/32 dev lo",
		"link add br0 type bridge forward_delay 0",
		"address add " + gateway + "/24 dev br0",
		"link set br0 up",
		"tuntap add dev tap0 mode tap",
		"link set tap0 master br0",
		"link set tap0 up",
	}, "\n")
	if out, err := run(ctx, strings.NewReader(batch), "ip", "-netns", l.ns, "-batch", "-"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	dhcp, err := l.startInside("dhcp.log", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
		"--log-facility=-", "--log-dhcp", "--port=0", "--pid-file=", "--interface=br0", "--bind-interfaces",
		"--dhcp-leasefile="+l.path("leases"), "--dhcp-authoritative", "--no-ping",
		"--dhcp-range="+guestAddress+","+guestAddress+",255.255.255.0,1h",
		// The guest's DUID changes until it has a machine id; its MAC address
		// does not.
		"--dhcp-host="+guestMAC+",id:*,"+guestAddress,
		"--dhcp-option=3,"+gateway, "--dhcp-option=15,fabric.internal",
		"--dhcp-option=121,0.0.0.0/0,"+gateway+","+endpoint+"/32,"+gateway+","+metadata+"/32,"+gateway,
		"--dhcp-option-force=245,a8:3f:81:10")
	l.dhcp = dhcp
	return err
}

// Close stops the processes of the lab and removes what it created.
func (l *Lab) Close() {
	if l.dhcp != nil {
		l.dhcp.stop(syscall.SIGTERM)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, ns := range []string{l.guest, l.ns} {
		if ns == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(netnsDir, ns)); err == nil {
			if out, err := run(ctx, nil, "ip", "netns", "delete", ns); err != nil {
				l.Log("remove the network: %v: %s", err, out)
			}
		}
	}
	if l.Keep {
		if err := os.WriteFile(l.path(keepFile), nil, 0o644); err == nil {
			l.Log("kept %s", l.Dir)
			return
		}
	}
	_ = os.RemoveAll(l.Dir) // a temporary directory at worst
}

// sweep removes the remains of killed runs: their namespaces with every process
// in them, and their scratch directories.
func sweep(ctx context.Context) {
	stale := func(name string) bool {
		pid, err := strconv.Atoi(strings.Split(strings.TrimPrefix(filepath.Base(name), labPrefix), "-")[0])
		return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	}
	spaces, _ := filepath.Glob(filepath.Join(netnsDir, labPrefix+"*")) // the pattern is valid
	for _, name := range spaces {
		if !stale(name) {
			continue
		}
		pids, err := run(ctx, nil, "ip", "netns", "pids", filepath.Base(name))
		if err == nil {
			for line := range strings.FieldsSeq(pids) {
				if pid, err := strconv.Atoi(line); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		_, _ = run(ctx, nil, "ip", "netns", "delete", filepath.Base(name)) // the next run tries again
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), labPrefix+"*"))
	for _, name := range dirs {
		if _, err := os.Stat(filepath.Join(name, keepFile)); err != nil && stale(name) {
			_ = os.RemoveAll(name)
		}
	}
}

// Plug creates the network namespace of another machine, whose card eth0 is on
// the lab's bridge, and returns the namespace's file. It has the address that
// DHCP assigns, so there can be only one such machine.
func (l *Lab) Plug(ctx context.Context) (string, error) {
	guest := l.ns + "-guest"
	if out, err := run(ctx, nil, "ip", "netns", "add", guest); err != nil {
		return "", fmt.Errorf("attach a machine: %w: %s", err, out)
	}
	l.guest = guest
	batch := strings.Join([]string{
		"link add guest0 type veth peer name eth0 address " + guestMAC + " netns " + guest,
		"link set guest0 master br0",
		"link set guest0 up",
	}, "\n")
	if out, err := run(ctx, strings.NewReader(batch), "ip", "-netns", l.ns, "-batch", "-"); err != nil {
		return "", fmt.Errorf("attach a machine: %w: %s", err, out)
	}
	return filepath.Join(netnsDir, guest), nil
}

func (l *Lab) path(name string) string { return filepath.Join(l.Dir, name) }

// inside returns the command line that runs args in the lab's network.
func (l *Lab) inside(args ...string) []string {
	return append([]string{"nsenter", "--net=" + filepath.Join(netnsDir, l.ns), "--"}, args...)
}

func (l *Lab) startInside(log string, args ...string) (*process, error) {
	all := l.inside(args...)
	return start(l.path(log), all[0], all[1:]...)
}

func (l *Lab) runInside(ctx context.Context, args ...string) (string, error) {
	all := l.inside(args...)
	return run(ctx, nil, all[0], all[1:]...)
}

// InNetwork calls fn on a thread that is in the lab's network. A socket belongs
// to the network in which it was created, whoever uses it later; so fn must
// create its sockets itself, not in goroutines that it starts.
func (l *Lab) InNetwork(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	lab, err := os.Open(filepath.Join(netnsDir, l.ns))
	if err != nil {
		return err
	}
	defer lab.Close()
	if err := unix.Setns(int(lab.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the lab's network: %w", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // otherwise this program's own traffic would go into the lab
		}
	}()
	return fn()
}

func (l *Lab) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = l.InNetwork(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// client returns an HTTP client within the lab's network.
func (l *Lab) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: l.dial}, Timeout: 30 * time.Second}
}
