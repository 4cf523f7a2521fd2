package host_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
)

const hello = "#!/bin/sh\necho hello\n"

// TestNBR7WrittenProgramsStart combines every way to write a program with
// every way to start one.
func TestNBR7WrittenProgramsStart(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of processes")
	}
	root := host.Root(t.TempDir())
	dir, err := root.OpenDir("/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	write := []func(name string) error{
		func(name string) error { return root.WriteFile(name, []byte(hello), 0o700) },
		func(name string) error {
			return root.WriteFileAs(name, []byte(hello), 0o755, os.Geteuid(), os.Getegid())
		},
		func(name string) error { return root.WriteFileLazy(name, []byte(hello), 0o700) },
		func(name string) error {
			return dir.WriteFile(name, []byte(hello), 0o711, os.Geteuid(), os.Getegid())
		},
		func(name string) error {
			f, err := dir.CreateProgram(name, 0o755)
			if err != nil {
				return err
			}
			_, err = host.WriteProgram(f, strings.NewReader(hello))
			return errors.Join(err, f.Close())
		},
	}
	hosttest.Storm(t, func(n int) error {
		name := fmt.Sprintf("program-%d", n)
		if err := write[n%len(write)](name); err != nil {
			return err
		}
		c := host.Cmd{Name: root.Path(name)}
		if n/len(write)%2 == 0 { // as the command of a handler
			c = host.Cmd{Name: "/bin/sh", Args: []string{"-c", root.Path(name)}}
		}
		res, err := host.Exec{}.Run(t.Context(), c)
		if err == nil && string(res.Stdout) != "hello\n" {
			err = fmt.Errorf("it printed %q", res.Stdout)
		}
		return err
	})
}

// busy returns an error that names a descriptor of ours that has the file open
// for writing.
func busy(name string) error {
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return err
	}
	for _, fd := range names {
		target, err := os.Readlink(fd)
		if err != nil || target != name {
			continue // it was closed meanwhile
		}
		var st unix.Stat_t
		if err := unix.Lstat(fd, &st); err == nil && st.Mode&0o200 != 0 {
			return fmt.Errorf("%s is open for writing as %s", name, fd)
		}
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestNBR7NothingIsOpenBetweenPieces: the content of a program may arrive
// slowly. Meanwhile nothing is open for writing, and in the end the content is
// complete.
func TestNBR7NothingIsOpenBetweenPieces(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "program")
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	src := bytes.NewReader(want)
	n, err := host.WriteProgram(f, readerFunc(func(p []byte) (int, error) {
		if err := busy(name); err != nil {
			t.Error(err)
		}
		return src.Read(p)
	}))
	if err != nil || n != int64(len(want)) {
		t.Fatalf("WriteProgram() = %d, %v", n, err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes are there (%v), want %d", len(got), err, len(want))
	}
}

// TestNBR7NoProgramIsOpenForWriting: opening a program for writing is refused.
func TestNBR7NoProgramIsOpenForWriting(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	for name, open := range map[string]func(perm fs.FileMode) (*os.File, error){
		"create": func(perm fs.FileMode) (*os.File, error) {
			return root.OpenFile("/create", os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		},
		"append": func(perm fs.FileMode) (*os.File, error) { return root.Append("/append", perm) },
	} {
		for _, perm := range []fs.FileMode{0o100, 0o711, 0o755} {
			if f, err := open(perm); err == nil || f != nil {
				t.Errorf("%s %v was opened", name, perm)
			}
		}
		f, err := open(0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNBR7ErrorsOfBothSides(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "program")
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	n, err := host.WriteProgram(f, io.MultiReader(strings.NewReader("abc"), readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF })))
	if n != 3 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that breaks off: %d, %v", n, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := host.WriteProgram(f, strings.NewReader("abc")); err == nil {
		t.Error("a closed file was written")
	}
	full, err := os.Open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	if _, err := host.WriteProgram(full, strings.NewReader("abc")); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "/dev/full") {
		t.Errorf("a full disk: %v", err)
	}
}
