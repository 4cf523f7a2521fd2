// Package peak measures the memory that is needed to read a document, for
// tests: of a whole process that does nothing else, or of one call under a
// fuzzer.
package peak

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
)

// Process is the memory limit in bytes of a process that reads a document,
// including the program, its tests and the document itself.
const Process = 64 << 20

// A Case is one document and the function that reads it.
type Case struct {
	Name string
	// Doc returns the document. It is called in another process than Read, so
	// that its memory is not measured.
	Doc func() []byte
	// Read reads the document. Its error is only logged: a document may be
	// rejected.
	Read func(doc []byte) error
	// ReadFile is used in place of Read, if it is set, for readers that never
	// have the document in memory as a whole.
	ReadFile func(name string) error
}

// Environment variables with the task of a child process.
const (
	envCase   = "AZGUEST_PEAK_CASE"
	envDoc    = "AZGUEST_PEAK_DOC"
	envReport = "AZGUEST_PEAK_REPORT"
)

// WithoutRace skips a test that the race detector would distort, or slow down by
// a minute and find nothing in. scripts/test runs it once more without the
// detector: test/arch checks that it knows the name.
func WithoutRace(t *testing.T) {
	t.Helper()
	if Race {
		t.Skip("not with the race detector: scripts/test runs this without it as well")
	}
}

// Run runs each case in a process of its own, which is the test program running
// this test only, and fails those that use more than Process. The results are
// logged.
func Run(t *testing.T, cases []Case) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a process for each document")
	}
	if name := os.Getenv(envCase); name != "" {
		for _, c := range cases {
			if c.Name == name {
				child(t, c)
			}
		}
		return
	}
	WithoutRace(t)
	dir := t.TempDir()
	for _, c := range cases {
		doc := c.Doc()
		file, report := filepath.Join(dir, "doc"), filepath.Join(dir, "report")
		if err := os.WriteFile(file, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		// The name of the running test, without that of a subtest.
		top, _, _ := strings.Cut(t.Name(), "/")
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+regexp.QuoteMeta(top)+"$", "-test.count=1")
		cmd.Env = append(os.Environ(), envCase+"="+c.Name, envDoc+"="+file, envReport+"="+report)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c.Name, err, out)
			continue
		}
		b, err := os.ReadFile(report)
		if err != nil {
			t.Errorf("%s: no figure: %v", c.Name, err)
			continue
		}
		_ = os.Remove(report)
		figure, says, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(figure, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%5.1f MiB  %5.0f KiB  %s (%s)", float64(n)/(1<<20), float64(len(doc))/1024, c.Name, says)
		if n > Process {
			t.Errorf("%s: the process takes %d MiB, more than %d", c.Name, n>>20, Process>>20)
		}
	}
}

// child reads the document and writes the result.
func child(t *testing.T, c Case) {
	debug.SetMemoryLimit(32 << 20) // the agent's own limit; above it, garbage is collected more often
	t.Helper()
	read := c.ReadFile
	if read == nil {
		read = func(name string) error {
			doc, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			return c.Read(doc)
		}
	}
	says := "read"
	if err := read(os.Getenv(envDoc)); err != nil {
		if says = err.Error(); len(says) > 160 {
			says = says[:160] + "…"
		}
	}
	n, err := HighWater()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv(envReport), fmt.Appendf(nil, "%d %s", n, says), 0o600); err != nil {
		t.Fatal(err)
	}
}

// HighWater returns the peak memory of this process so far, in bytes.
func HighWater() (int64, error) { return Memory("self", "VmHWM") }

// Memory returns a value of /proc/PID/status in bytes, such as VmHWM or VmRSS.
func Memory(pid, name string) (int64, error) {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			var kib int64
			_, err := fmt.Sscanf(string(rest), "%d kB", &kib)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %s", name, pid)
}

// Limits of the allocation of one call under a fuzzer, in bytes: a fixed
// amount, and an amount for each byte of input.
const (
	fuzzBase  = 16 << 20
	fuzzTimes = 512
)

// Fuzz calls read, which reads an input of size bytes, and fails the test if it
// allocated more than allowed for that size, or more than Process.
func Fuzz(t *testing.T, size int, read func()) {
	t.Helper()
	before := allocated()
	read()
	if got, may := allocated()-before, min(fuzzBase+fuzzTimes*uint64(size), Process); got > may {
		t.Errorf("an input of %d bytes made it allocate %d, more than %d", size, got, may)
	}
}

// Target returns a fuzz target that checks each call with Fuzz.
func Target[T []byte | string](target func(t *testing.T, in T)) func(t *testing.T, in T) {
	return func(t *testing.T, in T) {
		Fuzz(t, len(in), func() { target(t, in) })
	}
}

// allocated returns the number of bytes allocated on the heap so far. Unlike
// runtime.ReadMemStats it does not stop the world.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Fill returns a document of about size bytes: head, as many of unit as fit,
// tail. A %d in unit is replaced by the unit's number.
func Fill(head, unit, tail string, size int) []byte {
	var b bytes.Buffer
	b.Grow(size)
	b.WriteString(head)
	numbered := strings.Contains(unit, "%d")
	for i := 0; ; i++ {
		u := unit
		if numbered {
			u = strings.ReplaceAll(unit, "%d", strconv.Itoa(i))
		}
		if b.Len()+len(u)+len(tail) > size {
			break
		}
		b.WriteString(u)
	}
	b.WriteString(tail)
	return b.Bytes()
}
