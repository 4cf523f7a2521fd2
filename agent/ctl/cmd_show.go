package ctl

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/status"
)

// table prints columns; control characters in cells are replaced.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, c := range r {
			r[i] = strings.Join(strings.Fields(clean(c)), " ")
			if r[i] == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // ignored: there is nowhere to report it
}

// show makes a command that prints one part of the snapshot, as JSON or as
// text prints it.
func (a *app) show(use, short string, part func(status.Snapshot) any, text func(status.Snapshot)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := a.snapshot()
			if err != nil {
				return err
			}
			if a.output == "json" {
				a.json(part(s))
				return nil
			}
			text(s)
			return nil
		},
	}
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the versions of agentctl and of the agent", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, _, err := a.load()
			agent := s.Agent.Version
			if err != nil && agent == "" {
				agent = "unknown (no status)"
			}
			if a.output == "json" {
				a.json(map[string]string{"agentctl": a.Version, "agent": agent, "commit": s.Agent.Commit, "go": runtime.Version()})
				return nil
			}
			a.text("%s\nazguest  %s\n", a.versionLine(), agent)
			return nil
		},
	}
}

// versionLine is what --version prints.
func (a *app) versionLine() string {
	details := runtime.Version()
	if a.Build != "" {
		details = a.Build + ", " + details
	}
	return "agentctl " + a.Version + " (" + details + ")"
}

func (a *app) explainCmd() *cobra.Command {
	return &cobra.Command{
		Use: "explain [CODE]", Short: "Show the meaning, cause and fix of a code, or list all codes", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, c := range doctor.Codes() {
				out = append(out, c.Code)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			codes := doctor.Codes()
			if len(args) == 1 {
				c, ok := doctor.Lookup(args[0])
				if !ok {
					var known []string
					for _, c := range codes {
						known = append(known, c.Code)
					}
					return exitWith(ExitUsage, cli.OneOf("code", args[0], known...))
				}
				codes = []doctor.Code{c}
			}
			switch {
			case a.output == "json" && len(args) == 1:
				a.json(codes[0])
			case a.output == "json":
				a.json(codes)
			case len(args) == 1:
				a.text("%s\n\n%s\n\nCause: %s\nFix:   %s\n", codes[0].Code, codes[0].Meaning, codes[0].Cause, codes[0].Fix)
			default:
				var rows [][]string
				for _, c := range codes {
					rows = append(rows, []string{c.Code, c.Meaning})
				}
				table(a.Stdout, rows)
			}
			return nil
		},
	}
}

func (a *app) certsCmd() *cobra.Command {
	return a.show("certs", "Show the certificates of the VM, including missing ones",
		func(s status.Snapshot) any { return s.Certs },
		func(s status.Snapshot) {
			rows := [][]string{{"THUMBPRINT", "STATE", "KEY", "EXPIRES", "USED BY", "PROBLEM"}}
			for _, c := range s.Certs {
				key := "no"
				if c.HasKey {
					key = cmp.Or(c.KeyType, "yes")
				}
				rows = append(rows, []string{c.Thumbprint, string(c.State), key, date(c.NotAfter), strings.Join(c.UsedBy, ","), strings.TrimSpace(c.Code + " " + c.Message)})
			}
			table(a.Stdout, rows)
		})
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

func (a *app) endpointsCmd() *cobra.Command {
	return a.show("endpoints", "Show the endpoints of the platform and how they are reached",
		func(s status.Snapshot) any { return s.Endpoints },
		func(s status.Snapshot) {
			rows := [][]string{{"NAME", "STATE", "VIA", "PROXY", "URL", "WHY", "LAST ERROR"}}
			for _, e := range s.Endpoints {
				rows = append(rows, []string{e.Name, string(e.State), e.Via, e.Proxy, e.URL, e.Why, e.LastError})
				for _, h := range e.Hosts {
					rows = append(rows, []string{"", "", "", "", h.URL, h.Why, ""})
				}
			}
			table(a.Stdout, rows)
		})
}

func (a *app) diskCmd() *cobra.Command {
	var free bool
	c := a.show("disk", "Show the disk usage of the agent and how much can be freed",
		func(s status.Snapshot) any { return s.Disk },
		func(s status.Snapshot) {
			d := s.Disk
			a.text("%s: %s of %s, %d files of %d; file system: %s free (%.0f%%), %d inodes free\n\n",
				d.LibDir, size(d.Used), size(d.Budget), d.Files, d.FilesBudget, size(d.Free), d.FreePercent, d.InodesFree)
			rows := [][]string{{"WHAT", "USED", "FILES", "CAN BE FREED", "WHERE"}}
			for _, p := range d.Parts {
				rows = append(rows, []string{p.Name, size(p.Used), fmt.Sprint(p.Files), size(p.CanFree), p.Path})
			}
			table(a.Stdout, rows)
		})
	c.Flags().BoolVar(&free, "free", false, "delete expendable files now (root)")
	plain := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if free {
			return a.call(c.Context(), status.Request{Op: status.OpClean})
		}
		return plain(c, args)
	}
	return c
}

