package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/test/fabric"
)

// TestModes: with every combination of Provisioning.Mode and Extensions.Mode,
// the platform gets a definite answer; otherwise it would wait.
//
//	provisioning  health                extensions   about a handler of the goal state
//	on            Ready when done       on           what became of it
//	ready-only    Ready at once         off          NotReady 1009: processing is disabled
//	off           not one word          report-only  what there is, of others NotReady 1009; nothing is fetched
//
// The status document is sent in all nine: without it, the platform considers
// the agent unresponsive.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, prov := range []string{config.ModeOn, config.ModeReadyOnly, config.ModeOff} {
		for _, ext := range []string{config.ModeOn, config.ModeOff, config.ModeReportOnly} {
			t.Run(prov+" "+ext, func(t *testing.T) {
				t.Parallel()
				oneMode(t, prov, ext)
			})
		}
	}
}

func oneMode(t *testing.T, prov, ext string) {
	f := fabric.New(t)
	// It is fetched, and is not a valid package, so that no command is run.
	if err := f.AddPackage("Contoso.Echo", "1.0.0", []byte(emptyZip)); err != nil {
		t.Fatal(err)
	}
	vm := f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
	if err := vm.PutExtension("Contoso.Echo", "1.0.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	a := testAgent(t, f, func(c *config.Config) {
		c.Provisioning.Mode, c.Extensions.Mode = prov, ext
		c.Provisioning.Agent = config.AgentSelf
	})
	a.Kernel = host.Kernel{}
	// Already provisioned, so that "on" does not run useradd.
	if err := a.Root.WriteFile("/var/lib/waagent/provisioned", []byte(vm.ID()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	since := time.Now().Add(-3 * time.Hour).UTC().Truncate(time.Second)
	if err := os.Chtimes(a.Root.Path("/var/lib/waagent/provisioned"), since, since); err != nil {
		t.Fatal(err)
	}
	files(t, a.Root, map[string]string{"/sys/class/dmi/id/product_uuid": vm.ID() + "\n"})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		<-done //nolint:errcheck // ended by the test; its error does not matter
		a.platform.Close()
	}()

	want := map[string]string{config.ModeOn: "broken", config.ModeOff: "disabled", config.ModeReportOnly: "only reported"}[ext]
	await(t, ctx, func() string {
		doc, n := vm.StatusDocument()
		got := fmt.Sprintf("status documents: %v, handler: %s", n > 0, handlerIn(string(doc)))
		if got == "status documents: true, handler: "+want && a.live.copy().Provisioning.State != status.ProvPending {
			return ""
		}
		return got + ", want " + want
	})
	if prov == config.ModeOff {
		if n := count(f, time.Time{}, fabric.Health); n != 0 {
			t.Errorf("%d health reports although provisioning is off", n)
		}
	} else {
		await(t, ctx, func() string {
			if h := vm.Health(); h.State != "Ready" {
				return "health is " + h.State
			}
			return ""
		})
	}
	for _, e := range f.Journal(fabric.Query{Kind: fabric.Health}) {
		if strings.Contains(e.Body, "NotReady") {
			t.Errorf("NotReady was reported: %s", e.Body)
		}
	}
	wantState := status.ProvDisabled
	if prov == config.ModeOn {
		wantState = status.ProvDone
	}
	if got := a.live.copy().Provisioning.State; got != wantState {
		t.Errorf("provisioning shows %s, want %s", got, wantState)
	}
	if prov == config.ModeOn {
		// Of this start, which has provisioned nothing, no time is shown (fault TOOL5).
		await(t, ctx, func() string {
			if p := a.live.copy().Provisioning; !p.Finished.Equal(since) || !p.Started.IsZero() {
				return fmt.Sprintf("provisioned from %s to %s, want only %s", p.Started, p.Finished, since)
			}
			return ""
		})
	}
	fetched := false
	for _, e := range f.Journal(fabric.Query{}) {
		fetched = fetched || strings.Contains(e.URL+fmt.Sprint(e.Detail), "Contoso.Echo") && strings.Contains(e.URL+fmt.Sprint(e.Detail), ".zip")
	}
	if fetched != (ext == config.ModeOn) {
		t.Errorf("the package was fetched: %v", fetched)
	}
}

// handlerIn returns in a word what a status document says about the handler.
func handlerIn(doc string) string {
	switch {
	case !strings.Contains(doc, "Contoso.Echo"):
		return "none"
	case strings.Contains(doc, "processing is disabled"):
		return "disabled"
	case strings.Contains(doc, "are only reported"):
		return "only reported"
	case strings.Contains(doc, "NotReady"):
		return "broken"
	}
	return "going on"
}

// await waits until the answer is "".
func await(t *testing.T, ctx context.Context, ask func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := ask()
		if why == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(why)
		case <-tick.C:
		}
	}
}
