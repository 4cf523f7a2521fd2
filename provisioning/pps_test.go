package provisioning_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

func TestPPSFlows(t *testing.T) {
	t.Parallel()
	up, down := host.LinkEvent{Name: "eth0", Index: 2, Up: true}, host.LinkEvent{Name: "eth0", Index: 2}
	other := host.LinkEvent{Name: "eth1", Index: 3, Up: true}
	gone := host.LinkEvent{Name: "eth0", Index: 2, Gone: true}
	for _, tc := range []struct {
		name   string
		kind   provisioning.PPSType
		events []host.LinkEvent
		ready  error
		want   string
		reason string
	}{
		{"running", provisioning.PPSRunning, []host.LinkEvent{up, other, down, other, up}, nil, "ready link link link link link net fetch fetch fetch", ""},
		{"savable", provisioning.PPSSavable, []host.LinkEvent{up, gone, up}, nil, "ready link link link net fetch fetch fetch", ""},
		{"savable whose interface goes while it reports", provisioning.PPSSavable, []host.LinkEvent{gone, up}, errors.New("unreachable"), "ready link link net fetch fetch fetch", ""},
		{"running that cannot report", provisioning.PPSRunning, nil, errors.New("unreachable"), "ready", "failed to report ready before reprovisioning"},
		{"after a reboot", provisioning.PPSUnknown, nil, nil, "net fetch fetch fetch", ""},
		{"disk", provisioning.PPSOSDisk, nil, nil, "ready", "error waiting for host shutdown"},
		{"not at all", provisioning.PPSNone, nil, nil, "", "error waiting for reprovisioning"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t, "debian")
			synctest.Test(t, func(t *testing.T) {
				var did []string
				asked := 0
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				p := provisioning.PPS{
					Ready:   func(context.Context) error { did = append(did, "ready"); return tc.ready },
					Network: func(context.Context) error { did = append(did, "net"); return nil },
					Fetch: func(context.Context) ([]byte, error) {
						did = append(did, "fetch")
						if asked++; asked < 3 {
							return nil, errors.New("404")
						}
						return []byte("<doc/>"), nil
					},
					Links: func(context.Context) ([]host.LinkEvent, error) {
						did = append(did, "link")
						e := tc.events[0]
						tc.events = tc.events[1:]
						return []host.LinkEvent{e}, nil
					},
				}
				doc, err := m.prov().Reprovision(ctx, tc.kind, p)
				if diff := cmp.Diff(tc.want, strings.Join(did, " ")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if tc.reason == "" && (err != nil || string(doc) != "<doc/>") {
					t.Errorf("%q, %v", doc, err)
				}
				if tc.reason != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.reason)) {
					t.Errorf("error %v, want %q", err, tc.reason)
				}
			})
			if got := m.prov().FindPPSType(provisioning.PPSRunning, provisioning.PPSSavable); (got == provisioning.PPSUnknown) != (tc.reason == "" && tc.kind != provisioning.PPSUnknown) {
				t.Errorf("next boot takes it for %s", got)
			}
			if err := m.prov().FinishPPS(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestReadyIsPendingUntilSent(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.keys = sharedKeys()
	o := options()
	steps := plan(t, m, input(), o)
	if _, err := apply(t, m, steps, o, nil); err != nil {
		t.Fatal(err)
	}
	other := provisioning.NewMachine(m.system(), o, provisioning.Identity{ID: "other"})
	if !m.prov().ReadyPending() || other.ReadyPending() {
		t.Error("Ready is not pending, or is pending for another VM")
	}
	if err := m.prov().ReadySent(); err != nil {
		t.Fatal(err)
	}
	m.write("/proc/sys/kernel/random/boot_id", "boot-2\n", 0o644)
	if _, err := apply(t, m, steps, o, nil); err != nil {
		t.Fatal(err)
	}
	if m.prov().ReadyPending() {
		t.Error("Ready is pending again after it was sent")
	}
}

func TestEndAt(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]int{"user": 1, "2:doing": 1, "user:planned": 1, "nobody": 0} {
		m := newMachine(t, "debian")
		m.keys = sharedKeys()
		n := 0
		obs, err := provisioning.EndAt(at, func() { n++ })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := apply(t, m, plan(t, m, input(), options()), options(), obs); err != nil {
			t.Fatal(err)
		}
		if n != want {
			t.Errorf("%s: %d times, want %d", at, n, want)
		}
	}
	if _, err := provisioning.EndAt("user:nowhere", nil); err == nil {
		t.Error("no error")
	}
}
