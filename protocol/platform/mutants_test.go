package platform_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/test/fabric"
)

// mutantsOf changes a document of a real host in ways in which a faulty or
// newer host might send it.
func mutantsOf(r *rand.Rand, doc string, n int) map[string]string {
	out := map[string]string{
		"as it is": doc, "empty": "", "BOM": "\ufeff" + doc, "CRLF": strings.ReplaceAll(doc, "\n", "\r\n"), "NULs after": doc + strings.Repeat("\x00", 700),
		"NULs before": "\x00\x00" + doc, "white before": "\n \t" + doc, "cut": doc[:len(doc)/2], "cut late": doc[:max(0, len(doc)-3)],
		"twice": doc + doc, "latin": strings.Replace(doc, "utf-8", "iso-8859-1", 1) + "\xe4", "no line ends": strings.NewReplacer("\r", "", "\n", "").Replace(doc),
		"error page": "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><center>nginx</center><br></body></html>",
		"error":      `{"errorCode":"InternalError","message":"try again"}`, "null": "null", "list": "[]", "number": "7",
		"deep":     strings.Repeat("<a>", 20000),
		"deep too": strings.Repeat("[", 100000),
		"entities": `<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><GoalState>&b;</GoalState>`,
		"huge":     doc + strings.Repeat(" ", 9<<20),
	}
	for i := range n {
		m, how := mutateXML, ""
		if strings.HasPrefix(strings.TrimSpace(doc), "{") {
			m = mutateJSON
		}
		text := doc
		for range 1 + r.IntN(3) {
			var h string
			text, h = m(r, text)
			how += " " + h
		}
		out[fmt.Sprintf("%d%s", i, how)] = text
	}
	return out
}

// An element is the position of an XML element in the text.
type element struct {
	name                     string
	start, tag, closing, end int // of the start tag, behind it, of the end tag, behind that
	text                     bool
}

// elements finds all elements, ordered by their end, so inner ones come first.
func elements(doc string) (out []element) {
	d := xml.NewDecoder(strings.NewReader(strings.TrimPrefix(doc, "\ufeff")))
	d.Strict = false
	skew := len(doc) - len(strings.TrimPrefix(doc, "\ufeff"))
	var open []element
	for {
		at := int(d.InputOffset()) + skew
		token, err := d.RawToken()
		if err != nil {
			return out
		}
		switch x := token.(type) {
		case xml.StartElement:
			open = append(open, element{name: x.Name.Local, start: at, tag: int(d.InputOffset()) + skew, text: true})
			if n := len(open); n > 1 {
				open[n-2].text = false
			}
		case xml.EndElement:
			if n := len(open); n > 0 {
				e := open[n-1]
				e.closing, e.end = at, int(d.InputOffset())+skew
				open, out = open[:n-1], append(out, e)
			}
		}
	}
}

var odd = []string{"", " ", "\n", "abc", "-1", "0", "1.5", "true", "99999999999999999999", "null", "<![CDATA[x]]>", "&#0;", "&amp;", "http://[::1", "https://127.0.0.1:1/x?sig=y", "../../etc", "\x00", strings.Repeat("A", 5000)}

