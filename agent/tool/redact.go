package tool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/azguest/azguest/agent/secret"
)

// scrubber copies text without the secrets in it.
type scrubber struct {
	c       *collector
	in      *bufio.Reader
	partial bool // inside a line that is not copied
	key     bool // inside a private key
}

func newScrubber(c *collector, in io.Reader, partial bool) *scrubber {
	return &scrubber{c: c, in: bufio.NewReaderSize(in, collectChunk), partial: partial}
}

func (r *scrubber) copy(w io.Writer) (size int64, err error) {
	for {
		b, rerr := r.in.Peek(collectChunk)
		if len(b) == 0 {
			if errors.Is(rerr, io.EOF) {
				rerr = nil
			}
			return size, rerr
		}
		n := len(b)
		if r.partial { // up to the next line
			if n = bytes.IndexByte(b, '\n') + 1; n == 0 {
				n = len(b)
			}
			r.partial = b[n-1] != '\n'
			r.skip(n)
			continue
		}
		var out string
		if rerr == nil { // more follows: cut only where no secret can be split
			if n = seam(b); n == 0 {
				n, out, r.partial = len(b), "[overlong line omitted]\n", true
			}
		}
		if out == "" {
			out = r.clean(string(b[:n]))
		}
		r.skip(n)
		if r.c.out.n >= r.c.zipMax {
			return size, errFull
		}
		m, werr := io.WriteString(w, out)
		size += int64(m)
		if werr != nil {
			return size, fmt.Errorf("%w: %w", errWrite, werr)
		}
	}
}

// skip consumes n bytes that were peeked at.
func (r *scrubber) skip(n int) { _, _ = r.in.Discard(n) }

// seam returns where a chunk can be cut: after a line, or, in JSON and XML
// without line breaks, after a separator that is never between a name and its
// value; 0 if nowhere.
func seam(b []byte) int {
	for _, s := range []string{"\n", `},`, `",`, `><`, ", ", "; "} {
		if i := bytes.LastIndex(b, []byte(s)); i > 0 {
			return i + max(1, len(s)-1)
		}
	}
	return 0
}

// named finds values whose name says that they are secret, as JSON (escaped
// or not), as key=value, as a header or on a command line.
var named = regexp.MustCompile(`(?i)((?:password|passwd|passphrase|secret|token|accountkey|accesskey|access_key|authorization|credentials?|connectionstring|protectedsettings)\\*["']?\s*[:=]\s*)(\\*"(?:[^"\\]|\\[^"])*\\*"|'[^']*'|(?:(?:bearer|basic|sharedkey|sharedkeylite)\s+)?[^\s,;"'&<>}\]]+)`)

// suspicious reports whether named could match; it costs much less. low must be
// in lower case.
func suspicious(low string) bool {
	for _, word := range [...]string{
		"password", "passwd", "passphrase", "secret", "token", "accountkey", "accesskey", "access_key", "authorization", "credential", "connectionstring", "protectedsettings",
	} {
		if strings.Contains(low, word) {
			return true
		}
	}
	return false
}

func (r *scrubber) clean(s string) string {
	out := secret.Redact(r.keys(s))
	low := strings.ToLower(out)
	if !suspicious(low) {
		return out
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		if suspicious(strings.ToLower(line)) {
			line = r.values(line)
		}
		b.WriteString(line)
	}
	return b.String()
}

func (r *scrubber) values(s string) string {
	return named.ReplaceAllStringFunc(s, func(m string) string {
		p := named.FindStringSubmatch(m)
		switch strings.ToLower(strings.Trim(p[2], `\"'`)) {
		case "", "y", "n", "true", "false", "null", "none", "<redacted>", "redacted", "[redacted]":
			return m // not a secret, or already redacted
		}
		r.c.redacted++
		return p[1] + "<redacted>"
	})
}

// keys removes private keys, which may be longer than a chunk.
func (r *scrubber) keys(s string) string {
	if !r.key && !strings.Contains(s, "PRIVATE KEY-----") {
		return s
	}
	var b strings.Builder
	for s != "" {
		if r.key {
			_, rest, ok := strings.Cut(s, "-----END ")
			if !ok {
				return b.String()
			}
			r.key, s = false, rest
			continue
		}
		before, rest, ok := strings.Cut(s, "-----BEGIN ")
		b.WriteString(before)
		if !ok {
			break
		}
		kind, after, whole := strings.Cut(rest, "-----")
		if whole && strings.HasSuffix(kind, "PRIVATE KEY") {
			b.WriteString("<private key redacted>")
			r.c.redacted++
			r.key = true
			s = after
			continue
		}
		b.WriteString("-----BEGIN ")
		s = rest
	}
	return b.String()
}
