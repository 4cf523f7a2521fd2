package handler

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
)

// A Cause is why a command failed. Text is one line; Code is stable and
// documented by `agentctl explain` (extensions/SPEC.md §15.8).
type Cause struct {
	Code string
	Text string
}

// A Probe has the properties of a command's program that may explain why it
// could not run.
type Probe struct {
	Program   string // the first word, as a path
	Missing   bool
	NotExec   bool
	Noexec    string // the mount point, if it is mounted noexec
	Machine   string // of an ELF file for another architecture
	Interp    string // of a #! line or an ELF file
	NoInterp  bool
	CRLF      bool
	Enforcing bool // SELinux is in enforcing mode
}

// ProbeCommand examines the program that a command line starts with. base is
// the handler's directory.
func ProbeCommand(base, command string) Probe {
	word := firstWord(command)
	p := Probe{Program: filepath.Join(base, word)}
	fi, err := folder.Root.Stat(p.Program)
	if err != nil {
		p.Missing = errors.Is(err, fs.ErrNotExist)
		return p
	}
	p.NotExec = fi.Mode()&0o111 == 0
	p.Noexec = NoexecMount(p.Program)
	if b, err := folder.Root.ReadFile("/sys/fs/selinux/enforce"); err == nil {
		p.Enforcing = strings.TrimSpace(string(b)) == "1"
	}
	// A command may have replaced its program with a FIFO.
	f, err := folder.Root.Open(p.Program)
	if err != nil || !fi.Mode().IsRegular() {
		return p
	}
	defer f.Close()
	head := make([]byte, 512)
	n, _ := f.ReadAt(head, 0)
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		line, _, _ := bytes.Cut(head[2:], []byte("\n"))
		p.CRLF = bytes.HasSuffix(line, []byte("\r"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			p.Interp = words[0]
		}
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		machine, interp := elfHead(f)
		if want := ownMachine(); machine != want && machine != elf.EM_NONE && want != elf.EM_NONE {
			p.Machine = strings.TrimPrefix(machine.String(), "EM_")
		}
		p.Interp = interp
	}
	if p.Interp != "" {
		_, err := folder.Root.Stat(p.Interp)
		p.NoInterp = errors.Is(err, fs.ErrNotExist)
	}
	return p
}

// Limits for reading ELF files, higher than what real programs have.
const (
	maxSegments = 128
	maxInterp   = 256
)

// elfHead returns the architecture and the interpreter of an ELF file, EM_NONE
// and "" if it can't be read. Package debug/elf is not used because it reads
// all sections, and a sparse file of a handler may have terabytes of them.
func elfHead(f io.ReaderAt) (machine elf.Machine, interp string) {
	head := make([]byte, 64)
	if n, _ := f.ReadAt(head, 0); n < 52 {
		return elf.EM_NONE, ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	machine = elf.Machine(order.Uint16(head[18:]))
	// Offset, entry size and number of the program headers, and where in an
	// entry the file offset and the size of its segment are.
	var at uint64
	var size, count, place, length int
	word := func(b []byte) uint64 { return order.Uint64(b) }
	switch elf.Class(head[elf.EI_CLASS]) {
	case elf.ELFCLASS64:
		at, size, count, place, length = order.Uint64(head[32:]), int(order.Uint16(head[54:])), int(order.Uint16(head[56:])), 8, 32
	case elf.ELFCLASS32:
		at, size, count, place, length = uint64(order.Uint32(head[28:])), int(order.Uint16(head[42:])), int(order.Uint16(head[44:])), 4, 16
		word = func(b []byte) uint64 { return uint64(order.Uint32(b)) }
	default:
		return machine, ""
	}
	if size < length+8 || at > 1<<62 {
		return machine, ""
	}
	seg := make([]byte, length+8)
	for i := range min(count, maxSegments) {
		if _, err := f.ReadAt(seg, int64(at)+int64(i)*int64(size)); err != nil {
			return machine, ""
		}
		if elf.ProgType(order.Uint32(seg)) != elf.PT_INTERP {
			continue
		}
		from, n := word(seg[place:]), word(seg[length:])
		if n > maxInterp || from > 1<<62 {
			return machine, ""
		}
		b := make([]byte, n)
		if _, err := f.ReadAt(b, int64(from)); err != nil {
			return machine, ""
		}
		return machine, strings.TrimRight(string(b), "\x00")
	}
	return machine, ""
}

func firstWord(command string) string {
	if i := strings.IndexFunc(command, unicode.IsSpace); i >= 0 {
		command = command[:i]
	}
	return strings.Trim(command, `"'`)
}

func ownMachine() elf.Machine {
	switch runtime.GOARCH {
	case "amd64":
		return elf.EM_X86_64
	case "arm64":
		return elf.EM_AARCH64
	}
	return elf.EM_NONE
}

// NoexecMount returns the mount point of path if it is mounted noexec, and
// otherwise "".
func NoexecMount(path string) string {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Flags&unix.ST_NOEXEC == 0 {
		return ""
	}
	return mountPoint(path)
}

func mountPoint(path string) string {
	b, err := folder.Root.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return path
	}
	if target, err := folder.Root.Resolve(path); err == nil {
		path = target
	}
	best := "/"
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		m := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[4])
		if (path == m || strings.HasPrefix(path, strings.TrimRight(m, "/")+"/")) && len(m) >= len(best) {
			best = m
		}
	}
	return best
}

