package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// output is a buffer that another goroutine may read.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	line chan struct{}
	once sync.Once
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.b.Write(p)
	if bytes.Contains(o.b.Bytes(), []byte("\n")) {
		o.once.Do(func() { close(o.line) })
	}
	return n, err
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := root(strings.NewReader(""), &out, &errOut)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	repo, journal := filepath.Join(dir, "repo"), filepath.Join(dir, "journal")
	out, err := run(t, "bundles", "--out", repo)
	if err != nil || !strings.Contains(out, "Azguest.Samples.Hello__1.0.0.zip") {
		t.Fatalf("%s %v", out, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	o := &output{line: make(chan struct{})}
	ended := make(chan error, 1)
	serveCmd := root(strings.NewReader(""), o, o)
	serveCmd.SetArgs([]string{
		"serve", "--wire", "127.0.0.1:0", "--hostga", "127.0.0.1:0", "--blob", "127.0.0.1:0", "--imds", "127.0.0.1:0", "--arm", "127.0.0.1:0",
		"--admin", "127.0.0.1:0", "--repo", repo, "--journal", journal, "--vm", "a=10.0.0.4", "--vm", "b", "--user", "me", "--ca-out", filepath.Join(dir, "ca.pem"),
	})
	go func() { ended <- serveCmd.ExecuteContext(ctx) }()
	select {
	case <-o.line:
	case err := <-ended:
		t.Fatalf("serve ended: %v %s", err, o)
	case <-time.After(5 * time.Minute):
		t.Fatal("serve does not listen")
	}
	var ready struct {
		Event, Admin, Wire string
		VMs                []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(o.String()), &ready); err != nil || ready.Event != "listening" || len(ready.VMs) != 2 {
		t.Fatalf("%s %v", o, err)
	}
	admin := "--admin=" + ready.Admin
	data := filepath.Join(dir, "data")
	if err := os.WriteFile(data, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"put", "Hello", "--handler", "Azguest.Samples.Hello", "--settings", `{"greeting":"x"}`}, `"provisioningState": "Creating"`},
		{[]string{"get"}, `"name": "Hello"`},
		{[]string{"get", "hello", "--vm", "A"}, `"name": "Hello"`},
		{[]string{"fail", "goalstate", "--status", "503", "--times", "1"}, `"id": 1`},
		{[]string{"mend"}, ""},
		{[]string{"journal", "--kind", "change", "--limit", "1"}, `"kind":"change"`},
		{[]string{"await", "extension=Hello:Creating", "--timeout", "10s"}, ""},
		{[]string{"vm"}, `"containerId"`},
		{[]string{"vm", "announce", "--vm", "b"}, `"incarnation": 2`},
		{[]string{"vm", "config", "--set", `{"statusBlob":"PageBlob"}`}, `"PageBlob"`},
		{[]string{"vm", "rescan"}, ""},
		{[]string{"vm", "tag", "env=prod", "old="}, `"env": "prod"`},
		{[]string{"vm", "user-data", data}, `"userDataBytes": 10`},
		{[]string{"vm", "vendor-data", data}, `"vendorDataBytes": 10`},
		{[]string{"vm", "simulate-eviction", "--notice", "1h"}, "-"},
		{[]string{"vm", "cancel-event", "preempt"}, ""},
		{[]string{"vm", "freeze", "--notice", "0s", "--lasts", "1h", "--vm", "b"}, "-"},
		{[]string{"await", "event=Freeze:started", "--vm", "b"}, ""},
		{[]string{"vm", "events"}, `"state": "Cancelled"`},
		{[]string{"journal", "--kind", "event", "--limit", "1"}, `"change":"started"`},
		{[]string{"delete", "Hello"}, ""},
	} {
		out, err := run(t, append([]string{admin}, tc.args...)...)
		if err != nil || !strings.Contains(out, tc.want) {
			t.Errorf("%v: %v\n%s", tc.args, err, out)
		}
	}
	for _, bad := range [][]string{
		{"put", "x", "--handler", "No.Such"},
		{"await", "nonsense"},
		{"await", "ready", "--timeout", "1ms"},
		{"put", "x", "--handler", "A.B", "--settings", "{"},
		{"get", "none"},
		{"vm", "cancel-event", "preempt"},
		{"vm", "user-data", filepath.Join(dir, "none")},
	} {
		if out, err := run(t, append([]string{admin}, bad...)...); err == nil {
			t.Errorf("%v succeeded: %s", bad, out)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if b, err := os.ReadFile(journal); err != nil || !bytes.Contains(b, []byte(`"kind":"arm"`)) {
		t.Errorf("journal %s %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || !bytes.Contains(b, []byte("CERTIFICATE")) {
		t.Errorf("authority %s %v", b, err)
	}
}

func TestDVDCommand(t *testing.T) {
	dir := t.TempDir()
	keys, custom, out := filepath.Join(dir, "keys"), filepath.Join(dir, "custom"), filepath.Join(dir, "x.iso")
	for name, text := range map[string]string{keys: "# mine\nssh-ed25519 AAAA me\n\n", custom: "#cloud-config\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{}, {"--fs", "iso"}, {"--fs", "bridge", "--spelling", "ns1"}, {"--malformed"}, {"--file", keys}} {
		args = append([]string{"dvd", "--out", out, "--user", "me", "--password", "pw-1", "--ssh-key-file", keys, "--custom-data-file", custom}, args...)
		if _, err := run(t, args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		b, err := os.ReadFile(out)
		if err != nil || len(b)%2048 != 0 || !bytes.Contains(b, []byte("#cloud-config")) {
			t.Errorf("%v: %d bytes, %v", args, len(b), err)
		}
	}
	if _, err := run(t, "dvd"); err == nil {
		t.Error("dvd without --out succeeded")
	}
}

func TestHelp(t *testing.T) {
	for _, name := range []string{"serve", "dvd", "bundles", "put", "get", "delete", "await", "journal", "fail", "mend", "vm"} {
		if out, err := run(t, name, "--help"); err != nil || len(out) < 100 {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}
