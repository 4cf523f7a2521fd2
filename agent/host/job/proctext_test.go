package job

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// endlessArg makes the test program a process that claims a huge environment
// and command line.
const endlessArg = "endless-text"

func endless(size string) int {
	n, _ := strconv.Atoi(size)
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
	field := func(i int) uint64 { v, _ := strconv.ParseUint(f[i-3], 10, 64); return v }
	brk, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	at := uint64(uintptr(unsafe.Pointer(&m[0])))
	end := at + uint64(n)
	mm := struct {
		code, codeEnd, data, dataEnd, brkStart, brk, stack, arg, argEnd, env, envEnd, auxv uint64
		auxvSize                                                                           uint32
		exe                                                                                int32
	}{field(26), field(27), field(45), field(46), field(47), uint64(brk), field(28), at, end, at, end, 0, 0, -1}
	if _, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&mm)), unsafe.Sizeof(mm), 0, 0); errno != 0 {
		fmt.Println(errno)
		return 1
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

// TestSEC7ProcessesWithoutEnd: a process needs no privilege to say where its
// environment and its command line are, and can claim that they have
// terabytes.
func TestSEC7ProcessesWithoutEnd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to run processes as another user")
	}
	const size = 64 << 20
	for who, uid := range map[string]uint32{"service account": 1234, "root": 0} {
		t.Run(who, func(t *testing.T) {
			c := exec.Command("/proc/self/exe", endlessArg, strconv.Itoa(size))
			c.Dir = "/"
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			in, err := c.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = in.Close(); _ = c.Wait() }()
			if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
				t.Skip("the kernel does not permit it: ", line)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = Processes(map[string]bool{"0123456789abcdef": true}, "/var/lib/waagent/Contoso.App-1.0")
			_, _ = processes("/var/lib/waagent/azguest/ext/jobs/0123456789abcdef")
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > size/2 {
				t.Errorf("%d MiB were allocated to look at the processes of the machine", took>>20)
			}
		})
	}
}
