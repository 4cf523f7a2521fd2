package job

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/secret"
)

// Limits of what commands print, in bytes on disk. The supervisor keeps the
// first while a command runs, a Keeper the others, also for processes that a
// command has left. A writer may be ahead of them by what it writes between two
// looks.
const (
	// MaxOutput is the size above which an output file of a running command is
	// cut to its last keptOutput bytes.
	MaxOutput = 8 << 20
	// maxEnded and keptEnded are the same for a command that has ended.
	maxEnded, keptEnded = 512 << 10, 256 << 10
	// MaxAllOutput is the limit of the output of all jobs together. Above it,
	// files are cut to their last leastOutput bytes, the oldest first.
	MaxAllOutput = 64 << 20

	keptOutput  = 1 << 20
	leastOutput = 64 << 10
)

// truncated is the first line of a file that was cut.
const truncated = "... [TRUNCATED]\n"

// cut frees the disk of an output file, except its last keep bytes or a little
// more, if it takes more than limit. The file becomes shorter where the file
// system can remove a range (ext4, XFS) and where quiet says that nobody writes;
// elsewhere it begins with a hole. So nothing that is appended meanwhile is
// lost, which may be the reason of a failure. A process that opened the file
// anew through /dev/stdout has an offset of its own and makes such a hole, too.
func cut(f *os.File, limit, keep int64, quiet bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	large := st.Blocks*512 > limit || quiet && st.Size > limit
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !large || st.Size <= keep {
		return nil
	}
	own, err := reopen(f, os.O_RDWR)
	if err != nil {
		return err
	}
	defer own.Close()
	const step = 64 << 10 // a multiple of the blocks of any file system
	surplus := (st.Size - keep) / step * step
	if surplus > 0 && unix.Fallocate(int(own.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, surplus) == nil {
		_, err = own.WriteAt([]byte(truncated), 0)
		return err
	}
	if !quiet {
		err = unix.Fallocate(int(own.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, surplus)
		if err == nil {
			_, err = own.WriteAt([]byte(truncated), surplus)
			return err
		}
	}
	return rewrite(own, st.Size, keep)
}

// rewrite cuts a file to its last keep bytes. What is appended between reading
// and writing, within some microseconds, is lost.
func rewrite(f *os.File, size, keep int64) error {
	end, err := reopen(f, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	defer end.Close()
	tail := make([]byte, keep)
	n, _ := f.ReadAt(tail, size-keep)
	tail = bytes.TrimLeft(tail[:n], "\x00")
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = end.Write(append([]byte(truncated), tail...))
	return err
}

// reopen opens the file of a descriptor anew, whatever its name refers to.
func reopen(f *os.File, flag int) (*os.File, error) {
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), flag, 0)
}

// boundOutput keeps the limit of output files until stop is closed. It looks the
// more often the faster they grow.
func boundOutput(stop <-chan struct{}, files ...*os.File) {
	const shortest, longest = time.Millisecond, 20 * time.Millisecond
	wait, last := shortest, int64(0)
	for {
		// wait: at most longest
		select {
		case <-stop:
			return
		case <-time.After(wait):
		}
		var size int64 // on disk
		for _, f := range files {
			_ = cut(f, MaxOutput, keptOutput, false) // tried again
			var st unix.Stat_t
			if unix.Fstat(int(f.Fd()), &st) == nil {
				size += st.Blocks * 512
			}
		}
		if wait = min(2*wait, longest); size-last > keptOutput/2 || size < last {
			wait = shortest
		}
		last = size
	}
}

// mask overwrites secrets in an output file, from an offset on, and returns the
// offset of the first line that is not complete yet, which is left as it is
// unless the whole file is wanted. The length of the file stays the same, so
// that nothing is lost that is appended meanwhile.
func mask(f *os.File, from int64, whole bool) (int64, error) {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return from, err
	}
	if from > fi.Size() {
		from = 0 // it was cut
	}
	if from == fi.Size() {
		return from, nil
	}
	own, err := reopen(f, os.O_RDWR)
	if err != nil {
		return from, err
	}
	defer own.Close()
	// A secret may have several lines, and may have begun before. There is a hole
	// before what is larger than the limit.
	const overlap, most = 16 << 10, 2 * maxEnded
	at := max(0, from-overlap, fi.Size()-most)
	text := make([]byte, min(fi.Size()-at, most))
	n, _ := own.ReadAt(text, at)
	complete := bytes.LastIndexByte(text[:n], '\n') + 1
	if text = text[:complete]; whole {
		text = text[:n]
	}
	masked := []byte(secret.Redact(string(text)))
	if !bytes.Equal(masked, text) {
		_, err = own.WriteAt(ofLength(masked, len(text)), at)
	}
	return at + int64(complete), err
}

// ofLength pads a masked text to n bytes, or shortens it. Its last line stays the
// last one.
func ofLength(b []byte, n int) []byte {
	if len(b) > n {
		b = bytes.ReplaceAll(b, []byte("<redacted>"), []byte("***"))
	}
	if len(b) >= n {
		return b[len(b)-n:]
	}
	pad := bytes.Repeat([]byte{' '}, n-len(b))
	if line := bytes.LastIndexByte(b, '\n'); line >= 0 {
		return slices.Insert(b, line, pad...)
	}
	return append(b, pad...)
}

