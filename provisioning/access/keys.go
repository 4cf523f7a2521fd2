package access

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// keyTypes compares the person's keys with what sshd accepts.
func (j *judge) keyTypes() {
	if !j.p.Key || len(j.keys) == 0 {
		return
	}
	accepted := strings.Split(j.a.Value("pubkeyacceptedalgorithms"), ",")
	if accepted[0] == "" {
		accepted = strings.Split(j.a.Value("pubkeyacceptedkeytypes"), ",") // before OpenSSH 8.5
	}
	least, _ := strconv.Atoi(j.a.Value("requiredrsasize")) // 0 before OpenSSH 9.1
	var why []string
	for _, k := range j.keys {
		if w := k.refused(accepted, least); w != "" {
			why = append(why, w)
		}
	}
	switch {
	case len(why) == 0:
	case len(why) == len(j.keys):
		j.add(CodeKeyType, "give the machine a key of another type: ssh-keygen -t ecdsa; or change PubkeyAcceptedAlgorithms", []Way{Key}, "sshd -T: %s", strings.Join(why, "; "))
	default:
		j.add(CodeKeyType, "give the machine a key of another type: ssh-keygen -t ecdsa; or change PubkeyAcceptedAlgorithms", nil, "sshd -T, for some of the keys: %s", strings.Join(why, "; "))
	}
}

// refused says why sshd does not accept this kind of key; empty if it does.
func (k key) refused(accepted []string, leastRSA int) string {
	names := []string{k.Type()}
	if k.Type() == ssh.KeyAlgoRSA {
		names = []string{ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
		if c, ok := k.PublicKey.(ssh.CryptoPublicKey); ok {
			if pub, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && pub.N.BitLen() < leastRSA {
				return fmt.Sprintf("RequiredRSASize %d, the key has %d bits", leastRSA, pub.N.BitLen())
			}
		}
	}
	if accepted[0] != "" && !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(accepted, n) }) {
		return "PubkeyAcceptedAlgorithms does not have " + k.Type()
	}
	return ""
}

// keyFiles reads the files that sshd reads, as the person, and judges them as
// sshd does: reachable, not writable by others, with one of the keys.
func (j *judge) keyFiles(ctx context.Context) {
	if !j.p.Key {
		return
	}
	patterns := j.a.Words("authorizedkeysfile")
	if len(patterns) == 0 || patterns[0] == "none" {
		if cmd := j.a.Value("authorizedkeyscommand"); cmd != "" && cmd != "none" {
			j.add(CodeKeyFile, "put the key where AuthorizedKeysCommand finds it", nil, "sshd -T: AuthorizedKeysFile none; keys come from a command")
			return
		}
		j.add(CodeKeyFile, "set AuthorizedKeysFile .ssh/authorized_keys", []Way{Key}, "sshd -T: AuthorizedKeysFile none")
		return
	}
	var why []string
	fix := ""
	for _, p := range patterns {
		name := j.expand(p)
		if !path.IsAbs(name) {
			name = path.Join(j.acct.Home, name)
		}
		problem, f := j.keyFile(ctx, path.Clean(name))
		if problem == "" {
			return
		}
		why = append(why, problem)
		if fix == "" {
			fix = f
		}
	}
	j.add(CodeKeyFile, fix, []Way{Key}, "%s", strings.Join(why, "; "))
}

// keyFile says why sshd finds no key of the person in a file.
func (j *judge) keyFile(ctx context.Context, name string) (problem, fix string) {
	text, err := j.run1(ctx, &j.person, "cat", "--", name)
	if err != nil {
		return fmt.Sprintf("cat %s as %s: %v", name, j.p.Name, err), j.wayTo(name)
	}
	if j.a.Value("strictmodes") != "no" {
		if d, mode, ok := j.writable(name); ok {
			return fmt.Sprintf("StrictModes: %s has mode %o and owner %s", d, mode.Perm(), j.ownerOf(d)), "chmod go-w " + d + " && chown " + j.p.Name + " " + d
		}
	}
	return j.inFile(name, text)
}

