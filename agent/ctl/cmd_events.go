package ctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/status"
)

// eventsCmd shows what the platform has announced and what was done about it.
// Root sees all records; others see those of the status.
func (a *app) eventsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "events", Short: "Show scheduled events, and the scripts that ran for them", Args: cobra.NoArgs,
		Long: `events shows the events that the scripts of /etc/azguest/hooks.d were run for:
the start of the machine, its shutdown, and what the platform has announced that
it will do (freeze, reboot, redeploy, preempt, terminate). It also shows whether
an event was acknowledged, and why or why not. Root sees all records, other users
the latest ones.`,
		RunE: func(*cobra.Command, []string) error {
			runs, h, err := a.hookRuns()
			if err != nil {
				return err
			}
			if a.output == "json" {
				a.json(struct {
					Enabled     bool             `json:"enabled"`
					Acknowledge string           `json:"acknowledge,omitempty"`
					Runs        []status.HookRun `json:"runs"`
				}{h != nil, acknowledge(h), append([]status.HookRun{}, runs...)})
				return nil
			}
			if h == nil {
				a.text("hooks are off (Hooks.Enabled=n)\n")
			}
			if len(runs) == 0 {
				a.text("no events\n")
				return nil
			}
			rows := [][]string{{"RUN", "HOOK", "SEEN", "SCRIPTS", "EVENT", "ACKNOWLEDGED"}}
			for _, r := range slices.Backward(runs) {
				rows = append(rows, []string{r.Key, r.Hook, a.ago(r.Seen), scriptsLine(r), eventLine(r), ackLine(r)})
			}
			table(a.Stdout, rows)
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show RUN", Short: "Show one event with the results and the output of its scripts", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRuns,
		RunE: func(_ *cobra.Command, args []string) error {
			runs, _, err := a.hookRuns()
			if err != nil {
				return err
			}
			r, err := findRun(runs, args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				a.json(r)
				return nil
			}
			a.printRun(r)
			return nil
		},
	}
	approve := &cobra.Command{
		Use: "approve EVENT", Short: "Acknowledge a scheduled event, so that it starts now (root)", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeWaiting,
		Long: `approve tells the platform that the event need not wait any longer, whatever its
scripts have done. That holds for all machines that the event is about. EVENT is
its id, or the name of its run.`,
		RunE: func(_ *cobra.Command, args []string) error {
			return a.become([]string{"hooks", "approve", args[0]})
		},
	}
	c.AddCommand(show, approve)
	return c
}

func acknowledge(h *status.Hooks) string {
	if h == nil {
		return ""
	}
	return h.Acknowledge
}

