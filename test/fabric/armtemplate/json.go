package armtemplate

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// ToJSON converts the relaxed JSON that the control plane accepts to JSON:
// templates may contain comments and strings of several lines, and azure-cli
// sends them under a name without quotes. Other content is returned unchanged.
func ToJSON(body []byte) []byte {
	if json.Valid(body) {
		return body
	}
	var out bytes.Buffer
	comma := -1 // position of a comma that may turn out to be a trailing one
	for i := 0; i < len(body); {
		c, rest := body[i], body[i:]
		switch {
		case c == '"':
			i += quoted(&out, rest)
			comma = -1
			continue
		case bytes.HasPrefix(rest, []byte("//")):
			i += until(rest, "\n")
			continue
		case bytes.HasPrefix(rest, []byte("/*")):
			i += until(rest[2:], "*/") + len("/*")
			continue
		case bareword(c):
			end := 0
			for end < len(rest) && bareword(rest[end]) {
				end++
			}
			word := string(rest[:end])
			if after := bytes.TrimLeft(rest[end:], " \t\r\n"); bytes.HasPrefix(after, []byte(":")) {
				word = `"` + word + `"`
			}
			out.WriteString(word)
			i += end
			comma = -1
			continue
		case c == ',':
			comma = out.Len()
		case (c == '}' || c == ']') && comma >= 0:
			b := out.Bytes()
			b[comma] = ' '
			comma = -1
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			comma = -1
		}
		out.WriteByte(c)
		i++
	}
	return out.Bytes()
}

// until returns the length of the text up to and including end.
func until(text []byte, end string) int {
	if n := bytes.Index(text, []byte(end)); n >= 0 {
		return n + len(end)
	}
	return len(text)
}

// bareword reports whether c can be part of a name, a number, or true, false
// and null.
func bareword(c byte) bool {
	return c == '_' || c == '$' || c == '-' || c == '+' || c == '.' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c >= utf8.RuneSelf
}

// quoted copies a string with its line breaks escaped, and returns its length.
func quoted(out *bytes.Buffer, text []byte) int {
	out.WriteByte('"')
	for i := 1; i < len(text); i++ {
		switch c := text[i]; c {
		case '\\':
			out.WriteByte(c)
			if i++; i < len(text) {
				out.WriteByte(text[i])
			}
		case '\n':
			out.WriteString(`\n`)
		case '\r':
			out.WriteString(`\r`)
		case '\t':
			out.WriteString(`\t`)
		case '"':
			out.WriteByte(c)
			return i + 1
		default:
			out.WriteByte(c)
		}
	}
	return len(text)
}

// Decode reads JSON and keeps numbers as they are written.
func Decode(data []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	return d.Decode(into)
}
