package extlab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// LintStatus checks a status file that a handler has written.
func LintStatus(file string, data []byte) []Finding {
	var out []Finding
	say := func(level, field, format string, a ...any) {
		out = append(out, Finding{Level: level, File: file, Field: field, Message: fmt.Sprintf(format, a...)})
	}
	if bytes.HasPrefix(data, bom) {
		say(Warning, "", "starts with a byte order mark")
		data = data[len(bom):]
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		say(Error, "", "not an array of objects: %s", jsonFault(data, err))
		return out
	}
	if len(list) == 0 {
		say(Error, "", "the array is empty")
		return out
	}
	if len(data) > 128<<10 {
		say(Warning, "", "%d bytes; a status above 128 KiB is shortened for the platform", len(data))
	}
	for _, key := range []string{"version", "timestampUTC"} {
		if _, ok := list[0][key]; !ok {
			say(Warning, key, "missing")
		}
	}
	var st map[string]json.RawMessage
	if json.Unmarshal(list[0]["status"], &st) != nil || st == nil {
		say(Error, "status", "missing, or not an object")
		return out
	}
	words := []string{"transitioning", "warning", "success", "error"}
	one := func(where string, o map[string]json.RawMessage, strict bool) {
		var word string
		if json.Unmarshal(o["status"], &word) != nil || !slices.Contains(words, word) {
			level := Warning
			if strict {
				level = Error
			}
			say(level, where+"status", "%s is not one of %v; it is treated as an error", o["status"], words)
		}
		if c := o["code"]; len(c) > 0 && c[0] == '"' {
			say(Warning, where+"code", "%s is a string, not a number", c)
		}
		for _, wrong := range []string{"formatMessage", "formattedmessage", "FormattedMessage", "message"} {
			if _, ok := o[wrong]; ok {
				say(Error, where+wrong, "this field is ignored; the message goes into formattedMessage")
			}
		}
		raw, ok := o["formattedMessage"]
		if !ok {
			say(Warning, where+"formattedMessage", "missing; only the status word is shown")
			return
		}
		var fm map[string]json.RawMessage
		var text string
		switch {
		case json.Unmarshal(raw, &fm) != nil || fm == nil:
			say(Error, where+"formattedMessage", "not an object")
		case json.Unmarshal(fm["message"], &text) != nil:
			say(Error, where+"formattedMessage.message", "missing, or not a string")
		case fm["lang"] == nil:
			say(Error, where+"formattedMessage.lang", "missing")
		}
	}
	one("status.", st, true)
	if _, ok := st["operation"]; !ok {
		say(Warning, "status.operation", "missing")
	}
	var subs []map[string]json.RawMessage
	if raw, ok := st["substatus"]; ok && json.Unmarshal(raw, &subs) != nil {
		say(Error, "status.substatus", "not an array of objects")
	}
	for i, s := range subs {
		if s != nil {
			one(fmt.Sprintf("status.substatus[%d].", i), s, true)
		}
	}
	return out
}