// Complaints returns the output that should contain the error messages: stderr,
// or stdout if that is empty. Published handlers' shell shims send everything
// to stdout, through tee into their own log.
func Complaints(stdout, stderr string) string {
	if strings.TrimSpace(stderr) == "" {
		return stdout
	}
	return stderr
}

// Classify finds the cause of a failed command from how it ended, then from the
// properties of its program, then from its output (says). It is pure.
func Classify(res job.Result, timeout time.Duration, p Probe, says string) Cause {
	if res.Class == job.OK {
		return Cause{}
	}
	return cmp.Or(causeOfEnd(res, timeout, p), causeOfProgram(res, p), causeOfWords(res, p, says),
		Cause{"AZ-EXT-EXIT", fmt.Sprintf("it exited with code %d", res.Code)})
}

// causeOfEnd finds a cause without looking at the output: the command was
// killed, or never started.
func causeOfEnd(res job.Result, timeout time.Duration, p Probe) Cause {
	switch res.Class {
	case job.Timeout:
		if res.Error != "" { // it was not ended by the supervisor
			return Cause{fault.CauseOverdue, fmt.Sprintf("it did not finish within %v, and %s; the agent killed both", timeout, res.Error)}
		}
		return Cause{"AZ-EXT-TIMEOUT", fmt.Sprintf("it did not finish within %v and was killed", timeout)}
	case job.Lost:
		return Cause{"AZ-EXT-LOST", "it was interrupted (reboot or kill) and its result is unknown"}
	case job.NotStarted:
		return Cause{"AZ-EXT-NOTSTARTED", "it could not be started: " + res.Error}
	}
	switch {
	case res.OOM:
		return Cause{"AZ-EXT-OOM", "the kernel killed it because memory ran out"}
	case res.Class == job.Signal:
		if res.Error != "" {
			return Cause{"AZ-EXT-SIGNAL", "it was killed by " + res.Signal + ": " + res.Error}
		}
		return Cause{"AZ-EXT-SIGNAL", "it was killed by " + res.Signal}
	case p.Missing:
		return Cause{"AZ-EXT-NOFILE", fmt.Sprintf("the package has no file %s", p.Program)}
	}
	return Cause{}
}

// causeOfProgram finds a cause in the properties of the program.
func causeOfProgram(res job.Result, p Probe) Cause {
	// A shell exits with 126 for "can't run" and 127 for "not found". Programs
	// may use these codes too, so a second indication is needed.
	if res.Code == 126 || res.Code == 127 || res.Code == 2 {
		switch {
		case p.Noexec != "":
			return Cause{"AZ-EXT-NOEXEC", fmt.Sprintf("%s is mounted noexec; set Extensions.ExecDir to a directory on a file system that is not", p.Noexec)}
		case p.Machine != "":
			return Cause{"AZ-EXT-ARCH", fmt.Sprintf("%s is built for %s, but this machine is %s", p.Program, p.Machine, runtime.GOARCH)}
		case p.CRLF:
			return Cause{"AZ-EXT-CRLF", fmt.Sprintf("the #! line of %s has a Windows line ending", p.Program)}
		case p.NoInterp:
			return Cause{"AZ-EXT-INTERPRETER", fmt.Sprintf("%s needs %s, which is not installed", p.Program, p.Interp)}
		case p.NotExec:
			return Cause{"AZ-EXT-NOTEXEC", p.Program + " is not executable"}
		}
	}
	return Cause{}
}

