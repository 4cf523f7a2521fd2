package agent

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

const (
	// trimAbove is the resident memory in bytes from which on releasing some is
	// worth the work; it is between what booting and what idling needs.
	trimAbove = 9 << 20
	// trimGrowth is by how many bytes a trimmed process may grow before it is
	// trimmed again: the pages that an idle agent uses come back at once, and
	// releasing them again gains nothing.
	trimGrowth = 2 << 20
)

// memory is what the memory job remembers.
type memory struct {
	// idle is set when the agent becomes idle, because it needs less memory
	// from then on.
	idle    atomic.Bool
	trimmed bool  // at the last check; needed is not known yet
	needed  int64 // resident memory, in bytes, at the first check after a trim; 0 before
}

// trim is the job that keeps the agent's resident memory small: it returns free
// heap to the kernel and drops the pages of our own program, of which an idle
// agent needs a quarter. They stay in the kernel's page cache, so using one
// again costs a minor fault.
func (a *Agent) trim(context.Context) error {
	now, m := ownMemory(), &a.memory
	if m.idle.Swap(false) {
		m.trimmed, m.needed = false, 0
	}
	if m.trimmed {
		m.trimmed, m.needed = false, now
	}
	if time.Since(a.started) < 20*time.Second || now < max(trimAbove, m.needed+trimGrowth) {
		return nil
	}
	m.trimmed = true
	debug.FreeOSMemory()
	b, err := host.Root("").ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	exe, err := host.Root("").Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("trim memory: %w", err)
	}
	for _, m := range cleanMappings(b, strings.TrimSuffix(exe, " (deleted)")) {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("trim memory: %w", e)
		}
	}
	return nil
}

type mapping struct{ from, to uintptr }

// cleanMappings returns the read-only mappings of a file, found in the text of
// /proc/self/smaps, that have no private (anonymous) pages: dropping their
// pages loses nothing. A mapping with relocations has private pages and is left
// out.
func cleanMappings(smaps []byte, file string) []mapping {
	var out []mapping
	var cur mapping
	mine := false
	for line := range bytes.Lines(smaps) {
		s := strings.TrimSpace(string(line))
		var from, to uintptr
		var perm string
		if n, err := fmt.Sscanf(s, "%x-%x %4s", &from, &to, &perm); err == nil && n == 3 && len(perm) == 4 {
			cur = mapping{from, to}
			mine = strings.HasPrefix(perm, "r-") && (strings.HasSuffix(s, " "+file) || strings.HasSuffix(s, " "+file+" (deleted)")) && to > from
			continue
		}
		if rest, ok := strings.CutPrefix(s, "Anonymous:"); ok && mine && strings.TrimSpace(rest) == "0 kB" {
			out = append(out, cur)
		}
	}
	return out
}