func mutateXML(r *rand.Rand, doc string) (mutant, how string) {
	all := elements(doc)
	if len(all) == 0 {
		return doc, "none"
	}
	e := all[r.IntN(len(all))]
	whole := doc[e.start:e.end]
	put := func(text string) string { return doc[:e.start] + text + doc[e.end:] }
	rename := func(name string) string {
		return put(regexp.MustCompile(`^<[\w:]+`).ReplaceAllString(regexp.MustCompile(`</[\w:]+>$`).ReplaceAllString(whole, "</"+name+">"), "<"+name))
	}
	attribute := regexp.MustCompile(`([\w:]+)="([^"]*)"`)
	attributes := attribute.FindAllStringSubmatchIndex(doc[e.start:e.tag], -1)
	switch n := r.IntN(11); {
	case n == 0:
		return put(""), "without " + e.name
	case n == 1:
		return rename(e.name + "2"), e.name + " renamed"
	case n == 2:
		return rename(strings.ToLower(e.name)), e.name + " in lower case"
	case n == 3:
		return rename("x:" + e.name), e.name + " in another name space"
	case n == 4:
		return put(whole + whole), e.name + " twice"
	case n == 5 && e.text && e.closing > e.tag:
		text := odd[r.IntN(len(odd))]
		return doc[:e.tag] + text + doc[e.closing:], fmt.Sprintf("%s is %.20q", e.name, text)
	case n == 6:
		return put("<!-- a comment --><Unknown a='b'><Deep>1</Deep></Unknown>" + whole), "something before " + e.name
	case n == 7:
		other := all[r.IntN(len(all))]
		if other.end <= e.start {
			return doc[:other.start] + whole + doc[other.end:e.start] + doc[other.start:other.end] + doc[e.end:], e.name + " changes places with " + other.name
		}
		return put(""), "without " + e.name
	case len(attributes) > 0:
		a := attributes[r.IntN(len(attributes))]
		from, to := e.start+a[0], e.start+a[1]
		name := doc[e.start+a[2] : e.start+a[3]]
		value := doc[e.start+a[4] : e.start+a[5]]
		switch r.IntN(4) {
		case 0:
			return doc[:from] + doc[to:], "without @" + name
		case 1:
			return doc[:from] + strings.ToUpper(name) + `="` + value + `"` + doc[to:], "@" + name + " in upper case"
		case 2:
			return doc[:from] + name + `=""` + doc[to:], "@" + name + " empty"
		default:
			text := strings.NewReplacer("<", "&lt;", `"`, "").Replace(odd[r.IntN(len(odd))])
			return doc[:from] + name + `="` + text + `"` + doc[to:], fmt.Sprintf("@%s is %.20q", name, text)
		}
	}
	return put(""), "without " + e.name
}

// mutateJSON changes one value somewhere.
func mutateJSON(r *rand.Rand, doc string) (mutant, how string) {
	var v any
	d := json.NewDecoder(strings.NewReader(doc))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return doc, "none"
	}
	var places []func() string
	var walk func(v any)
	walk = func(v any) {
		switch x := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(x)) {
				places = append(places, func() string {
					old := x[k]
					switch r.IntN(7) {
					case 0:
						delete(x, k)
						return "without " + k
					case 1:
						delete(x, k)
						x[strings.ToUpper(k)] = old
						return k + " in upper case"
					case 2:
						x[k] = nil
						return k + " is null"
					case 3:
						x[k] = []any{old}
						return k + " in a list"
					case 4:
						x[k] = map[string]any{"value": old}
						return k + " in an object"
					case 5:
						x[k] = fmt.Sprint(old)
						return k + " as text"
					default:
						x[k] = odd[r.IntN(len(odd))]
						return fmt.Sprintf("%s is %.20q", k, x[k])
					}
				})
				walk(x[k])
			}
		case []any:
			for i := range x {
				places = append(places, func() string { x[i] = nil; return fmt.Sprintf("null at %d", i) })
				walk(x[i])
			}
		}
	}
	walk(v)
	if len(places) == 0 {
		return doc, "none"
	}
	how = places[r.IntN(len(places))]()
	b, err := json.Marshal(v)
	if err != nil {
		return doc, "none"
	}
	return string(b), how
}

// A sighting is a recorded document of some host.
type sighting struct {
	kind fabric.Kind
	name string
	doc  string
}

var (
	statusXML  = regexp.MustCompile(`(<StatusUploadBlob[^>]*>)[^<]*(</StatusUploadBlob>)`)
	statusJSON = regexp.MustCompile(`("(?i:statusUploadBlob)"[^}]*"value"\s*:\s*")[^"]*"`)
)

// ours adapts a document to this platform: the address of the status, the
// names of the machine, and a date before that of the next goal state.
func (p *patient) ours(doc string) string {
	container := regexp.MustCompile(`(<ContainerId>)[^<]*`)
	config := regexp.MustCompile(`(<ConfigName>)[^<]*`)
	doc = container.ReplaceAllString(doc, "${1}"+p.vm.ContainerID())
	doc = config.ReplaceAllString(doc, "${1}"+p.vm.ConfigName())
	doc = regexp.MustCompile(`(createdOnTicks="|"extensionsLastModifiedTickCount": *)\d+`).ReplaceAllString(doc, "${1}630822816000000000")
	doc = statusXML.ReplaceAllString(doc, "${1}"+strings.ReplaceAll(p.vm.StatusURL(), "&", "&amp;")+"${2}")
	return statusJSON.ReplaceAllString(doc, "${1}"+p.vm.StatusURL()+`"`)
}

