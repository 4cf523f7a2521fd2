package extlab

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMisbehavingHandlers: whatever a handler does, the output says so, and
// does not disturb the terminal.
func TestMisbehavingHandlers(t *testing.T) {
	a := agent(t)
	const ok = `echo '[{"version":1.0,"timestampUTC":"2026-01-01T00:00:00Z","status":{"operation":"Enable","status":"success","code":0,"formattedMessage":{"lang":"en","message":"m"}}}]' >status/$ConfigSequenceNumber.status` + "\n"
	for name, tc := range map[string]struct {
		enable string
		fails  bool
		want   []string
	}{
		"prints a lot":        {"head -c 300000000 /dev/zero | tr '\\0' x; echo; echo the end\n" + ok, false, []string{"stdout | the end", "Succeeded"}},
		"escapes":             {"printf '\\033[2J\\033]0;owned\\007'; echo 'and\r'\n" + ok, false, []string{"stdout | \ufffd[2J\ufffd]0;owned\ufffdand\n", "Succeeded"}},
		"kills the agent":     {"pkill -9 -f '^/usr/sbin/azguest run'\n" + ok, false, []string{"the agent was killed 1 times, and restarted as by systemd", "Succeeded"}},
		"kills everything":    {"kill -9 -1\n", true, []string{"the agent was killed 3 times, and restarted as by systemd", "AZ-EXT-LOST", "Failed"}},
		"makes a pipe":        {"mkfifo status/$ConfigSequenceNumber.status\n", true, []string{"status: error", "Failed"}},
		"status has no end":   {"head -c 50000000 /dev/zero | tr '\\0' '[' >status/$ConfigSequenceNumber.status\n", true, []string{"status: error", "error: status/0.status: not an array of objects", "Failed"}},
		"leaves a daemon":     {"setsid sh -c 'while :; do sleep 1; echo x; done' &\n" + ok, false, []string{"Succeeded"}},
		"wants what is a dir": {"cat /dev/sda\n", true, []string{"No such file", "exit 1", "Failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := good()
			b.Files = map[string]string{"run.sh": "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n[ $1 = enable ] || exit 0\n" + tc.enable}
			var out bytes.Buffer
			err := Run(t.Context(), Plan{Bundle: opened(t, b), Settings: []byte(`{"a":1}`), Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, &out)
			if errors.Is(err, ErrFailed) != tc.fails || err != nil && !tc.fails {
				t.Errorf("error %v", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("%q is not in the output", w)
				}
			}
			if out.Len() > 100_000 || strings.ContainsAny(out.String(), "\x1b\x07\x00") {
				t.Errorf("the output has %d bytes, or control characters", out.Len())
			}
			if t.Failed() {
				t.Log(out.String()[:min(out.Len(), 4000)])
			}
		})
	}
	t.Run("lint helps", func(t *testing.T) {
		b := good()
		b.Files = map[string]string{"run.sh": "#!/bin/sh\r\nexit 0\r\n"}
		var out bytes.Buffer
		err := Run(t.Context(), Plan{Bundle: opened(t, b), Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, &out)
		if !errors.Is(err, ErrFailed) || !strings.Contains(out.String(), "lint: error: run.sh:1: the line ends with CRLF") || strings.Contains(out.String(), "code ,") {
			t.Errorf("%v\n%s", err, &out)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		tmp := t.TempDir()
		t.Setenv("TMPDIR", tmp)
		b := good()
		b.Files = map[string]string{"run.sh": "#!/bin/sh\nexec sleep 1000\n"}
		ctx, cancel := context.WithCancel(t.Context())
		bundle := opened(t, b)
		time.AfterFunc(2*time.Second, cancel)
		var out bytes.Buffer
		err := Run(ctx, Plan{Bundle: bundle, Seq: -1, Timeout: patience, Lab: Options{Agent: a}}, &out)
		left, gerr := filepath.Glob(tmp + "/extlab-*")
		if !errors.Is(err, ErrInterrupted) || errors.Is(err, ErrFailed) || gerr != nil || len(left) > 0 {
			t.Errorf("%v, left %v\n%s", err, left, &out)
		}
	})
}

// TestPlan: invalid arguments are reported before anything is started.
func TestPlan(t *testing.T) {
	bundle := func(name, version string) *Bundle { return &Bundle{File: "x.zip", Name: name, Version: version} }
	settings := []byte(`{}`)
	for want, p := range map[string]Plan{
		"":                        {Bundle: bundle("Pub.Type", "1.0"), Seq: -1},
		"unknown name or version": {Bundle: bundle("", "1.0")},
		`the name "X" is not`:     {Bundle: bundle("X", "1.0")},
		`the name "P X.Y" is not`: {Bundle: bundle("P X.Y", "1.0")},
		`the version "v1"`:        {Bundle: bundle("Pub.Type", "v1")},
		`the version "1"`:         {Bundle: bundle("Pub.Type", "1")},
		"not the same extension":  {Bundle: bundle("Pub.Type", "1.0"), Old: bundle("Pub.Other", "0.9")},
		"both packages":           {Bundle: bundle("Pub.Type", "1.0"), Old: bundle("Pub.Type", "1.0")},
		"larger than":             {Bundle: bundle("Pub.Type", "1.0"), Seq: math.MaxInt32 + 1, Settings: settings},
		"there are none":          {Bundle: bundle("Pub.Type", "1.0"), Seq: 4},
	} {
		p.Timeout = time.Second
		err := p.check()
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := (&Plan{Bundle: bundle("Pub.Type", "1.0"), Seq: -1}).check(); !errors.Is(err, ErrPlan) {
		t.Errorf("without time: %v", err)
	}
	for name, data := range map[string]string{"empty.zip": "", "text.zip": "no zip\n"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file); err == nil || !strings.HasSuffix(err.Error(), "bytes): not a valid zip file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "pack its contents") {
		t.Errorf("a directory: %v", err)
	}
}
