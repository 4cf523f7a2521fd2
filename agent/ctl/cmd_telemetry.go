package ctl

import (
	"cmp"
	"errors"
	"io/fs"
	"path"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
)

func (a *app) telemetryCmd() *cobra.Command {
	c := a.show("telemetry", "Show the state of telemetry",
		func(s status.Snapshot) any { return s.Telemetry },
		func(s status.Snapshot) { a.telemetryLine(s.Telemetry) })
	c.AddCommand(&cobra.Command{
		Use: "show", Short: "Show queued telemetry events (root)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := a.snapshot()
			if err != nil {
				return err
			}
			conf, _, _ := a.config()
			dir := cmp.Or(s.Telemetry.SpoolDir, path.Join(conf.Paths.Lib, "events"))
			a.telemetryLine(s.Telemetry)
			entries, err := a.root().ReadDir(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // nothing was ever queued
			}
			if err != nil {
				return exitWith(ExitUnknown, err)
			}
			for _, e := range entries {
				if !e.Type().IsRegular() {
					continue
				}
				b, err := a.root().ReadBounded(path.Join(dir, e.Name()), 1<<20)
				if errors.Is(err, fs.ErrNotExist) {
					continue // sent meanwhile
				}
				if err != nil {
					return exitWith(ExitUnknown, err)
				}
				a.text("%s\n", clean(secret.Redact(string(b))))
			}
			return nil
		},
	})
	return c
}

func (a *app) telemetryLine(t status.Telemetry) {
	if a.output == "json" {
		return // show prints the events and nothing else
	}
	if !t.Enabled {
		a.text("telemetry is disabled\n")
		return
	}
	last := "never"
	if !t.LastAt.IsZero() {
		last = span(a.Now().Sub(t.LastAt)) + " ago"
	}
	a.text("telemetry is enabled (disable it with Telemetry.Enabled=n): %d queued, %d sent (%s), %d dropped, last sent %s\n",
		t.Queued, t.Sent, size(t.Bytes), t.Dropped, last)
	if t.Error != "" {
		a.text("%s\n", clean(t.Error))
	}
}
