package ovf

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a medium whose device does not answer and can't be interrupted.
type stuck chan struct{}

func (s stuck) Open(context.Context) (*Medium, error) {
	<-s
	return nil, errors.New("at last")
}

func TestAStuckDeviceHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("no patience left")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 40*time.Second, why)
		defer cancel()
		s := make(stuck)
		defer close(s)
		start := time.Now()
		if _, err := Load(ctx, s); !errors.Is(err, why) {
			t.Errorf("Load() = %v, want %v", err, why)
		}
		if took := time.Since(start); took > 45*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
