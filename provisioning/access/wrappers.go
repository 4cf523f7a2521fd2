package access

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
)

// wrappers judges hosts.allow and hosts.deny, in the language of
// hosts_access(5), if sshd is built with TCP wrappers: it then closes a
// connection before it has said a word. The first line that fits decides.
func (j *judge) wrappers() {
	if !j.wrapped() {
		return
	}
	unsure := false
	for _, file := range []string{"/etc/hosts.allow", "/etc/hosts.deny"} {
		b, err := j.m.Root.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
			line = strings.TrimSpace(line)
			f := wrapperFields(line)
			if strings.HasPrefix(line, "#") || len(f) < 2 || !matchList(wrapperWords(f[0]), wrappedDaemon) {
				continue
			}
			if !matchList(wrapperWords(f[1]), func(t string) bool {
				hit, known := wrappedClient(t, j.from)
				unsure = unsure || !known
				return hit
			}) {
				continue
			}
			if wrapperRefuses(file == "/etc/hosts.deny", f[2:]) {
				shuts := login
				if unsure {
					shuts = nil // a name in front of it may be that of the person's machine
				}
				j.add(CodeDenied, "put into /etc/hosts.allow, as its first line: sshd: ALL", shuts, "%s has %q, and this sshd is built with TCP wrappers", file, line)
			}
			return
		}
	}
}

// wrapped reports whether sshd is built with TCP wrappers. Since OpenSSH 9.8
// another program serves the connections.
func (j *judge) wrapped() bool {
	for _, name := range []string{"/usr/sbin/sshd", "/usr/lib/openssh/sshd-session", "/usr/libexec/openssh/sshd-session", "/usr/lib/ssh/sshd-session"} {
		if b, err := j.m.Root.ReadFile(name); err == nil && bytes.Contains(b, []byte("libwrap.so")) {
			return true
		}
	}
	return false
}

// wrapperFields splits a line at colons, except those of an address in
// brackets.
func wrapperFields(line string) []string {
	inside := false
	return strings.FieldsFunc(line, func(c rune) bool {
		inside = c == '[' || inside && c != ']'
		return c == ':' && !inside
	})
}

func wrapperWords(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(" ,\t", c) })
}

func wrapperRefuses(refuses bool, options []string) bool {
	for _, o := range options {
		switch word, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(o)), " "); word {
		case "allow":
			refuses = false
		case "deny", "twist":
			refuses = true
		}
	}
	return refuses
}

func wrappedDaemon(token string) bool {
	token, _, _ = strings.Cut(token, "@") // sshd@ADDRESS: one of the machine's addresses
	return token == "ALL" || wildcard(token, "sshd")
}

// wrappedClient reports whether a token stands for an address. What depends on
// the client's name is not known: it is looked up when the client comes.
func wrappedClient(token, from string) (hit, known bool) {
	if i := strings.LastIndexByte(token, '@'); i > 0 {
		token = token[i+1:] // USER@HOST
	}
	addr, err := netip.ParseAddr(from)
	if err != nil || !addr.Is4() {
		return false, false
	}
	text := strings.NewReplacer("[", "", "]", "").Replace(token)
	if base, mask, ok := strings.Cut(text, "/"); ok && base != "" {
		if m := net.ParseIP(mask).To4(); m != nil {
			ip := addr.As4()
			return net.IP(ip[:]).Mask(net.IPMask(m)).String() == base, true
		}
		n, err := netip.ParsePrefix(text)
		return err == nil && n.Contains(addr), err == nil
	}
	switch {
	case token == "ALL":
		return true, true
	case strings.Trim(text, "0123456789.*?") == "" && strings.HasSuffix(text, "."):
		return strings.HasPrefix(from, text), true
	case strings.Trim(text, "0123456789abcdefABCDEF:.*?") == "" && strings.ContainsAny(text, ".:*") && text[0] != '.':
		return wildcard(text, from), true
	}
	return false, token == "LOCAL" // a name without a dot, which only the machine's own files can give
}
