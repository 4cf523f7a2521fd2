package armtemplate

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A function of the template language takes min to max arguments; with max -1
// there is no upper limit.
type function struct {
	min, max int
	call     func(s *scope, a []any) (any, error)
}

var errArgument = errors.New("an argument is not of the expected type")

// text converts a value like string() of the language.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return map[bool]string{true: "True", false: "False"}[v]
	case json.Number:
		return v.String()
	}
	b, _ := json.Marshal(v) // values decoded from JSON can be encoded
	return string(b)
}

func integer(v any) (int64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("'%s' is not an integer", text(v))
	}
	return n.Int64()
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

func texts(a []any) ([]string, error) {
	out := make([]string, len(a))
	for i, v := range a {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("'%s' is not a string", text(v))
		}
		out[i] = s
	}
	return out, nil
}

// ofTexts makes a template function from a Go function of strings.
func ofTexts(low, high int, call func(a []string) (any, error)) function {
	return function{low, high, func(_ *scope, a []any) (any, error) {
		list, err := texts(a)
		if err != nil {
			return nil, err
		}
		return call(list)
	}}
}

// ofIntegers makes a template function from a Go function of two integers.
func ofIntegers(call func(a, b int64) (any, error)) function {
	return function{2, 2, func(_ *scope, a []any) (any, error) {
		x, err := integer(a[0])
		if err != nil {
			return nil, err
		}
		y, err := integer(a[1])
		if err != nil {
			return nil, err
		}
		return call(x, y)
	}}
}

func ordered(holds func(int) bool) function {
	return function{2, 2, func(_ *scope, a []any) (any, error) {
		if list, err := texts(a); err == nil {
			return holds(strings.Compare(list[0], list[1])), nil
		}
		x, err := integer(a[0])
		if err != nil {
			return nil, err
		}
		y, err := integer(a[1])
		return holds(int(max(-1, min(1, x-y)))), err
	}}
}

// builtins are the supported functions, by lower-case name.
func builtins() map[string]function {
	all := map[string]function{}
	for _, group := range []map[string]function{contextFunctions(), logicFunctions(), numberFunctions(), textFunctions(), listFunctions()} {
		maps.Copy(all, group)
	}
	return all
}

// contextFunctions return values of the template itself and of its deployment.
func contextFunctions() map[string]function {
	return map[string]function{
		"parameters": {1, 1, func(s *scope, a []any) (any, error) { return s.t.parameter(text(a[0])) }},
		"variables":  {1, 1, func(s *scope, a []any) (any, error) { return s.t.variable(text(a[0])) }},
		"copyindex":  {0, 2, copyIndex}, "reference": {1, 3, reference},
		"subscription": fromHost(Host.Subscription), "resourcegroup": fromHost(Host.ResourceGroup), "tenant": fromHost(Host.Tenant),
		"deployment": fromHost(Host.Deployment), "environment": fromHost(Host.Environment),
		"resourceid": {2, -1, resourceID}, "extensionresourceid": ofTexts(3, -1, func(a []string) (any, error) { return joinID(a[0], a[1], a[2:]) }),
		"subscriptionresourceid": {2, -1, func(s *scope, a []any) (any, error) {
			list, err := texts(a)
			if err != nil {
				return nil, err
			}
			subscription := text(s.t.host.Subscription()["subscriptionId"])
			if !strings.Contains(list[0], "/") {
				subscription, list = list[0], list[1:]
			}
			return joinID("/subscriptions/"+subscription, list[0], list[1:])
		}},
		"utcnow": {0, 1, utcNow},
		"newguid": {0, 0, func(s *scope, _ []any) (any, error) {
			if s.stage != atDefaults {
				return nil, errors.New("the function 'newGuid' is not expected at this location")
			}
			var random [16]byte
			_, _ = rand.Read(random[:]) // never fails since Go 1.24
			return guid(random, 4), nil
		}},
	}
}

