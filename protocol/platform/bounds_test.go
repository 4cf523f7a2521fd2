package platform

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/test/peak"
)

// large is a platform whose documents all have the largest size accepted. A
// body is generated while it is read, so that only the reader's memory is
// measured.
type large struct {
	inc   atomic.Int64
	whole bool // valid documents; else the worst possible ones
}

// text returns head, n times unit, and tail.
func text(head, unit string, n int, tail string) io.Reader {
	return io.MultiReader(strings.NewReader(head), &repeat{unit: unit, n: n}, strings.NewReader(tail))
}

type repeat struct {
	unit string
	at   int
	n    int
}

func (r *repeat) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if r.n == 0 {
			return n, io.EOF
		}
		k := copy(p[n:], r.unit[r.at:])
		n += k
		if r.at += k; r.at == len(r.unit) {
			r.at, r.n = 0, r.n-1
		}
	}
	return n, nil
}

func (l *large) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Request: r, ProtoMajor: 1, ProtoMinor: 1}
	inc := l.inc.Load()
	const kib = 1 << 10
	k := strings.Repeat("x", kib)
	var b io.Reader
	switch path := r.URL.Path + "?" + r.URL.RawQuery; {
	case strings.Contains(path, "comp=goalstate"):
		b = strings.NewReader(fmt.Sprintf(`<GoalState><Incarnation>%d</Incarnation><Container><ContainerId>c</ContainerId><RoleInstanceList><RoleInstance><InstanceId>i</InstanceId><Configuration>
<HostingEnvironmentConfig>http://h.example/hosting</HostingEnvironmentConfig><SharedConfig>http://h.example/shared</SharedConfig><ExtensionsConfig>http://h.example/ext?%d</ExtensionsConfig>
<Certificates>http://h.example/certs</Certificates><ConfigName>n.0</ConfigName></Configuration></RoleInstance></RoleInstanceList><RemoteAccessInfo>http://h.example/access</RemoteAccessInfo></Container></GoalState>`, inc, inc))
	case strings.HasPrefix(path, "/ext?") && l.whole:
		b = text(`<Extensions><Plugins><Plugin name="A.B" version="1" location="https://m.example/m" state="enabled"/></Plugins><PluginSettings><Plugin name="A.B" version="1"><RuntimeSettings seqNo="1">{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"a":"`,
			k, 3*kib-2, `"}}}]}</RuntimeSettings></Plugin></PluginSettings></Extensions>`)
	case strings.HasPrefix(path, "/ext?"):
		b = text("<Extensions ", `a= "" `, 100*kib, "/>")
	case strings.HasPrefix(path, "/hosting"):
		b = text("<H>", "<a"+k[:45]+"/>", 9900, "</H>")
	case strings.HasPrefix(path, "/shared"):
		b = text("<S>", k, kib/2-1, "</S>")
	case strings.HasPrefix(path, "/certs"):
		b = text("<C><Data>", strings.Repeat("A", kib), kib-1, "</Data></C>")
	case strings.HasPrefix(path, "/access"):
		b = text("<R><Users>", "<User><Name>n</Name><Password>"+strings.Repeat("A", 5000)+"</Password></User>", 99, "</Users></R>")
	case strings.Contains(path, "vmSettings"):
		resp.Header.Set("Etag", fmt.Sprint(inc))
		if l.whole {
			b = text(fmt.Sprintf(`{"hostGAPluginVersion":"1.0.8.175","extensionsLastModifiedTickCount":%d,"extensionGoalStatesSource":"FastTrack","extensionGoalStates":[{"name":"A.B","version":"1","location":"https://m.example/m","state":"enabled","settingsSeqNo":1,"settings":[{"publicSettings":"{\"a\":\"`, 638712870000000000+inc),
				k, 3*kib-2, `\"}"}]}]}`)
		} else {
			b = text(`{"extensionGoalStates":[`, "{},", 8<<20/3, "{}]}")
		}
	case strings.HasPrefix(path, "/m"):
		b = text("<M><Plugins><Plugin><Version>1</Version><Uris>", "<Uri>http://"+k[:45]+"</Uri>", 14_900, "</Uris></Plugin></Plugins></M>")
	default:
		resp.StatusCode, b = 404, strings.NewReader("")
	}
	resp.Body = io.NopCloser(b)
	return resp, nil
}

// TestSEC4GoalStateMemory: all documents of a goal state have the largest size
// accepted, are read at the same time, and are replaced while the old ones are
// still in use.
func TestSEC4GoalStateMemory(t *testing.T) {
	read := func(whole bool) func([]byte) error {
		return func([]byte) error {
			debug.SetGCPercent(50) // as the agent has them
			debug.SetMemoryLimit(32 << 20)
			l := &large{whole: whole}
			c := New(Options{Root: host.Root(t.TempDir()), AgentVersion: "3.0.0", HTTP: &http.Client{Transport: l}, Log: zerolog.Nop()})
			defer c.Close()
			var last *protocol.GoalState
			var errs []error
			for range 3 {
				l.inc.Add(1)
				// A fault is paced; here only the attempt counts.
				gs, err := c.GoalState(t.Context(), "")
				if gs != nil {
					last = gs
				}
				errs = append(errs, err)
				_, err = c.Manifest(t.Context(), []secret.URL{secret.NewURL("https://m.example/m")})
				errs = append(errs, err)
			}
			if whole && (last == nil || len(last.Handlers) != 1 || len(last.Handlers[0].Settings) != 1) {
				t.Errorf("nothing was read: %+v, %v", last, errs)
			}
			return errors.Join(errs...)
		}
	}
	none := func() []byte { return nil }
	peak.Run(t, []peak.Case{
		{Name: "as large as is taken", Doc: none, Read: read(true)},
		{Name: "as bad as can be", Doc: none, Read: read(false)},
	})
}
