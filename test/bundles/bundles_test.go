package bundles

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, b Bundle) map[string]*zip.File {
	t.Helper()
	data, err := b.Zip()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*zip.File{}
	for _, f := range z.File {
		out[f.Name] = f
	}
	return out
}

func content(t *testing.T, f *zip.File) string {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOddities(t *testing.T) {
	b := Bundle{Name: "A.B", Version: "1.0", Enable: "bin/x", Files: map[string]string{"bin/x": "#!/bin/sh\n"}}
	files := open(t, b)
	if m := files["bin/x"].Mode(); m&0o111 != 0 {
		t.Errorf("mode %v, want no execute bit", m)
	}
	if _, ok := files["bin/"]; ok {
		t.Error("unwanted entry for a directory")
	}
	b.Odd = Oddities{ExecBits: true, DirEntries: true, BOM: true, Nested: "a/b", StringVersion: true, Symlinks: map[string]string{"l": "/etc/passwd"}, Raw: map[string]string{"../evil": "x"}}
	files = open(t, b)
	if files["bin/x"].Mode()&0o111 == 0 || !files["bin/"].Mode().IsDir() || files["l"].Mode()&os.ModeSymlink == 0 || files["../evil"] == nil {
		t.Errorf("entries %v", files)
	}
	manifest := content(t, files["a/b/HandlerManifest.json"])
	if !strings.HasPrefix(manifest, "\ufeff[") || !strings.Contains(manifest, `"version": "1.0"`) {
		t.Error(manifest)
	}
	one, err := b.Zip()
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Zip()
	if err != nil || !bytes.Equal(one, two) {
		t.Error("two builds differ")
	}
	b.Odd = Oddities{Backslashes: true, Manifest: "-"}
	if files := open(t, b); files[`bin\x`] == nil || len(files) != 1 {
		t.Errorf("entries %v", files)
	}
}

func TestSamplesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range Samples() {
		if seen[b.FileName()] {
			t.Errorf("%s twice", b.FileName())
		}
		seen[b.FileName()] = true
		manifest, err := b.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		var doc []struct{ HandlerManifest map[string]any }
		if err := json.Unmarshal(bytes.TrimPrefix(manifest, []byte("\ufeff")), &doc); err != nil || len(doc) != 1 || doc[0].HandlerManifest["enableCommand"] == nil {
			t.Errorf("%s: %v %s", b.FileName(), err, manifest)
		}
		for name, text := range b.Files {
			if strings.HasSuffix(name, ".sh") {
				if out, err := exec.CommandContext(t.Context(), "sh", "-n", "-c", text).CombinedOutput(); err != nil {
					t.Errorf("%s in %s: %v %s", name, b.FileName(), err, out)
				}
			}
		}
	}
}

// A machine has one handler directory, prepared as by an agent.
type machine struct {
	t         *testing.T
	lib, base string
}

func install(t *testing.T, name, version string) machine {
	t.Helper()
	for _, b := range Samples() {
		if b.Name != "Azguest.Samples."+name || b.Version != version {
			continue
		}
		lib := filepath.Join(t.TempDir(), "waagent")
		m := machine{t, lib, filepath.Join(lib, b.Name+"-"+version)}
		for file, text := range b.Files {
			m.write(filepath.Join(m.base, file), text, 0o744)
		}
		for _, dir := range []string{"config", "status"} {
			if err := os.MkdirAll(filepath.Join(m.base, dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		events := filepath.Join(lib, "..", "log", "events")
		if err := os.MkdirAll(events, 0o700); err != nil {
			t.Fatal(err)
		}
		m.write(filepath.Join(m.base, "HandlerEnvironment.json"), fmt.Sprintf(
			`[{"name": %q, "version": 1.0, "handlerEnvironment": {"logFolder": %q, "configFolder": %q, "statusFolder": %q, "heartbeatFile": %q, "eventsFolder": %q}}]`,
			b.Name, filepath.Join(lib, "..", "log"), m.base+"/config", m.base+"/status", m.base+"/heartbeat.log", events), 0o600)
		return m
	}
	t.Fatalf("no sample %s %s", name, version)
	return machine{}
}

func (m machine) write(path, text string, mode os.FileMode) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) run(verb string, env ...string) (string, int) {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "sh", "-c", "bin/handler.sh "+verb)
	cmd.Dir = m.base
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (m machine) status(file string) (state, message string) {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.base, "status", file))
	if err != nil {
		m.t.Fatal(err)
	}
	var doc []struct {
		Status struct {
			Status           string
			FormattedMessage struct{ Message string }
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil || len(doc) != 1 {
		m.t.Fatalf("%v in %s", err, b)
	}
	return doc[0].Status.Status, doc[0].Status.FormattedMessage.Message
}

// settings writes config/NAME and encrypts protected, if any, as CRP does.
func (m machine) settings(name, public, protected string) {
	m.t.Helper()
	encrypted, thumbprint := "null", "null"
	if protected != "" {
		if _, err := exec.LookPath("openssl"); err != nil {
			m.t.Skip("no openssl")
		}
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			m.t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "t"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			m.t.Fatal(err)
		}
		p8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			m.t.Fatal(err)
		}
		m.write(filepath.Join(m.lib, "ABCD.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o400)
		m.write(filepath.Join(m.lib, "ABCD.prv"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8})), 0o400)
		cmd := exec.CommandContext(m.t.Context(), "openssl", "cms", "-encrypt", "-outform", "DER", "-des3", "-binary", filepath.Join(m.lib, "ABCD.crt"))
		cmd.Stdin = strings.NewReader(protected)
		out, err := cmd.Output()
		if err != nil {
			m.t.Fatal(err)
		}
		encrypted, thumbprint = `"`+base64.StdEncoding.EncodeToString(out)+`"`, `"ABCD"`
	}
	m.write(filepath.Join(m.base, "config", name), fmt.Sprintf(
		`{"runtimeSettings": [{"handlerSettings": {"publicSettings": %s, "protectedSettings": %s, "protectedSettingsCertThumbprint": %s}}]}`, public, encrypted, thumbprint), 0o600)
}

