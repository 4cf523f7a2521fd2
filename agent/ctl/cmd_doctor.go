package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/status"
)

func (a *app) doctorCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "doctor [network]", Short: "Look for what is wrong on this machine", Args: cobra.MaximumNArgs(1),
		ValidArgs: []string{"network"},
		Long: `doctor looks at files, mounts, processes, the configuration and the last
status, and has a running agent ask the platform's services (root only). It
changes nothing, opens no connection itself, and works while the agent is dead.
With the word network it shows only what has to do with reaching the platform:
for each address whether it answers, how fast, and which way it is asked.
Exit code 0: nothing found; 1: warnings; 2: errors.`,
		RunE: func(c *cobra.Command, args []string) error {
			network := len(args) == 1
			if network && args[0] != "network" {
				return usage("doctor takes the word network or nothing, not %q", args[0])
			}
			s, life, snapErr := a.load()
			conf, warns, confErr := a.config()
			found := doctor.Run(c.Context(), doctor.Env{
				Root: a.Root, Now: a.Now(), Config: conf, Warnings: warns, ConfigErr: confErr,
				Snapshot: s, SnapErr: snapErr, Life: life, Network: a.askAround(c.Context(), life),
			})
			if network {
				found = slices.DeleteFunc(found, func(f doctor.Finding) bool { return !f.Network() })
				all = true
			}
			code := 0
			for _, f := range found {
				switch f.State { //nolint:exhaustive // the rest is no reason
				case status.Error:
					code = ExitFailed
				case status.Warn:
					code = max(code, ExitDegraded)
				}
			}
			if a.output == "json" {
				a.json(map[string]any{"findings": found, "exit_code": code})
				return exit(code)
			}
			p := painter(a.view().color)
			for _, f := range found {
				if f.State == status.OK && code != 0 && !all {
					continue // what is well is shown when all is well, or when asked for
				}
				word, rank := strings.ToUpper(string(f.State)), 0
				switch f.State { //nolint:exhaustive // error is 0
				case status.OK:
					word, rank = "ok", 3
				case status.Warn, status.Unknown:
					rank = 1
				}
				a.text("%s %-14s %s\n", p.word(fmt.Sprintf("%-8s", word), rank), clean(f.Check), clean(cmp.Or(f.Evidence, meaning(f.Code))))
				if f.Code != "" {
					a.text("%9s%s: %s\n", "", p.code(f.Code), meaning(f.Code))
				}
				if f.Fix != "" {
					a.text("%9sfix: %s\n", "", clean(f.Fix))
				}
			}
			return exit(code)
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also show what is well")
	return c
}

// askAround has the agent look at the network.
func (a *app) askAround(ctx context.Context, life status.Life) []doctor.Finding {
	if !life.Running {
		return nil // said already
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	r, err := status.Call(ctx, a.paths().Socket, status.Request{Op: status.OpDoctor})
	if err == nil && !r.OK {
		err = errors.New(r.Error)
	}
	var found []doctor.Finding
	if err == nil {
		err = json.Unmarshal(r.Data, &found)
	}
	if err != nil {
		return []doctor.Finding{{Check: "network", State: status.Unknown, Evidence: "the agent could not be asked: " + err.Error()}}
	}
	return found
}
