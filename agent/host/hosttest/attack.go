package hosttest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// LocalUser is the uid of the attacker: one without any rights on the machine.
const LocalUser = 1234

// Attack calls work repeatedly while a local user replaces names below base by
// things that lead elsewhere: symbolic links to files and directories of root,
// hard links, FIFOs, sockets, directories, files of their own. It fails the
// test if anything of root's outside of base was changed.
//
// base is made, and given to the user. names are paths below base, each with a
// "/" at the end if a directory is expected there; their parent directories
// belong to the user too. work gets the number of the round; it must return
// whatever it finds, and handles its own errors. Attack lasts about two
// seconds.
func Attack(t *testing.T, base string, names []string, work func(round int)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	// Both on one file system, or no hard links could be made.
	victim := filepath.Join(filepath.Dir(base), "victim-of-"+filepath.Base(base))
	own := func(p string) error { return os.Lchown(p, LocalUser, LocalUser) }
	err := errors.Join(
		os.MkdirAll(base, 0o755), own(base), os.MkdirAll(victim+"/dir/sub", 0o755),
		os.WriteFile(victim+"/file", []byte("root's\n"), 0o644),
		os.WriteFile(victim+"/dir/1700000000.json", []byte("{}"), 0o600),
		os.WriteFile(victim+"/dir/sub/file", []byte("root's too\n"), 0o600),
		os.WriteFile(victim+"/dir/authorized_keys", []byte("ssh-rsa AAAA root\n"), 0o600),
	)
	for _, n := range names {
		n = strings.TrimSuffix(n, "/")
		for dir := filepath.Dir(n); dir != "."; dir = filepath.Dir(dir) {
			err = errors.Join(err, os.MkdirAll(filepath.Join(base, dir), 0o755), own(filepath.Join(base, dir)))
		}
	}
	// The way to it must be open to the user, as /var/log is.
	for p := filepath.Dir(base); len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		fi, serr := os.Stat(p)
		if err = errors.Join(err, serr); err == nil {
			err = os.Chmod(p, fi.Mode().Perm()|0o111)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	before := picture(t, victim)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- attacker(base, names, victim, stop) }()
	rounds := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); rounds++ {
		work(rounds)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal("the attacker:", err)
	}
	if after := picture(t, victim); after != before {
		t.Errorf("what is root's was changed, in %d rounds. Before:\n%s\nafter:\n%s", rounds, before, after)
	}
	t.Logf("%d rounds", rounds)
}

// attacker runs on a thread that has become the local user; the rest of the
// process stays root. The thread ends with the goroutine, as it is never
// unlocked.
func attacker(base string, names []string, victim string, stop <-chan struct{}) error {
	runtime.LockOSThread()
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, LocalUser, LocalUser, LocalUser},
		{unix.SYS_SETRESUID, LocalUser, LocalUser, LocalUser},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return fmt.Errorf("become uid %d: %w", LocalUser, errno)
		}
	}
	if err := unix.Access(base, unix.W_OK); err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	const linkToDir, ownDir, ownFile = 1, 6, 7
	plant := []func(string) error{
		func(n string) error { return unix.Symlink(victim+"/file", n) },
		linkToDir: func(n string) error { return unix.Symlink(victim+"/dir", n) },
		func(n string) error { return unix.Symlink(victim+"/new", n) },
		func(n string) error { return unix.Link(victim+"/file", n) }, // where the kernel lets users
		func(n string) error { return unix.Mkfifo(n, 0o666) },
		func(n string) error { return unix.Mknod(n, unix.S_IFSOCK|0o666, 0) },
		ownDir: func(n string) error { return unix.Mkdir(n, 0o777) },
		ownFile: func(n string) error {
			fd, err := unix.Open(n, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666) // a FIFO of an earlier round may stand there
			if err != nil {
				return err
			}
			_, err = unix.Write(fd, []byte("* * * * * root id\n"))
			return errors.Join(err, unix.Close(fd))
		},
	}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		name := names[rand.IntN(len(names))]
		dir := strings.HasSuffix(name, "/")
		name = filepath.Join(base, name)
		other := name + ".other"
		kind := rand.IntN(len(plant))
		expected := ownFile
		if dir {
			expected = ownDir
			if i%2 == 0 {
				kind = linkToDir // the likeliest to do harm
			}
		}
		_ = plant[expected](name)
		_ = plant[kind](other)
		// Speed wins a race, so most of the time is spent here.
		for range 500 {
			if unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE) != nil {
				break
			}
		}
		for _, n := range []string{other, name} {
			if unix.Unlink(n) != nil {
				_ = unix.Rmdir(n)
			}
			if i%2 == 0 { // the other half of the time it stays, with what root made in it
				break
			}
		}
	}
}

// picture describes a tree: names, types, modes, owners, contents, and when
// each was changed.
func picture(t *testing.T, top string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d:%d %d", strings.TrimPrefix(p, top), st.Mode, st.Uid, st.Gid, st.Mtim.Nano())
		if d.Type().IsRegular() {
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			h := sha256.New()
			_, err = io.Copy(h, f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", h.Sum(nil)[:8])
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
