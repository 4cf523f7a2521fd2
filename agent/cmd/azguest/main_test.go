package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/cli"
)

// TestTOOL8ExitStatusOfAzguest: what azguest does not understand is refused with
// the exit status of its help, which is agentctl's, before anything is done.
// Commands of the classic agent end as its do.
func TestTOOL8ExitStatusOfAzguest(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int{
		"":                      cli.ExitUsage,
		"stauts":                cli.ExitUsage,
		"--nonsense":            cli.ExitUsage,
		"run --nonsense":        cli.ExitUsage,
		"run now":               cli.ExitUsage,
		"provision now":         cli.ExitUsage,
		"install now":           cli.ExitUsage,
		"stop --force":          cli.ExitUsage,
		"firewall on":           cli.ExitUsage,
		"cleanup all":           cli.ExitUsage,
		"version --short":       cli.ExitUsage,
		"generalize now":        cli.ExitUsage,
		"generalize --nonsense": cli.ExitUsage,
		"image":                 cli.ExitUsage,
		"image check /":         cli.ExitUsage,
		"image verify /nowhere": 2,
		"policy":                cli.ExitUsage,
		"policy explain":        cli.ExitUsage,
		"policy show a b":       cli.ExitUsage,
		"decrypt":               cli.ExitUsage,
		"decrypt --nonsense":    cli.ExitUsage,
		"waagent -nonsense":     2,
		"waagent -version":      2, // which agentctl provides
		"waagent -provision":    2,
		"version":               0,
		"help":                  0,
		"--version":             0,
		"-h":                    0,
	} {
		var out, errs bytes.Buffer
		got := realMain(strings.Fields(line), &out, &errs)
		if got != want || (got == 0) != (errs.Len() == 0) || got != 0 && out.Len() > 0 {
			t.Errorf("azguest %s: %d, want %d; %q %q", line, got, want, out.String(), errs.String())
		}
	}
}