// sightings are the documents that the emulator sends, and those in
// AZGUEST_FIXTURES.
func sightings(t *testing.T) (out []sighting) {
	t.Helper()
	for _, k := range []fabric.Kind{fabric.GoalState, fabric.ExtensionsConfig, fabric.HostingEnvironment, fabric.SharedConfig, fabric.Certificates, fabric.RemoteAccess, fabric.VMSettings, fabric.Versions} {
		out = append(out, sighting{k, "the emulator", ""})
	}
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		return out
	}
	for pattern, kind := range map[string]fabric.Kind{
		"wire/goal_state*.xml": fabric.GoalState, "hibernate/*/GoalState.xml": fabric.GoalState,
		"wire/ext_conf*.xml": fabric.ExtensionsConfig, "wire/multi-config/*.xml": fabric.ExtensionsConfig, "hostgaplugin/ext_conf.xml": fabric.ExtensionsConfig, "hibernate/*/ExtensionsConfig.xml": fabric.ExtensionsConfig,
		"wire/hosting_env.xml": fabric.HostingEnvironment, "hibernate/*/HostingEnvironmentConfig.xml": fabric.HostingEnvironment,
		"wire/shared_config.xml": fabric.SharedConfig, "hibernate/*/SharedConfig.xml": fabric.SharedConfig,
		"wire/certs.xml": fabric.Certificates, "hibernate/*/Certificates.xml": fabric.Certificates, "wire/remote_access*.xml": fabric.RemoteAccess,
		"hostgaplugin/vm_settings*.json": fabric.VMSettings, "hibernate/*/VmSettings.json": fabric.VMSettings, "wire/version_info.xml": fabric.Versions,
	} {
		files, err := filepath.Glob(filepath.Join(dir, "waagent", pattern))
		if err != nil || len(files) == 0 {
			t.Errorf("no fixtures %s: %v", pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, sighting{kind, strings.TrimPrefix(file, dir+"/waagent/"), string(b)})
		}
	}
	return out
}

// A patient is a client with its platform, on fake time.
type patient struct {
	t   *testing.T
	f   *fabric.Fabric
	vm  *fabric.VM
	c   *platform.Client
	key string
}

func newPatient(t *testing.T, fast bool) *patient {
	f := fabric.New(t, func(o *fabric.Options) { o.JournalKeep = 20000 })
	vm := f.CreateVM("vm-01", fabric.Linux("azureuser", ""), fabric.WithConfig(func(c *fabric.Config) {
		c.FastTrack = fast
		c.Users = []fabric.User{{Name: "jit", Password: "p", Expires: time.Date(2035, 1, 2, 3, 4, 5, 0, time.UTC)}}
	}))
	p := &patient{t: t, f: f, vm: vm}
	p.c = platform.New(platform.Options{Root: host.Root(t.TempDir()), HTTP: vm.Client(), AgentVersion: "9.9.9.9", VMID: vm.ID(), Log: zerolog.Nop()})
	t.Cleanup(p.c.Close)
	if err := p.c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.look()
	return p
}

func (p *patient) look() bool {
	gs, err := p.c.GoalState(p.t.Context(), p.key)
	if err == nil {
		p.key = gs.Key()
	}
	return err == nil
}

func (p *patient) report() bool {
	r, err := p.c.ReportStatus(p.t.Context(), protocol.Status{Agent: protocol.AgentStatus{Version: "9.9.9.9"}})
	return err == nil && r.Accepted
}

// live does for d what the agent's loop does: a poll of the goal state every
// six seconds, a status every minute.
func (p *patient) live(d time.Duration) (sent, accepted int) {
	for i := 0; time.Duration(i)*6*time.Second < d; i++ {
		p.look()
		if i%10 == 0 {
			sent++
			if p.report() {
				accepted++
			}
		}
		time.Sleep(6 * time.Second)
	}
	return sent, accepted
}

