package extensions

import (
	"bytes"
	"strings"
	"testing"

	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/test/peak"
)

// TestSEC4HandlerFilesMemory: the worst content of each file of a handler, at
// the largest size that the agent reads, does not need too much memory.
func TestSEC4HandlerFilesMemory(t *testing.T) {
	for _, r := range []struct {
		file  string
		size  int
		frame string
		read  func([]byte) error
	}{
		{"status", handler.MaxStatusFile, `[{"status":{"status":"success","formattedMessage":{"message":"m"},|}}]`, func(b []byte) error { _, err := handler.ParseStatus(b); return err }},
		{"heartbeat", handler.MaxHeartbeat, `[{"heartbeat":{"status":"ready","code":0,|}}]`, func(b []byte) error { _, err := handler.ParseHeartbeat(b); return err }},
		{"manifest", handler.MaxManifest, `[{"handlerManifest":{"installCommand":"a",|}}]`, func(b []byte) error { _, err := handler.ParseManifest(b); return err }},
		{"handler status", handler.MaxHeartbeat, `{"status":"Ready",|}`, func(b []byte) error {
			if _, ok := handler.ParseStatusRecord(b); !ok {
				return handler.ErrHeartbeat
			}
			return nil
		}},
		{"policy", policy.MaxFile, `{"policyVersion":"0.1.0","extensionPolicies":{"extensions":{|}}}`, func(b []byte) error { _, err := policy.Parse(b); return err }},
	} {
		var cases []peak.Case
		before, after, _ := strings.Cut(r.frame, "|")
		fill := func(head, unit, tail string) func() []byte {
			return func() []byte { return peak.Fill(before+head, unit, tail+after, r.size) }
		}
		list := func(unit string) func() []byte { return fill(`"substatus":[`, unit, `{}]`) }
		docs := map[string]func() []byte{
			"empty objects":       list(`{},`),
			"empty arrays":        list(`[],`),
			"objects":             list(`{"status":{"formattedMessage":{}}},`),
			"substatus":           list(`{"name":"n","status":"error","code":"1","formattedMessage":{"message":"m"}},`),
			"messages of secrets": list(`{"name":"n","status":"error","code":"1","formattedMessage":{"message":"` + strings.Repeat("pwd=a ", 300) + `"}},`),
			"numbers":             list(`1,`),
			"escapes":             list(`"\u0041\ud800",`),
			"long escapes":        list(`"` + strings.Repeat(`\u0001`, 4000) + `",`),
			"not valid UTF-8":     list("\"\xff\xfe\","),
			"names":               fill(``, `"k%d":1,`, `"z":1`),
			"one name":            fill(``, `"status":"x",`, `"z":1`),
			"policies":            fill(``, `"P.H%d":{"signatureRequired":true,"runtimePolicy":{"a":1}},`, `"z":{}`),
			"one number":          fill(`"code":`, "9", ``),
			"NULs":                func() []byte { return make([]byte, r.size) },
			"deep": func() []byte {
				return []byte(strings.Repeat("[", r.size/2) + strings.Repeat("]", r.size/2))
			},
			"UTF-16": func() []byte {
				wide := bytes.ReplaceAll(list(`{},`)()[:r.size/2-2], nil, []byte{0})
				return append([]byte("\xff\xfe"), wide...)[:r.size]
			},
		}
		for what, unit := range map[string]string{
			"text": "x", "controls": "\x01", "line ends": "\\\n", "escapes": `\u0001`, "not valid UTF-8": "\xff",
			"signatures": "sig=a&", "passwords": "pwd=a ", "words": "password ", "JSON": `{\"password\":\"a\"}`, "login": "https://a:b@c/?sig=d ",
			"blanks": " ", "equals": "=", "percents": "%", "backslashes": `\\`,
		} {
			docs["message of "+what] = fill(`"message":"`, unit, `"`)
			docs["formatted message of "+what] = fill(`"formattedMessage":{"message":"`, unit, `"}`)
		}
		for name, doc := range docs {
			cases = append(cases, peak.Case{Name: r.file + ": " + name, Doc: doc, Read: r.read})
		}
		peak.Run(t, cases)
	}
}
