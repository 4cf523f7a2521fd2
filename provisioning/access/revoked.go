package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
)

// revoked judges the file of RevokedKeys as sshd does (sshkey_check_revoked in
// its authfile.c): a KRL, which ssh-keygen reads, or a text with one public key
// per line. sshd refuses every key if it cannot read all of the file.
func (j *judge) revoked(ctx context.Context) {
	file := j.a.Value("revokedkeys")
	if !j.p.Key || file == "" || file == "none" {
		return
	}
	b, err := j.m.Root.ReadFile(file)
	if err != nil {
		j.add(CodeRevoked, "install -m 600 /dev/null "+file, []Way{Key}, "RevokedKeys: %v: sshd refuses every key", err)
		return
	}
	var bad []string
	for _, k := range j.keys {
		in, err := j.isRevoked(ctx, file, b, k)
		if err != nil {
			j.add(CodeRevoked, "mend "+file+": a KRL of ssh-keygen, or one public key per line", []Way{Key}, "RevokedKeys %s: %v: sshd refuses keys that are not listed before it", file, err)
			return
		}
		if in {
			bad = append(bad, ssh.FingerprintSHA256(k))
		}
	}
	if len(bad) == 0 {
		return
	}
	shuts := []Way{Key}
	if len(bad) < len(j.keys) {
		shuts = nil
	}
	j.add(CodeRevoked, "give the machine another key, or take this one out of "+file, shuts, "RevokedKeys %s has %s", file, strings.Join(bad, ", "))
}

// krlMagic begins a key revocation list (PROTOCOL.krl of OpenSSH).
const krlMagic = "SSHKRL\n\x00"

func (j *judge) isRevoked(ctx context.Context, file string, list []byte, k key) (bool, error) {
	if bytes.HasPrefix(list, []byte(krlMagic)) {
		return j.inKRL(ctx, file, k)
	}
	for line := range bytes.Lines(list) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		other, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil || len(options) > 0 {
			return false, errors.New("a line is not a public key")
		}
		if bytes.Equal(other.Marshal(), k.Marshal()) {
			return true, nil
		}
	}
	return false, nil
}

// inKRL asks ssh-keygen, which wants the key in a file. It exits with 1 for a
// key that is revoked, and with 255 for a list that it cannot read.
func (j *judge) inKRL(ctx context.Context, file string, k key) (bool, error) {
	dir := j.m.Options.Dir()
	name := path.Join(dir, "asked.pub")
	if err := errors.Join(j.m.Root.MkdirAll(dir, 0o700), j.m.Root.WriteFile(name, ssh.MarshalAuthorizedKey(k), 0o600)); err != nil {
		return false, err
	}
	_, err := j.run1(ctx, nil, "ssh-keygen", "-Q", "-f", j.m.Root.Path(file), j.m.Root.Path(name))
	if rerr := j.m.Root.Remove(name); rerr != nil {
		return false, rerr
	}
	ex, exited := errors.AsType[*host.ExitError](err)
	switch {
	case err == nil, host.NotFound(err):
		return false, nil // without the tool, it is not known
	case exited && ex.Code == 1:
		return true, nil
	}
	return false, fmt.Errorf("ssh-keygen -Q: %w", err)
}
