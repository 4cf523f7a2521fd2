package provisioning

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// An authKey is one line of an authorized_keys file.
type authKey struct {
	Options string // as written, quotes included
	Type    string
	Blob    string // base64, canonical
	Comment string
}

func (k authKey) line() string {
	var b strings.Builder
	if k.Options != "" {
		b.WriteString(k.Options + " ")
	}
	b.WriteString(k.Type + " " + k.Blob)
	if k.Comment != "" {
		b.WriteString(" " + k.Comment)
	}
	return b.String()
}

// maxKey is far above the largest key that OpenSSH takes (RSA 16384).
const maxKey = 16 << 10

// ParseKeys reads the public keys in a value as the platform delivers it:
// OpenSSH lines with or without options, of any type; line breaks inside the
// base64 body, which portals produce, are removed; RFC 4716, PEM public keys
// and X.509 certificates are converted. Text that is no key is an error; keys
// that could be read are returned with it.
func ParseKeys(value string) ([]string, error) {
	keys, err := parseAuthKeys(value)
	var out []string
	for _, k := range keys {
		out = append(out, k.line())
	}
	return out, err
}

func parseAuthKeys(value string) ([]authKey, error) {
	value = pasted(value)
	if strings.HasPrefix(value, "PuTTY-User-Key-File") {
		return nil, notAKey(value)
	}
	if strings.Contains(value, "-----BEGIN ") {
		return pemKeys(value)
	}
	if strings.Contains(value, "---- BEGIN SSH2 PUBLIC KEY") {
		return rfc4716Keys(value)
	}
	value = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(value)
	var logical []string
	for line := range strings.SplitSeq(value, "\n") {
		line = unquoted(strings.TrimSpace(line))
		switch {
		case line == "" || line[0] == '#':
		case len(logical) == 0 || startsKey(line):
			logical = append(logical, line)
		default:
			// The line continues the previous one and is appended without a
			// blank. That is right within the base64. It may also continue a
			// comment, where a missing blank does no harm.
			logical[len(logical)-1] += line
		}
	}
	var out []authKey
	var errs []error
	for _, line := range logical {
		k, err := parseAuthKey(line)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, k)
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no public key"))
	}
	return out, errors.Join(errs...)
}

// pasted removes what comes along when a key is copied from a web page, a chat
// or a document: invisible characters, and character references that were
// escaped twice.
func pasted(value string) string {
	value = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) { // byte order mark, zero-width space, soft hyphen, marks of direction
			return -1
		}
		return r
	}, value)
	for next := html.UnescapeString(value); len(next) < len(value); next = html.UnescapeString(value) {
		value = next
	}
	value = strings.TrimSpace(value)
	if rest, ok := strings.CutPrefix(value, "<![CDATA["); ok {
		value = strings.TrimSpace(strings.TrimSuffix(rest, "]]>"))
	}
	// One pair of quotation marks around several lines.
	if first, n := utf8.DecodeRuneInString(value); quotes[first] != "" && strings.Count(value[n:], quotes[first]) == 1 && strings.HasSuffix(value, quotes[first]) {
		value = unquoted(value)
	}
	return value
}

// quotes are the quotation marks around a pasted key, and what closes them.
var quotes = map[rune]string{'"': `"`, '\'': "'", '`': "`", '“': "”", '”': "”", '„': "“", '‘': "’", '’': "’", '«': "»"}

// unquoted removes what stands around a pasted line: the dash of a YAML list
// and quotation marks. No key and no option begins with either.
func unquoted(line string) string {
	if rest, ok := strings.CutPrefix(line, "- "); ok {
		line = strings.TrimSpace(rest)
	}
	first, n := utf8.DecodeRuneInString(line)
	if closing, ok := quotes[first]; ok {
		line = strings.TrimSpace(strings.TrimSuffix(line[n:], closing))
	}
	return line
}

