package tool

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/metadata"
)

const instance = `{"compute":{"vmId":"v-1","name":"web01","tags":"a:b","tagsList":[{"name":"a","value":"b"}],"userData":"aGVsbG8AAQ==","evil":"\u001b[2J"},"network":{"interface":[]}}`

// metadataTool returns a Tool on an empty machine whose metadata service is
// serve, and what it prints.
func metadataTool(t *testing.T, serve http.HandlerFunc) (tool *Tool, out, errs *bytes.Buffer) {
	t.Helper()
	s := httptest.NewServer(serve)
	t.Cleanup(s.Close)
	cfg := config.Default()
	cfg.Protocol.IMDS = s.Listener.Addr().String()
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	root := host.Root(t.TempDir())
	if err := root.MkdirAll("/run/azguest", 0o755); err != nil {
		t.Fatal(err)
	}
	return &Tool{Version: "1.0.0.0", Config: cfg, Root: root, Out: out, Err: errs}, out, errs
}

func answer(doc string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata") != "true" || r.URL.Path != "/metadata/instance" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, doc)
	}
}

func TestMetadataCommand(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args      string
		code      int
		out, errs string // errs: a part of it
	}{
		{"compute/vmId", 0, "v-1\n", ""},
		{"compute/tags/A", 0, "b\n", ""},
		{"network", 0, "interface: []\n", ""},
		{"-json compute/tagsList", 0, "[\n  {\n    \"name\": \"a\",\n    \"value\": \"b\"\n  }\n]\n", ""},
		{"-json compute/vmId", 0, "\"v-1\"\n", ""},
		{"-shell compute/vmId", 0, "AZ_COMPUTE_VMID='v-1'\n", ""},
		{"-shell compute/tagsList", 0, "AZ_COMPUTE_TAGSLIST_0_NAME='a'\nAZ_COMPUTE_TAGSLIST_0_VALUE='b'\n", ""},
		{"compute/userData", 0, "aGVsbG8AAQ==\n", ""},
		{"-shell compute/userData", 1, "", "never printed as a variable"},
		{"userdata", 0, "hello\x00\x01", ""},
		{"USERDATA", 0, "hello\x00\x01", ""},
		{"compute/vmIdd", 1, "", `did you mean "compute/vmId"?`},
		{"compute/tags/b", 1, "", "the metadata have no"},
		{"attested/document", 1, "", "ask the service itself: curl --noproxy '*' -H Metadata:true http://169.254.169.254/metadata/attested"},
		{"/IDENTITY/oauth2/token", 1, "", "metadata/identity"},
		{"loadbalancer", 1, "", "metadata/loadbalancer"},
		{"scheduledevents", 1, "", "agentctl events"},
		{"compute/attested", 1, "", "the metadata have no \"compute/attested\"\n"},
		{"compute/vmId more", 64, "", `unexpected argument "more"`},
		{"-jsn", 64, "", "-json"},
		{"-json -shell", 64, "", "--json cannot be used with --shell"},
		{"-json userdata", 64, "", "need a path"},
		{"-cached userdata", 64, "", "never in the copy"},
		{"-cached -wait-change compute", 64, "", "-cached"},
		{"-timeout 3s compute", 64, "", "--timeout has no effect without --wait-change"},
		{"-wait-change -timeout -1s compute", 64, "", "negative"},
		{"-wait-change -every 1ms compute", 64, "", "at least 1s"},
		{"-cached compute", 3, "", "no copy"},
		{"-wait-change -was v-0 compute/vmId", 0, "v-1\n", ""},
		{"-wait-change -was hello userdata", 0, "hello\x00\x01", ""},
		{"-wait-change -timeout 10ms compute/vmId", 6, "", "within 10ms"}, // read or not
		{"-wait-change -was v-1 -timeout 10ms compute/vmId", 6, "", "compute/vmId has not changed within 10ms"},
	} {
		tool, out, errs := metadataTool(t, answer(instance))
		code := tool.Metadata(t.Context(), strings.Fields(tc.args))
		if code != tc.code || out.String() != tc.out || !strings.Contains(errs.String(), tc.errs) || tc.errs == "" && errs.Len() > 0 {
			t.Errorf("metadata %s: exit %d, %q, %q; want %d, %q, %q", tc.args, code, out, errs, tc.code, tc.out, tc.errs)
		}
	}
	tool, out, _ := metadataTool(t, answer(instance))
	tool.Terminal = true
	if code := tool.Metadata(t.Context(), []string{"compute/evil"}); code != 0 || out.String() != "?[2J\n" {
		t.Errorf("on a terminal: exit %d, %q", code, out)
	}
}

