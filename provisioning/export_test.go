package provisioning

import "golang.org/x/crypto/ssh"

// Give adds a key that was made before.
func (m *HostKeyMaker) Give(t string, priv []byte) {
	k := &hostKey{start: func() {}, done: make(chan struct{}), priv: priv}
	if signer, err := ssh.ParsePrivateKey(priv); err != nil {
		k.err = err
	} else {
		k.pub = ssh.MarshalAuthorizedKey(signer.PublicKey())
	}
	close(k.done)
	m.made[t] = k
}

// NewHostKey makes a host key of a type.
func NewHostKey(t string) (string, error) {
	priv, _, err := generateHostKey(t)
	return string(priv), err
}
