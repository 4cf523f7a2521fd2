package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/protocol"
)

// pfxFormat is the only format that we can read; an empty one means the same.
const pfxFormat = "Pkcs7BlobWithPfxContents"

// ParseCertificates returns the CMS EnvelopedData of protocol/SPEC.md §5.2 as
// DER, or nil when there are no certificates or they are in a form that is
// not for us.
func ParseCertificates(b []byte) ([]byte, error) {
	root, err := parse("certificates", b)
	if err != nil {
		return nil, err
	}
	data := root.below("Data").text()
	if f := root.below("Format").text(); data == "" || (f != "" && !strings.EqualFold(f, pfxFormat)) {
		return nil, nil
	}
	der, err := decode64(data)
	if err != nil {
		return nil, &protocol.DocumentError{Doc: "certificates", Err: err}
	}
	return der, nil
}

// decode64 reads base64 with any white space and with or without padding.
func decode64(s string) ([]byte, error) {
	b := bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\n' || r == '\r' || r == '\t' || r == '=' {
			return -1
		}
		return r
	}, []byte(s))
	n, err := base64.RawStdEncoding.Decode(b, b) // in place: there may be megabytes of it
	if err != nil {
		return nil, errors.New("not base64")
	}
	return b[:n], nil
}

// AccessDocument is the remote access document, passwords still encrypted.
type AccessDocument struct {
	Incarnation string
	Users       []AccessUser
}

// AccessUser is one user of an AccessDocument.
type AccessUser struct {
	Name, Expires string
	Password      []byte // DER of CMS EnvelopedData
	Err           error
}

// ParseRemoteAccess reads the document of protocol/SPEC.md §12.1.
func ParseRemoteAccess(b []byte) (*AccessDocument, error) {
	root, err := parse("remoteAccess", b)
	if err != nil {
		return nil, err
	}
	doc := &AccessDocument{Incarnation: root.below("Incarnation").text()}
	list := root.find("Users").all("User")
	if len(list) > maxUsers { // decrypting takes time, and a cut list would remove accounts
		return nil, &protocol.DocumentError{Doc: "remoteAccess", Err: &bound.Error{What: "users", Max: maxUsers}}
	}
	for _, n := range list {
		u := AccessUser{Name: n.child("Name").text(), Expires: n.child("Expiration").text()}
		u.Password, err = decode64(n.child("Password").text())
		if err == nil && len(u.Password) == 0 {
			err = errors.New("empty")
		}
		if err != nil {
			u.Err = fmt.Errorf("user %s: password: %w", bound.Clip(u.Name), err)
		}
		if u.Name == "" {
			u.Err = errors.New("user without name")
		}
		doc.Users = append(doc.Users, u)
	}
	return doc, nil
}
