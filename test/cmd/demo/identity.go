package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// identity is what the customer requests, different in each run.
type identity struct {
	user, hostname, password string
	customData               []byte
	keys                     []keyPair
}

type keyPair struct {
	name    string // ed25519 or rsa
	public  string // a line of authorized_keys
	private []byte // PEM, OpenSSH format
}

func newIdentity() (identity, error) {
	id := identity{
		user:     "u" + strings.ToLower(rand.Text()[:7]),
		hostname: "vm-" + strings.ToLower(rand.Text()[:8]),
		// With characters that are special in shells, XML and chpasswd.
		password:   rand.Text()[:12] + `a1!<&">'$:`,
		customData: []byte("#!/bin/sh\n# custom data of this run: " + rand.Text() + "\n"),
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return id, err
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return id, err
	}
	for _, k := range []struct {
		name string
		key  crypto.Signer
	}{{"ed25519", ed}, {"rsa", rs}} {
		pub, err := ssh.NewPublicKey(k.key.Public())
		if err != nil {
			return id, fmt.Errorf("make %s key: %w", k.name, err)
		}
		block, err := ssh.MarshalPrivateKey(k.key, id.user)
		if err != nil {
			return id, fmt.Errorf("make %s key: %w", k.name, err)
		}
		line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " " + id.user + "@demo"
		id.keys = append(id.keys, keyPair{k.name, line, pem.EncodeToMemory(block)})
	}
	return id, nil
}

// log keeps the output of a process.
type log struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// tail returns the last n lines.
func (l *log) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.b.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
