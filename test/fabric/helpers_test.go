package fabric

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The client side of these tests is written from the protocol alone, so that it
// does not repeat a mistake of the server.

type client struct {
	t  *testing.T
	vm *VM
}

// raw sends text unchanged and reads one response.
func (c client) raw(addr, text string) (*http.Response, []byte) {
	c.t.Helper()
	conn, err := c.vm.DialContext(c.t.Context(), "tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, text) }() // the pipe has no buffer
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	return resp, body
}

func (c client) do(method, url string, header map[string]string, body []byte) (int, http.Header, []byte) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "test/1.0")
	req.Header.Set("Accept-Encoding", "identity")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := c.vm.Client().Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp.StatusCode, resp.Header, data
}

var wireHeader = map[string]string{"x-ms-version": "2012-11-30", "x-ms-agent-name": "WALinuxAgent"}

func (c client) goalState() string {
	c.t.Helper()
	code, _, body := c.do("GET", "http://168.63.129.16/machine/?comp=goalstate", wireHeader, nil)
	if code != 200 {
		c.t.Fatalf("goal state: %d %s", code, body)
	}
	return string(body)
}

// element returns the text of the first element of that name.
func element(doc, name string) string {
	m := regexp.MustCompile(`(?s)<` + name + `(?: [^>]*)?>(.*?)</` + name + `>`).FindStringSubmatch(doc)
	if m == nil {
		return ""
	}
	return strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&quot;", `"`).Replace(m[1])
}

// sub fetches a sub-document by its URL in the goal state, unchanged.
func (c client) sub(name string, header map[string]string) (int, string) {
	c.t.Helper()
	u := element(c.goalState(), name)
	target, ok := strings.CutPrefix(u, "http://168.63.129.16:80")
	if !ok {
		c.t.Fatalf("url of %s is %q", name, u)
	}
	h := ""
	for _, m := range []map[string]string{wireHeader, header} {
		for k, v := range m {
			h += k + ": " + v + "\r\n"
		}
	}
	resp, body := c.raw("168.63.129.16:80", "GET "+target+" HTTP/1.1\r\nHost: 168.63.129.16\r\nUser-Agent: t\r\nConnection: close\r\n"+h+"\r\n") //nolint:bodyclose // raw has read the whole body
	return resp.StatusCode, string(body)
}

func (c client) hostGAHeader() map[string]string {
	gs := c.goalState()
	return map[string]string{
		"x-ms-version": "2015-09-01", "x-ms-containerid": element(gs, "ContainerId"), "x-ms-host-config-name": element(gs, "ConfigName"),
		"x-ms-client-correlationid": newGUID(),
	}
}

func (c client) vmSettings(etag string) (int, string, map[string]any) {
	c.t.Helper()
	h := c.hostGAHeader()
	if etag != "" {
		h["If-None-Match"] = etag
	}
	code, header, body := c.do("GET", "http://168.63.129.16:32526/vmSettings", h, nil)
	var doc map[string]any
	if code == 200 {
		if err := json.Unmarshal(body, &doc); err != nil {
			c.t.Fatal(err)
		}
	}
	return code, header.Get("ETag"), doc
}

type row map[string]any

// statusBody builds a status document; goalState is a string for Fabric and a
// number for FastTrack.
func statusBody(goalState any, rows ...row) []byte {
	now := time.Now().UTC().Format("2006-01-02T15:04:05Z")
	doc := map[string]any{
		"version": "1.1", "timestampUTC": now,
		"aggregateStatus": map[string]any{
			"guestAgentStatus":       map[string]any{"version": "1.0.0.0", "status": "Ready", "formattedMessage": map[string]any{"lang": "en-US", "message": "Guest Agent is running"}},
			"handlerAggregateStatus": append([]row{}, rows...),
			"vmArtifactsAggregateStatus": map[string]any{"goalStateAggregateStatus": map[string]any{
				"formattedMessage": map[string]any{"lang": "en-US", "message": "ok"}, "timestampUTC": now, "inSvdSeqNo": goalState, "status": "Success", "code": 0,
			}},
		},
		"guestOSInfo":       map[string]any{"computerName": "vm-01", "osName": "debian", "osVersion": "12", "version": "1.0.0.0"},
		"supportedFeatures": []any{},
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return b
}

func handlerOf(name, version, status string, code int, message string) row {
	return row{
		"handlerName": name, "handlerVersion": version, "status": status, "code": code, "useExactVersion": true,
		"formattedMessage": map[string]any{"lang": "en-US", "message": message},
	}
}

func (r row) ext(seq int, name, status, message string) row {
	s := map[string]any{
		"settingsStatus": map[string]any{"version": 1.0, "timestampUTC": "2025-01-01T00:00:00Z", "status": map[string]any{
			"name": "x", "operation": "Enable", "status": status, "code": 0,
			"formattedMessage": map[string]any{"lang": "en-US", "message": message},
		}}, "sequenceNumber": seq,
	}
	if name != "" {
		s["extensionName"] = name
	}
	r["runtimeSettingsStatus"] = s
	return r
}

// putStatus uploads a status through the HostGAPlugin as a block blob.
func (c client) putStatus(body []byte) {
	c.t.Helper()
	doc, err := json.Marshal(map[string]any{
		"content": base64.StdEncoding.EncodeToString(body),
		"headers": []any{
			map[string]string{"headerName": "Content-Length", "headerValue": fmt.Sprint(len(body))},
			map[string]string{"headerName": "x-ms-blob-type", "headerValue": "BlockBlob"},
			map[string]string{"headerName": "x-ms-date", "headerValue": "2025-01-01T00:00:06Z"},
			map[string]string{"headerName": "x-ms-version", "headerValue": "2014-02-14"},
		},
		"requestUri": c.vm.StatusURL(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	h := c.hostGAHeader()
	h["Content-Type"] = "application/json"
	code, _, answer := c.do("PUT", "http://168.63.129.16:32526/status", h, doc)
	if code != 200 {
		c.t.Fatalf("put status: %d %s", code, answer)
	}
}

// transport creates a transport certificate as agents do.
func transport(t *testing.T) (header string, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "LinuxTransport"}, SubjectKeyId: id[:],
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(2, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8})
}

// openssl runs openssl in dir and returns its output.
func openssl(t *testing.T, dir string, stdin []byte, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl")
	}
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, errs.String())
	}
	return out
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pack builds a package with a manifest.
func pack(t *testing.T, multi bool) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("HandlerManifest.json")
	if err == nil {
		_, err = fmt.Fprintf(w, "\ufeff[{\"handlerManifest\":{\"supportsMultipleExtensions\":\"%t\"}}]", multi)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// testFabric creates a fabric with two single-config handlers, a multi-config
// one, and a VM.
func testFabric(t *testing.T, set ...func(*Options)) (*Fabric, *VM, client) {
	t.Helper()
	f := New(t, set...)
	for name, versions := range map[string][]string{
		"Contoso.One": {"1.0.0", "1.0.2", "1.0.10", "1.3.0", "2.0.0"}, "Contoso.Two": {"1.0.0"}, "Contoso.Multi": {"1.0.0"},
		runCommandHandler: {"1.3.7"}, runCommandAction: {"1.0.5"},
	} {
		for _, version := range versions {
			if err := f.AddPackage(name, version, pack(t, name == "Contoso.Multi" || name == runCommandHandler)); err != nil {
				t.Fatal(err)
			}
		}
	}
	vm := f.CreateVM("vm-01", Linux("me", "ssh-ed25519 AAAA me@here"))
	return f, vm, client{t, vm}
}

func (c client) arm(method, path string, body any) (int, http.Header, map[string]any) {
	c.t.Helper()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	u := path
	if !strings.HasPrefix(u, "http") {
		u = "https://" + ManagementHost + c.vm.resourceID() + path
		sep := "?"
		if strings.Contains(u, "?") {
			sep = "&"
		}
		u += sep + "api-version=2024-07-01"
	}
	code, header, answer := c.do(method, u, map[string]string{"Content-Type": "application/json"}, data)
	var doc map[string]any
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &doc); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return code, header, doc
}

// poll requests the state of an operation once.
func (c client) poll(header http.Header) map[string]any {
	c.t.Helper()
	u := header.Get("Azure-AsyncOperation")
	if _, err := url.Parse(u); err != nil || u == "" {
		c.t.Fatalf("Azure-AsyncOperation %q", u)
	}
	code, _, doc := c.arm("GET", u, nil)
	if code != 200 {
		c.t.Fatalf("operation: %d %v", code, doc)
	}
	return doc
}

func wait(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
