package ctl

import (
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
)

func (a *app) configCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "Show and check the configuration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.configShowCmd(), a.configCheckCmd(), a.configKeysCmd())
	return c
}

func (a *app) configShowCmd() *cobra.Command {
	var effective, origin bool
	c := &cobra.Command{
		Use: "show [PREFIX]", Short: "Show settings from files (--effective: including defaults)", Args: cobra.MaximumNArgs(1),
		Long: `show prints the settings in the format of waagent.conf: those set in a file, or
with --effective all of them. --origin adds the file and line. PREFIX, such as
Extensions, selects settings by name.`,
		RunE: func(_ *cobra.Command, args []string) error {
			conf, _, err := a.config()
			list := []config.Setting{}
			for _, s := range conf.Settings() {
				// A key given in full is shown even if no file sets it.
				whole := len(args) == 1 && strings.EqualFold(s.Key, args[0])
				if len(args) == 1 && !strings.HasPrefix(strings.ToLower(s.Key), strings.ToLower(args[0])) {
					continue
				}
				if effective || s.Set || whole {
					list = append(list, s)
				}
			}
			if len(args) == 1 && len(list) == 0 && !known(args[0]) {
				return noKey(args[0])
			}
			if a.output == "json" {
				a.json(list)
			} else {
				for _, s := range list {
					a.text("%s=%s", s.Key, clean(s.Value))
					if origin {
						a.text("  # %s", clean(s.Origin.String()))
					}
					a.text("\n")
				}
			}
			if err != nil {
				return exitWith(ExitUnknown, err)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&effective, "effective", "e", false, "show all settings, including defaults")
	c.Flags().BoolVar(&origin, "origin", false, "show where each setting comes from")
	return c
}

// known reports whether the name of some key begins with prefix.
func known(prefix string) bool {
	return slices.ContainsFunc(config.Keys(), func(k config.Key) bool {
		return strings.HasPrefix(strings.ToLower(k.Name), strings.ToLower(prefix))
	})
}

// noKey is the error of a prefix with which no key begins. What is meant may be
// the name of a group, of a key, or of a key without its group.
func noKey(prefix string) error {
	full := map[string]string{}
	for _, k := range config.Keys() {
		group, name, _ := strings.Cut(k.Name, ".")
		full[group], full[name], full[k.Name] = group, k.Name, k.Name
	}
	if near := cli.Nearest(prefix, slices.Sorted(maps.Keys(full))); near != "" {
		return usage("no setting begins with %s; did you mean %q?", prefix, full[near])
	}
	return usage("no setting begins with %s; run 'agentctl config keys' to list all", prefix)
}

// maxChecked limits the size of a checked file, in bytes; the configuration's
// own limit is lower.
const maxChecked = 2 << 20

// readNamed reads a file that the user has named, which may also be a pipe.
func readNamed(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:forbidigo // the caller names the path, which is not below the root
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	return io.ReadAll(io.LimitReader(f, maxChecked))
}

func (a *app) configCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "Check the configuration or a file", Args: cobra.MaximumNArgs(1),
		Long: `check reads the configuration and reports settings that have no effect or are
invalid. FILE may be - for standard input.
Exit code 0: no problems, or only notes; 1: problems; 4: a file cannot be read.`,
		RunE: func(c *cobra.Command, args []string) error {
			var (
				warns []config.Warning
				err   error
			)
			if len(args) == 1 {
				var data []byte
				if args[0] == "-" {
					data, err = io.ReadAll(io.LimitReader(c.InOrStdin(), maxChecked))
				} else {
					data, err = readNamed(args[0])
				}
				if err != nil {
					return exitWith(ExitUnknown, err)
				}
				_, warns = config.Parse(args[0], data)
			} else {
				_, warns, err = a.config()
			}
			faults := 0
			for _, w := range warns {
				if !w.Note {
					faults++
				}
			}
			if a.output == "json" {
				a.json(map[string]any{"warnings": append([]config.Warning{}, warns...), "faults": faults})
			} else {
				for _, w := range warns {
					kind := "warning"
					if w.Note {
						kind = "note"
					}
					a.text("%s: %s\n", kind, clean(w.String()))
				}
				if faults == 0 {
					a.text("no problems found\n")
				}
			}
			switch {
			case err != nil:
				return exitWith(ExitUnknown, errors.Join(err))
			case faults > 0:
				return exit(ExitDegraded)
			}
			return nil
		},
	}
}

func (a *app) configKeysCmd() *cobra.Command {
	return &cobra.Command{
		Use: "keys [PREFIX]", Short: "List all keys with type, default and meaning", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && !known(args[0]) {
				return noKey(args[0])
			}
			rows := [][]string{{"KEY", "TYPE", "DEFAULT", "MEANING"}}
			var list []config.Key
			for _, k := range config.Keys() {
				if len(args) == 1 && !strings.HasPrefix(strings.ToLower(k.Name), strings.ToLower(args[0])) {
					continue
				}
				list = append(list, k)
				def := k.Default
				if def == "" {
					def = "None"
				}
				rows = append(rows, []string{k.Name, string(k.Kind), def, k.Doc})
			}
			if a.output == "json" {
				a.json(list)
				return nil
			}
			table(a.Stdout, rows)
			return nil
		},
	}
}
