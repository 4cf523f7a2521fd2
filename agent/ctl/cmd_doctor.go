package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/status"
)

func (a *app) doctorCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "doctor [network]", Short: "Find problems on this machine", Args: cobra.MaximumNArgs(1),
		ValidArgs: []string{"network"},
		Long: `doctor checks files, mounts, processes, the configuration and the last status,
and asks a running agent to test the connections to the platform, and whether
the person for whom the machine was made can log in and become root (root only).
It changes nothing, opens no network connections itself, and works even when the
agent is down. With the argument network, it shows only the checks of the
connections to the platform: for each endpoint whether it answers, how fast, and
by which route.
Exit code 0: no problems, or only notes; 1: warnings; 2: errors.`,
		RunE: func(c *cobra.Command, args []string) error {
			network := len(args) == 1
			if network {
				if err := cli.OneOf("check", args[0], "network"); err != nil {
					return exitWith(ExitUsage, err)
				}
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
				switch f.State { //nolint:exhaustive // other states do not change the exit code
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
					continue // passed checks are shown if all have passed, or with --all
				}
				word, rank := strings.ToUpper(string(f.State)), 0
				switch f.State { //nolint:exhaustive // errors keep rank 0
				case status.OK:
					word, rank = "ok", 3
				case doctor.Note:
					word, rank = "note", 3
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
	c.Flags().BoolVarP(&all, "all", "a", false, "also show checks that passed")
	return c
}

// askAround asks the agent to check the network and the log-in.
func (a *app) askAround(ctx context.Context, life status.Life) []doctor.Finding {
	if !life.Running {
		return nil // reported by another check
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
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
		return []doctor.Finding{notAsked(err)}
	}
	return found
}

// notAsked is the finding if the agent can't be asked to check the network.
func notAsked(err error) doctor.Finding {
	f := doctor.Finding{State: status.Unknown, Evidence: "the agent could not run the check: " + err.Error()}
	if errors.Is(err, fs.ErrPermission) {
		f = doctor.NeedsRoot()
	}
	f.Check = "network"
	return f
}
