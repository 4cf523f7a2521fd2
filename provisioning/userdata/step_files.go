package userdata

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// WriteFile writes a file of write_files. A file is replaced as a whole, also
// one that is appended to; missing directories are made (0755, of root).
// Directories that others can write in are walked by descriptor, and links in
// them are not followed (host.Root).
type WriteFile struct {
	File
	Index      int // of the file in the configuration
	Ledger     string
	Restorecon string
}

// ID implements provisioning.Step.
func (s WriteFile) ID() string { return fmt.Sprintf("file:%d:%s", s.Index, s.Path) }

func (s WriteFile) String() string {
	if s.Append {
		return "append to " + s.Path
	}
	return "write " + s.Path
}

// Apply implements provisioning.Step.
func (s WriteFile) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeFile, "failed to write a file", err) }
	uid, err := ownerID(ctx, m, s.Owner)
	if err != nil {
		return bad(fmt.Errorf("%s: %w", s.Path, err))
	}
	gid := -1
	if s.Group != "" {
		if gid, err = groupOwner(ctx, m, s.Group); err != nil {
			return bad(fmt.Errorf("%s: %w", s.Path, err))
		}
	}
	if isKernelFile(s.Path) {
		if err := setKernelFile(m.Root, s.Path, []byte(s.Content.Reveal())); err != nil {
			return bad(err)
		}
		return nil
	}
	if err := s.write(m, uid, gid); err != nil {
		return bad(err)
	}
	m.Restorecon(ctx, s.Restorecon, s.Path)
	return nil
}

func (s WriteFile) write(m *provisioning.Machine, uid, gid int) error {
	if gid < 0 {
		gid = groupOf(m.Root, s.Path)
	}
	if err := makeDirs(m.Root, path.Dir(s.Path)); err != nil {
		return err
	}
	// A device or a pipe would become a file with the text that was meant for it.
	if fi, err := m.Root.Stat(s.Path); err == nil && fi.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return fmt.Errorf("%s is a device, a pipe or a socket", s.Path)
	}
	data := []byte(s.Content.Reveal())
	if s.Append {
		old, err := m.Root.ReadFile(s.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		done, err := s.appended(m, old)
		if err != nil {
			return err
		}
		if done {
			data = old
		} else {
			data = append(old, data...)
		}
	}
	return m.Root.WriteFileAs(s.Path, data, s.Mode, uid, gid)
}

// appends lists what is or was about to be appended, for one VM.
type appends struct {
	VMID string `json:"vmId"`
	// Before are hashes of files before a step has appended to them, by its id.
	Before map[string]string `json:"before"`
}

// appended reports whether the step has been applied on this VM, and otherwise
// notes that it is about to be. The file is replaced at once, so one that is no
// longer what it was before the step has the text, or was changed by somebody
// since.
func (s WriteFile) appended(m *provisioning.Machine, old []byte) (bool, error) {
	sum := sha256.Sum256(old)
	now := hex.EncodeToString(sum[:])
	var l appends
	b, err := m.Root.ReadBounded(s.Ledger, 4<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err != nil || json.Unmarshal(b, &l) != nil || !provisioning.SameVM(l.VMID, m.VM.ID) || l.Before == nil {
		l = appends{VMID: m.VM.ID, Before: map[string]string{}}
	}
	if before, ok := l.Before[s.ID()]; ok {
		return before != now, nil
	}
	l.Before[s.ID()] = now
	if b, err = json.Marshal(l); err != nil {
		return false, err
	}
	if err := m.Root.MkdirAll(path.Dir(s.Ledger), 0o700); err != nil {
		return false, err
	}
	return false, m.Root.WriteFile(s.Ledger, append(b, '\n'), 0o600)
}

// makeDirs makes a directory and its parents, as far as they are missing.
func makeDirs(r host.Root, dir string) error {
	d, err := r.OpenDir(dir, func(string) (host.Make, bool) { return host.Make{Perm: 0o755}, true })
	if err != nil {
		return err
	}
	return d.Close()
}

// groupOf returns the group of a file that is there, otherwise root's.
func groupOf(r host.Root, name string) int {
	fi, err := r.Stat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return 0
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return int(st.Gid)
}

// ownerID returns the number of an account that is given by name or number.
func ownerID(ctx context.Context, m *provisioning.Machine, name string) (int, error) {
	if name == "root" {
		return 0, nil
	}
	_, a, err := m.Person(ctx, name)
	if err == nil {
		return a.UID, nil
	}
	if id, ok := number(name); ok {
		return id, nil
	}
	return 0, fmt.Errorf("no account %s (files with defer: true are written after users are made)", name)
}

// groupOwner is ownerID for groups.
func groupOwner(ctx context.Context, m *provisioning.Machine, name string) (int, error) {
	if name == "root" {
		return 0, nil
	}
	id, err := groupID(ctx, m, name)
	if err == nil {
		return id, nil
	}
	if id, ok := number(name); ok {
		return id, nil
	}
	return 0, fmt.Errorf("%w (files with defer: true are written after groups are made)", err)
}

func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n < 1<<32-1
}

// isKernelFile reports whether a file is one of the kernel's: it cannot be
// replaced, writing to it sets something.
func isKernelFile(name string) bool {
	return strings.HasPrefix(name, "/proc/") || strings.HasPrefix(name, "/sys/")
}

// setKernelFile writes to a file of the kernel, in one piece.
func setKernelFile(r host.Root, name string, data []byte) error {
	f, err := r.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