// logicFunctions contain "if" only for its number of arguments: the evaluator
// implements it, so that only one branch is evaluated.
func logicFunctions() map[string]function {
	return map[string]function{
		"if":   {3, 3, nil},
		"true": constant(true), "false": constant(false), "null": constant(nil),
		"not": {1, 1, func(_ *scope, a []any) (any, error) {
			b, ok := a[0].(bool)
			if !ok {
				return nil, errArgument
			}
			return !b, nil
		}},
		"and": {2, -1, logic(true)}, "or": {2, -1, logic(false)},
		"equals":   {2, 2, func(_ *scope, a []any) (any, error) { return reflect.DeepEqual(a[0], a[1]), nil }},
		"coalesce": {1, -1, func(*scope, []any) (any, error) { return nil, nil }}, //nolint:nilnil // null is a value of the language
		"less":     ordered(func(c int) bool { return c < 0 }), "lessorequals": ordered(func(c int) bool { return c <= 0 }),
		"greater": ordered(func(c int) bool { return c > 0 }), "greaterorequals": ordered(func(c int) bool { return c >= 0 }),
		"bool": {1, 1, func(_ *scope, a []any) (any, error) {
			switch strings.ToLower(text(a[0])) {
			case "true", "1":
				return true, nil
			case "false", "0":
				return false, nil
			}
			return nil, errArgument
		}},
	}
}

// numberFunctions are the functions of integers.
func numberFunctions() map[string]function {
	return map[string]function{
		"add": ofIntegers(func(a, b int64) (any, error) { return number(a + b), nil }),
		"sub": ofIntegers(func(a, b int64) (any, error) { return number(a - b), nil }),
		"mul": ofIntegers(func(a, b int64) (any, error) { return number(a * b), nil }),
		"div": ofIntegers(func(a, b int64) (any, error) {
			if b == 0 {
				return nil, errors.New("attempted to divide by zero")
			}
			return number(a / b), nil
		}),
		"mod": ofIntegers(func(a, b int64) (any, error) {
			if b == 0 {
				return nil, errors.New("attempted to divide by zero")
			}
			return number(a % b), nil
		}),
		"min": {1, -1, extreme(func(a, b int64) int64 { return min(a, b) })}, "max": {1, -1, extreme(func(a, b int64) int64 { return max(a, b) })},
		"int": {1, 1, func(_ *scope, a []any) (any, error) {
			n, err := strconv.ParseInt(strings.TrimSpace(text(a[0])), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("'%s' is not an integer", text(a[0]))
			}
			return number(n), nil
		}},
		"range": ofIntegers(func(start, n int64) (any, error) {
			if n < 0 || n > 10000 {
				return nil, errors.New("the count must be from 0 to 10000")
			}
			list := make([]any, n)
			for i := range list {
				list[i] = number(start + int64(i))
			}
			return list, nil
		}),
	}
}

