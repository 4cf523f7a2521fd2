package provisioning

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
)

// HostKeyTypes lists the types that are made, quick ones first. In FIPS mode
// sshd refuses ed25519.
func HostKeyTypes(fips bool) []string {
	if fips {
		return []string{"ecdsa", "rsa"}
	}
	return []string{"ed25519", "ecdsa", "rsa"}
}

// rsaBits is the size of RSA keys, the default of ssh-keygen.
const rsaBits = 3072

// A HostKeyMaker generates host keys in the background. Quick types start at
// once, so that they exist before sshd starts. RSA takes a sixth of a second
// or more and starts only when it is requested, to keep the boot fast.
type HostKeyMaker struct{ made map[string]*hostKey }

type hostKey struct {
	start func() // only the first call has an effect
	done  chan struct{}
	priv  []byte // OpenSSH format
	pub   []byte // one line
	err   error
}

// MakeHostKeys starts to generate one key of each type except RSA. The
// goroutines end by themselves.
func MakeHostKeys(types []string) *HostKeyMaker {
	m := &HostKeyMaker{made: map[string]*hostKey{}}
	for _, t := range types {
		k := &hostKey{done: make(chan struct{})}
		k.start = sync.OnceFunc(func() {
			go func() {
				defer close(k.done)
				defer crash.Guard()
				if t == "rsa" {
					// The thread is never unlocked, so it ends with the
					// goroutine. Until then it runs at low priority, to not
					// delay the boot.
					runtime.LockOSThread()
					_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 10)
				}
				k.priv, k.pub, k.err = generateHostKey(t)
			}()
		})
		m.made[t] = k
		if t != "rsa" {
			k.start()
		}
	}
	return m
}

// begin starts to generate a key that will be waited for.
func (m *HostKeyMaker) begin(t string) {
	if k, ok := m.made[t]; ok {
		k.start()
	}
}

// get returns a key. With wait it waits until the key is generated; otherwise
// the second result is false if the key is not ready.
func (m *HostKeyMaker) get(ctx context.Context, t string, wait bool) (*hostKey, bool, error) {
	k, ok := m.made[t]
	if !ok {
		return nil, false, fmt.Errorf("key type %s was not requested", t)
	}
	if !wait {
		select {
		case <-k.done:
		default:
			return nil, false, nil
		}
	}
	k.start()
	select {
	case <-k.done:
		return k, true, k.err
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

func generateHostKey(t string) (priv, pub []byte, err error) {
	var key crypto.Signer
	switch t {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		err = errors.New("unknown key type")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("generate %s key: %w", t, err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s key: %w", t, err)
	}
	p, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s key: %w", t, err)
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(p), nil
}