// startsKey reports whether a line begins a key rather than continuing one.
func startsKey(line string) bool {
	first, rest, _ := strings.Cut(line, " ")
	if keyTypeName(first) {
		return true
	}
	return rest != "" && splitOptions(line) != "" && startsKey(strings.TrimSpace(line[len(splitOptions(line)):]))
}

// keyTypeName reports whether s looks like the name of a key type. It compares
// prefixes, because new types are added; the blob contains the exact type.
func keyTypeName(s string) bool {
	for _, p := range []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-", "webauthn-sk-"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// splitOptions returns the option field at the start of a line: up to the
// first blank outside of quotes.
func splitOptions(line string) string {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line) && line[i+1] == '"':
			i++
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return line[:i]
		}
	}
	return ""
}

func parseAuthKey(line string) (authKey, error) {
	var k authKey
	rest := strings.TrimSpace(line)
	if first, _, _ := strings.Cut(rest, " "); !keyTypeName(strings.TrimRight(first, "\t")) {
		opt := splitOptions(rest)
		if opt == "" {
			return k, notAKey(line)
		}
		k.Options = opt
		rest = strings.TrimSpace(rest[len(opt):])
	}
	f := strings.Fields(rest)
	if len(f) < 2 || !keyTypeName(f[0]) {
		return k, notAKey(rest)
	}
	k.Type = f[0]
	body := f[1]
	blob, err := decodeBlob(body)
	if err != nil {
		return k, fmt.Errorf("%s key: %w", k.Type, err)
	}
	if i := strings.Index(rest, body); i >= 0 {
		k.Comment = strings.TrimSpace(rest[i+len(body):])
	}
	name, err := blobType(blob)
	if err != nil {
		return k, fmt.Errorf("%s key: %w", k.Type, err)
	}
	if strings.Contains(name, "-cert-v0") {
		return k, fmt.Errorf("%s: a certificate of a key, which sshd accepts from its authority only; the public key is needed", k.Type)
	}
	if name != k.Type {
		return k, fmt.Errorf("%s key: body contains key type %q", k.Type, printable(name))
	}
	// Keys of types that the library knows must be valid; other types are left
	// to sshd.
	if knownType(name) {
		if _, err := ssh.ParsePublicKey(blob); err != nil {
			return k, fmt.Errorf("%s key: %w", k.Type, err)
		}
	}
	k.Blob = base64.StdEncoding.EncodeToString(blob)
	return k, nil
}

func knownType(t string) bool {
	return slices.Contains([]string{
		ssh.KeyAlgoRSA, ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoSKED25519,
	}, t)
}

// notAKey says what a text is instead. It does not quote the text: people also
// paste private keys and passwords.
func notAKey(line string) error {
	what := fmt.Sprintf("a text of %d characters", len(line))
	f := strings.Fields(line)
	switch {
	case strings.Contains(line, "PRIVATE KEY") || strings.HasPrefix(line, "PuTTY-User-Key-File"):
		what = "a private key; the public one is needed, and the private one must be replaced"
	case len(f) == 1 && (strings.HasPrefix(line, "~") || strings.HasPrefix(line, "/") || strings.HasSuffix(line, ".pub")):
		what = "the name of a file, not its content"
	case len(f) == 1 && keyTypeName(line):
		what = "a key type without a key"
	}
	return fmt.Errorf("not an OpenSSH public key: %s", what)
}

// decodeBlob decodes base64 with or without padding.
func decodeBlob(s string) ([]byte, error) {
	if len(s) > maxKey {
		return nil, fmt.Errorf("body has %d characters, at most %d are allowed", len(s), maxKey)
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, fmt.Errorf("decode body: %w", err)
	}
	return b, nil
}

func blobType(blob []byte) (string, error) {
	if len(blob) < 4 {
		return "", errors.New("truncated body")
	}
	n := binary.BigEndian.Uint32(blob)
	if n == 0 || n > 100 || int(n) > len(blob)-4 {
		return "", errors.New("truncated body")
	}
	return string(blob[4 : 4+n]), nil
}

