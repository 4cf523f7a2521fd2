package crash

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPrivateIsForThisProcessOnly: a process that has called Private has its
// memory in no core file; what it starts, and its limits, are as before.
func TestPrivateIsForThisProcessOnly(t *testing.T) {
	const variable = "AZGUEST_TEST_PRIVATE"
	dumpable := func() string {
		n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		var core unix.Rlimit
		if err == nil {
			err = unix.Getrlimit(unix.RLIMIT_CORE, &core)
		}
		if err != nil {
			t.Fatal(err)
		}
		return strconv.Itoa(n) + " " + strconv.FormatUint(core.Cur, 10) + " " + strconv.FormatUint(core.Max, 10)
	}
	again := func(step string) string {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestPrivateIsForThisProcessOnly$")
		cmd.Env = append(os.Environ(), variable+"="+step)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(out), "PASS")[0]
	}
	switch os.Getenv(variable) {
	case "child":
		_, _ = os.Stdout.WriteString("child " + dumpable() + "\n")
	case "parent":
		Private()
		_, _ = os.Stdout.WriteString("parent " + dumpable() + "\n" + again("child"))
	default:
		_, limits, _ := strings.Cut(dumpable(), " ")
		if got, want := again("parent"), "parent 0 "+limits+"\nchild 1 "+limits+"\n"; got != want {
			t.Errorf("dumpable, and core limits:\n%swant\n%s", got, want)
		}
	}
}
