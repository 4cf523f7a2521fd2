package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/azguest/azguest/test/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	if os.Getenv("SANDBOX_TEST_HOLD") != "" {
		hold()
		return
	}
	os.Exit(m.Run())
}

// hold creates a sandbox, prints the ids of its processes, and waits to be
// killed.
func hold() {
	s, err := sandbox.New(context.Background(), sandbox.Options{DVD: os.Getenv("SANDBOX_TEST_HOLD")})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	p, err := s.Start(sandbox.Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	q, err := s.Beside(sandbox.Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println(s.PID(), p.PID, q.PID)
	select {}
}

func need(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
}

func create(t *testing.T, o sandbox.Options) *sandbox.Sandbox {
	t.Helper()
	need(t)
	s, err := sandbox.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func image(t *testing.T) string {
	t.Helper()
	b := make([]byte, 64<<10)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "dvd.img")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func sh(t *testing.T, s *sandbox.Sandbox, script string) string {
	t.Helper()
	r, err := s.Run(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}

func TestMachineIsUntouched(t *testing.T) {
	s := create(t, sandbox.Options{Hostname: "blank"})
	before, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	own, _ := os.Hostname()
	sh(t, s, "useradd -m sandboxed && echo sandboxed:secret | chpasswd && hostname other && mount -t tmpfs none /opt")
	after, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("/etc/passwd of the machine changed")
	}
	inside, err := s.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(inside, []byte("sandboxed:")) {
		t.Errorf("no account in the sandbox: %s", inside)
	}
	if now, _ := os.Hostname(); now != own {
		t.Errorf("host name of the machine is %q now, was %q", now, own)
	}
	if got := sh(t, s, "hostname"); got != "other" {
		t.Errorf("host name inside = %q", got)
	}
	if got := sh(t, s, "cat /etc/resolv.conf"); got != "nameserver 127.0.0.53" {
		t.Errorf("its name servers are %q: programs would wait for those of the machine", got)
	}
	if got := sh(t, s, "ls -A /home /run/systemd 2>/dev/null | grep -v -e sandboxed -e : ; cut -d: -f2 /etc/shadow | grep -c '^[$]' "); got != "1" {
		t.Errorf("state of the machine shows through: %s", got)
	}
}

func TestNetworkIsItsOwn(t *testing.T) {
	s := create(t, sandbox.Options{})
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := sh(t, s, "readlink /proc/self/ns/net"); got == own {
		t.Fatal("process runs in the machine's own network")
	}
	r, err := s.RunBeside(t.Context(), sandbox.Cmd{Args: []string{"readlink", "/proc/thread-self/ns/net"}})
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(r.Stdout) == own {
		t.Fatal("process beside runs in the machine's own network")
	}
	// A server inside is reachable at the platform's address, and only inside.
	listening, up := io.Pipe()
	srv, err := s.Start(sandbox.Cmd{
		Args: []string{
			"perl", "-MIO::Socket::INET", "-e",
			`$l = IO::Socket::INET->new(LocalAddr => "168.63.129.16:80", Listen => 1, ReuseAddr => 1) or die; $| = 1; print "up\n"; $c = $l->accept; sysread $c, $_, 4096; print $c "HTTP/1.0 200 OK\r\n\r\nhello"; close $c`,
		},
		Stdout: up,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(listening, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	resp, err := s.HTTPClient().Get("http://168.63.129.16/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if string(body) != "hello" {
		t.Errorf("answer %q", body)
	}
	<-srv.Done()
	if c, err := s.Dial(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dial outside = %v, %v; want no route", c, err)
	}
}

func TestDVD(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			img := image(t)
			want, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			s := create(t, sandbox.Options{DVD: img, PlainDVD: plain, CDROM: true})
			r, err := s.Run(t.Context(), "cat", "/dev/sr0")
			if err != nil {
				t.Fatal(err)
			}
			if r.Stdout != string(want) {
				t.Errorf("read %d bytes that differ from the image's %d", len(r.Stdout), len(want))
			}
			if got := sh(t, s, "cat /sys/block/sr0/device/type"); got != "5" {
				t.Errorf("device type %q", got)
			}
		})
	}
}

func TestDMI(t *testing.T) {
	const id = "ba0d2c4a-7f3c-4f5e-9a73-0a2f8f6d1f10"
	s := create(t, sandbox.Options{DMI: sandbox.AzureDMI(id)})
	if got := sh(t, s, "cat /sys/class/dmi/id/product_uuid /sys/class/dmi/id/chassis_asset_tag"); got != id+"\n7783-7084-3265-9085-8269-3286-77" {
		t.Errorf("DMI shows %q", got)
	}
	if got := sh(t, s, "cat /sys/class/net/lo/mtu"); got != "65536" {
		t.Errorf("the rest of /sys is damaged: mtu of lo %q", got)
	}
}

func TestLayer(t *testing.T) {
	layer := filepath.Join(t.TempDir(), "a:b,c")
	if err := os.MkdirAll(filepath.Join(layer, "usr/share/layered"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := create(t, sandbox.Options{Layers: []string{layer}})
	sh(t, s, "test -d /usr/share/layered && test -x /usr/bin/env")
}

func TestReboot(t *testing.T) {
	s := create(t, sandbox.Options{DVD: image(t)})
	p, err := s.Start(sandbox.Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	q, err := s.Beside(sandbox.Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	sh(t, s, "echo renamed > /etc/hostname; echo kept > /var/lib/kept; echo lost > /run/lost; (sleep 1000 &) ")
	boot := sh(t, s, "cat /proc/sys/kernel/random/boot_id")
	if err := s.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := sh(t, s, "cat /proc/sys/kernel/random/boot_id"); now == boot || len(now) != 36 {
		t.Errorf("boot id %q after the reboot, %q before", now, boot)
	}
	if err := p.Wait(); err == nil {
		t.Error("the process survived the reboot")
	}
	select {
	case <-q.Done():
		t.Error("the process beside did not survive the reboot")
	default:
	}
	if got := sh(t, s, "hostname; cat /var/lib/kept; ls /run/lost 2>/dev/null; cat /proc/[0-9]*/comm 2>/dev/null | grep sleep || :"); got != "renamed\nkept" {
		t.Errorf("after reboot: %q", got)
	}
	if r, err := s.Run(t.Context(), "cmp", "-n", "10", "/dev/sr0", "/dev/sr0"); err != nil {
		t.Errorf("DVD after reboot: %v %v", r, err)
	}
}

// TestDisk: Options.Disk has the requested size, and its files survive a
// reboot.
func TestDisk(t *testing.T) {
	s := create(t, sandbox.Options{Disk: "/var/lib/own", DiskSize: 1 << 20})
	sh(t, s, "echo kept > /var/lib/own/kept; head -c 2M /dev/zero > /var/lib/own/full 2>/dev/null; :")
	for range 2 {
		if got := sh(t, s, "cat /var/lib/own/kept; test $(stat -c %s /var/lib/own/full) -lt 1048577 && echo small; stat -c %a /var/lib/own"); got != "kept\nsmall\n755" {
			t.Errorf("the disk: %q", got)
		}
		if err := s.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExitCodeAndOutput(t *testing.T) {
	s := create(t, sandbox.Options{})
	r, err := s.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", "cat; echo err >&2; exit 7"}, Stdin: strings.NewReader("in")})
	if err == nil || r.Code != 7 || r.Stdout != "in" || r.Stderr != "err\n" {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := s.Run(t.Context(), "no-such-program"); err == nil {
		t.Error("a missing program starts")
	}
	if got := sh(t, s, "modprobe dummy 2>/dev/null; grep CapBnd /proc/self/status"); !strings.Contains(got, "CapBnd") {
		t.Error(got)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	mounts, loops := snapshot(t)
	s := create(t, sandbox.Options{DVD: image(t)})
	p, err := s.Start(sandbox.Cmd{Args: []string{"sh", "-c", "trap '' TERM HUP INT; sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	gone(t, pid, p.PID)
	if m, l := snapshot(t); m != mounts || l != loops {
		t.Errorf("left behind:\n%s\n%s\nwere\n%s\n%s", m, l, mounts, loops)
	}
	if _, err := s.Run(t.Context(), "true"); err == nil {
		t.Error("a closed sandbox runs processes")
	}
}

func TestKilledProgramLeavesNothing(t *testing.T) {
	need(t)
	mounts, loops := snapshot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_HOLD="+image(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var a, b, c int
	if _, err := fmt.Fscan(out, &a, &b, &c); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	gone(t, a, b, c)
	// The supervisor ends and the kernel cleans up.
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if m, l := snapshot(t); m == mounts && l == loops {
			return
		}
	}
	m, l := snapshot(t)
	t.Errorf("left behind:\n%s\n%s\nwere\n%s\n%s", m, l, mounts, loops)
}

// patience is the time limit of tests. It only ends tests that hang.
const patience = 5 * time.Minute

func gone(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
			if err != nil || bytes.Contains(b, []byte(") Z ")) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("process %d is still there", pid)
			}
		}
	}
}

// snapshot returns the mounts and loop devices, which must not change.
func snapshot(t *testing.T) (mounts, loops string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, f := range found {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), t.Name()) {
			own = append(own, f)
		}
	}
	return string(b), strings.Join(own, "\n")
}

func BenchmarkNew(b *testing.B) {
	if err := sandbox.Available(); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		s, err := sandbox.New(b.Context(), sandbox.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Run(b.Context(), "true"); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFirstThreadKeepsItsNamespaces: from whatever thread a process is started,
// this program's first thread never stays in the sandbox's namespaces.
func TestFirstThreadKeepsItsNamespaces(t *testing.T) {
	s := create(t, sandbox.Options{})
	own, err := os.Readlink("/proc/self/ns/mnt") // of the first thread
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			if _, err := s.Run(t.Context(), "true"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if now, err := os.Readlink("/proc/self/ns/mnt"); err != nil || now != own {
		t.Errorf("the first thread is in %s (%v), was in %s", now, err, own)
	}
}
