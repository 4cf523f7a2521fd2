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
		"":                                      cli.ExitUsage,
		"stauts":                                cli.ExitUsage,
		"--nonsense":                            cli.ExitUsage,
		"run --nonsense":                        cli.ExitUsage,
		"run now":                               cli.ExitUsage,
		"provision now":                         cli.ExitUsage,
		"install now":                           cli.ExitUsage,
		"stop --force":                          cli.ExitUsage,
		"firewall on":                           cli.ExitUsage,
		"cleanup all":                           cli.ExitUsage,
		"version --short":                       cli.ExitUsage,
		"generalize now":                        cli.ExitUsage,
		"generalize --nonsense":                 cli.ExitUsage,
		"image":                                 cli.ExitUsage,
		"image check /":                         cli.ExitUsage,
		"image verify /nowhere":                 2,
		"policy":                                cli.ExitUsage,
		"policy explain":                        cli.ExitUsage,
		"policy show a b":                       cli.ExitUsage,
		"decrypt":                               cli.ExitUsage,
		"decrypt --nonsense":                    cli.ExitUsage,
		"image verfy /":                         cli.ExitUsage,
		"policy explain Contoso.App -version 1": cli.ExitUsage, // a flag after the name
		"image verify --profile cs /":           cli.ExitUsage,
		"policy explain -version x Contoso.App": cli.ExitUsage,
		"decrypt -cert XYZ /nowhere":            cli.ExitUsage,
		"decrypt /nowhere":                      1,
		"generalize --json":                     cli.ExitUsage,
		"help stauts":                           cli.ExitUsage,
		"run -media":                            cli.ExitUsage,
		"help run":                              0,
		"waagent -nonsense":                     2,
		"waagent -version":                      2, // which agentctl provides
		"waagent -provision":                    2,
		"version":                               0,
		"help":                                  0,
		"--version":                             0,
		"-h":                                    0,
	} {
		var out, errs bytes.Buffer
		got := realMain(strings.Fields(line), &out, &errs)
		if got != want || (got == 0) != (errs.Len() == 0) || got != 0 && out.Len() > 0 {
			t.Errorf("azguest %s: %d, want %d; %q %q", line, got, want, out.String(), errs.String())
		}
	}
}

// TestTOOL8AzguestSuggests: the refusal is one sentence, with the word that was
// probably meant.
func TestTOOL8AzguestSuggests(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"rnu":                                 `unknown command "rnu"; did you mean "run"?`,
		"--verzion":                           `did you mean "--version"?`,
		"help generalise":                     `did you mean "generalize"?`,
		"run --endpiont x":                    `unknown flag "--endpiont"; did you mean "--endpoint"?`,
		"provision -verbos":                   `did you mean "--verbose"?`,
		"generalize --keepuser --plan":        `did you mean "--keep-user"?`,
		"image verfy /":                       `unknown command "verfy"; did you mean "verify"?`,
		"image":                               `image: a command is missing (verify)`,
		"image verify --porfile cis /":        `did you mean "--profile"?`,
		"image verify --profile marketplce /": `did you mean "marketplace"?`,
		"policy explian A.B":                  `did you mean "explain"?`,
		"policy explain -version 1.x A.B":     `"1.x" is not a version`,
		"decrypt -crt a b":                    `did you mean "--cert"?`,
		"decrypt -cert XYZ b":                 `"XYZ" is not a thumbprint`,
		"run -media":                          "flag needs an argument: -media",
	} {
		var out, errs bytes.Buffer
		got := realMain(strings.Fields(line), &out, &errs)
		if got != cli.ExitUsage || !strings.Contains(errs.String(), want) || strings.Count(errs.String(), "\n") != 2 || !strings.HasSuffix(errs.String(), "\nSee 'azguest help'.\n") {
			t.Errorf("azguest %s: %d, %q; want %q", line, got, errs.String(), want)
		}
	}
}