func TestHello(t *testing.T) {
	m := install(t, "Hello", "1.0.0")
	m.settings("3.settings", `{"greeting": "good \"day", "n": 1}`, `{"secret": "x"}`)
	m.settings("3.settings", `{"greeting": "good day", "n": 1}`, `{"secret": "x"}`)
	if out, code := m.run("enable", "ConfigSequenceNumber=3"); code != 51 {
		t.Errorf("enable before install: %d %s", code, out)
	}
	if out, code := m.run("install"); code != 0 {
		t.Fatalf("install: %d %s", code, out)
	}
	if out, code := m.run("enable", "ConfigSequenceNumber=3"); code != 0 || !strings.Contains(out, "good day") {
		t.Fatalf("enable: %d %s", code, out)
	}
	state, message := m.status("3.status")
	if state != "success" || message != "good day from 1.0.0; protected settings decrypted, 15 bytes" {
		t.Errorf("%s: %s", state, message)
	}
	if out, code := m.run("enable", "ConfigSequenceNumber=3"); code != 0 || !strings.Contains(out, "already") {
		t.Errorf("again: %d %s", code, out)
	}
	m.settings("4.settings", `{"exitCode": 7}`, "")
	if out, code := m.run("enable", "ConfigSequenceNumber=4"); code != 7 {
		t.Errorf("told to fail: %d %s", code, out)
	}
	if state, _ := m.status("4.status"); state != "error" {
		t.Errorf("status %s", state)
	}
	// Without ConfigSequenceNumber, the highest number counts.
	m.settings("12.settings", `{"greeting": "new"}`, "")
	if out, code := m.run("enable"); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	if _, message := m.status("12.status"); message != "new from 1.0.0; no protected settings" {
		t.Error(message)
	}
	for _, verb := range []string{"disable", "update", "uninstall"} {
		if out, code := m.run(verb); code != 0 {
			t.Errorf("%s: %d %s", verb, code, out)
		}
	}
}

