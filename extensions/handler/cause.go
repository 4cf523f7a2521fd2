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

// A Cause says in one line why a command failed; Code is stable and known to
// `agentctl explain` (extensions/SPEC.md §15.8).
type Cause struct {
	Code string
	Text string
}

// Probe is what the file behind a command tells about why it could not run.
type Probe struct {
	Program   string // the first word, as a path
	Missing   bool
	NotExec   bool
	Noexec    string // mount point with the noexec flag
	Machine   string // of a foreign ELF file
	Interp    string // of a #! line or an ELF file
	NoInterp  bool
	CRLF      bool
	Enforcing bool // SELinux
}

// ProbeCommand looks at the program that a command line starts with.
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
	// A command may have put a FIFO in its own place.
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

// Bounds of what is read of an ELF file: more than programs have.
const (
	maxSegments = 128
	maxInterp   = 256
)

// elfHead is what an ELF file says about where it runs, EM_NONE and "" if it
// can't be read. Package elf reads all of its sections, and one that a handler
// has made may have terabytes of them in a file that takes no room.
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
	// Where the segments are described, and where in such a description the
	// place and the size of one are.
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

// NoexecMount is the mount point of path if it is mounted noexec.
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

// Complaints is where a command says what is wrong. Published shims send
// everything to the standard output, through tee into a log of their own.
func Complaints(stdout, stderr string) string {
	if strings.TrimSpace(stderr) == "" {
		return stdout
	}
	return stderr
}

// Classify finds the cause of a failed command: how it ended, then what is wrong
// with its program, then what it says. It is pure.
func Classify(res job.Result, timeout time.Duration, p Probe, says string) Cause {
	if res.Class == job.OK {
		return Cause{}
	}
	return cmp.Or(causeOfEnd(res, timeout, p), causeOfProgram(res, p), causeOfWords(res, p, says),
		Cause{"AZ-EXT-EXIT", fmt.Sprintf("it exited with code %d", res.Code)})
}

// causeOfEnd is a cause that needs no words: the command was ended, or never
// started.
func causeOfEnd(res job.Result, timeout time.Duration, p Probe) Cause {
	switch res.Class {
	case job.Timeout:
		if res.Error != "" { // somebody else than the supervisor has ended it
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

// causeOfProgram is what is wrong with the program that was to be run.
func causeOfProgram(res job.Result, p Probe) Cause {
	// 126 and 127 are the shell's words for "can't run" and "not found"; the
	// program itself may use them too, so each needs a second sign.
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

// causeOfWords is a cause by what programs, loaders and shells say, and by the
// exit codes that have a meaning.
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
		// How a shell tells that its child was killed.
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

// lineWith is the last line that contains a word, for a message.
func lineWith(s, word string) string {
	found := ""
	for line := range strings.Lines(s) {
		if strings.Contains(line, word) {
			found = strings.TrimSpace(line)
		}
	}
	return Clip(found, 300)
}

// Tail is the end of a file as text, at most n bytes, cut between characters
// with invalid bytes shown as \xNN.
func Tail(path string, n int64) string {
	f, err := folder.OpenFile(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return TailOf(f, n)
}

// TailOf is Tail of an open file.
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
		// The first word is cut. Of an address it may be the signature, which
		// nobody would know for one.
		i := bytes.IndexAny(buf, " \t\r\n\"'<>")
		if i < 0 {
			i = len(buf)
		}
		buf = buf[i:]
	}
	return printable(buf)
}

// printable makes text of bytes.
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

// outputLimit bounds what of the output goes into a message
// (extensions/SPEC.md §9.6).
const outputLimit = 3200

// OutputText is the two outputs as everybody knows them, at most outputLimit
// bytes long: each side keeps its end and may use what the other leaves.
func OutputText(stdout, stderr string) string {
	const room = outputLimit - len("[stdout]\n\n\n[stderr]\n")
	// Before they are cut: half a signature is not known for one.
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

// SignalNumber is the number of a signal's name, 0 if there is none.
func SignalNumber(name string) int { return int(unix.SignalNum(name)) }

func signalName(n int) string { return unix.SignalName(unix.Signal(n)) }
