package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol/cms"
)

// platformRoot is the file, below the library directory, in which the classic
// agent keeps the root certificate of the platform's own publishers
// (protocol/SPEC.md §8.3).
const platformRoot = "microsoft_root_certificate.pem"

// maxRootFile is the largest size of a file of root certificates, in bytes.
const maxRootFile = 1 << 20

// trust verifies the signatures of extension packages. Root certificates are
// read at each use: packages come rarely, and a certificate that was removed
// must not be trusted until the next start.
type trust struct {
	root     host.Root
	dir, lib string
}

// verify implements extensions.Config.Verify. The dates and the purpose of the
// signer's certificate are not checked: packages outlive the certificates of
// their publishers (protocol/SPEC.md §8.3).
func (t trust) verify(ctx context.Context, file, signature string) (signer string, err error) {
	roots, err := t.roots()
	if err != nil {
		return "", err
	}
	s, err := cms.ParseSignature(signature)
	if err != nil {
		return "", err
	}
	f, err := host.Root("").Open(file)
	if err != nil {
		return "", fmt.Errorf("verify package: %w", err)
	}
	defer f.Close() // only read
	if err := s.Verify(reader{ctx, f}, roots); err != nil {
		return "", err
	}
	if name := s.Signer().Subject.CommonName; name != "" {
		return name, nil
	}
	return cms.Thumbprint(s.Signer().Raw), nil
}

// roots reads the root certificates: every *.pem and *.crt of the directory,
// and the classic agent's file. A file that can't be read is an error; it is
// not skipped, because whoever put it there relies on it.
func (t trust) roots() (*x509.CertPool, error) {
	var names []string
	entries, err := t.root.ReadDir(t.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read trust roots: %w", err)
	}
	for _, e := range entries {
		if ext := path.Ext(e.Name()); (ext == ".pem" || ext == ".crt") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, t.dir+"/"+e.Name())
		}
	}
	if legacy := t.lib + "/" + platformRoot; t.root.Exists(legacy) {
		names = append(names, legacy)
	}
	pool, n := x509.NewCertPool(), 0
	for _, name := range names {
		data, err := t.root.ReadBounded(name, maxRootFile)
		if err != nil {
			return nil, fmt.Errorf("read trust roots: %w", err)
		}
		had := n
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read trust roots %s: %w", name, err)
			}
			pool.AddCert(c)
			n++
		}
		if n == had {
			return nil, fmt.Errorf("read trust roots %s: no certificate in it", name)
		}
	}
	if n == 0 {
		return nil, fmt.Errorf("%w (%s)", extensions.ErrNoTrust, t.dir)
	}
	return pool, nil
}

// reader stops reading when the context ends, because packages are large.
type reader struct {
	ctx context.Context
	f   *os.File
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.f.Read(p)
}
