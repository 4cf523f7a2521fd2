package e2e

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// quick is a handler that only reports success.
const quick = `
case $op in
enable) say success 0 "enabled $seq" ;;
esac
`

// fleet returns n independent handlers.
func fleet(t testing.TB, n int) (packages map[string][]byte, all []fabric.Extension) {
	packages = map[string][]byte{}
	for i := range n {
		kind := fmt.Sprintf("H%02d", i)
		packages["Azguest.Bench."+kind+"/1.0.0"] = handler(t, quick)
		all = append(all, fabric.Extension{Name: kind, Handler: "Azguest.Bench." + kind, Version: "1.0", Settings: map[string]any{"n": i}})
	}
	return packages, all
}

// succeeded counts the rows of the last status document that report success.
func (c *cloud) succeeded() int {
	doc, _ := c.VM.StatusDocument()
	var d struct {
		AggregateStatus struct {
			HandlerAggregateStatus []struct {
				RuntimeSettingsStatus *struct {
					SettingsStatus struct{ Status struct{ Status string } }
				}
			}
		}
	}
	if json.Unmarshal(doc, &d) != nil {
		return 0
	}
	n := 0
	for _, h := range d.AggregateStatus.HandlerAggregateStatus {
		if h.RuntimeSettingsStatus != nil && h.RuntimeSettingsStatus.SettingsStatus.Status.Status == "success" {
			n++
		}
	}
	return n
}

// seen returns when the agent received the configuration of the extensions.
func (c *cloud) seen(t testing.TB, from int) time.Time {
	t.Helper()
	for _, e := range c.Fabric.Journal(fabric.Query{})[from:] {
		if e.Kind == fabric.ExtensionsConfig {
			return e.Time
		}
	}
	t.Fatal("the agent did not fetch the ExtensionsConfig")
	return time.Time{}
}

// BenchmarkHandlers measures the time from the moment the agent has received a
// goal state with independent, new extensions until all of them are in the
// status. The aim is ten within 2 s, and one within 0.3 s of the duration of
// its commands.
func BenchmarkHandlers(b *testing.B) {
	for _, n := range []int{1, 10, 50} {
		packages, all := fleet(b, n)
		for _, who := range contenders(packages) {
			if n > 10 && who.name != "azguest" {
				continue // takes four seconds for each, one after the other
			}
			b.Run(fmt.Sprintf("%s/%d", who.name, n), func(b *testing.B) {
				var took []float64
				for b.Loop() {
					c := who.cloud(b)
					for _, x := range all {
						if err := c.VM.Put(x); err != nil {
							b.Fatal(err)
						}
					}
					from := len(c.Fabric.Journal(fabric.Query{}))
					who.start(b, c)
					await(b, "all extensions", func() bool { return c.succeeded() == n })
					end := time.Now()
					took = append(took, end.Sub(c.seen(b, from)).Seconds())
					c.End(b)
				}
				report(b, took)
			})
		}
	}
}

// BenchmarkBigPackage measures the largest package in practice: the agent's
// peak memory while 500 MB are downloaded and unpacked.
func BenchmarkBigPackage(b *testing.B) {
	const size = 500 << 20
	packages := map[string][]byte{"Azguest.Bench.Big/1.0.0": big(b, size)}
	for _, who := range contenders(packages) {
		b.Run(who.name, func(b *testing.B) {
			for b.Loop() {
				c := who.cloud(b)
				p := who.start(b, c)
				c.WaitReady(b)
				from := len(c.Fabric.Journal(fabric.Query{}))
				if err := c.VM.Put(fabric.Extension{Name: "Big", Handler: "Azguest.Bench.Big", Version: "1.0", Settings: map[string]any{}}); err != nil {
					b.Fatal(err)
				}
				peak := 0
				await(b, "the package", func() bool {
					peak = max(peak, pss(b, p.PID))
					return c.succeeded() == 1
				})
				b.ReportMetric(float64(peak)/1024, "peak-MiB")
				b.ReportMetric(time.Since(c.seen(b, from)).Seconds(), "p50-s")
				c.End(b)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// big is a package with size bytes of incompressible data.
func big(t testing.TB, size int) []byte {
	t.Helper()
	small, err := zip.NewReader(bytes.NewReader(handler(t, quick)), int64(len(handler(t, quick))))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.Grow(size + 1<<20)
	z := zip.NewWriter(&out)
	for _, f := range small.File {
		if err := z.Copy(f); err != nil {
			t.Fatal(err)
		}
	}
	w, err := z.CreateHeader(&zip.FileHeader{Name: "ballast", Method: zip.Store})
	if err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	for range size >> 20 {
		_, _ = noise.Read(block) // never fails
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
