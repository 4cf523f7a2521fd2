package tool

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unpack reads an archive of logs.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	z, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = z.Close() }()
	out := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name] = string(b)
	}
	return out
}

func TestCollectLogs(t *testing.T) {
	t.Parallel()
	tool, _, out := toolOn(t, map[string]string{
		"/var/log/waagent.log":   "one\nget https://st.example/x?sv=1&sig=canary1%3d\n",
		"/var/log/waagent.log.1": "older\n", "/var/log/azure/A.B/1.0/enable.log": "{\"password\":\"canary2\"}\nhello\n",
		"/var/log/azure/A.B/core": "\x7fELF\x00\x00", "/var/log/azure/A.B/d/e/f/deep.log": "deep",
		"/var/lib/waagent/A.B-1.0/status/0.status": `[{"status":{"status":"success"}}]`, "/var/lib/waagent/A.B-1.0/config/0.settings": `{"publicSettings":{"x":"canary3"}}`,
		"/var/lib/waagent/A.B-1.0/config/HandlerState": "Enabled", "/var/lib/waagent/Certificates.pem": "canary4", "/etc/waagent.conf": "HttpProxy.Host=http://u:canary5@proxy\nProvisioning.DeleteRootPassword=y\n",
		"/var/log/syslog": "sys\n", "/etc/shadow": "canary6",
	})
	if err := os.Symlink("/etc/shadow", tool.Root.Path("/var/log/azure/A.B/link.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tool.Root.Path("/etc"), tool.Root.Path("/var/log/azure/C.D")); err != nil {
		t.Fatal(err)
	}
	if code := tool.Waagent(t.Context(), Waagent{Command: "collect-logs"}); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	dir := "/var/lib/waagent/logcollector"
	got := unpack(t, tool.Root.Path(dir+"/logs.zip"))
	for name, want := range map[string]string{
		"var/log/waagent.log": "<redacted>", "var/log/waagent.log.1": "older", "var/log/azure/A.B/1.0/enable.log": `{"password":"<redacted>"}` + "\nhello",
		"var/lib/waagent/A.B-1.0/status/0.status": "success", "var/lib/waagent/A.B-1.0/config/HandlerState": "Enabled", "etc/waagent.conf": "DeleteRootPassword=y", "results.txt": "not text",
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s is %q, want %q in it", name, got[name], want)
		}
	}
	for name, text := range got {
		if strings.Contains(text, "canary") {
			t.Errorf("%s holds a secret: %q", name, text)
		}
	}
	if _, there := got["var/log/syslog"]; there {
		t.Error("syslog was collected without -full")
	}
	results, err := tool.Root.ReadFile(dir + "/results.txt")
	if err != nil || string(results) != got["results.txt"] {
		t.Errorf("results.txt: %v", err)
	}
	for _, want := range []string{"core: not text", "0.settings: extension settings", "link.log: a symbolic link", "/var/log/azure/C.D: a symbolic link"} {
		if !strings.Contains(string(results), want) {
			t.Errorf("results.txt lacks %q:\n%s", want, results)
		}
	}
	if code := tool.Waagent(t.Context(), Waagent{Command: "collect-logs", Full: true}); code != 0 {
		t.Fatal(code)
	}
	if got := unpack(t, tool.Root.Path(dir+"/logs.zip")); got["var/log/syslog"] != "sys\n" {
		t.Errorf("full: syslog is %q", got["var/log/syslog"])
	}
	if fi, err := os.Stat(tool.Root.Path(dir + "/logs.zip")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}

func TestCollectionIsBounded(t *testing.T) {
	t.Parallel()
	tool, _, _ := toolOn(t, map[string]string{"/var/log/azure/A/1.log": strings.Repeat("0123456789\n", 40000), "/var/log/azure/A/2.log": strings.Repeat("abc def\n", 40000), "/var/log/azure/A/3.log": "x\n"})
	c := &collector{root: tool.Root, cfg: tool.Config, fileMax: 100_000, total: 190_000, zipMax: 1 << 20, files: 2, now: time.Now()}
	name, err := c.run(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	got := unpack(t, tool.Root.Path(name))
	if n := len(got["var/log/azure/A/1.log"]); n < 99_000 || n > 100_000 || !strings.HasPrefix(got["var/log/azure/A/1.log"], "0123456789\n") {
		t.Errorf("the first log was cut to %d bytes, want nearly 100000 from its end", n)
	}
	if n := len(got["var/log/azure/A/2.log"]); n < 80_000 || n > 91_000 {
		t.Errorf("the second log has %d bytes, want the rest of the budget", n)
	}
	if !strings.Contains(got["results.txt"], "(the last part of 440000 bytes)") || !strings.Contains(got["results.txt"], "3.log: too many files") {
		t.Errorf("results.txt:\n%s", got["results.txt"])
	}
}

func TestScrubber(t *testing.T) {
	t.Parallel()
	key := "-----BEGIN RSA PRIVATE KEY-----\n" + strings.Repeat("canaryMIIB\n", 20000) + "-----END RSA PRIVATE KEY-----\n"
	for name, in := range map[string]string{
		"json": `{"adminPassword": "canary \" x", "n": 1}`, "escaped json": `"{\"clientSecret\":\"canary\",\"a\":1}"`, "key=value": "AccountKey=canary;EndpointSuffix=x",
		"header": "Authorization: Bearer canary", "flag": "--password=canary next", "url": "https://u:canary@h/x", "key over the seam": key, "key in one line": strings.ReplaceAll(key, "\n", `\n`),
		"sas on the seam":   strings.Repeat("x", collectChunk-30) + "\nhttps://st/x?sv=1&sig=canary" + strings.Repeat("A", 100),
		"one endless line":  strings.Repeat("canary", 100000),
		"sas in long JSON":  `{"a":"` + strings.Repeat("x y, ", collectChunk/6) + `https://st/x?sv=1&sig=canary` + strings.Repeat("A", 5000) + `"}`,
		"protected":         `"protectedSettings": "canary"`,
		"connection string": `ConnectionString="canary;x=canary"`,
		"upper case":        `PASSWORD=canary HTTPS://U:canary@H/ https://st/x?SV=1&SIG=canarycanary`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := scrubbed(t, "before\n"+in+"\nafter\n"); strings.Contains(got, "canary") || !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "after\n") {
				t.Errorf("%.300q … %.100q", got, got[max(0, len(got)-100):])
			}
		})
	}
	for _, in := range []string{"DeleteRootPassword=y\n", `{"password":null}` + "\n", "a token of respect\n", "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"} {
		if got := scrubbed(t, in); got != in {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func scrubbed(t testing.TB, in string) string {
	t.Helper()
	c := &collector{zipMax: 1 << 30, out: &counted{w: io.Discard}}
	var b bytes.Buffer
	if _, err := newScrubber(c, strings.NewReader(in), false).copy(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func BenchmarkScrubber(b *testing.B) {
	for name, line := range map[string]string{
		"plain": "2026-01-02T03:04:05Z INFO A.B: something happened to item 7 and its neighbour; all is well: yes=1\n",
		"sas":   "2026-01-02T03:04:05Z INFO A.B: something happened to item 7, https://st.example/x?sv=2020&sig=abcdefgh%3d\n",
	} {
		in := strings.Repeat(line, 10000)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				_ = scrubbed(b, in)
			}
		})
	}
}

func FuzzScrubber(f *testing.F) {
	f.Add("a\nb", 3)
	f.Add("password=x -----BEGIN RSA PRIVATE KEY-----\n", 5000)
	f.Fuzz(func(t *testing.T, s string, n int) {
		in := strings.Repeat(s, 1+max(0, n)%5000)
		if len(in) > 1<<20 {
			return
		}
		_ = scrubbed(t, in) // it must end without a panic
	})
}

// TestCollectingNeedsLittle: collecting 60 MB of logs takes the real program at
// most 16 MB of memory, including the program itself.
func TestCollectingNeedsLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the agent")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "azguest")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", bin, "github.com/azguest/azguest/agent/cmd/azguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line := "2026-01-02T03:04:05Z INFO A.B: something happened to item %d, https://st.example/x?sv=2020&sig=abcdefgh%%3d\n"
	for i := range 3 {
		name := filepath.Join(dir, "log", "A.B", fmt.Sprintf("%d.log", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat(fmt.Appendf(nil, line, i), 200_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "Lib.Dir=%[1]s/lib\nExtension.LogDir=%[1]s/log\nLogs.File=%[1]s/own.log\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), bin, "waagent", "-collect-logs", "-configuration-path:"+conf).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "lib/logcollector/results.txt"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`peak memory of the collection: (\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("results.txt:\n%s", b)
	}
	if kb, err := strconv.Atoi(string(m[1])); err != nil || kb > 20<<10 {
		t.Errorf("%d kB at the peak, want at most 16 MB and some for another machine", kb)
	} else {
		t.Logf("%d kB at the peak", kb)
	}
}
