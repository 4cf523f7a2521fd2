package ovf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// stuck is a medium whose device does not answer and cannot be interrupted.
type stuck chan struct{}

func (s stuck) Open(context.Context) (*Medium, error) {
	<-s
	return nil, errors.New("at last")
}

func TestStuckDeviceTimesOut(t *testing.T) {
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

func TestWorthWaiting(t *testing.T) {
	eio := fmt.Errorf("read block: %w", &fs.PathError{Op: "read", Path: "/dev/sr0", Err: unix.EIO})
	for _, tc := range []struct {
		name   string
		tried  []Attempt
		waited time.Duration
		want   bool
	}{
		{"no device", nil, 20 * time.Second, true},
		{"an empty drive", []Attempt{{"/dev/sr0", "open", errNoMedium, true}}, 20 * time.Second, true},
		{"a drive that fails", []Attempt{{"/dev/sr0", "read udf", eio, true}}, time.Second, true},
		{"a drive that goes on failing", []Attempt{{"/dev/sr0", "read udf", eio, true}}, 6 * time.Second, false},
		{"a disk that fails beside another medium", []Attempt{{"/dev/sr0", "read udf", errNoDocument, true}, {"/dev/vdb", "read", eio, false}}, time.Second, false},
		{"another medium", []Attempt{{"/dev/sr0", "read udf", errNoDocument, true}}, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := (&MediaError{Tried: tc.tried}).worthWaiting(tc.waited); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
