package main

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/azguest/azguest/test/fabric"
)

// A judged flag has a value that is judged when it is read: one that could have
// no effect, or another than was meant, is wrong usage.
type judged struct {
	text, kind string
	set        func(text string) error
}

func (j *judged) String() string { return j.text }
func (j *judged) Type() string   { return j.kind }

func (j *judged) Set(text string) error {
	err := j.set(text)
	if err == nil {
		j.text = text
	}
	return err
}

// oneOf adds a flag whose value is one of the known words. The word that *to has
// is the default.
func oneOf(fl *pflag.FlagSet, to *string, name, usage string, known ...string) {
	text(fl, to, name, usage, func(s string) error { return fabric.OneOf("value", s, known...) })
}

// text adds a flag whose value passes a check.
func text(fl *pflag.FlagSet, to *string, name, usage string, check func(string) error) {
	fl.Var(&judged{*to, "string", func(s string) error {
		*to = s
		return check(s)
	}}, name, usage)
}

// count adds a flag with a number of something; 0 is the default.
func count(fl *pflag.FlagSet, to *int, name, usage string) {
	fl.Var(&judged{"", "int", func(s string) error {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil:
			return errors.New("not a number")
		case n < 0:
			return errors.New("must not be negative")
		}
		*to = n
		return nil
	}}, name, usage)
}

// span adds a flag with a duration of at least the given length. What *to has is
// the default.
func span(fl *pflag.FlagSet, to *time.Duration, least time.Duration, name, usage string) {
	shown := ""
	if *to != 0 {
		shown = to.String()
	}
	fl.Var(&judged{shown, "duration", func(s string) error {
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return errors.New("not a duration such as 30s or 5m")
		case d < least:
			return fmt.Errorf("must not be shorter than %s", least)
		}
		*to = d
		return nil
	}}, name, usage)
}

// segment checks a name that becomes a part of the path of a resource.
func segment(s string) error {
	if s == "" || strings.ContainsAny(s, "/?#% ") {
		return errors.New("must be a name without / ? # % and blanks")
	}
	return nil
}

// matches returns a check by a regular expression; form says what it wants.
func matches(pattern, form string) func(string) error {
	re := regexp.MustCompile(pattern)
	return func(s string) error {
		if !re.MatchString(s) {
			return errors.New("must be " + form)
		}
		return nil
	}
}

// knownVMs checks the values of serve --vm: names that can be told apart.
func knownVMs(specs []string) error {
	seen := map[string]bool{}
	for _, spec := range specs {
		name, address, given := strings.Cut(spec, "=")
		switch _, err := netip.ParseAddr(address); {
		case segment(name) != nil:
			return usageError{fmt.Errorf("--vm %q: the name %w", spec, segment(name))}
		case seen[strings.ToLower(name)]:
			return usageError{fmt.Errorf("--vm %q: there are two virtual machines with this name", spec)}
		case given && err != nil:
			return usageError{fmt.Errorf("--vm %q: %q is not an address", spec, address)}
		}
		seen[strings.ToLower(name)] = true
	}
	return nil
}
