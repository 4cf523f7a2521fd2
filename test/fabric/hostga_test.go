package fabric

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
)

func TestVMSettings(t *testing.T) {
	_, vm, c := testFabric(t)
	if err := vm.Put(Extension{Handler: "Contoso.One", Version: "1.0", Settings: map[string]any{"k": 1}, Protected: map[string]any{"s": "x"}}); err != nil {
		t.Fatal(err)
	}
	code, etag, doc := c.vmSettings("")
	if code != 200 || etag == "" || doc["extensionGoalStatesSource"] != "Fabric" {
		t.Fatalf("%d %q %v", code, etag, doc["extensionGoalStatesSource"])
	}
	x := doc["extensionGoalStates"].([]any)[0].(map[string]any)
	s := x["settings"].([]any)[0].(map[string]any)
	if s["publicSettings"] != `{"k":1}` || x["version"] != "1.0.10" || x["settingsSeqNo"] != 0.0 {
		t.Errorf("extension goal state %v", x)
	}
	if code, again, _ := c.vmSettings(etag); code != 304 || again != etag {
		t.Errorf("%d %q, want 304 with the same etag", code, again)
	}
	vm.Configure(func(c *Config) { c.FastTrack = true })
	code, fast, doc := c.vmSettings(etag)
	if code != 200 || fast == etag || doc["extensionGoalStatesSource"] != "FastTrack" {
		t.Errorf("%d %q %v", code, fast, doc["extensionGoalStatesSource"])
	}
	if vm.Incarnation() != 2 {
		t.Errorf("fast track changed the incarnation to %d", vm.Incarnation())
	}
	vm.SetConfig(func(c *Config) { c.NoVMSettings = true })
	if code, _, _ := c.vmSettings(""); code != 404 {
		t.Errorf("%d, want 404", code)
	}
}

func TestMixedCaseKeys(t *testing.T) {
	_, vm, c := testFabric(t)
	vm.Configure(func(c *Config) { c.MixedCaseKeys = true; c.RequiredFeatures = []string{"X"} })
	_, _, doc := c.vmSettings("")
	plain, capital := 0, 0
	for k := range doc {
		if k == strings.ToLower(k) {
			plain++
		}
		if k[0] >= 'A' && k[0] <= 'Z' {
			capital++
		}
	}
	if plain == 0 || capital == 0 {
		t.Errorf("keys are not mixed: %v", doc)
	}
}

func TestStaleHeaders(t *testing.T) {
	_, vm, c := testFabric(t)
	h := c.hostGAHeader()
	vm.Migrate(true)
	for _, tc := range []struct {
		method, path string
		stale, want  int
	}{
		{"GET", "/vmSettings", 0, 410},
		{"GET", "/vmSettings", 400, 410},
		{"PUT", "/status", 0, 410},
		{"PUT", "/status", 400, 400},
		{"GET", "/extensionArtifact", 400, 400},
		{"PUT", "/vmAgentLog", 0, 410},
	} {
		vm.SetConfig(func(c *Config) { c.StaleCode = tc.stale })
		code, _, body := c.do(tc.method, "http://168.63.129.16:32526"+tc.path, h, []byte("{}"))
		name := map[int]string{410: "RequestRoleConfigFileNotFound", 400: "InvalidContainerConfiguration"}[tc.want]
		if code != tc.want || !strings.Contains(string(body), name) {
			t.Errorf("%s %s: %d %s, want %d %s", tc.method, tc.path, code, body, tc.want, name)
		}
	}
	if code, _, _ := c.vmSettings(""); code != 200 {
		t.Errorf("with new headers: %d", code)
	}
	h = c.hostGAHeader()
	vm.Announce(false)
	for strict, want := range map[bool]int{false: 200, true: 410} {
		vm.SetConfig(func(c *Config) { c.StrictConfigName = strict })
		if code, _, _ := c.do("GET", "http://168.63.129.16:32526/vmSettings", h, nil); code != want {
			t.Errorf("config name of the last incarnation, strict=%t: %d, want %d", strict, code, want)
		}
	}
	for _, missing := range []string{"x-ms-version", "x-ms-containerid", "x-ms-host-config-name"} {
		h := c.hostGAHeader()
		delete(h, missing)
		if code, _, _ := c.do("GET", "http://168.63.129.16:32526/vmSettings", h, nil); code != 400 {
			t.Errorf("without %s: %d, want 400", missing, code)
		}
	}
}

