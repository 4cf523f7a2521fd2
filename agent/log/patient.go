package log

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/crash"
)

// patient writes to a file that may be a pipe or a terminal, and gives up after
// logPatience: a reader that has stopped, or a full pipe, would block the whole
// agent otherwise. Until that write has ended, further records are dropped; the
// next one that is written says how many were.
//
// A write deadline is not possible: the descriptor is shared with other
// processes, and blocks.
type patient struct {
	w io.Writer

	mu   sync.Mutex      // guards the rest; held while a record is waited for
	busy <-chan struct{} // closed when the write that was given up has ended; nil if there is none
	lost int
}

func newPatient(w io.Writer) *patient { return &patient{w: w} }

func (p *patient) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy != nil {
		select {
		case <-p.busy: // however it has ended
			p.busy = nil
		default:
			p.lost++
			return 0, errStuck
		}
	}
	record := append([]byte(nil), b...) // the caller uses b again
	if p.lost > 0 {
		record = fmt.Appendf(nil, "... %d records lost: %v\n%s", p.lost, errStuck, b)
	}
	done := make(chan struct{})
	var err error
	// wait: a goroutine of its own, which ends with the write
	go func() {
		defer crash.Guard()
		_, err = p.w.Write(record)
		close(done)
	}()
	// wait: logPatience is its bound
	select {
	case <-done:
		if err != nil {
			p.lost++
			return 0, err
		}
		p.lost = 0
		return len(b), nil
	case <-time.After(logPatience):
		p.busy = done
		p.lost = 0 // this record, and the note in it, arrive once there is a reader
		return 0, errStuck
	}
}