func (a *app) inventoryCmd() *cobra.Command {
	type item struct {
		Name      string    `json:"name"`
		Version   string    `json:"version"`
		Digest    string    `json:"digest,omitempty"`
		Signer    string    `json:"signer,omitempty"`
		Installed time.Time `json:"installed,omitzero"`
		Requester string    `json:"requester,omitempty"`
		State     string    `json:"state"`
	}
	list := func(s status.Snapshot) []item {
		out := []item{{Name: "azguest", Version: s.Agent.Version, State: string(s.Overall.State)}}
		for _, e := range s.Extensions {
			out = append(out, item{e.Name, e.Version, e.Digest, e.Signer, e.Installed, e.Requester, e.Actual})
		}
		// Instances of one handler are listed once.
		return slices.CompactFunc(out, func(x, y item) bool { return x.Name == y.Name && x.Version == y.Version })
	}
	return a.show("inventory", "Show the version, digest, signer, install date and requester of the agent and its extensions",
		func(s status.Snapshot) any { return list(s) },
		func(s status.Snapshot) {
			rows := [][]string{{"NAME", "VERSION", "STATE", "INSTALLED", "SIGNER", "REQUESTER", "SHA256"}}
			for _, i := range list(s) {
				rows = append(rows, []string{i.Name, i.Version, i.State, date(i.Installed), i.Signer, i.Requester, i.Digest})
			}
			table(a.Stdout, rows)
		})
}

func (a *app) diffCmd() *cobra.Command {
	type delta struct {
		Name    string `json:"name"`
		Desired string `json:"desired"`
		Actual  string `json:"actual"`
		Why     string `json:"why,omitempty"`
	}
	list := func(s status.Snapshot) []delta {
		out := []delta{}
		for _, e := range s.Extensions {
			same := e.Phase == "" && !e.Bad() && (e.Desired == "" ||
				e.Desired == status.WantEnabled && e.Actual == status.ActualEnabled ||
				e.Desired == status.WantDisabled && (e.Actual == status.ActualDisabled || e.Actual == status.ActualInstalled) ||
				e.Desired == status.WantUninstall && e.Actual == status.ActualAbsent)
			if !same {
				why := message(e)
				switch {
				case e.Phase != "":
					why = e.Phase + " is running"
				case e.BlockedBy != "":
					why = "waiting for " + e.BlockedBy
				}
				out = append(out, delta{e.Title(), e.Desired, e.Actual, why})
			}
		}
		return out
	}
	return a.show("diff", "Show extensions that are not in the state the platform requested",
		func(s status.Snapshot) any { return list(s) },
		func(s status.Snapshot) {
			d := list(s)
			if len(d) == 0 {
				a.text("all extensions are in the requested state\n")
				return
			}
			rows := [][]string{{"EXTENSION", "DESIRED", "ACTUAL", "WHY"}}
			for _, x := range d {
				rows = append(rows, []string{x.Name, x.Desired, x.Actual, x.Why})
			}
			table(a.Stdout, rows)
		})
}