func pemKeys(value string) ([]authKey, error) {
	var out []authKey
	var errs []error
	data := []byte(value)
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		pub, err := pemPublic(block)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, authKey{Type: pub.Type(), Blob: base64.StdEncoding.EncodeToString(pub.Marshal())})
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no valid PEM block"))
	}
	return out, errors.Join(errs...)
}

func pemPublic(block *pem.Block) (ssh.PublicKey, error) {
	var pub any
	var err error
	switch block.Type {
	case "CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			pub = cert.PublicKey
		}
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("PEM block %q is not a public key", printable(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.ToLower(block.Type), err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.ToLower(block.Type), err)
	}
	return key, nil
}

// rfc4716Keys reads the format of RFC 4716: headers, some continued by a
// backslash, then base64.
func rfc4716Keys(value string) ([]authKey, error) {
	var out []authKey
	var body strings.Builder
	in, header := false, false
	for line := range strings.Lines(strings.ReplaceAll(value, "\r", "\n")) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "---- BEGIN SSH2 PUBLIC KEY"):
			in, header = true, false
			body.Reset()
		case strings.HasPrefix(line, "---- END SSH2 PUBLIC KEY") && in:
			in = false
			blob, err := decodeBlob(body.String())
			if err != nil {
				return out, fmt.Errorf("SSH2 public key: %w", err)
			}
			name, err := blobType(blob)
			if err != nil {
				return out, fmt.Errorf("SSH2 public key: %w", err)
			}
			k, err := parseAuthKey(name + " " + base64.StdEncoding.EncodeToString(blob))
			if err != nil {
				return out, err
			}
			out = append(out, k)
		case !in || line == "":
		case header || strings.Contains(line, ":"):
			header = strings.HasSuffix(line, `\`)
		default:
			body.WriteString(line)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no complete SSH2 public key")
	}
	return out, nil
}

// mergeKeys adds keys to the text of an authorized_keys file. Existing lines
// stay. sshd takes the first line of a key, and its options with it. So a key
// without options is put in front of a line that restricts it (command=, from=,
// expiry-time=): the person was promised a log-in. A key with options that is
// present in any form is not added.
func mergeKeys(old []byte, add []authKey) ([]byte, bool) {
	type place struct {
		at    int // offset of the first line with the key
		plain bool
	}
	have := map[string]place{}
	at := 0
	for line := range bytes.Lines(old) {
		text := strings.TrimSpace(string(line))
		if text != "" && text[0] != '#' {
			k, err := parseAuthKey(text)
			if _, dup := have[k.Blob]; err == nil && !dup {
				have[k.Blob] = place{at, k.Options == ""}
			}
		}
		at += len(line)
	}
	var end []string
	front := map[int][]string{} // by the offset of the line that they precede
	for _, k := range add {
		p, present := have[k.Blob]
		switch {
		case present && (p.plain || k.Options != ""):
			continue
		case present:
			front[p.at] = append(front[p.at], k.line())
		default:
			end = append(end, k.line())
		}
		have[k.Blob] = place{-1, true}
	}
	if len(end) == 0 && len(front) == 0 {
		return old, false
	}
	var out bytes.Buffer
	at = 0
	for line := range bytes.Lines(old) {
		for _, l := range front[at] {
			out.WriteString(l + "\n")
		}
		out.Write(line)
		at += len(line)
	}
	if n := out.Len(); n > 0 && out.Bytes()[n-1] != '\n' {
		out.WriteByte('\n')
	}
	for _, l := range end {
		out.WriteString(l + "\n")
	}
	return out.Bytes(), true
}

// certKey makes an authorized key from a PEM certificate.
func certKey(b []byte) (authKey, error) {
	keys, err := pemKeys(string(b))
	if len(keys) > 0 {
		return keys[0], nil
	}
	return authKey{}, err
}
