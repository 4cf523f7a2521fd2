package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// TestSEC4WireServerMemory: the worst case of each document, with the size and
// number of nodes that are accepted, and documents that once took a gigabyte.
func TestSEC4WireServerMemory(t *testing.T) {
	readers := map[string]func(b []byte) error{
		"versions":                 func(b []byte) error { _, err := ParseVersions(b); return err },
		"goalstate":                func(b []byte) error { _, err := ParseGoalState(b); return err },
		"extensionsConfig":         func(b []byte) error { _, err := ParseExtensions(b); return err },
		"hostingEnvironmentConfig": func(b []byte) error { _, err := ParseHostingEnvironment(b); return err },
		"certificates":             func(b []byte) error { _, err := ParseCertificates(b); return err },
		"remoteAccess":             func(b []byte) error { _, err := ParseRemoteAccess(b); return err },
		"manifest":                 func(b []byte) error { _, err := ParseManifest(b); return err },
	}
	var cases []peak.Case
	add := func(doc, name string, make func() string) {
		cases = append(cases, peak.Case{Name: doc + ": " + name, Doc: func() []byte { return []byte(make()) }, Read: readers[doc]})
	}
	for doc := range readers {
		l := limits(doc)
		size, n := int(l.Bytes)-1000, l.Nodes-10
		add(doc, "elements", func() string { return "<a>" + strings.Repeat("<b/>", n) + "</a>" })
		add(doc, "elements and texts", func() string { return "<a>" + strings.Repeat("<b>x</b>", n/2) + "</a>" })
		add(doc, "attributes", func() string { return "<a " + numbered(n, `a%d="" `) + "/>" })
		add(doc, "one text", func() string { return "<a><Data>" + strings.Repeat("x", size) + "</Data></a>" })
		add(doc, "one text of entities", func() string { return "<a>" + strings.Repeat("&#65;", size/5) + "</a>" })
		add(doc, "comments in a text", func() string { return "<a>" + strings.Repeat("xxxx<!---->", n/2) + "</a>" })
		add(doc, "names as long as can be", func() string { return "<a>" + strings.Repeat("<"+strings.Repeat("x", size/n-3)+"/>", n) + "</a>" })
		add(doc, "8 MiB of attributes with blanks", func() string { return "<a " + strings.Repeat(`a= "" `, 8<<20/6) + "/>" })
		add(doc, "8 MiB of name spaces", func() string { return "<a " + strings.Repeat(`xmlns:a= "b" `, 8<<20/13) + "/>" })
		add(doc, "8 MiB of elements", func() string { return "<a>" + strings.Repeat("<b/>", 8<<20/4) + "</a>" })
		add(doc, "8 MiB of levels", func() string { return strings.Repeat("<b>", 8<<20/3) })
		add(doc, "8 MiB of instructions", func() string { return strings.Repeat("<?a?>", 8<<20/5) + "<a/>" })
	}
	l := limits("extensionsConfig")
	size, n := int(l.Bytes), l.Nodes
	conf := func(plugins, settings string) string {
		return "<Extensions><Plugins>" + plugins + "</Plugins><PluginSettings>" + settings + "</PluginSettings></Extensions>"
	}
	const plugin = `<Plugin name="A" version="1" state="enabled"/>`
	runtime := func(text string) string {
		return `<Plugin name="A" version="1"><RuntimeSettings seqNo="1">` + text + `</RuntimeSettings></Plugin>`
	}
	big := func(quote string) string {
		return `{` + quote + `runtimeSettings` + quote + `:[{` + quote + `handlerSettings` + quote + `:{` + quote + `publicSettings` + quote + `:{` + quote + `a` + quote + `:` + quote +
			strings.Repeat("x", size-100_000) + quote + `}}}]}`
	}
	add("extensionsConfig", "settings of megabytes", func() string { return conf(plugin, runtime(big(`"`))) })
	add("extensionsConfig", "one plugin again and again with settings of megabytes", func() string { return conf(strings.Repeat(plugin, 250), runtime(big(`"`))) })
	add("extensionsConfig", "empty runtime settings", func() string {
		return conf(plugin, runtime(`{"runtimeSettings":[`+strings.Repeat(`{"handlerSettings":{}},`, (size-100_000)/23)+`{}]}`))
	})
	add("extensionsConfig", "versions that do not fit", func() string {
		return conf(strings.Repeat(plugin, 250), strings.Repeat(`<Plugin name="A" version="`+strings.Repeat("x", size/n*2)+`"/>`, n/3-1000))
	})
	add("extensionsConfig", "dependencies of one plugin again and again", func() string {
		return conf(strings.Repeat(plugin, 250), `<Plugin name="A" version="1"><DependsOn>`+strings.Repeat(`<DependsOnExtension handler="a"/>`, n/2-2000)+`</DependsOn></Plugin>`)
	})
	add("extensionsConfig", "extensions of one plugin", func() string {
		return conf(plugin, `<Plugin name="A" version="1">`+numbered(n/4-100, `<ExtensionRuntimeSettings name="%d" seqNo="1">{}</ExtensionRuntimeSettings>`)+`</Plugin>`)
	})
	add("manifest", "versions", func() string {
		return "<M><Plugins>" + numbered(limits("manifest").Nodes/3-10, "<Plugin><Version>%d</Version></Plugin>") + "</Plugins></M>"
	})
	add("manifest", "addresses", func() string {
		return "<M><Plugins><Plugin><Version>1</Version><Uris>" + numbered(limits("manifest").Nodes/2-10, "<Uri>http://a/%d</Uri>") + "</Uris></Plugin></Plugins></M>"
	})
	add("remoteAccess", "users", func() string {
		return "<R><Users>" + numbered(limits("remoteAccess").Nodes/3-10, "<User><Name>%d</Name></User>") + "</Users></R>"
	})
	peak.Run(t, cases)
}

func numbered(n int, unit string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, unit, i)
	}
	return b.String()
}