// hookRuns returns the runs that this user may see, the oldest first.
func (a *app) hookRuns() ([]status.HookRun, *status.Hooks, error) {
	s, err := a.snapshot()
	conf, _, _ := a.config() // settings that can't be read have their defaults
	runs, rerr := status.LoadHookRuns(a.root(), conf.Paths.Lib)
	runs = slices.DeleteFunc(runs, status.HookRun.Empty)
	if rerr != nil && !errors.Is(rerr, fs.ErrPermission) {
		fmt.Fprintf(a.Stderr, "agentctl: %s\n", clean(rerr.Error()))
	}
	if len(runs) > 0 {
		if err != nil {
			s.Hooks = nil // there is no status; the records are complete
		}
		return runs, s.Hooks, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if s.Hooks == nil {
		return nil, nil, nil
	}
	return s.Hooks.Runs, s.Hooks, nil
}

// findRun finds a run by its name, the id of its event, or the beginning of one.
func findRun(runs []status.HookRun, name string) (status.HookRun, error) {
	var found []status.HookRun
	for _, r := range runs {
		id := ""
		if r.Event != nil {
			id = r.Event.ID
		}
		if strings.EqualFold(r.Key, name) || id != "" && strings.EqualFold(id, name) {
			return r, nil
		}
		if hasPrefixFold(r.Key, name) || hasPrefixFold(id, name) {
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return status.HookRun{}, usage("%q is the beginning of %d runs", name, len(found))
	}
	return status.HookRun{}, exitWith(1, fmt.Errorf("no event %q; see agentctl events", name))
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && prefix != "" && strings.EqualFold(s[:len(prefix)], prefix)
}

func (a *app) completeRuns(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.keysOf(func(status.HookRun) bool { return true })
}

// completeWaiting completes events that can be acknowledged.
func (a *app) completeWaiting(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.keysOf(func(r status.HookRun) bool {
		return r.Announced() && r.Event.Gone.IsZero() && r.Event.Status == "Scheduled" && (r.Ack == nil || r.Ack.State != status.AckSent)
	})
}

func (a *app) keysOf(wanted func(status.HookRun) bool) ([]string, cobra.ShellCompDirective) {
	var names []string
	if runs, _, err := a.hookRuns(); err == nil {
		for _, r := range runs {
			if wanted(r) {
				names = append(names, r.Key)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) ago(t time.Time) string { return span(a.Now().Sub(t)) + " ago" }

// scriptsLine counts the scripts of a run by their state.
func scriptsLine(r status.HookRun) string {
	if r.Refused != "" {
		return "refused"
	}
	if len(r.Scripts) == 0 {
		return "none"
	}
	count := map[string]int{}
	for _, s := range r.Scripts {
		count[s.State]++
	}
	var out []string
	for _, st := range []string{
		status.HookOK, status.HookFailed, status.HookTimeout, status.HookInterrupted, status.HookSkipped, status.HookRefused, status.HookRunning, status.HookPending,
	} {
		if count[st] > 0 {
			out = append(out, fmt.Sprintf("%d %s", count[st], st))
		}
	}
	return strings.Join(out, ", ")
}

// eventLine says what the platform does.
func eventLine(r status.HookRun) string {
	e := r.Event
	if e == nil || e.ID == "" {
		return "-"
	}
	if r.Trial() {
		return "trial"
	}
	text := strings.ToLower(e.Status)
	if !e.Gone.IsZero() {
		text = e.Outcome
	} else if e.Status == "Scheduled" && !e.NotBefore.IsZero() {
		text += ", not before " + e.NotBefore.UTC().Format(time.DateTime) + " UTC"
	}
	if !e.Here {
		text += ", other machines"
	}
	return text
}

func ackLine(r status.HookRun) string {
	switch {
	case r.Event == nil || r.Event.ID == "", r.Ack == nil && !r.Announced():
		return "-"
	case r.Ack == nil:
		return "not yet"
	case r.Ack.State == status.AckSent:
		return "yes: " + r.Ack.Why
	}
	return "no: " + r.Ack.Why
}

// shownOutput is how much of each output file is shown.
const shownOutput = 4 << 10

func (a *app) printRun(r status.HookRun) {
	a.text("run         %s\nhook        %s\nseen        %s UTC\n", r.Key, r.Hook, r.Seen.UTC().Format(time.DateTime))
	if !r.Ended.IsZero() {
		a.text("ended       %s UTC\n", r.Ended.UTC().Format(time.DateTime))
	}
	if e := r.Event; e != nil && e.ID != "" {
		a.text("event       %s %s from %s: %s\n", e.Type, e.ID, cmp.Or(e.Source, "the platform"), eventLine(r))
		if e.Description != "" {
			a.text("            %s\n", clean(e.Description))
		}
		a.text("machines    %s\nacknowledged %s\n", clean(strings.Join(e.Resources, ", ")), clean(ackLine(r)))
	}
	if r.Refused != "" {
		a.text("refused     %s\n", clean(r.Refused))
	}
	for _, s := range r.Scripts {
		line := s.State
		if !s.Finished.IsZero() {
			line += fmt.Sprintf(" after %.1f s", s.Finished.Sub(s.Started).Seconds())
		}
		if s.Error != "" {
			line += ": " + s.Error
		}
		a.text("\n%s  %s\n", clean(s.Name), clean(line))
		if s.Code != "" {
			a.text("  %s: %s\n", s.Code, meaning(s.Code))
		}
		if s.Dir != "" {
			a.text("  output: %s\n", s.Dir)
			a.printOutput(s.Dir)
		}
	}
}

// printOutput prints the end of what a script has printed, as far as this user
// may read it.
func (a *app) printOutput(dir string) {
	for _, name := range []string{"stdout", "stderr"} {
		f, err := a.root().Open(path.Join(dir, name))
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				a.text("  (run as root to see it)\n")
				return
			}
			continue
		}
		var b [shownOutput]byte
		n := 0
		if fi, err := f.Stat(); err == nil {
			n, _ = f.ReadAt(b[:], max(0, fi.Size()-shownOutput))
		}
		_ = f.Close()
		for line := range strings.Lines(string(b[:n])) {
			a.text("  %s\n", clean(strings.TrimRight(line, "\n")))
		}
	}
}
