package provisioning

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// mendHome completes a home directory whose creation was interrupted. useradd
// makes the directory, changes its owner and copies the skeleton, in this
// order, after it has added the account. cut means that the creation is known
// to have been interrupted.
func mendHome(r host.Root, a host.Account, homes string, cut bool) error {
	if a.Home == "" || a.Home == "/" || !strings.HasPrefix(a.Home, homes+"/") {
		return nil
	}
	d, err := r.OpenDir(a.Home, func(name string) (host.Make, bool) {
		if path.Base(name) == path.Base(a.Home) {
			return host.Make{Perm: 0o700, UID: 0, GID: 0}, true
		}
		return host.Make{Perm: 0o755}, true
	})
	if err != nil {
		return fmt.Errorf("open home: %w", err)
	}
	defer func() { _ = d.Close() }()
	uid, _, _, err := d.Owner()
	if err != nil {
		return err
	}
	if err := closeToOthers(d, a); err != nil { // made with UMASK 002
		return err
	}
	if uid == a.UID && !cut {
		return nil // useradd has changed the owner, which it does near the end
	}
	if uid != 0 && uid != a.UID {
		return fmt.Errorf("home %s belongs to uid %d", a.Home, uid)
	}
	if err := copySkeleton(r, d, a); err != nil || uid == a.UID {
		return err
	}
	return d.SetOwner(a.UID, a.GID, homeMode(r)&^0o022)
}

// closeToOthers takes away the right of others to write to a home of the
// account: sshd refuses the keys below it (StrictModes).
func closeToOthers(home *host.Dir, a host.Account) error {
	uid, gid, mode, err := home.Owner()
	if err != nil || uid != a.UID || mode&0o022 == 0 {
		return err
	}
	return home.SetOwner(uid, gid, mode&^0o022)
}

// homeMode returns the mode that the machine's own tools give a home
// directory.
func homeMode(r host.Root) fs.FileMode {
	defs := r.LoginDefs()
	if m, err := strconv.ParseUint(defs["HOME_MODE"], 8, 32); err == nil && m&0o700 == 0o700 && m <= 0o777 {
		return fs.FileMode(m)
	}
	if m, err := strconv.ParseUint(defs["UMASK"], 8, 32); err == nil && m&0o700 == 0 && m <= 0o777 {
		return 0o777 &^ fs.FileMode(m)
	}
	return 0o755
}

// copySkeleton copies the files of /etc/skel that are missing. Directories in
// it are rare and are not copied.
func copySkeleton(r host.Root, d *host.Dir, a host.Account) error {
	entries, err := r.ReadDir("/etc/skel")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read /etc/skel: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil || info.Size() > 1<<20 {
			continue
		}
		if st, err := d.Stat(e.Name()); err == nil && int(st.Uid) == a.UID && st.Mode&unix.S_IFMT == unix.S_IFREG {
			continue
		}
		b, err := r.ReadFile(path.Join("/etc/skel", e.Name()))
		if err != nil {
			return fmt.Errorf("copy /etc/skel: %w", err)
		}
		if err := d.WriteFile(e.Name(), b, info.Mode().Perm(), a.UID, a.GID); err != nil {
			return fmt.Errorf("copy /etc/skel: %w", err)
		}
	}
	return nil
}
