package fabric

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The language of templates: a string in brackets is an expression of function
// calls, literals, members and indexes.

// Limits of the language, as the platform's.
const (
	maxExpression = 24576   // characters
	maxDepth      = 64      // of calls within calls
	maxValue      = 4 << 20 // characters and items that a value may have
	maxCopies     = 800
	maxSteps      = 1 << 20 // of one deployment
)

// A stage says what an expression may ask for.
type stage int

const (
	atDefaults stage = iota // default values of parameters: also the time and random numbers
	atPlan                  // before anything is deployed: what is deployed is not known yet
	atRun
)

// errLater is the answer of reference() before anything is deployed.
var errLater = errors.New("the template function 'reference' is not expected at this location")

// An expr is a literal, a call, or a member of another expression.
type expr struct {
	literal any
	fn      string // lower case
	args    []*expr
	of, key *expr
	safe    bool // a missing member is null
}

type exprParser struct {
	text       string
	pos, depth int
	known      map[string]builtin
}

// isExpression tells an expression from text; "[[" begins a text with a bracket.
func isExpression(s string) bool {
	return len(s) > 2 && s[0] == '[' && s[1] != '[' && s[len(s)-1] == ']'
}

func (d *deployment) parse(text string) (*expr, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("the template language expression limit exceeded: limit '%d' and actual '%d'", maxExpression, len(text))
	}
	p := &exprParser{text: text[1 : len(text)-1], known: d.functions}
	e, err := p.expression()
	if err == nil && p.peek() != 0 {
		err = p.unexpected("the end")
	}
	if err != nil {
		return nil, fmt.Errorf("the language expression '%s' is not valid: %w", text, err)
	}
	return e, nil
}

// peek is the next character that is no space, 0 at the end.
func (p *exprParser) peek() byte {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
	if p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

func (p *exprParser) take(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.pos++
	return true
}

func (p *exprParser) unexpected(want string) error {
	got := "the end"
	if p.peek() != 0 {
		got = "'" + p.text[p.pos:min(p.pos+10, len(p.text))] + "'"
	}
	return fmt.Errorf("expected %s at position %d and found %s", want, p.pos+1, got)
}

func (p *exprParser) word() string {
	p.peek()
	start := p.pos
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		if c != '_' && c != '$' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			break
		}
		p.pos++
	}
	return p.text[start:p.pos]
}

func (p *exprParser) expression() (*expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	defer func() { p.depth-- }()
	e, err := p.primary()
	for err == nil {
		of := e
		switch {
		case p.take('.'):
			safe := p.take('?')
			name := p.word()
			if name == "" {
				return nil, p.unexpected("the name of a property")
			}
			e = &expr{of: of, key: &expr{literal: name}, safe: safe}
		case p.take('['):
			e = &expr{of: of, safe: p.take('?')}
			if e.key, err = p.expression(); err == nil && !p.take(']') {
				err = p.unexpected("']'")
			}
		default:
			return e, nil
		}
	}
	return nil, err
}

func (p *exprParser) primary() (*expr, error) {
	c := p.peek()
	switch {
	case c == '\'':
		return p.text1()
	case c == '-' || c >= '0' && c <= '9':
		start := p.pos
		p.pos++
		digits := p.text[start:p.pos] + p.word()
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("'%s' is not a number", digits)
		}
		return &expr{literal: number(n)}, nil
	}
	name := p.word()
	if name == "" {
		return nil, p.unexpected("a function or a literal")
	}
	for p.peek() == '.' { // a function of the template's author
		p.pos++
		name += "." + p.word()
	}
	if !p.take('(') {
		return nil, p.unexpected("'(' after '" + name + "'")
	}
	e := &expr{fn: strings.ToLower(name)}
	b, ok := p.known[e.fn]
	if !ok {
		return nil, fmt.Errorf("the template function '%s' is not valid. Please see https://aka.ms/arm-functions for usage details", name)
	}
	for !p.take(')') {
		if len(e.args) > 0 && !p.take(',') {
			return nil, p.unexpected("',' or ')'")
		}
		arg, err := p.expression()
		if err != nil {
			return nil, err
		}
		e.args = append(e.args, arg)
	}
	if n := len(e.args); n < b.min || b.max >= 0 && n > b.max {
		return nil, fmt.Errorf("the template function '%s' can't have %d argument(s)", name, n)
	}
	return e, nil
}

// text1 reads a string literal, in which two quotes are one.
func (p *exprParser) text1() (*expr, error) {
	var b strings.Builder
	for p.pos++; p.pos < len(p.text); p.pos++ {
		if p.text[p.pos] == '\'' {
			if p.pos++; p.pos == len(p.text) || p.text[p.pos] != '\'' {
				return &expr{literal: b.String()}, nil
			}
		}
		b.WriteByte(p.text[p.pos])
	}
	return nil, errors.New("a string is not terminated")
}

// A scope is where an expression stands.
type scope struct {
	d     *deployment
	stage stage
	loops map[string]int // indexes by lower-case name of the loop
	loop  string         // the innermost
}

// in is the scope within one turn of a loop.
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

// value evaluates all that is in a piece of a template.
func (s *scope) value(v any) (any, error) {
	switch v := v.(type) {
	case string:
		if !isExpression(v) {
			if strings.HasPrefix(v, "[[") && strings.HasSuffix(v, "]") {
				v = v[1:]
			}
			return v, nil
		}
		e, err := s.d.parse(v)
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

// copied is a property made by a loop: {name, count, input}.
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

func (s *scope) eval(e *expr) (any, error) {
	if s.d.steps++; s.d.steps > maxSteps {
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
	case e.fn == "if": // the other branch may not even make sense
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
	v, err := s.d.functions[e.fn].call(s, args)
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

// fits reports whether a value is small enough to go on with.
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

// member is of.key or of[key]; names of properties have no case.
func member(of, key any, safe bool) (any, error) {
	switch of := of.(type) {
	case object:
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("the property '%s' can't be selected: names of properties are strings", text(key))
		}
		if v, ok := property(of, name); ok || safe {
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

func property(of object, name string) (any, bool) {
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

// references are the first arguments of reference() in a piece of a template.
func (d *deployment) references(v any) (out []*expr) {
	var walk func(*expr)
	walk = func(e *expr) {
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
			if e, err := d.parse(v); err == nil { // an error is found where it is evaluated
				walk(e)
			}
		}
	case []any:
		for _, item := range v {
			out = append(out, d.references(item)...)
		}
	case object:
		for _, key := range sortedKeys(v) {
			out = append(out, d.references(v[key])...)
		}
	}
	return out
}
