package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/protocol"
)

func TestReadyArrivesOnceThePlatformIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var accepted []string
		tries := 0
		r := newHealthReporter(func(_ context.Context, h protocol.Health) error {
			tries++
			if time.Since(start) < 10*time.Minute {
				return errors.New("connection refused")
			}
			accepted = append(accepted, string(h.State)+h.SubStatus)
			return nil
		}, func(protocol.Health, error) {})
		go func() { _ = r.Run(ctx) }()
		r.Report(protocol.Health{State: protocol.NotReady, SubStatus: "Provisioning"})
		time.Sleep(time.Minute)
		r.Report(protocol.Health{State: protocol.Ready})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(accepted) != 1 || accepted[0] != "Ready" {
			t.Errorf("accepted %q, want Ready alone", accepted)
		}
		if tries > 60 {
			t.Errorf("%d tries in ten minutes", tries)
		}
		cancel()
		synctest.Wait()
	})
}

func TestHealthReportsStayInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []protocol.HealthState
		r := newHealthReporter(func(_ context.Context, h protocol.Health) error {
			time.Sleep(5 * time.Second) // slow platform
			got = append(got, h.State)
			return nil
		}, func(protocol.Health, error) {})
		go func() { _ = r.Run(ctx) }()
		r.Report(protocol.Health{State: protocol.NotReady})
		time.Sleep(time.Second)
		r.Report(protocol.Health{State: protocol.Ready})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(got) != 2 || got[1] != protocol.Ready {
			t.Errorf("sent %v, want NotReady then Ready", got)
		}
		cancel()
		synctest.Wait()
	})
}