func TestArtifactChannels(t *testing.T) {
	f, vm, c := testFabric(t)
	if err := vm.PutExtension("Contoso.One", "1.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	_, doc := c.sub("ExtensionsConfig", nil)
	location, _, _ := strings.Cut(strings.SplitN(doc, ` location="`, 2)[1], `"`)
	code, _, manifest := c.do("GET", location, nil, nil)
	if code != 200 || !strings.Contains(string(manifest), "<Version>1.0.10</Version>") {
		t.Fatalf("manifest %d %s", code, manifest)
	}
	if i, j := strings.Index(string(manifest), ">1.0.2<"), strings.Index(string(manifest), ">1.0.10<"); i > j {
		t.Error("versions are not in numeric order")
	}
	var uri string
	for _, part := range strings.Split(string(manifest), "<Uri>")[1:] {
		if u, _, _ := strings.Cut(part, "<"); strings.Contains(u, "1.0.10") {
			uri = u
		}
	}
	code, _, direct := c.do("GET", uri, nil, nil)
	if code != 200 || !bytes.HasPrefix(direct, []byte("PK")) {
		t.Fatalf("package %d", code)
	}
	h := c.hostGAHeader()
	h["x-ms-artifact-location"] = uri
	code, _, relayed := c.do("GET", "http://168.63.129.16:32526/extensionArtifact", h, nil)
	if code != 200 || !bytes.Equal(direct, relayed) {
		t.Errorf("relayed package %d, %d bytes", code, len(relayed))
	}
	for location, want := range map[string]int{"": 400, "http://repoa.blob.fabric/nothing": 502, "http://example.com/x": 502} {
		h["x-ms-artifact-location"] = location
		if code, _, _ := c.do("GET", "http://168.63.129.16:32526/extensionArtifact", h, nil); code != want {
			t.Errorf("location %q: %d, want %d", location, code, want)
		}
	}
	if n := len(f.Journal(Query{Kind: Artifact, VM: "VM-01"})); n != 4 {
		t.Errorf("%d artifact requests in the journal", n)
	}
	h["x-ms-artifact-location"], h["Range"] = uri, "bytes=2-"
	if code, _, rest := c.do("GET", "http://168.63.129.16:32526/extensionArtifact", h, nil); code != 206 || !bytes.Equal(rest, direct[2:]) {
		t.Errorf("the rest of the package: %d, %d bytes", code, len(rest))
	}
}

// TestRelayedRange: the relay passes on the requested range of a blob.
func TestRelayedRange(t *testing.T) {
	f, _, c := testFabric(t)
	blob := f.SharedBlob("ten", []byte("0123456789"), "r")
	_, header, _ := c.do("GET", blob, nil, nil)
	relay := func(more map[string]string) (int, string, string) {
		h := c.hostGAHeader()
		h["x-ms-artifact-location"] = blob
		maps.Copy(h, more)
		code, header, body := c.do("GET", "http://168.63.129.16:32526/extensionArtifact", h, nil)
		return code, header.Get("Content-Range"), string(body)
	}
	for name, test := range map[string]struct {
		header      map[string]string
		code        int
		where, body string
	}{
		"whole":        {nil, 200, "", "0123456789"},
		"rest":         {map[string]string{"Range": "bytes=7-"}, 206, "bytes 7-9/10", "789"},
		"part":         {map[string]string{"x-ms-range": "bytes=2-4"}, 206, "bytes 2-4/10", "234"},
		"unchanged":    {map[string]string{"Range": "bytes=7-", "If-Range": header.Get("ETag")}, 206, "bytes 7-9/10", "789"},
		"changed":      {map[string]string{"Range": "bytes=7-", "If-Range": `"0x8"`}, 200, "", "0123456789"},
		"beyond it":    {map[string]string{"Range": "bytes=10-"}, 502, "", ""},
		"not anywhere": {map[string]string{"Range": "bytes=x-"}, 502, "", ""},
	} {
		code, where, body := relay(test.header)
		if code != test.code || where != test.where || test.body != "" && body != test.body {
			t.Errorf("%s: %d %q %q", name, code, where, body)
		}
	}
}

func TestStatusRelayPageBlob(t *testing.T) {
	_, vm, c := testFabric(t, func(o *Options) {})
	vm.Configure(func(c *Config) { c.StatusBlob = "PageBlob" })
	body := statusBody("2")
	padded := append(bytes.Clone(body), bytes.Repeat([]byte(" "), (512-len(body)%512)%512)...)
	send := func(uri, content string, headers map[string]string) int {
		list := []any{}
		for k, v := range headers {
			list = append(list, map[string]string{"headerName": k, "headerValue": v})
		}
		doc := map[string]any{"headers": list, "requestUri": uri}
		if content != "" {
			doc["content"] = base64.StdEncoding.EncodeToString([]byte(content))
		}
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		h := c.hostGAHeader()
		h["Content-Type"] = "application/json"
		code, _, _ := c.do("PUT", "http://168.63.129.16:32526/status", h, b)
		return code
	}
	uri := vm.StatusURL()
	if code := send(uri, "", map[string]string{
		"Content-Length": "0", "x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": fmt.Sprint(len(padded)), "x-ms-date": "d", "x-ms-version": "2014-02-14",
	}); code != 200 {
		t.Fatalf("create: %d", code)
	}
	if _, n := vm.StatusDocument(); n != 0 {
		t.Errorf("an empty blob counted as a status")
	}
	page := map[string]string{
		"Content-Length": fmt.Sprint(len(padded)), "x-ms-range": fmt.Sprintf("bytes=0-%d", len(padded)-1), "x-ms-page-write": "update", "x-ms-version": "2014-02-14",
	}
	if code := send(uri+"&comp=page", string(padded), page); code != 200 {
		t.Fatalf("page: %d", code)
	}
	doc, n := vm.StatusDocument()
	if n != 1 || !bytes.Equal(doc, body) {
		t.Errorf("%d documents: %s", n, doc)
	}
	if code := send(uri+"x&comp=page", string(padded), page); code != 502 {
		t.Errorf("wrong signature: %d, want 502", code)
	}
}

func TestDirectUpload(t *testing.T) {
	f, vm, c := testFabric(t)
	body := statusBody("1")
	uri := vm.StatusURL()
	put := func(url string, body []byte, h map[string]string) int {
		code, _, _ := c.do("PUT", url, h, body)
		return code
	}
	block := map[string]string{"x-ms-blob-type": "BlockBlob", "x-ms-version": "2014-02-14"}
	if code := put(uri, body, block); code != http.StatusCreated {
		t.Fatalf("block blob: %d", code)
	}
	if _, n := vm.StatusDocument(); n != 1 {
		t.Error("status did not arrive")
	}
	if p := f.Journal(Query{Problems: true}); len(p) != 0 {
		t.Errorf("problems: %+v", p)
	}
	for name, tc := range map[string]struct {
		url    string
		body   []byte
		header map[string]string
		want   int
	}{
		"no type":           {uri, body, map[string]string{"x-ms-version": "2014-02-14"}, 400},
		"wrong signature":   {strings.Replace(uri, "sig=", "sig=x", 1), body, block, 403},
		"no signature":      {strings.Split(uri, "?")[0], body, block, 409},
		"unknown blob":      {strings.Replace(uri, "vm-01", "vm-02", 1), body, block, 404},
		"other type":        {uri, nil, map[string]string{"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": "512"}, 409},
		"page of no page":   {uri + "&comp=page", body, map[string]string{"x-ms-page-write": "update", "x-ms-range": "bytes=0-511"}, 409},
		"unknown component": {uri + "&comp=lease", body, block, 400},
	} {
		if code := put(tc.url, tc.body, tc.header); code != tc.want {
			t.Errorf("%s: %d, want %d", name, code, tc.want)
		}
	}
	if code, _, _ := c.do("GET", uri, nil, nil); code != 403 {
		t.Errorf("reading with a write signature: %d, want 403", code)
	}
}

func TestPageAlignment(t *testing.T) {
	f, vm, c := testFabric(t)
	u := f.SharedBlob("pages", nil, "rw")
	create := func(size string) int {
		code, _, _ := c.do("PUT", u, map[string]string{"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": size, "x-ms-version": "2014-02-14"}, nil)
		return code
	}
	if create("513") != 400 || create("") != 400 || create("1024") != 201 {
		t.Error("alignment of the blob is not checked")
	}
	for _, tc := range []struct {
		rang string
		size int
		want int
	}{
		{"bytes=0-511", 512, 201}, {"bytes=512-1023", 512, 201}, {"bytes=0-100", 101, 416}, {"bytes=1-512", 512, 416}, {"bytes=0-511", 100, 400}, {"bytes=1024-1535", 512, 416}, {"", 512, 416},
	} {
		h := map[string]string{"x-ms-page-write": "update", "x-ms-version": "2014-02-14"}
		if tc.rang != "" {
			h["x-ms-range"] = tc.rang
		}
		code, _, _ := c.do("PUT", u+"&comp=page", h, bytes.Repeat([]byte("x"), tc.size))
		if code != tc.want {
			t.Errorf("%s with %d bytes: %d, want %d", tc.rang, tc.size, code, tc.want)
		}
	}
	if data, ok := f.BlobContent(u); !ok || len(data) != 1024 || data[1023] != 'x' {
		t.Errorf("content: %d bytes", len(data))
	}
	_ = vm
}

func TestAppendBlobAndRanges(t *testing.T) {
	f, _, c := testFabric(t)
	u := f.SharedBlob("out.txt", nil, "racw")
	steps := []struct {
		method, url string
		header      map[string]string
		body        string
		want        int
	}{
		{"PUT", u, map[string]string{"x-ms-blob-type": "AppendBlob", "x-ms-version": "2020-04-08"}, "", 201},
		{"PUT", u + "&comp=appendblock", map[string]string{"x-ms-version": "2020-04-08"}, "hello ", 201},
		{"PUT", u + "&comp=appendblock", map[string]string{"x-ms-version": "2020-04-08"}, "world", 201},
		{"GET", u, map[string]string{"Range": "bytes=6-"}, "", 206},
	}
	for i, s := range steps {
		code, _, body := c.do(s.method, s.url, s.header, []byte(s.body))
		if code != s.want {
			t.Errorf("step %d: %d %s", i, code, body)
		}
		if s.want == 206 && string(body) != "world" {
			t.Errorf("range is %q", body)
		}
	}
}

func TestAgentLogAndVersions(t *testing.T) {
	f, vm, c := testFabric(t)
	code, _, body := c.do("GET", "http://168.63.129.16:32526/versions", map[string]string{"x-ms-containerid": vm.ContainerID()}, nil)
	if code != 200 || string(body) != `["2015-09-01"]` {
		t.Errorf("versions %d %s", code, body)
	}
	h := map[string]string{
		"x-ms-version": "2015-09-01", "x-ms-containerid": vm.ContainerID(), "x-ms-client-name": "WALinuxAgent", "x-ms-client-version": "1",
		"x-ms-vmagentlog-deploymentid": strings.Split(vm.ConfigName(), ".")[0], "x-ms-client-correlationid": newGUID(),
	}
	if code, _, _ := c.do("PUT", "http://168.63.129.16:32526/vmAgentLog", h, []byte("PK\x03\x04zip")); code != 200 {
		t.Errorf("log: %d", code)
	}
	if data, ok := vm.AgentLog(); !ok || string(data) != "PK\x03\x04zip" {
		t.Errorf("log %q", data)
	}
	if p := f.Journal(Query{Problems: true}); len(p) != 0 {
		t.Errorf("problems: %+v", p)
	}
	h = c.hostGAHeader()
	if code, _, _ := c.do("GET", "http://168.63.129.16:32526/immediateGoalState", h, nil); code != 404 {
		t.Errorf("immediate goal state: %d", code)
	}
	vm.SetConfig(func(c *Config) { c.Immediate = []byte(`{"immediateExtensionsGoalStates":[]}`) })
	if code, _, _ := c.do("GET", "http://168.63.129.16:32526/immediateGoalState", nil, nil); code != 200 {
		t.Errorf("immediate goal state without headers: %d", code)
	}
	code, header, _ := c.do("GET", "http://168.63.129.16:32526/immediateGoalState", h, nil)
	if code != 200 || header.Get("ETag") == "" {
		t.Errorf("immediate goal state: %d", code)
	}
}

func TestArtifactsProfile(t *testing.T) {
	_, vm, c := testFabric(t)
	vm.Configure(func(c *Config) { c.OnHold = true })
	_, doc := c.sub("ExtensionsConfig", nil)
	code, _, body := c.do("GET", element(doc, "InVMArtifactsProfileBlob"), nil, nil)
	if code != 200 || string(body) != `{"onHold":true}` {
		t.Errorf("%d %s", code, body)
	}
}

func TestIMDS(t *testing.T) {
	_, vm, c := testFabric(t)
	get := func(path string, header map[string]string) (int, string) {
		code, _, body := c.do("GET", "http://169.254.169.254/metadata/"+path, header, nil)
		return code, string(body)
	}
	meta := map[string]string{"Metadata": "True"}
	for path, want := range map[string]int{
		"instance?api-version=2021-08-01&extended=true": 200, "instance": 400, "instance?api-version=1999-01-01": 400,
		"instance/compute/publicKeys?api-version=2021-02-01": 200, "reprovisiondata?api-version=2019-06-01": 404,
		"instance/nothing?api-version=2021-02-01": 404, "instance/compute/name?api-version=2017-08-01": 404,
	} {
		if code, body := get(path, meta); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if code, _ := get("instance?api-version=2021-08-01", nil); code != 400 {
		t.Errorf("without Metadata: %d", code)
	}
	if code, body := get("instance/compute/name?api-version=2017-08-01&format=text", meta); code != 200 || body != "vm-01" {
		t.Errorf("name: %d %q", code, body)
	}
	if code, body := get("instance/network/interface/0/ipv4/ipAddress/0/privateIpAddress?api-version=2017-08-01&format=text", meta); code != 200 || body != "10.0.0.4" {
		t.Errorf("address: %d %q", code, body)
	}
	if err := vm.Claim(Provisioning{HostName: "customer", User: "c", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if code, body := get("reprovisiondata?api-version=2019-06-01", meta); code != 200 || !strings.Contains(body, "<HostName>customer</HostName>") {
		t.Errorf("reprovisiondata: %d %s", code, body)
	}
}
