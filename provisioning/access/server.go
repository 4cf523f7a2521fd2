package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/provisioning"
)

// server says that no SSH server answers. Whether one will be started is known
// of systemd only; elsewhere nothing is said.
func (c *check) server(ctx context.Context, why string) {
	if !c.m.Root.Exists("/run/systemd/system") {
		return
	}
	var units []string
	for _, unit := range []string{"ssh.service", "sshd.service", "ssh.socket", "sshd.socket"} {
		out, err := c.run1(ctx, nil, "systemctl", "is-enabled", unit)
		if state := strings.TrimSpace(out); state != "" && state != "not-found" || err == nil {
			units = append(units, unit+" is "+strings.TrimSpace(out))
		}
	}
	c.add(Finding{
		Code: CodeServer, Shuts: login, Evidence: why + "; systemctl is-enabled: " + strings.Join(units, ", "),
		Fix: "systemctl enable --now ssh.service or sshd.service",
	})
}

// A question is a public key without its private half: sshd says whether it
// would accept the key before it wants a signature (RFC 4252, section 7).
type question struct {
	key
	accepted *bool
}

var errAccepted = errors.New("sshd accepts the key")

// PublicKey implements ssh.Signer.
func (q question) PublicKey() ssh.PublicKey { return q.key.PublicKey }

// Sign implements ssh.Signer: it is called once sshd has accepted the key.
func (q question) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	*q.accepted = true
	return nil, errAccepted
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (q question) SignWithAlgorithm(r io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return q.Sign(r, data)
}

// askedKeys is how many keys sshd is asked for: newer ones refuse a client
// after a few unsuccessful attempts (PerSourcePenalties).
const askedKeys = 2

// ask asks the sshd that listens whether it would accept the person's keys. It
// judges all that is hard to judge from outside: links, modes, options of the
// line, policies of cryptography, lists of revoked keys.
func (c *check) ask(ctx context.Context) {
	if c.m.Kernel.DialSelf == nil || c.listen == "" {
		return
	}
	var refused []string
	for _, k := range c.keys[:min(len(c.keys), askedKeys)] {
		accepted, err := c.askFor(ctx, k)
		if _, ok := errors.AsType[*net.OpError](err); ok && !accepted {
			c.server(ctx, "connect to the port of sshd: "+err.Error())
			return
		}
		switch {
		case accepted:
			c.report.Asked = true
			c.report.Findings = slices.DeleteFunc(c.report.Findings, func(f Finding) bool {
				return f.From == "" && slices.Contains(f.Shuts, Key) && slices.Contains([]string{CodeKeyFile, CodeKeyType, CodeRevoked}, f.Code)
			})
			return
		case err == nil:
			refused = append(refused, ssh.FingerprintSHA256(k))
		default:
			c.m.Log.Debug().Err(err).Msg("sshd could not be asked for a key")
		}
	}
	if c.p.Key && len(refused) > 0 && len(refused) == len(c.keys) && c.report.Open(Key, provisioning.FromNetwork) {
		c.report.Asked = true
		c.add(Finding{
			Code: CodeRefused, Shuts: []Way{Key}, Evidence: "sshd at port " + c.listen + " refuses the key " + strings.Join(refused, ", "),
			Fix: "set LogLevel DEBUG1 in sshd_config, reload sshd and run agentctl doctor; journalctl -u ssh -u sshd then has the reason",
		})
	}
}

// askFor asks for one key. An error means that sshd gave no answer.
func (c *check) askFor(ctx context.Context, k key) (accepted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := c.m.Kernel.DialSelf(ctx, c.listen)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return false, fmt.Errorf("ask sshd: %w", err)
		}
	}
	agreed := false
	sc, _, _, err := ssh.NewClientConn(conn, c.listen, &ssh.ClientConfig{
		User: c.p.Name, Auth: []ssh.AuthMethod{ssh.PublicKeys(question{k, &accepted})},
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error {
			agreed = true // it is this machine, and learns nothing but a public key
			return nil
		},
	})
	if err == nil {
		_ = sc.Close()
		return true, nil
	}
	var ne net.Error
	switch {
	case accepted:
		return true, nil
	case !agreed, errors.Is(err, io.EOF), errors.As(err, &ne):
		return false, fmt.Errorf("ask sshd: %w", err)
	}
	return false, nil
}

// listenAt returns where sshd can be asked, as host:port; an unspecified host
// is any address of the machine.
func listenAt(a provisioning.SSHDAnswer) string {
	at := ""
	for _, l := range a["listenaddress"] {
		ap, err := netip.ParseAddrPort(l)
		if err == nil && (at == "" || ap.Addr().Is4()) {
			at = l
		}
	}
	return at
}
