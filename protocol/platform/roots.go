package platform

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Where distributions keep the certificates of authorities, as crypto/x509
// looks for them: the first of the files, and every file in the directories. The
// environment (SSL_CERT_FILE), which can name others, is not looked at.
var (
	rootFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine
		"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
		"/etc/ssl/ca-bundle.pem",                            // openSUSE
		"/etc/pki/tls/cacert.pem",                           // OpenELEC
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS, RHEL 7
		"/etc/ssl/cert.pem",                                 // Alpine
	}
	rootDirs = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// Limits of what is read of them: the usual bundle has 250 KiB.
const (
	maxRootFile  = 8 << 20
	maxRootFiles = 2000
)

// freshRoots makes the requests for blobs with the authorities that this
// machine trusts now: crypto/x509 reads them once in the life of a process, and
// an extension may install the authority of a proxy that inspects connections.
// Whether a file has changed is looked at for each request by https, which costs
// a few system calls.
type freshRoots struct {
	root host.Root
	make func(*x509.CertPool) *http.Transport // nil: the roots of the process

	mu    sync.Mutex // guards the fields below
	rt    *http.Transport
	stamp string
}

func newFreshRoots(root host.Root, transport func(*x509.CertPool) *http.Transport) *freshRoots {
	f := &freshRoots{root: root, make: transport, rt: transport(nil)}
	f.stamp = f.look()
	return f
}

// RoundTrip implements http.RoundTripper.
func (f *freshRoots) RoundTrip(r *http.Request) (*http.Response, error) {
	return f.current(r.URL.Scheme == "https").RoundTrip(r)
}

// CloseIdleConnections is for web.Client.Close.
func (f *freshRoots) CloseIdleConnections() { f.current(false).CloseIdleConnections() }

// current returns the transport; with look after looking for changes.
func (f *freshRoots) current(look bool) *http.Transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !look {
		return f.rt
	}
	if stamp := f.look(); stamp != f.stamp {
		// A file that can't be read, or is just being written, is no reason to
		// trust nobody.
		if pool := f.load(); pool != nil {
			f.rt.CloseIdleConnections()
			f.rt, f.stamp = f.make(pool), stamp
		}
	}
	return f.rt
}

// look returns what changes whenever one of the files or directories does.
func (f *freshRoots) look() string {
	var b strings.Builder
	for _, list := range [][]string{rootFiles, rootDirs} {
		for _, name := range list {
			if fi, err := f.root.Stat(name); err == nil {
				fmt.Fprintf(&b, "%s %d %d;", name, fi.Size(), fi.ModTime().UnixNano())
			}
		}
	}
	return b.String()
}

// load reads the authorities. It returns nil if there are none.
func (f *freshRoots) load() *x509.CertPool {
	pool, some := x509.NewCertPool(), false
	add := func(name string) bool {
		data, err := f.root.ReadBounded(name, maxRootFile)
		some = err == nil && pool.AppendCertsFromPEM(data) || some
		return err == nil
	}
	for _, name := range rootFiles {
		if add(name) {
			break
		}
	}
	for _, dir := range rootDirs {
		entries, err := f.root.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries[:min(len(entries), maxRootFiles)] {
			if !e.IsDir() {
				add(dir + "/" + e.Name())
			}
		}
	}
	if !some {
		return nil
	}
	return pool
}

// farTransport makes the transport for blobs.
func (o *Options) farTransport(dial web.Dial, proxy *web.Proxy) http.RoundTripper {
	if o.RootCAs != nil {
		return web.Transport(dial, proxy, o.RootCAs)
	}
	return newFreshRoots(o.Root, func(roots *x509.CertPool) *http.Transport { return web.Transport(dial, proxy, roots) })
}