// inFile looks for the person's keys in the text of a file. sshd takes the
// first line with the key whose options fit.
func (j *judge) inFile(name, text string) (problem, fix string) {
	lines, restricted, skipped := 0, "", ""
	for line := range strings.Lines(text) {
		k, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || slices.Contains(options, "cert-authority") {
			continue
		}
		lines++
		if j.p.Keys == nil && !slices.ContainsFunc(j.keys, func(o key) bool { return bytes.Equal(o.Marshal(), k.Marshal()) }) {
			j.keys = append(j.keys, key{k}) // on request, they are those that the person has now
		}
		if len(j.keys) > 0 && !slices.ContainsFunc(j.keys, func(o key) bool { return bytes.Equal(o.Marshal(), k.Marshal()) }) {
			continue
		}
		if why := j.skipped(options); why != "" {
			skipped = "the line of the key in " + name + " has " + why
			continue
		}
		forced := slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(strings.ToLower(o), "command=") })
		if !forced {
			return "", ""
		}
		restricted = "the line of the key in " + name + " has command=: no shell"
		if len(j.keys) < 2 {
			break // this line decides
		}
	}
	switch {
	case restricted != "":
		j.add(CodeSession, "remove the options in front of the key in "+name, []Way{Key}, "%s", restricted)
		return "", ""
	case skipped != "":
		return skipped, "remove the options in front of the key in " + name
	case lines == 0:
		return name + " has no keys", "add the key to " + name
	}
	return "none of the keys of the document is in " + name, "add the key to " + name
}

// skipped says which option makes sshd skip a line: it has expired, or is for
// other addresses (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
func (j *judge) skipped(options []string) string {
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		v = strings.Trim(v, `"`)
		switch strings.ToLower(k) {
		case "from":
			if !matchAddress(v, j.from) {
				return "from=: not for log-ins from " + j.from
			}
		case "expiry-time":
			for _, layout := range []string{"20060102", "200601021504", "20060102150405", "20060102Z", "200601021504Z", "20060102150405Z"} {
				if at, err := time.ParseInLocation(layout, v, time.Local); err == nil && j.now.After(at) {
					return "expiry-time=, which has passed"
				}
			}
		}
	}
	return ""
}

// wayTo names what closes the way to a file.
func (j *judge) wayTo(name string) string {
	for d := path.Dir(name); d != "/"; d = path.Dir(d) {
		if _, mode, err := j.look(d); err == nil && mode&0o001 == 0 && !strings.HasPrefix(name, j.acct.Home+"/") {
			return "chmod o+x " + d
		}
	}
	return "put the key into " + name + ", readable for " + j.p.Name
}

// look returns the owner and the mode of a file.
func (c *check) look(name string) (uid int, mode fs.FileMode, err error) {
	fi, err := c.m.Root.Stat(name)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, errors.New("no owner")
	}
	return int(st.Uid), fi.Mode(), nil
}

func (c *check) ownerOf(name string) string {
	uid, _, err := c.look(name)
	if err != nil {
		return "?"
	}
	return strconv.Itoa(uid)
}

// writable finds the file or directory for which StrictModes refuses a key
// file (safe_path in sshd's misc.c): the file and every directory up to the
// home, else up to the root, must be the person's or root's, and writable by
// its owner alone.
func (j *judge) writable(name string) (at string, mode fs.FileMode, bad bool) {
	file, err := j.m.Root.Resolve(name)
	if err != nil {
		return "", 0, false
	}
	home, err := j.m.Root.Resolve(j.acct.Home)
	if err != nil {
		home = j.acct.Home
	}
	for d := file; ; d = path.Dir(d) {
		uid, mode, err := j.look(d)
		if err == nil && (uid != 0 && uid != j.acct.UID || mode&0o022 != 0) {
			return d, mode, true
		}
		if d == home || d == "/" {
			return "", 0, false
		}
	}
}
