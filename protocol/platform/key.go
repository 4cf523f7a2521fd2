package platform

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/internal/cms"
)

const (
	certFile = "TransportCert.pem"
	keyFile  = "TransportPrivate.pem"
	keyBits  = 2048
	// A kept certificate is replaced well before it ends.
	certLife = 730 * 24 * time.Hour
	certLeft = 30 * 24 * time.Hour
)

// transportKey is the key pair to which the platform encrypts for us.
// WALinuxAgent makes a new one at each start, which costs 50 to 300 ms of CPU.
// We keep one for its lifetime, but only on the machine it was made on: the
// serial number of the certificate carries a digest of the VM id, so that a
// key which came along in an image is never used (two VMs of one image must
// not be able to read each other's secrets). Nothing needs the key before the
// certificates of the first goal state, so it is made in the background.
type transportKey struct {
	root host.Root
	dir  string
	vmid string

	once    sync.Once
	done    chan struct{}
	started atomic.Bool
	pair    cms.Key
	head    string // base64 DER, one line
	err     error
}

// start begins making the key; get waits for it.
func (k *transportKey) start() {
	k.once.Do(func() {
		k.done = make(chan struct{})
		k.started.Store(true)
		go func() {
			defer close(k.done)
			defer crash.Guard()
			k.pair, k.err = k.load()
			if k.err != nil {
				k.pair, k.err = k.make()
			}
			if k.err == nil {
				k.head = base64.StdEncoding.EncodeToString(k.pair.Cert.Raw)
			}
		}()
	})
}

func (k *transportKey) get(ctx context.Context) (cms.Key, string, error) {
	k.start()
	select {
	case <-k.done:
	case <-ctx.Done():
		return cms.Key{}, "", context.Cause(ctx)
	}
	return k.pair, k.head, k.err
}

// wait waits for the key if start was called.
func (k *transportKey) wait() {
	if k.started.Load() {
		// wait: making a key is work of our own, of some seconds at most
		<-k.done
	}
}

// mark is the part of the serial number that names the machine.
func (k *transportKey) mark() []byte {
	sum := sha256.Sum256([]byte("transport certificate of " + k.vmid))
	sum[0] = sum[0]&0x7f | 0x40 // positive, and never shortened by DER
	return sum[:8]
}

func (k *transportKey) load() (cms.Key, error) {
	if k.vmid == "" {
		return cms.Key{}, errors.New("no VM ID")
	}
	cb, err := k.root.ReadFile(path.Join(k.dir, certFile))
	if err != nil {
		return cms.Key{}, err
	}
	kb, err := k.root.ReadFile(path.Join(k.dir, keyFile))
	if err != nil {
		return cms.Key{}, err
	}
	cp, _ := pem.Decode(cb)
	kp, _ := pem.Decode(kb)
	if cp == nil || kp == nil {
		return cms.Key{}, errors.New("not PEM")
	}
	cert, err := x509.ParseCertificate(cp.Bytes)
	if err != nil {
		return cms.Key{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(kp.Bytes)
	if err != nil {
		return cms.Key{}, err
	}
	priv, ok := parsed.(*rsa.PrivateKey)
	now := time.Now()
	switch {
	case !ok || !priv.PublicKey.Equal(cert.PublicKey):
		return cms.Key{}, errors.New("key does not match certificate")
	case !bytes.HasPrefix(cert.SerialNumber.Bytes(), k.mark()):
		return cms.Key{}, errors.New("created for another VM")
	case now.Before(cert.NotBefore) || now.Add(certLeft).After(cert.NotAfter):
		return cms.Key{}, errors.New("certificate expired or not yet valid")
	}
	return cms.Key{RSA: priv, Cert: cert}, nil
}

func (k *transportKey) make() (cms.Key, error) {
	priv, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return cms.Key{}, fmt.Errorf("create transport key: %w", err)
	}
	cert, err := selfSigned(priv, k.mark(), time.Now())
	if err != nil {
		return cms.Key{}, fmt.Errorf("create transport certificate: %w", err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return cms.Key{}, fmt.Errorf("create transport key: %w", err)
	}
	pair := cms.Key{RSA: priv, Cert: cert}
	// If the disk can't be written, the pair in memory serves this run.
	_ = writeLib(k.root, k.dir, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), 0o400)
	_ = writeLib(k.root, k.dir, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o400)
	return pair, nil
}

// selfSigned makes the certificate of protocol/SPEC.md §5.1. The platform names
// recipients by subject key identifier, so it is set to the SHA-1 that
// OpenSSL would compute; Go's own would be a truncated SHA-256.
func selfSigned(priv *rsa.PrivateKey, mark []byte, now time.Time) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	copy(serial, mark)
	_, _ = rand.Read(serial[len(mark):]) // never fails
	id := cms.PublicKeyID(&priv.PublicKey)
	t := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: "LinuxTransport"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(certLife),
		SignatureAlgorithm:    x509.SHA256WithRSA,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SubjectKeyId:          id,
		AuthorityKeyId:        id,
	}
	// Go omits the authority key identifier in self-signed certificates.
	aki, err := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{id})
	if err != nil {
		return nil, err
	}
	t.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: aki}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &priv.PublicKey, priv)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// writeLib writes a file of the library directory, which is made when it is
// missing.
func writeLib(root host.Root, dir, name string, data []byte, perm uint32) error {
	if err := root.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return root.WriteFile(path.Join(dir, name), data, fs.FileMode(perm))
}
