package hostga

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// TestSEC4VMSettingsMemory: the worst documents within the size limit, and
// documents of 8 MiB that once took a gigabyte.
func TestSEC4VMSettingsMemory(t *testing.T) {
	most, n := int(limits.Bytes), limits.Nodes
	handlers := func(unit, sep string, count int) string {
		return strings.Repeat(unit+sep, count-1) + unit
	}
	doc := func(states string) string {
		return `{"hostGAPluginVersion":"1.0.8.175","extensionGoalStates":[` + states + `]}`
	}
	settings := func(i string) string {
		return `{"name":"P.H","version":"1","state":"enabled","isMultiConfig":true,"settings":[` + i + `]}`
	}
	var cases []peak.Case
	add := func(name string, make func() []byte) {
		cases = append(cases, peak.Case{Name: name, Doc: make, Read: func(b []byte) error {
			_, err := ParseVMSettings(b)
			return err
		}})
	}
	text := func(name string, make func() string) { add(name, func() []byte { return []byte(make()) }) }
	add("8 MiB of empty handlers", func() []byte { return peak.Fill(`{"extensionGoalStates":[`, "{},", "{}]}", 8<<20) })
	add("as large as taken, of empty handlers", func() []byte { return peak.Fill(`{"extensionGoalStates":[`, "{},", "{}]}", most) })
	text("as many empty handlers as values", func() string { return doc(handlers("{}", ",", n/2-10)) })
	text("as many families as values", func() string { return `{"gaFamilies":[` + handlers(`{"name":"a"}`, ",", n/3-10) + `]}` })
	text("as many features as values", func() string { return `{"requiredFeatures":[` + handlers(`{"name":"a"}`, ",", n/3-10) + `]}` })
	text("as many settings as values", func() string { return doc(settings(handlers("{}", ",", n/2-20))) })
	text("as many dependencies as values", func() string {
		return doc(`{"name":"P.H","version":"1","state":"enabled","dependsOn":[{"dependsOnExtension":[` + handlers("{}", ",", n/2-20) + `]}]}`)
	})
	text("one text of settings", func() string {
		return doc(`{"name":"P.H","version":"1","state":"enabled","settingsSeqNo":1,"settings":[{"publicSettings":"{\"a\":\"` + strings.Repeat("x", most-1000) + `\"}"}]}`)
	})
	text("one text of escapes", func() string {
		return doc(`{"name":"P.H","version":"1","state":"enabled","settingsSeqNo":1,"settings":[{"publicSettings":"{\"a\":\"` + strings.Repeat(`\u0041`, (most-1000)/6) + `\"}"}]}`)
	})
	text("settings as an object", func() string {
		return doc(`{"name":"P.H","version":"1","state":"enabled","settingsSeqNo":1,"settings":[{"publicSettings":{"a":"` + strings.Repeat("x", most-1000) + `"}}]}`)
	})
	text("a number of millions of digits", func() string {
		return doc(`{"name":"P.H","version":` + strings.Repeat("1", most-1000) + `,"state":"enabled"}`)
	})
	text("a state of megabytes", func() string { return doc(`{"name":"P.H","state":"` + strings.Repeat(`\u0001`, (most-1000)/6) + `"}`) })
	text("deep", func() string { return doc(strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)) })
	text("one name again and again", func() string {
		return "{" + strings.Repeat(`"statusUploadBlob":{"value":"`+strings.Repeat("x", 200)+`"},`, n/5) + `"a":1}`
	})
	peak.Run(t, cases)
}
