package kvp_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning/kvp"
	"github.com/azguest/azguest/test/peak"
)

func newRoot(t *testing.T) host.Root {
	t.Helper()
	r := host.Root(t.TempDir())
	for _, d := range []string{"/var/lib/hyperv", "/proc"} {
		if err := os.MkdirAll(r.Path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(r.Path("/proc/stat"), []byte("cpu 1\nbtime 1700000000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBytesOfARecord(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	if err := kvp.Open(r).Set(t.Context(), kvp.Record{Key: "PROVISIONING_REPORT", Value: "result=success|é"}); err != nil {
		t.Fatal(err)
	}
	got, err := r.ReadFile(kvp.GuestPool)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 2560)
	copy(want, "PROVISIONING_REPORT")
	copy(want[512:], "result=success|é")
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, differ from the layout", len(got))
	}
	if fi, err := os.Stat(r.Path(kvp.GuestPool)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", fi.Mode(), err)
	}
}

func TestSetReplacesAndKeepsOthers(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	full := strings.Repeat("x", kvp.ValueSize)
	rec := make([]byte, 0, 4*kvp.RecordSize+7)
	for _, kv := range [][2]string{{"a", "1"}, {"K", "old"}, {"full", full}, {"K", "older"}} {
		b := make([]byte, kvp.RecordSize)
		copy(b, kv[0])
		copy(b[kvp.KeySize:], kv[1])
		rec = append(rec, b...)
	}
	rec = append(rec, "broken!"...)
	if err := os.WriteFile(r.Path(kvp.GuestPool), rec, 0o600); err != nil {
		t.Fatal(err)
	}
	p := kvp.Open(r)
	if err := p.Set(t.Context(), kvp.Record{Key: "K", Value: "new"}, kvp.Record{Key: "z", Value: "26"}); err != nil {
		t.Fatal(err)
	}
	got, err := p.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []kvp.Record{{Key: "a", Value: "1"}, {Key: "K", Value: "new"}, {Key: "full", Value: full}, {Key: "z", Value: "26"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := p.Delete(t.Context(), "a", "full"); err != nil {
		t.Fatal(err)
	}
	got, _ = p.Read(t.Context())
	if diff := cmp.Diff([]kvp.Record{{Key: "K", Value: "new"}, {Key: "z", Value: "26"}}, got); diff != "" {
		t.Errorf("after Delete (-want +got):\n%s", diff)
	}
}

func TestWhatWouldBeCutIsRefused(t *testing.T) {
	t.Parallel()
	p := kvp.Open(newRoot(t))
	for _, tc := range []struct {
		name string
		rec  kvp.Record
		ok   bool
	}{
		{"longest value", kvp.Record{Key: "k", Value: strings.Repeat("x", 1022)}, true},
		{"one more", kvp.Record{Key: "k", Value: strings.Repeat("x", 1023)}, false},
		{"units, not bytes", kvp.Record{Key: "k", Value: strings.Repeat("é", 1022)}, true},
		{"two units each", kvp.Record{Key: "k", Value: strings.Repeat("😀", 512)}, false},
		{"bytes", kvp.Record{Key: "k", Value: strings.Repeat("世", 683)}, false},
		{"longest key", kvp.Record{Key: strings.Repeat("k", 254)}, true},
		{"key", kvp.Record{Key: strings.Repeat("k", 255)}, false},
		{"no key", kvp.Record{Value: "x"}, false},
		{"not UTF-8", kvp.Record{Key: "k", Value: "\xff"}, false},
		{"NUL", kvp.Record{Key: "k", Value: "a\x00b"}, false},
	} {
		if err := p.Set(t.Context(), tc.rec); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestStaleRecordsGoOncePerBoot(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	p := kvp.Open(r)
	if err := p.DropStale(t.Context()); err != nil {
		t.Fatalf("no pool: %v", err)
	}
	if err := p.Set(t.Context(), kvp.Record{Key: "fresh", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := p.DropStale(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := p.Read(t.Context()); len(got) != 1 {
		t.Errorf("a record of this boot is gone: %v", got)
	}
	old := time.Unix(1600000000, 0)
	if err := os.Chtimes(r.Path(kvp.GuestPool), old, old); err != nil {
		t.Fatal(err)
	}
	if err := p.DropStale(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := p.Read(t.Context()); len(got) != 0 {
		t.Errorf("stale records stay: %v", got)
	}
}

func TestWithoutHyperV(t *testing.T) {
	t.Parallel()
	r := host.Root(t.TempDir())
	if err := kvp.Open(r).Set(t.Context(), kvp.Record{Key: "k"}); err == nil {
		t.Error("no error")
	}
	if got, err := kvp.Open(r).Read(t.Context()); err != nil || got != nil {
		t.Errorf("%v %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(string(r), "var")); err == nil {
		t.Error("directories were created without Hyper-V")
	}
}

func TestWritersDoNotLoseRecords(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			// Each has its own pool, as different processes would.
			if err := kvp.Open(r).Set(t.Context(), kvp.Record{Key: string(rune('a' + i)), Value: "x"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, _ := kvp.Open(r).Read(t.Context()); len(got) != 8 {
		t.Errorf("%d records", len(got))
	}
}

func FuzzFit(f *testing.F) {
	f.Add("a\x00b\xff世😀")
	f.Add(strings.Repeat("😀", 600))
	f.Fuzz(peak.Target(func(t *testing.T, s string) {
		for _, part := range append(kvp.Split(s, kvp.MaxValue), kvp.Fit(s, kvp.MaxValue)) {
			if !utf8.ValidString(part) || strings.Contains(part, "\x00") || len(part) >= kvp.ValueSize {
				t.Errorf("%q", part)
			}
		}
		if got, want := strings.Join(kvp.Split(s, 10), ""), strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD"); got != want {
			t.Errorf("pieces make %q, want %q", got, want)
		}
	}))
}

// TestIN17FullPool: the report replaces the oldest events, then the oldest
// records of any kind.
func TestIN17FullPool(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		key  func(i int) string
		gone string // the first key that is dropped
	}{
		"events":            {func(i int) string { return fmt.Sprintf("CLOUD_INIT|1|start|azure-ds/%d|x", i) }, "CLOUD_INIT|1|start|azure-ds/0|x"},
		"others, one event": {func(i int) string { return map[bool]string{true: "CLOUD_INIT|x"}[i == 700] + fmt.Sprint(i) }, "CLOUD_INIT|x700"},
		"others alone":      {func(i int) string { return fmt.Sprint("k", i) }, "k0"},
	} {
		r := newRoot(t)
		var pool bytes.Buffer
		for i := range kvp.MaxRecords {
			b := make([]byte, kvp.RecordSize)
			copy(b, tc.key(i))
			pool.Write(b)
		}
		if err := os.WriteFile(r.Path(kvp.GuestPool), pool.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		p := kvp.Open(r)
		for range 2 {
			if err := p.Set(t.Context(), kvp.Record{Key: "PROVISIONING_REPORT", Value: "result=success"}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		got, err := p.Read(t.Context())
		if err != nil || len(got) != kvp.MaxRecords || got[len(got)-1].Key != "PROVISIONING_REPORT" {
			t.Errorf("%s: %d records, %v", name, len(got), err)
		}
		for _, rec := range got {
			if rec.Key == tc.gone {
				t.Errorf("%s: %q is still there", name, tc.gone)
			}
		}
	}
}