// suffer runs the client with a fault, then without.
func (p *patient) suffer(name string, faults []fabric.Fault, spoilsStatus bool) {
	p.t.Helper()
	for _, x := range faults {
		if _, err := p.f.Fail(x); err != nil {
			p.t.Fatalf("%s: %v", name, err)
		}
	}
	p.vm.Announce(false)
	before := map[fabric.Kind]int{}
	for _, x := range faults {
		before[x.Kind] = p.vm.Requests(x.Kind)
	}
	total := len(p.f.Journal(fabric.Query{}))
	const long = 5 * time.Minute
	sent, accepted := p.live(long)
	if accepted < sent && !spoilsStatus {
		p.t.Errorf("%s: %d of %d status documents accepted", name, accepted, sent)
	}
	// 50 polls of two documents, and 20 attempts for each that fails.
	if n := len(p.f.Journal(fabric.Query{})) - total; n > 300 {
		p.t.Errorf("%s: %d requests in %v", name, n, long)
	}
	for _, x := range faults {
		most := 20
		if x.Kind == fabric.Certificates {
			most *= 2 // with one cipher, then with the other
		}
		if x.Reset {
			most *= 2 // net/http asks again when a connection it kept was cut
		}
		if x.Kind == fabric.GoalState || x.Kind == fabric.VMSettings || x.Kind == fabric.PluginStatus {
			most = 125
		}
		if n := p.vm.Requests(x.Kind) - before[x.Kind]; n > most {
			p.t.Errorf("%s: %d requests for %s in %v", name, n, x.Kind, long)
		}
	}
	p.f.RemoveFault(0)
	fast := slices.ContainsFunc(faults, func(x fabric.Fault) bool { return x.Kind == fabric.VMSettings })
	p.vm.Announce(fast)
	next := "incarnation_" + fmt.Sprint(p.vm.Incarnation())
	if fast {
		next = "etag_" + p.vm.ETag()
	}
	start := time.Now()
	for {
		p.look()
		if strings.Contains(p.key, next) && p.report() {
			break
		}
		if time.Since(start) > 20*time.Minute {
			p.t.Fatalf("%s: not well after %v: %s, want %s", name, time.Since(start), p.key, next)
		}
		time.Sleep(6 * time.Second)
	}
	if late := time.Since(start); late > 4*time.Minute {
		p.t.Errorf("%s: recovered only after %v", name, late)
	}
}

// drill returns how many cases of each kind are tried (AZGUEST_DRILL, default
// 3), and the seed that chooses them (AZGUEST_SEED). All cases take minutes.
func drill(t *testing.T) (n int, seed uint64) {
	t.Helper()
	n, seed = 3, uint64(time.Now().UnixNano())
	if testing.Short() {
		n = 1
	}
	for name, to := range map[string]any{"AZGUEST_DRILL": &n, "AZGUEST_SEED": &seed} {
		if s := os.Getenv(name); s != "" {
			if _, err := fmt.Sscan(s, to); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	t.Logf("repeat with AZGUEST_DRILL=%d AZGUEST_SEED=%d", n, seed)
	return n, seed
}

// some picks n names.
func some[T any](r *rand.Rand, all map[string]T, n int) []string {
	names := slices.Sorted(maps.Keys(all))
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(n, len(names))]
}

// TestMutants sends damaged documents of real hosts, one after the other, to
// one client: status reporting never stops, nothing loops, and the next good
// goal state is adopted.
func TestMutants(t *testing.T) {
	t.Parallel()
	n, seed := drill(t)
	for _, s := range sightings(t) {
		t.Run(string(s.kind)+" "+strings.ReplaceAll(s.name, "/", " "), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, uint64(len(s.doc)))) //nolint:gosec // repeatable test data from a seed
			synctest.Test(t, func(t *testing.T) {
				p := newPatient(t, s.kind == fabric.VMSettings)
				if s.doc == "" {
					s.doc = document(t, p, s.kind)
				}
				mutants := mutantsOf(r, p.ours(s.doc), n)
				for _, how := range some(r, mutants, n) {
					body := mutants[how]
					x := fabric.Fault{Kind: s.kind, Body: &body}
					if s.kind == fabric.VMSettings {
						x.Set = map[string]string{"ETag": how}
					}
					p.suffer(how, []fabric.Fault{x}, moved(body, p.vm.StatusURL()))
				}
			})
		})
	}
}

// moved reports whether the document names another address for the status.
func moved(doc, url string) bool {
	doc = strings.ReplaceAll(doc, "&amp;", "&")
	return !strings.Contains(doc, url) && regexp.MustCompile(`(?i)statusUploadBlob`).MatchString(doc)
}

// document is what the platform sends without a fault.
func document(t *testing.T, p *patient, kind fabric.Kind) string {
	t.Helper()
	asked := p.f.Journal(fabric.Query{Kind: kind})
	if len(asked) == 0 {
		t.Fatalf("there was no request for %s", kind)
	}
	host := fabric.Endpoint
	if kind == fabric.VMSettings {
		host += ":32526"
	}
	return get(t, p, "http://"+host+asked[0].URL, asked[0].Header)
}
