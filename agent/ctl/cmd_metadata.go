package ctl

import (
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/metadata"
)

// metadataCmd shows the instance metadata. azguest asks the service.
func (a *app) metadataCmd() *cobra.Command {
	var (
		shell, cached, wait bool
		was                 string
		timeout, every      time.Duration
	)
	c := &cobra.Command{
		Use: "metadata [PATH]", Short: "Show the instance metadata of this machine", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeMetadata,
		Long: `metadata asks the metadata service about this machine. Any user may run it.
PATH names a part of the document, such as compute/vmId,
network/interface/0/macAddress or compute/tags/NAME; without it, all is shown. A
single value is printed bare, followed by a newline; other parts as a tree, or as
JSON with --json. metadata userdata prints the user data, decoded.

With --shell, the values are printed as variables that a shell can source; their
names are made of the path: AZ_COMPUTE_VMID. User data, and values that look like
secrets, are left out. To set them in a script:

    eval "$(agentctl metadata --shell compute)"

With --wait-change, the command waits until the value at PATH is another one than
at the start, or than --was, and prints the new one. A path that appears or
disappears has changed.

If the service does not answer, the answer is taken from the last copy,
/run/azguest/metadata.json, and its age is printed on standard error. The copy is
written by the agent when it starts (see Metadata.Period and Metadata.EnvFile in
agentctl config keys), and by this command when root runs it. It never has user
data, nor values that look like secrets.

Exit codes: 0 done; 1 there is nothing at PATH; 3 the service does not answer,
and no copy has the answer; 5 printed from the copy, because the service does not
answer; 6 no change within --timeout; 64 wrong usage; 74 the output could not be
written.`,
		RunE: func(c *cobra.Command, args []string) error {
			argv := []string{"metadata"}
			for _, f := range []struct {
				on   bool
				flag string
			}{{a.output == "json", "-json"}, {shell, "-shell"}, {cached, "-cached"}, {wait, "-wait-change"}} {
				if f.on {
					argv = append(argv, f.flag)
				}
			}
			for _, f := range []struct{ name, value string }{{"was", was}, {"timeout", timeout.String()}, {"every", every.String()}} {
				if c.Flags().Changed(f.name) {
					argv = append(argv, "-"+f.name+"="+f.value)
				}
			}
			return a.become(append(append(argv, "--"), args...))
		},
	}
	f := c.Flags()
	f.BoolVar(&shell, "shell", false, "print variables for a shell, such as AZ_COMPUTE_VMID='...'")
	f.BoolVar(&cached, "cached", false, "do not ask the service, print the last copy")
	f.BoolVar(&wait, "wait-change", false, "wait until the value at PATH changes, and print it")
	f.StringVar(&was, "was", "", "with --wait-change: the value that is known; do not wait if it has changed since")
	f.DurationVar(&timeout, "timeout", 0, "with --wait-change: how long to wait; 0: no limit")
	f.DurationVar(&every, "every", 5*time.Second, "with --wait-change: how often the service is asked")
	return c
}

// userDataWord stands for the decoded user data instead of a path.
const userDataWord = "userdata"

// notShown reports whether a word has characters that can't be printed. A shell
// quotes what it completes, but takes a newline or a tab for the end of the word.
func notShown(word string) bool {
	return strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsPrint(r) })
}

// completeMetadata completes a path from the last copy of the document.
func (a *app) completeMetadata(_ *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	const plain = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, plain
	}
	var out []string
	if c, err := metadata.ReadCache(a.root()); err == nil { // otherwise there is nothing to complete
		out = slices.DeleteFunc(c.Document.Complete(begin), notShown)
	}
	if begin == "" || strings.HasPrefix(userDataWord, begin) {
		out = append(out, userDataWord)
	}
	if len(out) == 1 && strings.HasSuffix(out[0], "/") {
		return out, plain | cobra.ShellCompDirectiveNoSpace
	}
	return out, plain
}
