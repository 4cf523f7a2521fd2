package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

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
	if len(c.keys) == 0 { // nothing to ask, but whether it talks
		if _, err := c.askFor(ctx, nil); err != nil {
			c.noAnswer(ctx, err)
		}
		return
	}
	for _, k := range c.keys[:min(len(c.keys), askedKeys)] {
		accepted, err := c.askFor(ctx, &k)
		if err != nil && c.noAnswer(ctx, err) {
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

// errCloses means that sshd ends connections before it shows a host key.
var errCloses = errors.New("sshd closes the connection before it shows a host key")

// noAnswer says why sshd did not answer, if that shuts everybody out.
func (c *check) noAnswer(ctx context.Context, err error) bool {
	if errors.Is(err, errCloses) {
		if c.report.Open(Key, provisioning.FromNetwork) || c.report.Open(Password, provisioning.FromNetwork) { // else the reason is known
			c.add(Finding{
				Code: CodeServer, Shuts: login, Evidence: "port of sshd, " + c.listen + ": " + err.Error(),
				Fix: "journalctl -u ssh -u sshd has the reason: HostKey and HostKeyAlgorithms that do not fit, /etc/hosts.deny",
			})
		}
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		c.server(ctx, "connect to the port of sshd: "+err.Error())
		return true
	}
	return false
}

// A busyConn notices if sshd closes the connection because it has too many, or
// has punished the address for earlier ones (MaxStartups, PerSourcePenalties).
type busyConn struct {
	net.Conn
	busy atomic.Bool
}

func (c *busyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.HasPrefix(p[:n], []byte("Exceeded MaxStartups")) || bytes.HasPrefix(p[:n], []byte("Not allowed at this time")) {
		c.busy.Store(true)
	}
	return n, err
}

// askFor asks for one key, or, without one, only whether sshd talks. An error
// means that sshd gave no answer. It may be about to restart, so it is asked up
// to three times.
func (c *check) askFor(ctx context.Context, k *key) (accepted bool, err error) {
	for range 3 {
		if accepted, err = c.askOnce(ctx, k); !errors.Is(err, errCloses) {
			break
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(300 * time.Millisecond):
		}
	}
	return accepted, err
}

func (c *check) askOnce(ctx context.Context, k *key) (accepted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	tcp, err := c.m.Kernel.DialSelf(ctx, c.listen)
	if err != nil {
		return false, err
	}
	conn := &busyConn{Conn: tcp}
	defer func() { _ = conn.Close() }()
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return false, fmt.Errorf("ask sshd: %w", err)
		}
	}
	agreed := false
	var auth []ssh.AuthMethod
	if k != nil {
		auth = append(auth, ssh.PublicKeys(question{*k, &accepted}))
	}
	sc, _, _, err := ssh.NewClientConn(conn, c.listen, &ssh.ClientConfig{
		User: c.p.Name, Auth: auth,
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
	case !agreed && !conn.busy.Load() && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return false, fmt.Errorf("%w: %w", errCloses, err)
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
