package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
)

// Status files are read without decoding them as a whole: a file of some
// megabytes can hold a million empty objects, and each would become a map. A
// document is validated once, by checkJSON; the other functions work on bytes
// that are known to be valid JSON.

var errKind = errors.New("unexpected type of value")

// checkJSON returns the syntax error of a document, or nil.
func checkJSON(data []byte) error {
	if json.Valid(data) {
		return nil
	}
	var raw json.RawMessage
	return json.Unmarshal(data, &raw)
}

// elements returns the first elements of an array, at most limit.
func elements(data []byte, limit int) ([]json.RawMessage, error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 || data[0] != '[' {
		return nil, errKind
	}
	var out []json.RawMessage
	for i := 1; len(out) < limit; {
		i = skipBlanks(data, i)
		if data[i] == ']' {
			break
		}
		end := skipValue(data, i)
		out = append(out, data[i:end:end])
		i = end
	}
	return out, nil
}

// fields returns the raw values of the named fields of an object. Of duplicate
// fields the last one counts. The result is nil for null and for no data.
func fields(data []byte, names ...string) (map[string]json.RawMessage, error) {
	data = bytes.TrimSpace(data)
	switch {
	case len(data) == 0 || string(data) == "null":
		return nil, nil
	case data[0] != '{':
		return nil, errKind
	}
	out := make(map[string]json.RawMessage, len(names))
	for i := skipBlanks(data, 1); data[i] != '}'; i = skipBlanks(data, i) {
		end := skipValue(data, i)
		at := slices.IndexFunc(names, func(n string) bool { return isName(data[i:end], n) })
		i = skipBlanks(data, end)
		end = skipValue(data, i)
		if at >= 0 {
			out[names[at]] = data[i:end:end]
		}
		i = end
	}
	return out, nil
}

// isName reports whether the JSON string raw is n. It is decoded only if it has
// escapes (or U+FFFD); one longer than n with every byte escaped can't be n.
func isName(raw []byte, n string) bool {
	if len(raw) > 6*len(n)+2 {
		return false
	}
	if bytes.IndexByte(raw, '\\') < 0 && bytes.IndexFunc(raw, func(r rune) bool { return r == '\ufffd' }) < 0 {
		return string(raw[1:len(raw)-1]) == n
	}
	s, _ := Text(raw)
	return s == n
}

// skipBlanks returns the index of the next token from i on, without white
// space, commas and colons.
func skipBlanks(data []byte, i int) int {
	for data[i] == ' ' || data[i] == '\t' || data[i] == '\n' || data[i] == '\r' || data[i] == ',' || data[i] == ':' {
		i++
	}
	return i
}

// skipValue returns the index after the value that begins at i.
func skipValue(data []byte, i int) int {
	depth := 0
	for ; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			depth++
			continue
		case ']', '}':
			if depth == 0 {
				return i // the end of the surrounding array or object
			}
			depth--
		default:
			if depth > 0 {
				continue
			}
			for i < len(data) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(data[i])) {
				i++
			}
			return i
		}
		if depth == 0 {
			return i + 1
		}
	}
	return i
}

// oneLine returns a document on one line, with spaces after commas and colons
// as Python's json module writes them. Strings and numbers are not changed.
func oneLine(data []byte) []byte {
	out := make([]byte, 0, len(data)+16)
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case ' ', '\t', '\n', '\r':
		case ',', ':':
			out = append(out, c, ' ')
		case '"':
			end := skipValue(data, i)
			out = append(out, data[i:end]...)
			i = end - 1
		default:
			out = append(out, c)
		}
	}
	return out
}
