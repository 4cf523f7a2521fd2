package ctl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/status"
)

// extWord returns the word for the state of an extension, and its rank: 0
// failed, 1 waiting or degraded, 2 running, 3 ok.
func extWord(e status.Extension, now time.Time) (string, int) {
	switch {
	case e.Overdue != "":
		return "OVERDUE", 0
	case e.Phase != "":
		return "RUNNING", 2
	case e.BlockedBy != "":
		return "WAITING", 1
	case e.NextRetry.After(now):
		return "FAILED", 0
	case e.Bad():
		return "FAILED", 0
	case e.Status == status.StatusWarning:
		return "WARNING", 1
	case e.Status == status.StatusTransitioning:
		return "RUNNING", 2
	case e.Desired == status.WantDisabled || e.Actual == status.ActualDisabled:
		return "disabled", 3
	case e.Actual == status.ActualEnabled || e.Status == status.StatusSuccess:
		return "ok", 3
	}
	return strings.ToUpper(cmp.Or(e.Actual, "UNKNOWN")), 1
}

func (v view) extensionsRow() row {
	exts := slices.Clone(v.snap.Extensions)
	slices.SortStableFunc(exts, func(a, b status.Extension) int {
		_, ra := extWord(a, v.now)
		_, rb := extWord(b, v.now)
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(a.Title(), b.Title()))
	})
	if len(exts) == 0 {
		return row{label: "extensions", text: "none", rank: 2}
	}
	// Extensions stay below the rest unless one has failed.
	r := row{label: "extensions", rank: 2}
	count := map[string]int{}
	var order []string
	for _, e := range exts {
		word, _ := extWord(e, v.now)
		word = strings.ToLower(word)
		if count[word]++; count[word] == 1 {
			order = append(order, word)
		}
	}
	var parts []string
	slices.Reverse(order)
	for _, o := range order {
		parts = append(parts, fmt.Sprintf("%d %s", count[o], o))
	}
	r.text = strings.Join(parts, ", ")
	for _, e := range exts {
		word, bad := extWord(e, v.now)
		if bad == 0 {
			r.rank = 0
		}
		r.more = append(r.more, painter(v.color).word(fmt.Sprintf("%-8s", word), bad)+" "+clean(e.Title())+v.extFacts(e))
		if bad < 2 {
			if e.Overdue != "" {
				r.more = append(r.more, "         "+v.cut(clean(e.Overdue), 9))
			} else if m := message(e); m != "" {
				r.more = append(r.more, "         "+v.cut(clean(m), 9))
			}
			for _, l := range v.worry(e.Problem, e.Name) {
				r.more = append(r.more, "         "+l)
			}
		}
	}
	return r
}

// message returns the message of an extension, or how to see it.
func message(e status.Extension) string {
	if e.Message == "" && e.Withheld {
		return "run as root to see the message"
	}
	return e.Message
}

// extFacts returns what follows the name of an extension on the screen.
func (v view) extFacts(e status.Extension) string {
	var f []string
	if e.Seq >= 0 {
		f = append(f, fmt.Sprintf("seq %d", e.Seq))
	}
	if e.Phase != "" {
		t := e.Phase
		if !e.Started.IsZero() {
			t += " " + clock(v.now.Sub(e.Started))
			if !e.Deadline.IsZero() {
				t += " of " + clock(e.Deadline.Sub(e.Started))
			}
		}
		f = append(f, t)
		if e.PID > 0 {
			f = append(f, fmt.Sprintf("pid %d", e.PID))
		}
		if !e.LastOutput.IsZero() {
			f = append(f, "last output "+span(v.now.Sub(e.LastOutput))+" ago")
		}
	}
	if x := e.Exit; x != nil && (x.Code != 0 || x.Signal != "" || x.Class != "" && x.Class != "ok") {
		t := fmt.Sprintf("exit %d", x.Code)
		if x.Signal != "" {
			t = "killed by " + x.Signal
		}
		if x.Class == "timeout" {
			t = "timed out"
		}
		f = append(f, t)
	}
	if e.Attempts > 1 {
		f = append(f, fmt.Sprintf("%d attempts", e.Attempts))
	}
	if e.NextRetry.After(v.now) {
		f = append(f, "next attempt in "+span(e.NextRetry.Sub(v.now)))
	}
	if e.BlockedBy != "" {
		f = append(f, "waiting for "+clean(e.BlockedBy))
	}
	if len(f) == 0 {
		return ""
	}
	return "  " + strings.Join(f, ", ")
}

// meaning and fixFor return texts from doctor's table; a fix in the snapshot
// takes precedence, because it is more specific.
func meaning(code string) string {
	if c, ok := doctor.Lookup(code); ok {
		return c.Meaning
	}
	return "see: agentctl logs"
}

func fixFor(code, own, ext string) string {
	if own == "" {
		c, _ := doctor.Lookup(code)
		own = c.Fix
	}
	if ext != "" {
		own = strings.ReplaceAll(own, "EXTENSION", ext)
	}
	return clean(own)
}

// span formats a duration for people: 14s, 3m, 3h12m, 12d.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// clock formats a duration as mm:ss, for something with a deadline.
func clock(d time.Duration) string {
	d = max(d, 0)
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// size formats a number of bytes like df -h.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%dB", max(n, 0))
	}
	f, u := float64(n)/(1<<10), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f%c", f, units[u])
	}
	return fmt.Sprintf("%.0f%c", f, units[u])
}

// painter adds colours if it is true.
type painter bool

func (p painter) wrap(seq, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + seq + "m" + s + "\x1b[0m"
}

func (p painter) bold(s string) string { return p.wrap("1", s) }
func (p painter) bad(s string) string  { return p.wrap("31", s) }
func (p painter) code(s string) string { return p.wrap("33", s) }

func (p painter) state(s string, exit int) string {
	switch exit {
	case ExitHealthy:
		return p.wrap("1;32", s)
	case ExitDegraded:
		return p.wrap("1;33", s)
	}
	return p.wrap("1;31", s)
}

func (p painter) word(s string, bad int) string {
	switch bad {
	case 0:
		return p.wrap("1;31", s)
	case 1:
		return p.wrap("33", s)
	case 2:
		return p.wrap("36", s)
	}
	return p.wrap("32", s)
}
