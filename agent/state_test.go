package agent

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/test/fabric"
)

// spoils has the ways to replace a file or directory of the agent's state by
// something unusable.
var spoils = map[string]func(name string) error{
	"directory": func(name string) error { return os.MkdirAll(name+"/sub", 0o700) },
	"unreadable": func(name string) error {
		return os.WriteFile(name, []byte("{}"), 0o000)
	},
	"empty":   func(name string) error { return os.WriteFile(name, nil, 0o600) },
	"NULs":    func(name string) error { return os.WriteFile(name, make([]byte, 4096), 0o600) },
	"garbage": func(name string) error { return os.WriteFile(name, []byte("\xff\xfe{]\x00]}<<<"), 0o600) },
	"other type": func(name string) error {
		return os.WriteFile(name, []byte(`[1, "two", null]`), 0o600)
	},
	"wrong version": func(name string) error {
		return os.WriteFile(name, []byte(`{"schema_version": 99, "version": "99.0", "Name": 7, "vmId": {}, "until": "soon", "state": "Ascended"}`), 0o600)
	},
	"sparse": func(name string) error {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(name, 1<<30)
	},
	"FIFO": func(name string) error { return unix.Mkfifo(name, 0o600) },
	"socket": func(name string) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// The path of a socket must be short, that of a test may be long.
		dir, err := unix.Open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		return unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, path.Base(name))})
	},
	"link loop": func(name string) error { return os.Symlink(path.Base(name), name) },
}

// spoil does that for all places, or for those of directories; it returns the
// places for which it is not possible.
func spoil(t *testing.T, a *Agent, dirs bool, how func(string) error) {
	t.Helper()
	for _, p := range a.places() {
		name := a.Root.Path(strings.NewReplacer("*", "Contoso.Other-1.0.0", certName, strings.Repeat("A", 40)).Replace(p.pattern))
		if _, err := os.Lstat(path.Dir(name)); err != nil && !dirs {
			if err := os.MkdirAll(path.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if (p.dir != 0) != dirs {
			continue
		}
		if fi, err := os.Lstat(path.Dir(name)); err != nil || !fi.IsDir() {
			continue // the parent is spoilt
		}
		if strings.HasSuffix(name, "/disable_agent") {
			continue // would be valid
		}
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
		if err := how(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestERR2StateIsSetAside: whatever replaces a file or a directory of the
// agent's state, afterwards it can be read or does not exist, and what was set
// aside is shown with a code.
func TestERR2StateIsSetAside(t *testing.T) {
	t.Parallel()
	for name, how := range spoils {
		for _, dirs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, directories %v", name, dirs), func(t *testing.T) {
				t.Parallel()
				a := testAgent(t, nil)
				spoil(t, a, dirs, how)
				for range 3 { // more than once
					a.checkState()
				}
				aside := false
				for _, p := range a.places() {
					names, err := a.Root.Glob(p.pattern)
					if err != nil {
						t.Fatal(err)
					}
					for _, n := range names {
						if err := p.judge(a.Root, n); err != nil {
							t.Errorf("%s: %v", n, err)
						}
					}
					bad, err := a.Root.Glob(path.Dir(p.pattern) + "/*" + host.AsideSuffix)
					if err != nil {
						t.Fatal(err)
					}
					aside = aside || len(bad) > 0
				}
				if got := problemOf(a, "state").Code; (got == codeState) != aside {
					t.Errorf("set aside: %v, shown: %q", aside, got)
				}
				for _, mark := range []string{"/var/lib/waagent/provisioned"} {
					if !dirs && !a.Root.Exists(mark) {
						t.Errorf("%s is gone", mark)
					}
				}
			})
		}
	}
}

// TestERR2AgentStartsWithBadState: with all of its state unusable at once, the
// agent starts, reports Ready, applies the goal state and shows what it has set
// aside.
func TestERR2AgentStartsWithBadState(t *testing.T) {
	t.Parallel()
	for name, how := range spoils {
		for _, dirs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, directories %v", name, dirs), func(t *testing.T) {
				t.Parallel()
				startSpoilt(t, name, dirs, how)
			})
		}
	}
}

// startSpoilt starts an agent with unusable state.
func startSpoilt(t *testing.T, name string, dirs bool, how func(string) error) {
	f := fabric.New(t)
	// It is fetched, and is not a valid package, so that no command is run.
	if err := f.AddPackage("Contoso.Echo", "1.0.0", []byte(emptyZip)); err != nil {
		t.Fatal(err)
	}
	vm := f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
	if err := vm.PutExtension("Contoso.Echo", "1.0.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	a := testAgent(t, f, func(c *config.Config) { c.Provisioning.Agent = config.AgentSelf })
	a.Kernel = host.Kernel{}
	if err := a.Root.WriteFile("/var/lib/waagent/provisioned", []byte(vm.ID()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	files(t, a.Root, map[string]string{"/sys/class/dmi/id/product_uuid": vm.ID() + "\n"})
	spoil(t, a, dirs, how)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		<-done //nolint:errcheck // ended by the test; its error does not matter
		a.platform.Close()
	}()
	await(t, ctx, func() string {
		select {
		case err := <-done:
			done <- err
			return fmt.Sprintf("the agent has ended: %v", err)
		default:
		}
		doc, _ := vm.StatusDocument()
		if h, s := handlerIn(string(doc)), vm.Health().State; h != "broken" || s != "Ready" {
			return fmt.Sprintf("the handler is %s, health is %q", h, s)
		}
		return ""
	})
	var bad []string
	err := fs.WalkDir(os.DirFS(string(a.Root)), ".", func(p string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(p, host.AsideSuffix) {
			bad = append(bad, p)
		}
		return err
	})
	if err != nil && !os.IsPermission(err) {
		t.Error(err)
	}
	if len(bad) == 0 {
		return // nothing had to be set aside
	}
	await(t, ctx, func() string {
		s, err := status.Load(a.paths.Snapshot)
		if err != nil || !slices.Contains(s.Overall.Codes, codeState) {
			return fmt.Sprintf("%s: codes %v, %v; set aside: %v", name, s.Overall.Codes, err, bad)
		}
		return ""
	})
}
