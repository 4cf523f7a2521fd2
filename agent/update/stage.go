package update

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// A Fetcher fetches blobs. Package agent passes the platform's client, as it
// does to the extensions.
type Fetcher interface {
	// Manifest reads a version manifest from the first address that answers.
	Manifest(ctx context.Context, uris []secret.URL) (protocol.Manifest, error)
	// Package writes at most limit bytes to dst, a name below the root. check
	// is called with each file that was received (a name the kernel
	// understands) and its SHA-256 in hex. If it returns an error, other
	// addresses are asked, so it should be the caller's whole judgement; the
	// error's outlook says whether the fault can be the transport's. What was
	// received when it fails may be left for the next call, see
	// host.PartSuffix.
	Package(ctx context.Context, m protocol.Manifest, v protocol.PackageVersion, dst string, limit int64, check func(file, digest string) error) (digest string, err error)
}

// A Stager downloads versions and makes them ready to run.
type Stager struct {
	Store
	Fetch Fetcher
	Trust Trust
	Run   host.Runner
	Arch  string // GOARCH
}

const (
	dirPrefix = "WALinuxAgent-"
	// record is a file in every directory that this agent has made. Directories
	// of the classic agent have similar names and are not touched.
	record = "azguest-staged.json"
)

// staged is what was found out about a package when it was unpacked; the record
// has it.
type staged struct {
	Program
	Package string    `json:"package"` // SHA-256 of the zip
	Signer  string    `json:"signer,omitempty"`
	At      time.Time `json:"at"`
}

// Stage makes a version ready to be run and returns it. m may be nil. The order
// is: signature, trust, download, signature over the bytes, identity,
// unpacking, a trial run of "version". Final reports whether another attempt is
// useless.
func (s Stager) Stage(ctx context.Context, fam protocol.AgentFamily, version string, m *protocol.Manifest) (Program, error) {
	if !Valid(version) {
		return Program{}, refuse("%q is not a version", version)
	}
	if p, err := s.have(version); err == nil {
		return p, nil
	}
	if m == nil {
		got, err := s.Fetch.Manifest(ctx, fam.ManifestURIs)
		if err != nil {
			return Program{}, fmt.Errorf("get manifest of family %s: %w", fam.Name, err)
		}
		m = &got
	}
	i := slices.IndexFunc(m.Versions, func(v protocol.PackageVersion) bool { return Compare(v.Version, version) == 0 })
	if i < 0 {
		outlook := protocol.Absent
		if len(m.Versions) == 0 { // it is just being published
			outlook = protocol.Later
		}
		return Program{}, protocol.Judge(outlook, fmt.Errorf("manifest of family %s does not contain version %s", fam.Name, version))
	}
	v := m.Versions[i]
	sig, err := s.signature(ctx, *m, v)
	if err != nil {
		return Program{}, err
	}
	// Do not download a package that can't be accepted.
	if err := s.Trust.Check(sig); err != nil {
		return Program{}, err
	}
	if err := s.Root.MkdirAll(s.dir(), 0o700); err != nil {
		return Program{}, err
	}
	zip := path.Join(s.dir(), dirPrefix+version+".zip")
	if err := s.dropParts(zip); err != nil {
		return Program{}, err
	}
	var p Program
	_, err = s.Fetch.Package(ctx, *m, v, zip, MaxPackage, func(file, digest string) (err error) {
		p, err = s.accept(ctx, version, file, digest, sig)
		return err
	})
	if err != nil {
		return Program{}, errors.Join(fmt.Errorf("get version %s: %w", version, err), s.Root.Remove(zip))
	}
	return p, s.Root.Remove(zip)
}

// dropParts removes what was received of packages other than that of a file
// name.
func (s Store) dropParts(keep string) error {
	parts, err := s.Root.Glob(path.Join(s.dir(), dirPrefix+"*"+host.PartSuffix))
	errs := []error{err}
	for _, p := range parts {
		if p != keep+host.PartSuffix {
			errs = append(errs, s.Root.Remove(p))
		}
	}
	return errors.Join(errs...)
}

// signature fetches the signature of a package. It returns nil if there is
// none, and an error if that can't be found out.
func (s Stager) signature(ctx context.Context, m protocol.Manifest, v protocol.PackageVersion) ([]byte, error) {
	beside := protocol.PackageVersion{Version: v.Version}
	for _, u := range v.URIs {
		p, err := url.Parse(u.Reveal())
		if err != nil {
			continue // not a valid address
		}
		p.Path += ".sig"
		if p.RawPath != "" {
			p.RawPath += ".sig"
		}
		beside.URIs = append(beside.URIs, secret.NewURL(p.String()))
	}
	if err := s.Root.MkdirAll(s.dir(), 0o700); err != nil {
		return nil, err
	}
	file := path.Join(s.dir(), dirPrefix+v.Version+".zip.sig")
	_, err := s.Fetch.Package(ctx, m, beside, file, MaxSignature, func(file, _ string) error { return plausible(file) })
	if err != nil {
		if ctx.Err() == nil && protocol.OutlookOf(err, protocol.Never) == protocol.Absent {
			return nil, nil
		}
		return nil, fmt.Errorf("get signature of version %s: %w", v.Version, err)
	}
	b, err := s.Root.ReadFile(file)
	return b, errors.Join(err, s.Root.Remove(file))
}

// plausible reports whether a file can be a signature: a page that a portal or
// a proxy has sent for it is none.
func plausible(file string) error {
	b, err := files.ReadBounded(file, MaxSignature)
	if err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	if page := bytes.TrimSpace(b); len(page) > 0 && page[0] == '<' {
		return errors.New("not a signature")
	}
	return nil
}

