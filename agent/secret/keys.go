package secret

import "strings"

const (
	beginMark = "-----BEGIN "
	endMark   = "-----END "
)

// keys finds private keys: everything between their marks, and, if one of the
// marks is missing, everything that may belong to a key. Each byte is looked at
// a few times, however many marks there are.
func keys(s string, found func(from, to int, bare string)) {
	if !strings.Contains(s, "PRIVATE KEY") {
		return
	}
	done := 0
	cut := func(from, to int) {
		found(from, to, "")
		done = to
	}
	for at := 0; ; {
		i := strings.Index(s[at:], "-----")
		if i < 0 {
			return
		}
		i += at
		label, private := keyLabel(s[i:])
		switch {
		case private && strings.HasPrefix(s[i:], beginMark):
			from := i + label
			// To the next mark of any kind; if that is not the end of a
			// private key, this one has none.
			to := len(s)
			if next := strings.Index(s[from:], "-----"); next >= 0 {
				to = from + next
			}
			if _, ok := keyLabel(s[to:]); !ok || !strings.HasPrefix(s[to:], endMark) {
				to = from + keyText(s[from:to])
			}
			cut(from, to)
			at = to
		case private:
			from := i
			for from > done && keyByte(s[from-1]) {
				from--
			}
			if from > 0 && s[from-1] == '\\' && from < i {
				from++ // the n of \n
			}
			if i-from >= 8 {
				cut(from, i)
			}
			at = i + label
		default:
			at = i + len("-----")
		}
	}
}

// keyLabel returns the length of a mark at the beginning of s, and whether it
// is that of a private key.
func keyLabel(s string) (n int, private bool) {
	for _, mark := range []string{beginMark, endMark} {
		if rest, ok := strings.CutPrefix(s, mark); ok {
			label, _, ok := strings.Cut(rest[:min(len(rest), 80)], "-----")
			return len(mark) + len(label) + len("-----"), ok && strings.Contains(label, "PRIVATE KEY") && !strings.Contains(label, "\n")
		}
	}
	return len("-----"), false
}

func keyByte(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("+/= \t\r\n\\", c) >= 0
}

// keyText returns how far a key without an end mark may reach: base64 and the
// few headers of old formats, in lines or with \n between them.
func keyText(s string) int {
	i := 0
	for i < len(s) {
		switch c := s[i]; {
		case c == '\\':
			j := i
			for j < len(s) && s[j] == '\\' {
				j++
			}
			if j == len(s) || strings.IndexByte("nrt", s[j]) < 0 {
				return i
			}
			i = j + 1
		case c == '-':
			if i+1 == len(s) || !keyByte(s[i+1]) {
				return i
			}
			i++
		case keyByte(c) || c == ':' || c == ',' || c == '.':
			i++
		default:
			return i
		}
	}
	return i
}