// reportedFile says that a command's output was reported, and how far secrets in
// it were masked: a JSON object of offsets by file name.
const reportedFile = "reported"

// lineTime is how long a line that is not complete may take: half of a secret
// can't be recognized. It is masked at once if nobody of the command's process
// group is left who could complete it.
const lineTime = time.Second

// Reported is called when the output of a command was reported. The files
// remain for people, within the limits of commands that have ended, and without
// secrets of a known form.
func Reported(dir string) error {
	state, ok := StateOf(dir)
	alone := ok && state.Child > 0 && errors.Is(unix.Kill(-state.Child, 0), unix.ESRCH)
	done := map[string]int64{}
	_ = readJSON(dir, reportedFile, &done) // absent: from the beginning
	var errs []error
	for _, name := range []string{Stdout, Stderr} {
		f, err := host.Root(dir).OpenFile(name, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var st unix.Stat_t
			serr := unix.Fstat(int(f.Fd()), &st)
			quiet := alone || time.Since(time.Unix(st.Mtim.Unix())) > lineTime
			if st.Size > maxEnded {
				done[name] = 0
				err = cut(f, maxEnded, keptEnded, quiet)
			}
			to, merr := mask(f, done[name], quiet)
			done[name] = to
			if serr == nil { // the time of the last output
				_ = unix.Futimes(int(f.Fd()), []unix.Timeval{unix.NsecToTimeval(st.Atim.Nano()), unix.NsecToTimeval(st.Mtim.Nano())})
			}
			err = errors.Join(err, merr, f.Close())
		}
		errs = append(errs, err)
	}
	b, err := json.Marshal(done)
	if err == nil {
		err = host.Root(dir).WriteFileLazy(reportedFile, b, 0o600)
	}
	return errors.Join(append(errs, err)...)
}

// A Keeper keeps the output of all jobs within limits and masks secrets in it,
// while processes that ended commands have left go on writing. The zero value
// is usable; it remembers which files have not changed.
type Keeper struct {
	seen map[string]stamp
}

type stamp struct {
	size, blocks, mtime int64
}

type output struct {
	dir, name string
	stamp
	ended bool
}

// Tidy looks at all jobs, which are directories in jobs.
func (k *Keeper) Tidy(jobs string) error {
	entries, err := host.Root("").ReadDir(jobs)
	if err != nil {
		return err
	}
	var errs []error
	var all []output
	seen := make(map[string]stamp, len(k.seen))
	var used int64
	for _, e := range entries {
		dir := filepath.Join(jobs, e.Name())
		files := outputs(dir)
		changed := slices.ContainsFunc(files, func(o output) bool { return k.seen[o.name] != o.stamp })
		ended := changed && over(dir)
		if ended {
			errs = append(errs, Reported(dir))
			files = outputs(dir)
		}
		for _, o := range files {
			if o.ended = ended || !changed; o.ended {
				seen[o.name] = o.stamp
			}
			used += o.blocks * 512
			all = append(all, o)
		}
	}
	k.seen = seen
	if used > MaxAllOutput {
		errs = append(errs, shrink(all, used))
	}
	return errors.Join(errs...)
}

// Printed returns the size of a command's output files in bytes. Of a command
// that printed more than MaxOutput, that may be less than it printed.
func Printed(dir string) int64 {
	var n int64
	for _, o := range outputs(dir) {
		n += o.size
	}
	return n
}

// outputs returns the output files of a job.
func outputs(dir string) []output {
	var out []output
	for _, name := range []string{Stdout, Stderr} {
		var st unix.Stat_t
		path := filepath.Join(dir, name)
		if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			out = append(out, output{dir: dir, name: path, stamp: stamp{st.Size, st.Blocks, st.Mtim.Nano()}})
		}
	}
	return out
}

// reportTime is how long the agent has to report a command that has ended. The
// output of one that it does not report, because it is repeated, is masked
// after that.
const reportTime = time.Minute

// over reports whether a command has ended, and its output was reported or never
// will be.
func over(dir string) bool {
	if host.Root(dir).Exists(reportedFile) {
		return true
	}
	if res, ok := ResultOf(dir); ok {
		return time.Since(res.Finished) > reportTime
	}
	st, ok := StateOf(dir)
	return ok && !process.Alive(st.PID, st.Ticks) && !process.Alive(st.Child, st.ChildTicks)
}

// shrink cuts files until they take no more than MaxAllOutput: those of ended
// commands first, the oldest first.
func shrink(all []output, used int64) error {
	slices.SortFunc(all, func(a, b output) int {
		if a.ended != b.ended {
			if a.ended {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.mtime, b.mtime), cmp.Compare(a.name, b.name))
	})
	var errs []error
	for _, o := range all {
		if used <= MaxAllOutput {
			break
		}
		f, err := host.Root(o.dir).OpenFile(filepath.Base(o.name), os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(cut(f, leastOutput, leastOutput/2, o.ended), f.Close())
			used -= max(0, o.blocks*512-leastOutput)
			if rerr := host.Root(o.dir).Remove(reportedFile); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr) // its offsets are those of the file before
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
