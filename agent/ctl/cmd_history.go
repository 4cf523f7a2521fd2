package ctl

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/status"
)

// A ran is one command of a handler, from the agent's audit log.
type ran struct {
	At        time.Time `json:"at"`
	Handler   string    `json:"handler"`
	Extension string    `json:"extension,omitempty"`
	Version   string    `json:"version"`
	Op        string    `json:"op"`
	Seq       int       `json:"seq"`
	Why       string    `json:"why,omitempty"`
	GoalState string    `json:"goal_state,omitempty"`
	Class     string    `json:"class,omitempty"` // empty while it runs
	Code      int       `json:"code"`
	Text      string    `json:"text,omitempty"`
	TookS     float64   `json:"took_s,omitempty"`
}

// historyCmd shows what ran and why: the audit log has each command of each
// handler with its reason. Only root can read it; others see what the snapshot
// has.
func (a *app) historyCmd() *cobra.Command {
	lines := 50
	c := &cobra.Command{
		Use: "history [NAME]", Short: "Show recent commands and state changes, with reasons", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeExt,
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.snapshot()
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = strings.ToLower(args[0])
			}
			conf, _, _ := a.config() // settings that can't be read have their defaults
			// The agent writes to the second while other users can write to the
			// directory of the first.
			runs, err := a.runs(name, path.Join(conf.Paths.ExtensionLogs, "azguest-audit.log"), path.Join(conf.Paths.Lib, "azguest/ext/logs/azguest-audit.log"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(a.Stderr, "agentctl: run as root to see commands: %v\n", err)
			}
			changes := slices.DeleteFunc(slices.Clone(s.History), func(t status.Transition) bool { return !strings.Contains(strings.ToLower(t.What), name) })
			if len(args) == 1 && len(runs)+len(changes) == 0 {
				note := "" // an extension that was removed long ago has no history either
				if _, err := findExt(s, args[0]); err != nil {
					note = ": " + err.Error()
				}
				fmt.Fprintf(a.Stderr, "agentctl: no history of %s%s\n", clean(args[0]), clean(note))
			}
			runs, changes = runs[max(0, len(runs)-lines):], changes[max(0, len(changes)-lines):]
			if a.output == "json" {
				a.json(map[string]any{"runs": runs, "changes": changes})
				return nil
			}
			a.printHistory(runs, changes)
			return nil
		},
	}
	lineCount(c, &lines, "number of entries of each kind")
	return c
}

func (a *app) printHistory(runs []ran, changes []status.Transition) {
	type line struct {
		at  time.Time
		row []string
	}
	var all []line
	add := func(at time.Time, text, end string) {
		all = append(all, line{at, []string{at.UTC().Format("2006-01-02T15:04:05Z"), text, end}})
	}
	for _, t := range changes {
		add(t.At, transition(t), t.Code)
	}
	for _, r := range runs {
		full := r.Handler
		if r.Extension != "" {
			full += "/" + r.Extension
		}
		end := r.Class
		switch end {
		case "":
			end = "result unknown"
		case "failed":
			end = fmt.Sprintf("exit %d", r.Code)
		}
		if r.TookS > 0 {
			end += fmt.Sprintf(" after %.1fs", r.TookS)
		}
		if r.Text != "" {
			end += ": " + clean(r.Text)
		}
		add(r.At, fmt.Sprintf("%s %s %s seq %d (reason: %s)", full, r.Version, r.Op, r.Seq, r.Why), end)
	}
	slices.SortStableFunc(all, func(x, y line) int { return x.at.Compare(y.at) })
	var rows [][]string
	for _, l := range all {
		rows = append(rows, l.row)
	}
	table(a.Stdout, rows)
}

// runs reads the audit log, in either place, and its previous generation.
func (a *app) runs(name, file, other string) ([]ran, error) {
	out := []ran{}
	at := map[string]int{}
	var errs error
	for _, f := range []string{file + ".1", file, other + ".1", other} {
		r, err := a.root().Open(f)
		if err != nil {
			if f == file {
				errs = err
			}
			continue
		}
		in := bufio.NewScanner(io.LimitReader(r, 64<<20))
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var e struct {
				ran
				Time      time.Time `json:"time"`
				What      string    `json:"what"`
				Job       string    `json:"job"`
				GoalState string    `json:"goalState"`
			}
			if json.Unmarshal(in.Bytes(), &e) != nil || e.Job == "" || !strings.Contains(strings.ToLower(cmp.Or(e.Handler, "?")+"/"+e.Extension), name) {
				continue
			}
			switch i, begun := at[e.Job]; {
			case e.What == "begin":
				e.At, e.ran.GoalState, e.Class = e.Time, e.GoalState, ""
				at[e.Job] = len(out)
				out = append(out, e.ran)
			case e.What == "end" && begun:
				out[i].Class, out[i].Code, out[i].Text, out[i].TookS = e.Class, e.Code, e.Text, e.Time.Sub(out[i].At).Seconds()
			}
		}
		if err := errors.Join(in.Err(), r.Close()); err != nil {
			return out, err
		}
	}
	return out, errs
}
