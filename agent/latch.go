package agent

import (
	"context"
	"sync"
)

// A latch is opened once and stays open.
type latch struct {
	once   sync.Once
	opened chan struct{}
}

func newLatch() *latch { return &latch{opened: make(chan struct{})} }

func (k *latch) open() { k.once.Do(func() { close(k.opened) }) }

// openAfter returns a function that calls f and then opens the latch, also if f
// fails.
func (k *latch) openAfter(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		defer k.open()
		return f(ctx)
	}
}
