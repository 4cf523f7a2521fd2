package extlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The checks of this file report what a handler relies on. It may be no mistake,
// but agents differ in it, or did.

// sameNumber changes the version down and up with the sequence number that is
// in force, and reports whose status counts afterwards: agents that have kept or
// deleted a status because of its operation did so here.
func (c *conformance) sameNumber(ctx context.Context) error {
	switch {
	case c.p.Old == nil:
		return errSkip("give --update-from")
	case c.bare():
		return errSkip("without settings, there is no sequence number")
	}
	r := c.Row()
	seq, err := strconv.Atoi(r.Seq)
	if err != nil {
		return errSkip("there is no sequence number")
	}
	var notes []string
	for _, version := range []string{c.p.Old.Version, c.version} {
		n := c.count()
		c.turn++
		if err := c.Put(version, seq, c.p.Settings, c.p.Protected, strconv.Itoa(c.turn)); err != nil {
			return err
		}
		if err := c.good(ctx); err != nil {
			return fmt.Errorf("to version %s with the same number: %w", version, err)
		}
		steps, _, err := c.since(n)
		if err != nil {
			return err
		}
		written, operation, err := c.written(ctx, version, seq)
		if err != nil {
			return errSkip("multi-config: check the status files with fabric ext run")
		}
		if note := speaker(steps, written, operation); note != "" {
			notes = append(notes, "to "+version+": "+note)
		}
	}
	if notes == nil {
		return nil
	}
	return errNote("enable must write a status each time; relies on what was there before: " + strings.Join(notes, "; "))
}

// written returns when the status file of a version was written, and its
// operation.
func (c *conformance) written(ctx context.Context, version string, seq int) (at time.Time, operation string, err error) {
	name := fmt.Sprintf("%s/%s-%s/status/%d.status", lib, c.handler, version, seq)
	data, err := c.ReadTail(name, maxStatus)
	if err != nil {
		return at, "", err
	}
	out, err := c.Sh(ctx, "stat -c %.9Y "+name)
	if err != nil {
		return at, "", err
	}
	sec, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	var doc []struct{ Status struct{ Operation any } }
	if json.Unmarshal(bytes.TrimSpace(data), &doc) == nil && len(doc) > 0 && doc[0].Status.Operation != nil {
		operation = fmt.Sprint(doc[0].Status.Operation)
	}
	return time.Unix(0, int64(sec*1e9)), operation, err
}

// speaker says which command of a version change has written the status, "" if
// it was enable or something that enable has left running.
func speaker(steps []Step, written time.Time, operation string) string {
	by := "the version before"
	for _, s := range steps {
		// File times are a little older than the clock.
		if written.Before(s.Begin.Add(-20 * time.Millisecond)) {
			break
		}
		by = s.Op
		if !written.After(s.End) {
			break
		}
	}
	if by == "enable" {
		return ""
	}
	return fmt.Sprintf("the status is that of %s (operation %q), and enable has written none", by, operation)
}

// signalUse finds what a script does with signals.
var signalUse = regexp.MustCompile(`(?m)^[^#\n]*(\btrap\s+[^#\n]*\b(SIG)?(HUP|INT|QUIT|TERM|PIPE|USR[12])\b|\bsignal\.signal\s*\(|\bnohup\s|%SIG|\$SIG\{)`)

// maxPrinted is from which output of one command on a handler is told that it
// prints much: the agent keeps an end of it, and reports 4096 bytes.
const maxPrinted = 1 << 20

// habits reports other things that depend on the agent: signals, and output
// without bound.
func (c *conformance) habits(ctx context.Context) error {
	notes := signals(c.p.Bundle)
	steps, err := c.Steps()
	if err != nil {
		return err
	}
	var most int64
	for _, s := range steps {
		most = max(most, s.Printed)
	}
	if most >= maxPrinted {
		notes = append(notes, fmt.Sprintf("a command printed %d MiB: the agent bounds the output and reports its last 4096 bytes, so write to a log of your own, and rotate it", most>>20))
	}
	out, err := c.Sh(ctx, `for p in /proc/[0-9]*; do
grep -qs AZGUEST_OPERATION= $p/environ || continue
sed -n 's/^SigIgn:[[:space:]]*//p;s/^SigCgt:[[:space:]]*//p' $p/status | tr '\n' ' '; tr '\0' ' ' <$p/cmdline | cut -c1-60; echo
done 2>/dev/null; :`)
	if err != nil {
		return err
	}
	notes = append(notes, ignored(out)...)
	if notes == nil {
		return errNote("none found")
	}
	return errNote(strings.Join(notes, "; "))
}

// ignored says which signals processes in the background ignore.
func ignored(list string) []string {
	var notes []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		mask, err := strconv.ParseUint(f[0], 16, 64)
		if err != nil {
			continue
		}
		var names []string
		// INT and QUIT are left out: a shell ignores them for all that it starts with &.
		for n, name := range []string{1: "HUP", 13: "PIPE", 15: "TERM"} {
			if name != "" && mask&(1<<(n-1)) != 0 {
				names = append(names, name)
			}
		}
		if names != nil {
			notes = append(notes, fmt.Sprintf("a process in the background ignores %s (%s)", strings.Join(names, ", "), strings.Join(f[2:], " ")))
		}
	}
	slices.Sort(notes)
	return slices.Compact(notes)
}

// signals says which scripts of a package handle signals.
func signals(b *Bundle) []string {
	var where []string
	for _, e := range b.entries {
		if e.f.Mode().IsDir() || e.f.UncompressedSize64 < 2 {
			continue
		}
		text, err := read(e.f, 1<<20)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			continue
		}
		if at := signalUse.FindIndex(text); at != nil {
			where = append(where, fmt.Sprintf("%s:%d", path.Clean(e.f.Name), 1+bytes.Count(text[:at[0]], []byte("\n"))))
		}
	}
	if where == nil {
		return nil
	}
	return []string{"handles signals (" + strings.Join(where, ", ") + "): commands start with the default action for every signal, and get SIGKILL and nothing before it at their time limit; under the classic agent they inherit what it ignores"}
}
