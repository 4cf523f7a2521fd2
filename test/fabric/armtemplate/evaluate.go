package armtemplate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A stage determines which functions an expression may call.
type stage int

const (
	atDefaults stage = iota // default values of parameters: time and random values are allowed
	atPlan                  // before the deployment starts: reference() cannot be evaluated yet
	atRun                   // during the deployment
)

// errLater is the error of reference() before anything is deployed.
var errLater = errors.New("the template function 'reference' is not expected at this location")

// A scope is the context in which an expression is evaluated.
type scope struct {
	t     *Template
	stage stage
	loops map[string]int // indexes by lower-case name of the loop
	loop  string         // the innermost
}

// in returns the scope of one iteration of a loop.
func (s *scope) in(loop string, index int) *scope {
	inner := *s
	inner.loop, inner.loops = strings.ToLower(loop), map[string]int{strings.ToLower(loop): index}
	for name, i := range s.loops {
		if name != inner.loop {
			inner.loops[name] = i
		}
	}
	return &inner
}

// value evaluates all expressions in a part of a template.
func (s *scope) value(v any) (any, error) {
	switch v := v.(type) {
	case string:
		if !isExpression(v) {
			if strings.HasPrefix(v, "[[") && strings.HasSuffix(v, "]") {
				v = v[1:]
			}
			return v, nil
		}
		e, err := s.t.parse(v)
		if err != nil {
			return nil, err
		}
		return s.eval(e)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = s.value(item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case object:
		return s.object(v)
	}
	return v, nil
}

func (s *scope) object(v object) (any, error) {
	out := object{}
	for _, key := range sortedKeys(v) {
		if loops, ok := v[key].([]any); ok && key == "copy" {
			for _, loop := range loops {
				name, list, err := s.copied(loop)
				if err != nil {
					return nil, err
				}
				out[name] = list
			}
			continue
		}
		inner, err := s.value(v[key])
		if err != nil {
			return nil, err
		}
		name, err := s.value(key)
		if err != nil {
			return nil, err
		}
		text, ok := name.(string)
		if !ok {
			return nil, fmt.Errorf("the name of a property, '%s', is not a string", key)
		}
		out[text] = inner
	}
	return out, nil
}

// copied evaluates a property loop: {name, count, input}.
func (s *scope) copied(v any) (string, []any, error) {
	loop, _ := v.(object)
	name, _ := loop["name"].(string)
	input, ok := loop["input"]
	if name == "" || !ok {
		return "", nil, errors.New("a copy loop needs 'name', 'count' and 'input'")
	}
	n, err := s.count(loop["count"])
	if err != nil {
		return "", nil, err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = s.in(name, i).value(input); err != nil {
			return "", nil, err
		}
	}
	return name, list, nil
}

func (s *scope) count(v any) (int, error) {
	v, err := s.value(v)
	if err != nil {
		return 0, err
	}
	n, err := integer(v)
	if err != nil || n < 0 || n > maxCopies {
		return 0, fmt.Errorf("the copy count '%s' is not a number from 0 to %d", text(v), maxCopies)
	}
	return int(n), nil
}

func (s *scope) eval(e *expression) (any, error) {
	if s.t.steps++; s.t.steps > maxSteps {
		return nil, errors.New("the template is too complex")
	}
	switch {
	case e.of != nil:
		of, err := s.eval(e.of)
		if err != nil {
			return nil, err
		}
		key, err := s.eval(e.key)
		if err != nil {
			return nil, err
		}
		return member(of, key, e.safe)
	case e.fn == "":
		return e.literal, nil
	case e.fn == "if": // the other branch may be invalid, and is not evaluated
		cond, err := s.eval(e.args[0])
		if err != nil {
			return nil, err
		}
		yes, ok := cond.(bool)
		switch {
		case !ok:
			return nil, errors.New("the first argument of the template function 'if' is not a boolean")
		case yes:
			return s.eval(e.args[1])
		}
		return s.eval(e.args[2])
	}
	args := make([]any, len(e.args))
	for i, arg := range e.args {
		var err error
		if args[i], err = s.eval(arg); err != nil {
			return nil, err
		}
		if stop, ok := args[i].(bool); ok && (e.fn == "and" && !stop || e.fn == "or" && stop) {
			return stop, nil
		}
		if e.fn == "coalesce" && args[i] != nil {
			return args[i], nil
		}
	}
	v, err := s.t.functions[e.fn].call(s, args)
	if err != nil {
		if errors.Is(err, errLater) {
			return nil, err
		}
		return nil, fmt.Errorf("unable to evaluate the template function '%s': %w", e.fn, err)
	}
	left := maxValue
	if !fits(v, &left) {
		return nil, fmt.Errorf("the result of the template function '%s' is too large", e.fn)
	}
	return v, nil
}

// fits reports whether a value is within the size limit.
func fits(v any, left *int) bool {
	*left--
	switch v := v.(type) {
	case string:
		*left -= len(v)
	case []any:
		for _, item := range v {
			if !fits(item, left) {
				return false
			}
		}
	case object:
		for key, item := range v {
			if *left -= len(key); !fits(item, left) {
				return false
			}
		}
	}
	return *left > 0
}

// member returns of.key or of[key]; property names ignore case.
func member(of, key any, safe bool) (any, error) {
	switch of := of.(type) {
	case object:
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("the property '%s' can't be selected: names of properties are strings", text(key))
		}
		if v, ok := Property(of, name); ok || safe {
			return v, nil
		}
		return nil, fmt.Errorf("the language expression property '%s' doesn't exist, available properties are '%s'", name, strings.Join(sortedKeys(of), ", "))
	case []any:
		i, err := integer(key)
		if err == nil && i >= 0 && i < int64(len(of)) {
			return of[i], nil
		}
		if safe && err == nil {
			return nil, nil //nolint:nilnil // null is a value of the language
		}
		return nil, fmt.Errorf("the language expression property array index '%s' is out of bounds", text(key))
	case nil:
		if safe {
			return nil, nil //nolint:nilnil // null is a value of the language
		}
	}
	return nil, fmt.Errorf("the language expression property '%s' can't be evaluated: '%s' has no properties", text(key), text(of))
}

// Property returns a property of an object; its name ignores case.
func Property(of object, name string) (any, bool) {
	if v, ok := of[name]; ok {
		return v, true
	}
	for _, key := range sortedKeys(of) {
		if strings.EqualFold(key, name) {
			return of[key], true
		}
	}
	return nil, false
}

// references returns the first arguments of reference() in a part of a
// template.
func (t *Template) references(v any) (out []*expression) {
	var walk func(*expression)
	walk = func(e *expression) {
		if e == nil {
			return
		}
		if e.fn == "reference" {
			out = append(out, e.args[0])
		}
		for _, arg := range append(e.args, e.of, e.key) {
			walk(arg)
		}
	}
	switch v := v.(type) {
	case string:
		if isExpression(v) {
			if e, err := t.parse(v); err == nil { // an error is reported when it is evaluated
				walk(e)
			}
		}
	case []any:
		for _, item := range v {
			out = append(out, t.references(item)...)
		}
	case object:
		for _, key := range sortedKeys(v) {
			out = append(out, t.references(v[key])...)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