func TestOtherSamples(t *testing.T) {
	t.Run("multi", func(t *testing.T) {
		m := install(t, "Multi", "1.0.0")
		m.settings("first.0.settings", `{"greeting": "hi"}`, "")
		if out, code := m.run("enable", "ConfigSequenceNumber=0", "ConfigExtensionName=first"); code != 0 {
			t.Fatalf("%d %s", code, out)
		}
		if state, message := m.status("first.0.status"); state != "success" || message != "hi from instance first" {
			t.Errorf("%s %s", state, message)
		}
	})
	t.Run("crash", func(t *testing.T) {
		m := install(t, "Crash", "1.0.0")
		m.settings("0.settings", `{}`, "")
		if _, code := m.run("install"); code != 0 {
			t.Errorf("install: %d", code)
		}
		if _, code := m.run("enable", "ConfigSequenceNumber=0"); code != 52 {
			t.Errorf("enable: %d", code)
		}
		m = install(t, "CrashInstall", "1.0.0")
		if _, code := m.run("install"); code != 52 {
			t.Errorf("install: %d", code)
		}
	})
	t.Run("heartbeat", func(t *testing.T) {
		m := install(t, "Heartbeat", "1.0.0")
		m.settings("0.settings", `{"health": "notready"}`, "")
		if out, code := m.run("enable", "ConfigSequenceNumber=0"); code != 0 {
			t.Fatalf("%d %s", code, out)
		}
		if b, err := os.ReadFile(filepath.Join(m.base, "heartbeat.log")); err != nil || !json.Valid(b) || !strings.Contains(string(b), "notready") {
			t.Errorf("%s %v", b, err)
		}
	})
	t.Run("slow", func(t *testing.T) {
		m := install(t, "Slow", "1.0.0")
		m.settings("0.settings", `{"seconds": 1}`, "")
		if out, code := m.run("enable", "ConfigSequenceNumber=0"); code != 0 {
			t.Fatalf("%d %s", code, out)
		}
		if state, _ := m.status("0.status"); state != "success" {
			t.Error(state)
		}
	})
	t.Run("noisy", func(t *testing.T) {
		m := install(t, "Noisy", "1.0.0")
		m.settings("0.settings", `{"kilobytes": 4}`, "")
		out, code := m.run("enable", "ConfigSequenceNumber=0")
		if code != 0 || len(out) < 8192 {
			t.Errorf("%d, %d bytes", code, len(out))
		}
		if _, message := m.status("0.status"); len(message) != 200000 {
			t.Errorf("message of %d bytes", len(message))
		}
	})
	t.Run("background", func(t *testing.T) {
		m := install(t, "Background", "1.0.0")
		m.settings("0.settings", `{}`, "")
		// The output stays open until the background work ends, so this waits for it.
		out, code := m.run("enable", "ConfigSequenceNumber=0", "SAMPLE_DELAY=0")
		if code != 0 || !strings.Contains(out, "still writing") {
			t.Errorf("%d %s", code, out)
		}
		if state, _ := m.status("0.status"); state != "success" {
			t.Error(state)
		}
	})
	t.Run("events", func(t *testing.T) {
		m := install(t, "Events", "1.0.0")
		m.settings("0.settings", `{}`, "")
		if out, code := m.run("enable", "ConfigSequenceNumber=0"); code != 0 {
			t.Errorf("%d %s", code, out)
		}
		files, err := filepath.Glob(filepath.Join(m.lib, "..", "log", "events", "*.json"))
		if err != nil || len(files) != 1 {
			t.Errorf("%v %v", files, err)
		}
	})
}

// TestMember: the sample that restores access reads its settings as JSON.
func TestMember(t *testing.T) {
	const all = `{"a": {"username": "no"}, "username":"bob","ssh_key" : "ssh-ed25519 AA\u002bB\/x c","password":"p\"\\\u00e4\u20ac ä\n$(x)","reset_ssh":true,"n":-1.5e3,"expiration":null,"list":["username",{"x":1}],"":"empty"}`
	for _, tc := range []struct {
		doc, key, want string
		refused        bool
	}{
		{all, "username", "bob", false},
		{all, "ssh_key", "ssh-ed25519 AA+B/x c", false},
		{all, "password", "p\"\\ä€ ä\n$(x)", false},
		{all, "reset_ssh", "true", false},
		{all, "n", "-1.5e3", false},
		{all, "expiration", "", false},
		{all, "absent", "", false},
		{all, "x", "", false},
		{all, "", "empty", false},
		{all, "list", "", true},
		{all, "a", "", true},
		{`{"x":"username","y":"z"}`, "username", "", false},
		{`["username","x"]`, "username", "", true},
		{`{"username":"\ud83d\ude00"}`, "username", "", true},
		{`{"username":"\u0000"}`, "username", "", true},
		{`{"username":"\u00zz"}`, "username", "", true},
		{`{"username":"x`, "username", "", true},
		{`{"username":"x"`, "username", "", true},
		{`{"username":"x"}}`, "username", "", true},
		{``, "username", "", true},
		{`username`, "username", "", true},
	} {
		cmd := exec.CommandContext(t.Context(), "awk", "-v", "key="+tc.key, embedded("member.awk"))
		cmd.Env, cmd.Stdin = append(os.Environ(), "LC_ALL=C"), strings.NewReader(tc.doc)
		out, err := cmd.Output()
		if (err != nil) != tc.refused || string(out) != tc.want {
			t.Errorf("member %q of %s: %q, %v; want %q", tc.key, tc.doc, out, err, tc.want)
		}
	}
}
