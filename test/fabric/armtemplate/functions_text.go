package armtemplate

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The longer functions of the template language for strings and names.

func substring(_ *scope, a []any) (any, error) {
	s, ok := a[0].(string)
	start, err := integer(a[1])
	if !ok || err != nil {
		return nil, errArgument
	}
	r := []rune(s)
	n := int64(len(r)) - start
	if len(a) == 3 {
		if n, err = integer(a[2]); err != nil {
			return nil, err
		}
	}
	if start < 0 || n < 0 || start > int64(len(r)) || n > int64(len(r))-start {
		return nil, errors.New("the index and length parameters must refer to a location within the string")
	}
	return string(r[start : start+n]), nil
}

var placeholder = regexp.MustCompile(`\{\{|\}\}|\{(\d{1,3})(?::[dD](\d{1,2}))?\}|[{}]`)

// format replaces {0}, and {0:D3} for integers with leading zeros.
func format(_ *scope, a []any) (any, error) {
	pattern, ok := a[0].(string)
	if !ok {
		return nil, errArgument
	}
	var err error
	size := 0
	out := placeholder.ReplaceAllStringFunc(pattern, func(m string) string {
		groups := placeholder.FindStringSubmatch(m)
		i, bad := strconv.Atoi(groups[1])
		switch {
		case m == "{{" || m == "}}":
			return m[:1]
		case bad != nil || i+1 >= len(a):
			err = fmt.Errorf("the format is invalid: '%s'", pattern)
			return ""
		}
		s := text(a[i+1])
		if width, bad := strconv.Atoi(groups[2]); bad == nil {
			n, wrong := integer(a[i+1])
			if wrong != nil {
				err = wrong
			}
			s = fmt.Sprintf("%0*d", width, n)
		}
		if size += len(s); size > maxValue {
			err = errors.New("the result is too large")
			return ""
		}
		return s
	})
	return out, err
}

func fromBase64(s string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	return string(b), err
}

// utcNow formats the time with a .NET pattern.
func utcNow(s *scope, a []any) (any, error) {
	if s.stage != atDefaults {
		return nil, errors.New("the function 'utcNow' is not expected at this location")
	}
	layout := "yyyyMMddTHHmmssZ"
	if len(a) == 1 {
		layout = text(a[0])
	}
	switch layout {
	case "d":
		layout = "MM/dd/yyyy"
	case "u":
		layout = "yyyy-MM-dd HH:mm:ssZ"
	case "o":
		layout = "yyyy-MM-ddTHH:mm:ss.fffffffZ"
	}
	t := time.Now().UTC()
	return strings.NewReplacer(
		"yyyy", t.Format("2006"), "yy", t.Format("06"), "MM", t.Format("01"), "dd", t.Format("02"), "HH", t.Format("15"), "hh", t.Format("03"),
		"mm", t.Format("04"), "ss", t.Format("05"), "fffffff", t.Format(".0000000")[1:], "fff", t.Format(".000")[1:],
	).Replace(layout), nil
}

// uniqueString is the platform's hash, so that generated names are the same.
func uniqueString(s string) string {
	h := murmur([]byte(s))
	var out [13]byte
	for i := range out {
		out[i] = "abcdefghijklmnopqrstuvwxyz234567"[h>>59]
		h <<= 5
	}
	return string(out[:])
}

// murmur is the platform's variant of MurmurHash3 with two lanes of 32 bits.
func murmur(data []byte) uint64 {
	const c1, c2 = 0x239b961b, 0xab0e9789
	var h1, h2 uint32
	n := uint32(len(data)) //nolint:gosec // templates have a few megabytes at most
	mix1 := func(k uint32) { h1 ^= bits.RotateLeft32(k*c1, 15) * c2 }
	mix2 := func(k uint32) { h2 ^= bits.RotateLeft32(k*c2, 17) * c1 }
	for ; len(data) >= 8; data = data[8:] {
		mix1(binary.LittleEndian.Uint32(data))
		h1 = (bits.RotateLeft32(h1, 19)+h2)*5 + 0x561ccd1b
		mix2(binary.LittleEndian.Uint32(data[4:]))
		h2 = (bits.RotateLeft32(h2, 13)+h1)*5 + 0x0bcaa747
	}
	var tail [8]byte
	copy(tail[:], data)
	if len(data) > 4 {
		mix2(binary.LittleEndian.Uint32(tail[4:]))
	}
	if len(data) > 0 {
		mix1(binary.LittleEndian.Uint32(tail[:]))
	}
	final := func(h uint32) uint32 {
		h = (h ^ h>>16) * 0x85ebca6b
		h = (h ^ h>>13) * 0xc2b2ae35
		return h ^ h>>16
	}
	h1, h2 = h1^n, h2^n
	h1 += h2
	h2 += h1
	h1, h2 = final(h1), final(h2)
	h1 += h2
	h2 += h1
	return uint64(h2)<<32 | uint64(h1)
}

