package ovf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
)

// Names on the medium (provisioning/SPEC.md §4.7).
const (
	documentName   = "ovf-env.xml"
	customDataName = "CustomData.bin"
	scvmmName      = "linuxosconfiguration.xml"
)

// Media is a place where the provisioning document may be.
type Media interface {
	// Open finds the medium and makes its files readable. The caller closes
	// the Medium. The error is a *MediaError, or that of the context.
	Open(ctx context.Context) (*Medium, error)
}

// A Medium is an open provisioning medium. Close unmounts what Open mounted;
// it does not eject.
type Medium struct {
	FS     fs.FS
	Source Source
	close  func() error
}

// Close releases the medium.
func (m *Medium) Close() error {
	if m.close == nil {
		return nil
	}
	return m.close()
}

// How a medium was read.
const (
	MethodUserSpace = "userspace" // no mount at all
	MethodMounted   = "mounted"   // through a mount somebody else had made
	MethodMount     = "mount"     // mounted for the purpose
	MethodDir       = "dir"       // a directory that was named
)

// Source says where a document came from.
type Source struct {
	Device  string // device, image file or directory
	Method  string // one of the Method constants
	FSType  string // udf, iso9660, vfat; empty for a directory
	Optical bool   // the device is a drive that may be ejected
}

func (s Source) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s (%s %s)", s.Device, s.Method, s.FSType))
}

// Document is what was read from the medium. It is kept in memory only.
type Document struct {
	*Environment
	Raw    host.Secret // the document as it was parsed: without long custom data, see carve
	Source Source

	// CustomDataFile is CustomData.bin, the decoded custom data, if the
	// medium has it.
	CustomDataFile host.Secret
}

// Redacted is the copy of the document that may stay on disk.
func (d *Document) Redacted() ([]byte, error) { return Redacted([]byte(d.Raw.Reveal())) }

// Load finds, reads and parses the provisioning document. The medium is closed
// when Load returns. The error is a *MediaError (no document could be read),
// an *Error (the document cannot be used), or that of the context.
//
// A read from a device that does not answer cannot be interrupted. When the
// context ends, Load returns nevertheless, and the read stays behind in its
// goroutine.
func Load(ctx context.Context, media Media) (*Document, error) {
	type result struct {
		d   *Document
		err error
	}
	c := make(chan result, 1)
	go func() {
		var r result
		defer func() { c <- r }()
		defer crash.Catch(&r.err) // the same medium would be there after a restart
		r.d, r.err = load(ctx, media)
	}()
	select {
	case r := <-c:
		return r.d, r.err
	case <-ctx.Done():
	}
	// A search that ends by itself has a more precise error.
	// wait: letGo is its bound
	select {
	case r := <-c:
		return r.d, r.err
	case <-time.After(letGo):
		return nil, context.Cause(ctx)
	}
}

// letGo is how long Load waits for a search to end after its context has
// ended.
const letGo = 2 * time.Second

func load(ctx context.Context, media Media) (_ *Document, err error) {
	m, err := media.Open(ctx)
	if err != nil {
		return nil, err
	}
	// An error of Close does not matter: everything has been read.
	defer func() { _ = m.Close() }()
	c, err := readDocument(m.FS)
	if err != nil {
		return nil, &MediaError{Tried: []Attempt{{m.Source.Device, "read " + documentName, whyMissing(m.FS, err), true}}}
	}
	raw := c.rest.Bytes()
	env, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	c.putBack(env)
	d := &Document{Environment: env, Raw: host.NewSecret(string(raw)), Source: m.Source}
	if env.CustomData.Set() {
		return d, nil // the file has the same, decoded
	}
	var file strings.Builder
	switch err := readMember(m.FS, customDataName, func(r io.Reader, size int64) error {
		file.Grow(int(min(size, maxDocument)) + 1)
		if n, err := io.Copy(&file, io.LimitReader(r, maxDocument+1)); err != nil || n > maxDocument {
			return cmp.Or(err, errTooLarge)
		}
		return nil
	}); {
	case err == nil:
		d.CustomDataFile = host.NewSecret(file.String())
	case !errors.Is(err, fs.ErrNotExist):
		env.Problems = append(env.Problems, Problem{customDataName, "cannot be read: " + err.Error()})
	}
	return d, nil
}

// whyMissing returns a more precise error for a missing document: a medium of
// System Center VMM is named as such.
func whyMissing(f fs.FS, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := findMember(f, scvmmName); serr == nil {
			return errSCVMM
		}
		return errNoDocument
	}
	return err
}

var (
	errNoDocument = errors.New("no file " + documentName)
	errSCVMM      = errors.New("medium of System Center VMM (" + scvmmName + ") is not supported")
)

// readDocument reads the provisioning document.
func readDocument(f fs.FS) (c *carved, err error) {
	err = readMember(f, documentName, func(r io.Reader, size int64) error {
		c, err = carve(r, size)
		return err
	})
	return c, err
}