// causeOfWords finds a cause in the messages of programs, loaders and shells,
// and in exit codes that have a meaning.
func causeOfWords(res job.Result, p Probe, says string) Cause {
	low := strings.ToLower(says)
	switch {
	case strings.Contains(low, "error while loading shared libraries"):
		return Cause{"AZ-EXT-LIBRARY", "a shared library is missing: " + lineWith(says, "shared libraries")}
	case strings.Contains(low, "exec format error"):
		return Cause{"AZ-EXT-ARCH", "a program of the package is built for another architecture: " + lineWith(says, "xec format error")}
	case strings.Contains(low, "bad interpreter"):
		if strings.Contains(says, "^M") {
			return Cause{"AZ-EXT-CRLF", "a script has Windows line endings: " + lineWith(says, "bad interpreter")}
		}
		return Cause{"AZ-EXT-INTERPRETER", lineWith(says, "bad interpreter")}
	case strings.Contains(low, "no space left on device"):
		return Cause{"AZ-EXT-DISK", "the disk is full: " + lineWith(says, "No space left")}
	case strings.Contains(low, "could not get lock") || strings.Contains(low, "is another process using it") || strings.Contains(low, "waiting for cache lock"):
		return Cause{"AZ-EXT-PKGLOCK", "the package manager is busy: " + lineWith(low, "lock")}
	case res.Code == 126 && p.Enforcing:
		return Cause{"AZ-EXT-SELINUX", "probably SELinux: it is enforcing, and running " + p.Program + " was denied; run: ausearch -m avc"}
	case res.Code == 126:
		return Cause{"AZ-EXT-NOTEXEC", "a command could not be executed (exit code 126)"}
	case res.Code > 128 && res.Code < 128+32:
		// The exit code of a shell whose child was killed by a signal.
		return Cause{"AZ-EXT-SIGNAL", fmt.Sprintf("it was killed by %s (exit code %d)", signalName(res.Code-128), res.Code)}
	case res.Code == 127:
		return Cause{"AZ-EXT-NOTFOUND", strings.TrimSuffix("a command was not found (exit code 127): "+cmp.Or(lineWith(says, "not found"), lineWith(says, "No such file")), ": ")}
	case res.Code == 51:
		return Cause{"AZ-EXT-UNSUPPORTED", "the handler does not support this system (exit code 51)"}
	case res.Code == 52:
		return Cause{"AZ-EXT-DEPENDENCY", "a dependency of the handler is missing (exit code 52)"}
	}
	return Cause{}
}

// lineWith returns the last line that contains a word, cut to 300 characters.
func lineWith(s, word string) string {
	found := ""
	for line := range strings.Lines(s) {
		if strings.Contains(line, word) {
			found = strings.TrimSpace(line)
		}
	}
	return Clip(found, 300)
}

// Tail returns the end of a file as text: at most n bytes are read, a partial
// word at the start is dropped, and invalid UTF-8 is shown as \xNN. It returns
// "" if the file can't be read.
func Tail(path string, n int64) string {
	f, err := folder.OpenFile(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return TailOf(f, n)
}

// TailOf is like Tail for an open file.
func TailOf(f *os.File, n int64) string {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	at := max(0, fi.Size()-n)
	buf := make([]byte, min(n, fi.Size()))
	got, _ := f.ReadAt(buf, at)
	buf = buf[:got]
	if at > 0 {
		// Drop the first word, which is incomplete. It may be the rest of a URL
		// with a signature that secret.Redact would not recognize.
		i := bytes.IndexAny(buf, " \t\r\n\"'<>")
		if i < 0 {
			i = len(buf)
		}
		buf = buf[i:]
	}
	return printable(buf)
}

// printable converts bytes to text, with invalid UTF-8 as \xNN.
func printable(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&out, `\x%02x`, b[0])
		} else {
			out.Write(b[:size])
		}
		b = b[size:]
	}
	return out.String()
}

// outputLimit is how many bytes of output go into a message
// (extensions/SPEC.md §9.6).
const outputLimit = 3200

// OutputText joins the two outputs in the form of WALinuxAgent, in at most
// outputLimit bytes: the end of each is kept, and one may use the room that
// the other does not need. Secrets are masked.
func OutputText(stdout, stderr string) string {
	const room = outputLimit - len("[stdout]\n\n\n[stderr]\n")
	// Redact before cutting: a partial signature would not be recognized.
	stdout, stderr = secret.Redact(stdout), secret.Redact(stderr)
	if len(stdout)+len(stderr) > room {
		const half = room / 2
		switch {
		case len(stdout) <= half:
			stderr = lastBytes(stderr, room-len(stdout))
		case len(stderr) <= half:
			stdout = lastBytes(stdout, room-len(stderr))
		default:
			stdout, stderr = lastBytes(stdout, half), lastBytes(stderr, half)
		}
	}
	return "[stdout]\n" + stdout + "\n\n[stderr]\n" + stderr
}

func lastBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

// SignalNumber returns the number of a signal, given its name such as SIGKILL;
// 0 if there is none.
func SignalNumber(name string) int { return int(unix.SignalNum(name)) }

func signalName(n int) string { return unix.SignalName(unix.Signal(n)) }