// guidOf returns a UUID of version 5 in the platform's name space.
func guidOf(name string) string {
	space := []byte("\x11\xfb\x06\xfb\x71\x2d\x4d\xdd\x98\xc7\xe7\x1b\xbd\x58\x88\x30")
	sum := sha1.Sum(append(space, name...)) //nolint:gosec // UUIDs of version 5 use SHA-1
	return guid([16]byte(sum[:]), 5)
}

// guid formats the bytes as a UUID of this version.
func guid(b [16]byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// joinID appends a type and its names to the ID of the parent.
func joinID(in, kind string, names []string) (string, error) {
	parts := strings.Split(strings.TrimSuffix(kind, "/"), "/")
	if len(parts) != len(names)+1 || len(parts) < 2 {
		return "", fmt.Errorf("the type '%s' requires '%d' resource name argument(s)", kind, len(parts)-1)
	}
	id := []string{in, "providers", parts[0]}
	for i, name := range names {
		id = append(id, parts[i+1], name)
	}
	return strings.Join(id, "/"), nil
}

// resourceID accepts an optional subscription and resource group as its first
// arguments.
func resourceID(s *scope, a []any) (any, error) {
	list, err := texts(a)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(list, func(s string) bool { return strings.Contains(s, "/") })
	if at < 0 || at > 2 {
		return nil, errors.New("the type of the resource is not among the first three arguments")
	}
	subscription, group := text(s.t.host.Subscription()["subscriptionId"]), text(s.t.host.ResourceGroup()["name"])
	if at > 0 {
		group = list[at-1]
	}
	if at > 1 {
		subscription = list[0]
	}
	return joinID("/subscriptions/"+subscription+"/resourceGroups/"+group, list[at], list[at+1:])
}

func copyIndex(s *scope, a []any) (any, error) {
	loop, offset := s.loop, int64(0)
	for i, v := range a {
		if name, ok := v.(string); ok && i == 0 {
			loop = strings.ToLower(name)
			continue
		}
		var err error
		if offset, err = integer(v); err != nil {
			return nil, err
		}
	}
	i, ok := s.loops[loop]
	if !ok {
		return nil, errors.New("the function 'copyIndex' is not expected at this location: it can only be used in a copy loop, by that loop's name")
	}
	return number(int64(i) + offset), nil
}

// padLeft implements padLeft(), for lengths of up to 1000 characters.
func padLeft(_ *scope, a []any) (any, error) {
	s, pad := text(a[0]), " "
	n, err := integer(a[1])
	if len(a) == 3 {
		pad = text(a[2])
	}
	if err != nil || n < 0 || n > 1000 || len(pad) != 1 {
		return nil, errArgument
	}
	return strings.Repeat(pad, max(0, int(n)-utf8.RuneCountInString(s))) + s, nil
}

// portion implements take() and skip().
func portion(first bool) func(*scope, []any) (any, error) {
	return func(_ *scope, a []any) (any, error) {
		n, err := integer(a[1])
		if err != nil {
			return nil, err
		}
		cut := func(size int) (int, int) {
			at := int(max(0, min(n, int64(size))))
			if first {
				return 0, at
			}
			return at, size
		}
		switch v := a[0].(type) {
		case string:
			r := []rune(v)
			from, to := cut(len(r))
			return string(r[from:to]), nil
		case []any:
			from, to := cut(len(v))
			return v[from:to:to], nil
		}
		return nil, errArgument
	}
}

// items implements items(): a list of the properties of an object.
func items(_ *scope, a []any) (any, error) {
	o, ok := a[0].(object)
	if !ok {
		return nil, errArgument
	}
	list := []any{}
	for _, key := range sortedKeys(o) {
		list = append(list, object{"key": key, "value": o[key]})
	}
	return list, nil
}

// extreme implements min() and max() of integers, or of a list of them.
func extreme(choose func(a, b int64) int64) func(*scope, []any) (any, error) {
	return func(_ *scope, a []any) (any, error) {
		if list, ok := a[0].([]any); ok && len(a) == 1 {
			a = list
		}
		if len(a) == 0 {
			return nil, errArgument
		}
		best, err := integer(a[0])
		for _, v := range a[1:] {
			n, wrong := integer(v)
			if wrong != nil {
				return nil, wrong
			}
			best = choose(best, n)
		}
		return number(best), err
	}
}
