package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol"
)

// certs returns the state of the certificates of a goal state.
func certs(gs *protocol.GoalState) []status.Cert {
	users := map[string][]string{}
	for _, h := range gs.Handlers {
		for _, s := range h.Settings {
			tp := strings.ToUpper(s.Thumbprint)
			if tp != "" && !slices.Contains(users[tp], h.Name) {
				users[tp] = append(users[tp], h.Name)
			}
		}
	}
	var out []status.Cert
	have := map[string]bool{}
	for _, c := range gs.Certs {
		tp := strings.ToUpper(c.Thumbprint)
		have[tp] = true
		s := status.Cert{Thumbprint: tp, Name: c.Name, State: status.OK, HasKey: c.KeyPEM.Set(), UsedBy: users[tp]}
		s.KeyType, s.NotAfter = describe(c.CertPEM)
		switch {
		case !s.HasKey && len(s.UsedBy) > 0:
			s.State, s.Message, s.Problem = status.Error, "delivered without its private key", problem("AZ-CERT-NOKEY", gs.Received)
		case !s.NotAfter.IsZero() && gs.Received.After(s.NotAfter):
			s.Message = "expired; can still decrypt protected settings"
		}
		out = append(out, s)
	}
	var missing []string
	for tp := range users {
		if !have[tp] {
			missing = append(missing, tp)
		}
	}
	slices.Sort(missing)
	for _, tp := range missing {
		out = append(out, status.Cert{
			Thumbprint: tp, State: status.Error, UsedBy: users[tp], Message: "not in the certificates of the goal state",
			Problem: problem("AZ-CERT-MISSING", gs.Received),
		})
	}
	return out
}

// certsCode returns the code for certificates that could not be fetched or
// could not be decrypted.
func certsCode(err error) string {
	if _, fault := errors.AsType[*protocol.Fault](err); fault {
		return "AZ-CERT-FETCH"
	}
	return "AZ-CERT-DECRYPT"
}

func describe(certPEM []byte) (kind string, until time.Time) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return "", time.Time{}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", time.Time{}
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		kind = "EC " + k.Curve.Params().Name
	case ed25519.PublicKey:
		kind = "Ed25519"
	default:
		kind = c.PublicKeyAlgorithm.String()
	}
	return kind, c.NotAfter.UTC()
}
