package tool

import (
	"cmp"
	"flag"
	"fmt"
	"regexp"
	"strings"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/extensions/policy"
)

var dotted = regexp.MustCompile(`^\d+(\.\d+){0,3}$`)

// Policy is the command "azguest policy explain NAME": it shows whether the
// policy of this machine allows an extension, and exits with 1 if not.
func (t *Tool) Policy(args []string) int {
	if err := command("policy", args, "explain"); err != nil {
		return t.usage(err)
	}
	f := flag.NewFlagSet("azguest policy explain", flag.ContinueOnError)
	version := f.String("version", "", "version of the extension")
	signer := f.String("signer", "", "signer of the package")
	asJSON := f.Bool("json", false, "as JSON")
	if code, ok := cli.ParseFlags(f, args[1:], t.Err); !ok {
		return code
	}
	if f.NArg() != 1 {
		fmt.Fprintln(t.Err, "usage: azguest policy explain [-version V] [-signer S] [-json] EXTENSION")
		return cli.ExitUsage
	}
	if *version != "" && !dotted.MatchString(*version) {
		return t.usage(fmt.Errorf("%q is not a version: numbers separated by dots", *version))
	}
	a := policy.Explain(t.Root, policy.Config{File: t.Config.Policy.File, Mode: t.Config.Policy.Mode}, f.Arg(0), *version, *signer)
	if *asJSON {
		if err := t.json(a); err != nil {
			return t.end(err)
		}
	} else {
		t.sayPolicy(a)
	}
	if !a.Allowed {
		return exitFailed
	}
	return exitOK
}

func (t *Tool) sayPolicy(a policy.Answer) {
	word := "allowed"
	switch {
	case !a.Allowed:
		word = "refused"
	case a.Reason != "":
		word = "would be denied, but is allowed (the policy is audited, not enforced)"
	}
	fmt.Fprintf(t.Out, "%s: %s\n", strings.TrimSpace(a.Name+" "+a.Version), word)
	if a.Reason != "" {
		fmt.Fprintf(t.Out, "why:       %s\n", a.Reason)
	}
	fmt.Fprintf(t.Out, "policy:    %s (%s)\n", a.Mode, t.Config.PolicyWhy())
	if a.Mode != policy.Off {
		fmt.Fprintf(t.Out, "files:     %s\n", cmp.Or(strings.Join(a.Files, ", "), "none"))
		fmt.Fprintf(t.Out, "signed:    %s\n", map[bool]string{true: "required", false: "not required"}[a.Signature])
	}
}
