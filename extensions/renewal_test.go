package extensions

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
)

// expiring is a platform whose goal state names addresses that have expired,
// until it is told to name others, in the same goal state.
type expiring struct {
	rt      http.RoundTripper
	old     atomic.Bool
	suffix  string       // of the addresses
	configs atomic.Int64 // how often the goal state's documents were asked for
}

func (e *expiring) RoundTrip(r *http.Request) (*http.Response, error) {
	at := r.URL.String() + r.Header.Get("X-Ms-Artifact-Location")
	if strings.Contains(at, "sig=old") {
		const body = "\ufeff<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Signature not valid in the specified time frame</Message></Error>"
		return &http.Response{StatusCode: 403, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r}, nil
	}
	resp, err := e.rt.RoundTrip(r)
	config := strings.Contains(at, "type=extensionsConfig")
	if config {
		e.configs.Add(1)
	}
	if err != nil || !e.old.Load() || !config && !strings.Contains(at, "_manifest.xml") {
		return resp, err
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	b = bytes.ReplaceAll(b, []byte(e.suffix), []byte(e.suffix+"?sig=old"))
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	resp.Header.Del("Content-Length")
	return resp, err
}

// TestP28: an address that has expired is asked for again, in the same goal
// state, at a bounded pace; the status says so, and the new address is used at
// once.
func TestP28(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"_manifest.xml", ".zip"} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { renewal(t, suffix) })
		})
	}
}

func renewal(t *testing.T, suffix string) {
	s := newSite(t, pkg{name: siteHandler, version: "1.0.0", script: simple})
	e := &expiring{rt: s.vm.Client().Transport, suffix: suffix}
	e.old.Store(true)
	s.c = platform.New(platform.Options{Root: s.root, HTTP: &http.Client{Transport: e}, AgentVersion: "9.9.9.9", NoFastTrack: true, Log: zerolog.Nop()})
	s.start()
	defer s.stop()
	offered := 0
	look := func() { // as the agent polls
		word, text := s.row()
		if word != "" && word != handler.Transitioning {
			t.Fatalf("%s: %s", word, text)
		}
		if gs, err := s.c.GoalState(t.Context(), s.key); err == nil {
			offered++
			s.key = gs.Key()
			s.m.Offer(gs)
		}
	}
	if _, ok := s.until(20*time.Minute, s.fetched, look); ok {
		t.Fatal("the address has not expired")
	}
	if _, text := s.row(); !strings.Contains(text, "asking the platform for another one") {
		t.Errorf("the row says %s", text)
	}
	if n := e.configs.Load(); n < 4 || n > 10 || offered > 1 {
		t.Errorf("documents fetched %d times in 20 minutes, %d goal states", n, offered)
	}
	e.old.Store(false)
	if after, ok := s.until(8*time.Minute, s.fetched, look); !ok {
		_, text := s.row()
		t.Errorf("not fetched %v after the addresses were renewed: %s", after, text)
	}
	for what, n := range s.asked() {
		if n > protocol.PaceHourly {
			t.Errorf("%d requests for %s", n, fmt.Sprint(what))
		}
	}
}
