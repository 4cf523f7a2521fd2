package armtemplate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Limits of the language, the same as the platform's.
const (
	maxExpression = 24576   // characters
	maxDepth      = 64      // of calls within calls
	maxValue      = 4 << 20 // characters and items that a value may have
	maxCopies     = 800
	maxSteps      = 1 << 20 // of one deployment
)

// An expression is a string in brackets: a literal, a function call, or a
// member or an item of another expression.
type expression struct {
	literal any
	fn      string // lower case
	args    []*expression
	of, key *expression
	safe    bool // a missing member is null
}

type parser struct {
	text       string
	pos, depth int
	known      map[string]function
}

// isExpression distinguishes an expression from text; "[[" begins a text with a
// bracket.
func isExpression(s string) bool {
	return len(s) > 2 && s[0] == '[' && s[1] != '[' && s[len(s)-1] == ']'
}

func (t *Template) parse(text string) (*expression, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("the template language expression limit exceeded: limit '%d' and actual '%d'", maxExpression, len(text))
	}
	p := &parser{text: text[1 : len(text)-1], known: t.functions}
	e, err := p.expression()
	if err == nil && p.peek() != 0 {
		err = p.unexpected("the end")
	}
	if err != nil {
		return nil, fmt.Errorf("the language expression '%s' is not valid: %w", text, err)
	}
	return e, nil
}

// peek returns the next character that is not white space, 0 at the end.
func (p *parser) peek() byte {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
	if p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

func (p *parser) take(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.pos++
	return true
}

func (p *parser) unexpected(want string) error {
	got := "the end"
	if p.peek() != 0 {
		got = "'" + p.text[p.pos:min(p.pos+10, len(p.text))] + "'"
	}
	return fmt.Errorf("expected %s at position %d and found %s", want, p.pos+1, got)
}

func (p *parser) word() string {
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

func (p *parser) expression() (*expression, error) {
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
			e = &expression{of: of, key: &expression{literal: name}, safe: safe}
		case p.take('['):
			e = &expression{of: of, safe: p.take('?')}
			if e.key, err = p.expression(); err == nil && !p.take(']') {
				err = p.unexpected("']'")
			}
		default:
			return e, nil
		}
	}
	return nil, err
}

func (p *parser) primary() (*expression, error) {
	c := p.peek()
	switch {
	case c == '\'':
		return p.stringLiteral()
	case c == '-' || c >= '0' && c <= '9':
		start := p.pos
		p.pos++
		digits := p.text[start:p.pos] + p.word()
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("'%s' is not a number", digits)
		}
		return &expression{literal: number(n)}, nil
	}
	name := p.word()
	if name == "" {
		return nil, p.unexpected("a function or a literal")
	}
	for p.peek() == '.' { // a user-defined function
		p.pos++
		name += "." + p.word()
	}
	if !p.take('(') {
		return nil, p.unexpected("'(' after '" + name + "'")
	}
	e := &expression{fn: strings.ToLower(name)}
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

// stringLiteral reads a string in quotes, in which two quotes stand for one.
func (p *parser) stringLiteral() (*expression, error) {
	var b strings.Builder
	for p.pos++; p.pos < len(p.text); p.pos++ {
		if p.text[p.pos] == '\'' {
			if p.pos++; p.pos == len(p.text) || p.text[p.pos] != '\'' {
				return &expression{literal: b.String()}, nil
			}
		}
		b.WriteByte(p.text[p.pos])
	}
	return nil, errors.New("a string is not terminated")
}
