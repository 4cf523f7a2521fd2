package ctl

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/status"
)

// Commands that change something. They ask the agent to do it, which logs who
// asked.

func (a *app) call(ctx context.Context, r status.Request) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	resp, err := status.Call(ctx, a.paths().Socket, r)
	switch {
	case errors.Is(err, os.ErrPermission):
		return exitWith(ExitUnknown, errors.New("only root may do this (AZ-CTL-DENIED)"))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return exitWith(ExitDown, errors.New("the agent is not running (AZ-AGENT-DOWN)"))
	case err != nil:
		return exitWith(ExitUnknown, err)
	}
	if a.output == "json" {
		a.json(resp)
	} else if resp.OK && resp.Message != "" {
		a.text("%s\n", clean(resp.Message))
	}
	if !resp.OK {
		msg := resp.Error
		if resp.Code != "" {
			msg += " (" + resp.Code + ")"
		}
		return exitWith(ExitDegraded, errors.New(msg))
	}
	return nil
}

// extCall makes a command that sends a request about one extension.
func (a *app) extCall(use, short, op string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeExt,
		RunE: func(c *cobra.Command, args []string) error {
			r := status.Request{Op: op, Extension: args[0]}
			// The agent accepts only full names; short ones are looked up in
			// the snapshot.
			if s, _, err := a.load(); err == nil {
				found, err := findExt(s, args[0])
				if err != nil {
					return err
				}
				r.Extension = found[0].Name
				if len(found) == 1 {
					r.Config = found[0].Config
				}
			}
			return a.call(c.Context(), r)
		},
	}
}

func (a *app) retryCmd() *cobra.Command {
	return a.extCall("retry EXTENSION", "Retry an extension now (root)", status.OpRetry)
}

func (a *app) cancelCmd() *cobra.Command {
	return a.extCall("cancel EXTENSION", "Cancel the running operation of an extension (root)", status.OpCancel)
}

func (a *app) holdCmd() *cobra.Command {
	var (
		d   time.Duration
		why string
	)
	c := &cobra.Command{
		Use: "hold", Aliases: []string{"disable-extensions"}, Args: cobra.NoArgs,
		Short: "Hold extensions for some time (root)",
		Long: `Start no commands of extensions for the given time, even after a restart of the
agent or of the machine. Running commands continue, and status is reported as
usual. To end the hold early, run: agentctl resume`,
		RunE: func(c *cobra.Command, _ []string) error {
			if d < time.Second || d > status.HoldMax {
				return usage("--for must be between 1s and %.0fh, not %s", status.HoldMax.Hours(), d)
			}
			return a.call(c.Context(), status.Request{Op: status.OpHold, ForS: d.Seconds(), Reason: why})
		},
	}
	c.Flags().DurationVar(&d, "for", time.Hour, "duration of the hold")
	c.Flags().StringVar(&why, "reason", "", "reason, shown in the log, the status and the history")
	return c
}

func (a *app) resumeCmd() *cobra.Command {
	return a.plainCall("resume", "End the hold (root)", status.OpResume)
}

func (a *app) reportCmd() *cobra.Command {
	return a.plainCall("report", "Fetch the goal state and report status now (root)", status.OpReport)
}

func (a *app) plainCall(use, short, op string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.call(c.Context(), status.Request{Op: op}) },
	}
}