// accept verifies a downloaded package, a name the kernel understands, and
// unpacks it. The file is opened
// once: what is unpacked are the bytes that were verified, whatever happens
// to the name meanwhile.
func (s Stager) accept(ctx context.Context, version, zip, digest string, sig []byte) (Program, error) {
	f, err := files.Open(zip)
	if err != nil {
		return Program{}, fmt.Errorf("open package: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Program{}, fmt.Errorf("open package: %w", err)
	}
	signer, err := s.Trust.Verify(f, sig)
	if _, zerr := packageLimits.Open(f, fi.Size()); zerr != nil && (err != nil || signer == "") {
		return Program{}, garbled(zerr) // then the signature, or that there is none, says nothing
	}
	if err != nil {
		return Program{}, err
	}
	z, err := open(f, fi.Size(), version)
	if err != nil {
		return Program{}, err
	}
	dir := path.Join(s.Lib, dirPrefix+version)
	if s.Root.Exists(dir) && !s.Root.Exists(path.Join(dir, record)) {
		return Program{}, fmt.Errorf("%s exists but was not created by the agent", dir)
	}
	tmp := path.Join(s.dir(), "stage-"+rand.Text())
	if err := unpack(z, s.Root.Path(tmp)); err != nil {
		return Program{}, err
	}
	p, err := s.place(ctx, version, tmp, dir, digest, signer)
	if err != nil {
		return Program{}, errors.Join(err, s.Root.RemoveAll(tmp))
	}
	return p, nil
}

func (s Stager) place(ctx context.Context, version, tmp, dir, digest, signer string) (Program, error) {
	bin, err := binary(s.Root.Path(tmp), s.Arch)
	if err != nil {
		return Program{}, err
	}
	// Run it once, to see whether it works on this machine: libraries, noexec
	// or a security module may prevent that.
	res, err := s.Run.Run(ctx, host.Cmd{Name: bin, Args: []string{"version"}, Timeout: 20 * time.Second})
	if err != nil {
		return Program{}, foreign("version %s cannot run on this machine: %w", version, err)
	}
	if f := strings.Fields(string(res.Stdout)); len(f) < 2 || f[0] != "azguest" || Compare(f[1], version) != 0 {
		return Program{}, refuse("program in the package reports version %.100q, not %s", strings.TrimSpace(string(res.Stdout)), version)
	}
	sum, err := hashFile(bin)
	if err != nil {
		return Program{}, err
	}
	rel, err := filepath.Rel(s.Root.Path(tmp), bin)
	if err != nil {
		return Program{}, err
	}
	p := Program{Version: version, Path: s.Root.Path(path.Join(dir, rel)), SHA256: sum}
	b, err := json.Marshal(staged{Program: p, Package: digest, Signer: signer, At: time.Now().UTC()})
	if err != nil {
		return Program{}, err
	}
	if err := s.Root.WriteFile(path.Join(tmp, record), append(b, '\n'), 0o600); err != nil {
		return Program{}, err
	}
	if err := s.Root.ReplaceDir(tmp, dir); err != nil {
		return Program{}, fmt.Errorf("place version %s: %w", version, err)
	}
	return p, nil
}

// have returns a version that was staged before and is intact.
func (s Stager) have(version string) (Program, error) {
	b, err := s.Root.ReadFile(path.Join(s.Lib, dirPrefix+version, record))
	if err != nil {
		return Program{}, err
	}
	var r staged
	if err := json.Unmarshal(b, &r); err != nil {
		return Program{}, err
	}
	if r.Signer == "" && !s.Trust.Unsigned {
		return Program{}, errors.New("staged without a signature, and AutoUpdate.RequireSignature is set")
	}
	return r.Program, r.intact()
}

// intact checks that the binary is the one that was verified: a power cut or
// a bad disk may have changed it.
func (p Program) intact() error {
	if p.SHA256 == "" {
		return nil
	}
	sum, err := hashFile(p.Path)
	if err != nil {
		return err
	}
	if sum != p.SHA256 {
		return fmt.Errorf("%s was changed on disk", p.Path)
	}
	return nil
}

func hashFile(name string) (string, error) {
	f, err := files.Open(name)
	if err != nil {
		return "", fmt.Errorf("check program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("check program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Prune removes versions other than the running, the committed and the previous
// one, and the leftovers of interrupted attempts.
func (s Store) Prune(running string) error {
	st, err := s.Load()
	if err != nil {
		return err
	}
	if st.Trial != nil {
		return nil
	}
	keep := map[string]bool{running: true}
	for _, p := range []*Program{st.Active, st.Previous} {
		if p != nil {
			keep[p.Version] = true
		}
	}
	var errs []error
	dirs, err := s.Root.Glob(path.Join(s.Lib, dirPrefix+"*"))
	errs = append(errs, err)
	for _, d := range dirs {
		if !keep[strings.TrimPrefix(path.Base(d), dirPrefix)] && s.Root.Exists(path.Join(d, record)) {
			errs = append(errs, s.Root.RemoveAll(d))
		}
	}
	for _, left := range []string{"stage-*", dirPrefix + "*.zip*", "." + dirPrefix + "*"} {
		names, err := s.Root.Glob(path.Join(s.dir(), left))
		errs = append(errs, err)
		for _, n := range names {
			errs = append(errs, s.Root.RemoveAll(n))
		}
	}
	if err := errors.Join(errs...); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old versions: %w", err)
	}
	return nil
}