// TestMetadataServiceDown: the copy answers for a service that has no usable
// answer, and the exit code says so.
func TestMetadataServiceDown(t *testing.T) {
	t.Parallel()
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, serve := range map[string]http.HandlerFunc{
		"404": status(404), "410": status(410), "429": status(429), "500": status(500), "503": status(503), "400": status(400), "302": status(302),
		"not JSON": answer("<html>"), "empty": answer(""), "no machine": answer(`{"error":"busy"}`), "half": answer(instance[:100]), "too large": answer(`{"compute":{"vmId":"` + strings.Repeat("x", 2<<20) + `"}}`),
		"reset": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tool, out, errs := metadataTool(t, serve)
			if code := tool.Metadata(t.Context(), []string{"-wait-change", "-timeout", "10ms", "compute/vmId"}); code != exitUnchanged || !strings.Contains(errs.String(), "compute/vmId could not be read within 10ms") {
				t.Errorf("waiting: exit %d, %q", code, errs)
			}
			if code := tool.Metadata(t.Context(), []string{"compute/vmId"}); code != exitNoService || out.Len() > 0 || !strings.Contains(errs.String(), "there is no copy") {
				t.Errorf("without a copy: exit %d, %q, %q", code, out, errs)
			}
			doc, err := metadata.Parse([]byte(instance))
			if err == nil {
				err = metadata.WriteCache(tool.Root, doc, time.Now().Add(-2*time.Hour))
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct {
				args      string
				code      int
				out, errs string
			}{
				{"compute/vmId", exitCopy, "v-1\n", "printed from the copy, 2h0m"},
				{"-shell compute/name", exitCopy, "AZ_COMPUTE_NAME='web01'\n", "printed from the copy"},
				{"compute/tags/c", exitNoService, "", "has no compute/tags/c"},
				{"compute/userData", exitNoService, "", "which may be secret"},
				{"userdata", exitNoService, "", "which may be secret"},
				{"-cached compute/tags/a", 0, "b\n", ""},
				{"-cached compute/tags/c", exitNothing, "", "the metadata have no"},
				{"-cached compute/userData", exitNoService, "", "which may be secret"},
			} {
				if strings.HasPrefix(tc.args, "-cached") || name == "404" || tc.code == exitCopy && name == "not JSON" {
					out.Reset()
					errs.Reset()
					if code := tool.Metadata(t.Context(), strings.Fields(tc.args)); code != tc.code || out.String() != tc.out || !strings.Contains(errs.String(), tc.errs) {
						t.Errorf("metadata %s: exit %d, %q, %q; want %d, %q, %q", tc.args, code, out, errs, tc.code, tc.out, tc.errs)
					}
				}
			}
		})
	}
}

// TestMetadataWait: a change is printed also if the service fails meanwhile; a
// value that is gone is a change.
func TestMetadataWait(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		then string
		code int
		out  string
	}{
		"changed": {strings.ReplaceAll(instance, `"value":"b"`, `"value":"c"`), 0, "c\n"},
		"gone":    {strings.ReplaceAll(instance, `{"name":"a","value":"b"}`, ``), exitNothing, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			tool, out, errs := metadataTool(t, func(w http.ResponseWriter, r *http.Request) {
				switch asked.Add(1) {
				case 1:
					answer(instance)(w, r)
				case 2:
					w.WriteHeader(http.StatusNotFound)
				default:
					answer(tc.then)(w, r)
				}
			})
			if code := tool.Metadata(t.Context(), []string{"-wait-change", "-every", "1s", "-timeout", "1m", "compute/tags/a"}); code != tc.code || out.String() != tc.out {
				t.Errorf("exit %d, %q, %q; want %d, %q", code, out, errs, tc.code, tc.out)
			}
		})
	}
}

// TestMetadataVersions: the newest version that the service has is asked for.
func TestMetadataVersions(t *testing.T) {
	t.Parallel()
	var asked []string
	tool, out, errs := metadataTool(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Get("api-version"))
		if len(asked) == 3 {
			answer(instance)(w, r)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"Bad request","newest-versions":["2020-10-01","2024-07-17","2025-04-07","../x",""]}`)
	})
	if code := tool.Metadata(t.Context(), []string{"compute/name"}); code != 0 || out.String() != "web01\n" || fmt.Sprint(asked) != "[2025-04-07 2024-07-17 2020-10-01]" {
		t.Errorf("exit %d, %q, %q, asked for %q", code, out, errs, asked)
	}
}