// putBack enters custom data that was carved out of the document.
func (c *carved) putBack(env *Environment) {
	if c.marks == 0 || env.CustomDataText.Reveal() != mark(c.marks-1) {
		return // there is none, or there are several
	}
	env.CustomData, env.CustomDataText = host.Secret{}, host.Secret{}
	if c.data.err != nil {
		env.CustomDataLost = c.data.err.Error()
		env.Problems = append(env.Problems, Problem{"CustomData", env.CustomDataLost})
		return
	}
	env.CustomData = host.NewSecret(c.data.out.String())
}

// readMember reads a file of the root directory with the function read, which
// gets its size as far as it is known.
func readMember(f fs.FS, name string, read func(r io.Reader, size int64) error) error {
	name, err := findMember(f, name)
	if err != nil {
		return err
	}
	// Check before opening: opening a FIFO would wait for a writer.
	st, err := fs.Stat(f, name)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if st.Size() > maxDocument {
		return &fs.PathError{Op: "read", Path: name, Err: errTooLarge}
	}
	file, err := f.Open(name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // the file was only read
	if err := read(file, st.Size()); err != nil {
		return &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return nil
}

// findMember finds a file of the root directory also under the names that ISO
// 9660 without extensions, or its kernel driver, makes of it: OVF_ENV.XML;1,
// customda.bin.
func findMember(f fs.FS, name string) (string, error) {
	if _, err := fs.Stat(f, name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return name, err
	}
	entries, err := fs.ReadDir(f, ".")
	if err != nil {
		return "", err
	}
	want := foldName(name)
	stem, ext, _ := strings.Cut(want, ".")
	short := stem[:min(8, len(stem))] + "." + ext[:min(3, len(ext))]
	for _, alias := range []string{want, short} {
		for _, e := range entries {
			if foldName(e.Name()) == alias {
				return e.Name(), nil
			}
		}
	}
	return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func foldName(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.ReplaceAll(strings.ToLower(strings.TrimSuffix(s, ".")), "_", "-")
}

// Dir is a directory with the files of a medium in it.
type Dir string

// Open implements Media.
func (d Dir) Open(context.Context) (*Medium, error) {
	// Symlinks must not lead out of the directory.
	r, err := os.OpenRoot(string(d)) //nolint:forbidigo // the caller names the directory, relative to their working directory
	if err != nil {
		return nil, &MediaError{Tried: []Attempt{{string(d), "open directory", err, true}}}
	}
	return &Medium{FS: r.FS(), Source: Source{Device: string(d), Method: MethodDir}, close: r.Close}, nil
}

// MediaError says why no medium was found: everything that was tried, in
// order.
type MediaError struct {
	Tried []Attempt
}

// An Attempt is one thing that was tried on one device, and how it went.
type Attempt struct {
	Device string
	Step   string
	Err    error
	Drive  bool // an optical drive, or a device that the operator named
}

func (a Attempt) String() string { return a.Device + ": " + a.Step + ": " + a.Err.Error() }

func (e *MediaError) Error() string {
	if len(e.Tried) == 0 {
		return "no provisioning medium: no suitable device"
	}
	l := make([]string, len(e.Tried))
	for i, a := range e.Tried {
		l[i] = a.String()
	}
	return "no provisioning medium: " + strings.Join(l, "; ")
}

// Unwrap returns the errors of all attempts, for errors.Is.
func (e *MediaError) Unwrap() []error {
	l := make([]error, len(e.Tried))
	for i, a := range e.Tried {
		l[i] = a.Err
	}
	return l
}

// Code returns the stable error code, which the table of codes describes.
func (e *MediaError) Code() string { return "AZ-PROV-MEDIA" }

// Absent reports whether there is no medium (yet): no device, an empty drive,
// or only disks that hold something else. If it is false, a drive failed or
// its medium could not be used.
func (e *MediaError) Absent() bool {
	for _, a := range e.Tried {
		if a.Drive && !errors.Is(a.Err, errNoMedium) && !errors.Is(a.Err, errNotReady) && !errors.Is(a.Err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// settle is how long reading is retried when a drive reports an I/O error,
// which happens while a medium is being attached.
const settle = 5 * time.Second

// worthWaiting reports whether another look may find more than this one.
func (e *MediaError) worthWaiting(waited time.Duration) bool {
	if e.Absent() {
		return true
	}
	return waited < settle && slices.ContainsFunc(e.Tried, func(a Attempt) bool {
		return a.Drive && slices.ContainsFunc(passing, func(p error) bool { return errors.Is(a.Err, p) })
	})
}

// passing lists temporary errors of a device, as opposed to errors in its
// content.
var passing = []error{unix.EIO, unix.ENOMEDIUM, unix.ENXIO, unix.EBUSY, unix.EAGAIN, unix.EMEDIUMTYPE}