// textFunctions are the functions of strings.
func textFunctions() map[string]function {
	return map[string]function{
		"string": {1, 1, func(_ *scope, a []any) (any, error) { return text(a[0]), nil }},
		"json": ofTexts(1, 1, func(a []string) (any, error) {
			var v any
			err := Decode([]byte(a[0]), &v)
			return v, err
		}),
		"format": {1, -1, format}, "substring": {2, 3, substring},
		"padleft": {2, 3, padLeft},
		"indexof": ofTexts(2, 2, func(a []string) (any, error) {
			return number(int64(strings.Index(strings.ToLower(a[0]), strings.ToLower(a[1])))), nil
		}),
		"lastindexof": ofTexts(2, 2, func(a []string) (any, error) {
			return number(int64(strings.LastIndex(strings.ToLower(a[0]), strings.ToLower(a[1])))), nil
		}),
		"tolower": ofTexts(1, 1, func(a []string) (any, error) { return strings.ToLower(a[0]), nil }),
		"toupper": ofTexts(1, 1, func(a []string) (any, error) { return strings.ToUpper(a[0]), nil }),
		"trim":    ofTexts(1, 1, func(a []string) (any, error) { return strings.TrimSpace(a[0]), nil }),
		"replace": ofTexts(3, 3, func(a []string) (any, error) {
			if a[1] == "" {
				return nil, errors.New("the text to replace is empty")
			}
			if n := strings.Count(a[0], a[1]); n*len(a[2]) > maxValue {
				return nil, errors.New("the result is too large")
			}
			return strings.ReplaceAll(a[0], a[1], a[2]), nil
		}),
		"startswith": ofTexts(2, 2, func(a []string) (any, error) {
			return strings.HasPrefix(strings.ToLower(a[0]), strings.ToLower(a[1])), nil
		}),
		"endswith": ofTexts(2, 2, func(a []string) (any, error) {
			return strings.HasSuffix(strings.ToLower(a[0]), strings.ToLower(a[1])), nil
		}),
		"base64":         ofTexts(1, 1, func(a []string) (any, error) { return base64.StdEncoding.EncodeToString([]byte(a[0])), nil }),
		"base64tostring": ofTexts(1, 1, func(a []string) (any, error) { return fromBase64(a[0]) }),
		"base64tojson": ofTexts(1, 1, func(a []string) (v any, err error) {
			s, err := fromBase64(a[0])
			if err == nil {
				err = Decode([]byte(s), &v)
			}
			return v, err
		}),
		"uricomponent": ofTexts(1, 1, func(a []string) (any, error) { return strings.ReplaceAll(url.QueryEscape(a[0]), "+", "%20"), nil }),
		"uri": ofTexts(2, 2, func(a []string) (any, error) {
			base, err := url.Parse(a[0])
			if err != nil {
				return nil, err
			}
			u, err := base.Parse(a[1])
			if err != nil {
				return nil, err
			}
			return u.String(), nil
		}),
		"uniquestring": ofTexts(1, -1, func(a []string) (any, error) { return uniqueString(strings.Join(a, "-")), nil }),
		"guid":         ofTexts(1, -1, func(a []string) (any, error) { return guidOf(strings.Join(a, "-")), nil }),
		"join": {2, 2, func(_ *scope, a []any) (any, error) {
			list, ok := a[0].([]any)
			sep, isText := a[1].(string)
			if !ok || !isText {
				return nil, errArgument
			}
			parts := []string{}
			for _, v := range list {
				parts = append(parts, text(v))
			}
			if len(list)*len(sep) > maxValue {
				return nil, errors.New("the result is too large")
			}
			return strings.Join(parts, sep), nil
		}},
		"split": {2, 2, func(_ *scope, a []any) (any, error) {
			s, ok := a[0].(string)
			seps, err := texts(array(a[1]))
			if !ok || err != nil || slices.Contains(seps, "") {
				return nil, errArgument
			}
			list := []any{}
			for rest := s; ; {
				at, size := -1, 0
				for _, sep := range seps {
					if i := strings.Index(rest, sep); i >= 0 && (at < 0 || i < at) {
						at, size = i, len(sep)
					}
				}
				if at < 0 {
					return append(list, rest), nil
				}
				list, rest = append(list, rest[:at]), rest[at+size:]
			}
		}},
	}
}

// listFunctions are the functions of arrays and objects.
func listFunctions() map[string]function {
	return map[string]function{
		"concat":      {1, -1, concat},
		"createarray": {0, -1, func(_ *scope, a []any) (any, error) { return a, nil }},
		"array":       {1, 1, func(_ *scope, a []any) (any, error) { return array(a[0]), nil }},
		"createobject": {0, -1, func(_ *scope, a []any) (any, error) {
			out := object{}
			for i := 0; i < len(a); i += 2 {
				name, ok := a[i].(string)
				if !ok || i+1 == len(a) {
					return nil, errArgument
				}
				out[name] = a[i+1]
			}
			return out, nil
		}},
		"length": {1, 1, length},
		"empty": {1, 1, func(s *scope, a []any) (any, error) {
			n, err := length(s, a)
			return n == json.Number("0"), err
		}},
		"contains": {2, 2, contains}, "union": {2, -1, union},
		"take": {2, 2, portion(true)}, "skip": {2, 2, portion(false)}, "items": {1, 1, items},
		"first": {1, 1, edge(true)}, "last": {1, 1, edge(false)},
	}
}

