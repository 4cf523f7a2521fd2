package ctl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/status"
)

func (a *app) extCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "ext", Short: "List and manage extensions", Args: cobra.NoArgs, Aliases: []string{"extension", "extensions"},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	list := a.show("list", "List all extensions",
		func(s status.Snapshot) any { return s.Extensions },
		func(s status.Snapshot) {
			rows := [][]string{{"EXTENSION", "VERSION", "STATE", "SEQ", "DESIRED", "SINCE", "MESSAGE"}}
			for _, e := range s.Extensions {
				name := e.Name
				if e.Config != "" {
					name += "/" + e.Config
				}
				word, _ := extWord(e, a.Now())
				since := ""
				if t := e.Finished; !t.IsZero() {
					since = span(a.Now().Sub(t))
				}
				msg := message(e)
				if r := []rune(msg); len(r) > 60 {
					msg = string(r[:59]) + "…"
				}
				rows = append(rows, []string{name, e.Version, word, seq(e.Seq), e.Desired, since, msg})
			}
			table(a.Stdout, rows)
		})
	show := &cobra.Command{
		Use: "show NAME", Short: "Show the details of an extension", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeExt,
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.snapshot()
			if err != nil {
				return err
			}
			found, err := findExt(s, args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				a.json(found)
				return nil
			}
			for i, e := range found {
				if i > 0 {
					a.text("\n")
				}
				a.showExt(e)
			}
			if s.Redacted {
				a.text("(run as root to see the message and the last output)\n")
			}
			return nil
		},
	}
	c.AddCommand(list, show, a.historyCmd(), a.logsCmd(), a.retryCmd(), a.cancelCmd(), a.orphansCmd(), a.decryptCmd())
	return c
}

func seq(n int) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// findExt finds extensions by their full name, the part after the last dot, or
// the name of an instance, ignoring case.
func findExt(s status.Snapshot, name string) ([]status.Extension, error) {
	match := func(ok func(status.Extension) bool) []status.Extension {
		var out []status.Extension
		for _, e := range s.Extensions {
			if ok(e) {
				out = append(out, e)
			}
		}
		return out
	}
	for _, by := range []func(status.Extension) bool{
		func(e status.Extension) bool { return strings.EqualFold(e.Name, name) },
		func(e status.Extension) bool {
			return e.Config != "" && (strings.EqualFold(e.Name+"/"+e.Config, name) || strings.EqualFold(e.Config, name))
		},
		func(e status.Extension) bool {
			return strings.EqualFold(e.Name[strings.LastIndexByte(e.Name, '.')+1:], name)
		},
	} {
		if found := match(by); len(found) > 0 {
			return found, nil
		}
	}
	var names []string
	for _, e := range s.Extensions {
		names = append(names, e.Name, e.Name[strings.LastIndexByte(e.Name, '.')+1:])
	}
	if near := cli.Nearest(name, names); near != "" {
		return nil, exitWith(ExitDegraded, fmt.Errorf("unknown extension %s; did you mean %q?", name, near))
	}
	return nil, exitWith(ExitDegraded, fmt.Errorf("unknown extension %s; run 'agentctl ext list' to list all", name))
}

func (a *app) completeExt(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, _, _ := a.load() // nothing to complete without it
	var out []string
	for _, e := range s.Extensions {
		out = append(out, e.Name)
	}
	return slices.Compact(slices.Sorted(slices.Values(out))), cobra.ShellCompDirectiveNoFileComp
}

// showExt prints every key of the JSON that has a value, so that new fields of
// the snapshot are shown without a change here.
func (a *app) showExt(e status.Extension) {
	a.text("%s\n", clean(e.Title()))
	b, err := json.Marshal(e)
	if err != nil {
		return // can't happen: a plain struct of plain values
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	if _, err := d.Token(); err != nil {
		return
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return
		}
		text := string(raw)
		var s string
		if json.Unmarshal(raw, &s) == nil {
			text = s
		}
		text = strings.TrimRight(clean(text), "\n")
		if strings.Contains(text, "\n") {
			a.text("  %-12s |\n", k)
			for l := range strings.SplitSeq(text, "\n") {
				a.text("    %s\n", l)
			}
			continue
		}
		a.text("  %-12s %s\n", k, text)
	}
	for _, l := range (view{now: a.Now()}).worry(e.Problem, e.Name) {
		a.text("  %s\n", l)
	}
	for _, code := range e.Notes {
		a.text("  note %s: %s\n", clean(code), meaning(code))
	}
}
