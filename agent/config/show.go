package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Setting is one key with its effective value.
type Setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"` // effective, as written in a file
	Default string `json:"default"`
	Origin  Origin `json:"origin"` // zero: the default
	Set     bool   `json:"set"`    // a file set it, even to None or to an invalid value
	Kind    Kind   `json:"kind"`
	Doc     string `json:"doc"`
	Own     bool   `json:"own,omitempty"`
	Hidden  bool   `json:"hidden,omitempty"`
}

// Settings returns every key that has an effect, in the order of the table.
func (c *Config) Settings() []Setting {
	var out []Setting
	for _, k := range Keys() {
		if k.Kind == Ignored || k.Alias != "" {
			continue
		}
		v, set := c.values[k.Name]
		out = append(out, Setting{
			Key: k.Name, Value: withoutLogin(k.text(c)), Default: none(k.Default), Origin: v.Origin, Set: set,
			Kind: k.Kind, Doc: k.Doc, Own: k.Own, Hidden: k.Hidden,
		})
	}
	return out
}

// withoutLogin removes user and password from an address, such as that of a
// proxy, because the output may be pasted into tickets.
func withoutLogin(v string) string {
	i := strings.LastIndexByte(v, '@')
	if i < 0 {
		return v
	}
	scheme, _, found := strings.Cut(v[:i], "://")
	if !found {
		return "<redacted>" + v[i:]
	}
	return scheme + "://<redacted>" + v[i:]
}

// Origin returns where the value of a key came from.
func (c *Config) Origin(key string) Origin { return c.values[key].Origin }

// Said returns the value that a file sets for a key, and where. ok is false if
// no file sets it, or only to None or to an invalid value.
func (c *Config) Said(key string) (text string, at Origin, ok bool) {
	v, ok := c.values[key]
	i := slices.IndexFunc(Keys(), func(k Key) bool { return k.Name == key })
	if !ok || i < 0 || v.None {
		return "", Origin{}, false
	}
	text, err := Keys()[i].check(v.Text)
	if text == "" && err != nil {
		return "", Origin{}, false
	}
	return text, v.Origin, true
}

// Because returns the first of the keys that a file sets, as "Key=value in
// FILE:LINE", or "" if all of them have their defaults.
func (c *Config) Because(keys ...string) string {
	for _, k := range keys {
		if text, at, ok := c.Said(k); ok {
			return k + "=" + text + " in " + at.String()
		}
	}
	return ""
}

// PolicyWhy returns why extension policies have their mode.
func (c *Config) PolicyWhy() string {
	return cmp.Or(c.Because("Extensions.PolicyMode", "Debug.EnableExtensionPolicy"), "default: a policy file is enforced if it exists")
}

// FirewallWhy returns why the firewall is on or off.
func (c *Config) FirewallWhy() string {
	return cmp.Or(c.Because("OS.EnableFirewall"), "default on this platform")
}

// text returns the effective value of k.
func (k Key) text(c *Config) string {
	if k.at == nil {
		if v, ok := c.values[k.Name]; ok && !v.None {
			if t, err := k.check(v.Text); err == nil {
				return t
			}
		}
		return none(k.Default)
	}
	switch p := k.at(c).(type) {
	case *bool:
		return pick(*p, "y", "n")
	case *string:
		return none(*p)
	case *int:
		return strconv.Itoa(*p)
	case *int64:
		return strconv.FormatInt(*p, 10)
	case *time.Duration:
		return strconv.FormatInt(int64(*p/time.Second), 10)
	}
	return ""
}

func none(s string) string {
	if s == "" {
		return "None"
	}
	return s
}

// Classic returns lines "Key = value" in the format of the classic agent's
// -show-configuration: sorted, switches as True and False, only the keys that
// it knows, without its hidden ones.
func (c *Config) Classic() []string {
	var out []string
	for _, s := range c.Settings() {
		if s.Own || s.Hidden {
			continue
		}
		v := s.Value
		if s.Kind == Switch {
			v = pick(v == "y", "True", "False")
		}
		out = append(out, s.Key+" = "+v)
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