// fromHost makes a function without arguments that returns a value of the host.
func fromHost(ask func(Host) Object) function {
	return function{0, 0, func(s *scope, _ []any) (any, error) { return ask(s.t.host), nil }}
}

func constant(v any) function {
	return function{0, 0, func(*scope, []any) (any, error) { return v, nil }}
}

// logic implements and() and or(): end is the result if the evaluator found no
// operand that decides it earlier.
func logic(end bool) func(*scope, []any) (any, error) {
	return func(_ *scope, a []any) (any, error) {
		for _, v := range a {
			if _, ok := v.(bool); !ok {
				return nil, errArgument
			}
		}
		return end, nil
	}
}

func array(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

// joined concatenates the items of arrays; it rejects other values.
func joined(arrays []any) ([]any, error) {
	out := []any{}
	for _, v := range arrays {
		list, ok := v.([]any)
		if !ok {
			return nil, errArgument
		}
		out = append(out, list...)
	}
	return out, nil
}

func concat(_ *scope, a []any) (any, error) {
	if _, ok := a[0].([]any); ok {
		return joined(a)
	}
	size, parts := 0, []string{}
	for _, v := range a {
		switch v.(type) {
		case []any, object:
			return nil, errArgument
		}
		parts = append(parts, text(v))
		size += len(parts[len(parts)-1])
	}
	if size > maxValue {
		return nil, errors.New("the result is too large")
	}
	return strings.Join(parts, ""), nil
}

func length(_ *scope, a []any) (any, error) {
	switch v := a[0].(type) {
	case string:
		return number(int64(utf8.RuneCountInString(v))), nil
	case []any:
		return number(int64(len(v))), nil
	case object:
		return number(int64(len(v))), nil
	case nil:
		return number(0), nil
	}
	return nil, errArgument
}

func contains(_ *scope, a []any) (any, error) {
	switch v := a[0].(type) {
	case string:
		return strings.Contains(v, text(a[1])), nil
	case []any:
		return slices.ContainsFunc(v, func(x any) bool { return reflect.DeepEqual(x, a[1]) }), nil
	case object:
		_, ok := Property(v, text(a[1]))
		return ok, nil
	}
	return nil, errArgument
}

// edge implements first() and last().
func edge(first bool) func(*scope, []any) (any, error) {
	return func(_ *scope, a []any) (any, error) {
		switch v := a[0].(type) {
		case []any:
			switch {
			case len(v) == 0:
				return nil, nil //nolint:nilnil // null is a value of the language
			case first:
				return v[0], nil
			}
			return v[len(v)-1], nil
		case string:
			r := []rune(v)
			switch {
			case len(r) == 0:
				return "", nil
			case first:
				return string(r[0]), nil
			}
			return string(r[len(r)-1]), nil
		}
		return nil, errArgument
	}
}

// union merges objects recursively, or arrays without duplicates.
func union(_ *scope, a []any) (any, error) {
	if _, ok := a[0].([]any); ok {
		list, err := joined(a)
		out := []any{}
		for _, item := range list {
			if !slices.ContainsFunc(out, func(x any) bool { return reflect.DeepEqual(x, item) }) {
				out = append(out, item)
			}
		}
		return out, err
	}
	var merge func(into, from object) object
	merge = func(into, from object) object {
		into = maps.Clone(into)
		for key, v := range from {
			old, isObject := into[key].(object)
			if inner, ok := v.(object); ok && isObject {
				v = merge(old, inner)
			}
			into[key] = v
		}
		return into
	}
	out := object{}
	for _, v := range a {
		o, ok := v.(object)
		if !ok {
			return nil, errArgument
		}
		out = merge(out, o)
	}
	return out, nil
}
