package tool

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/userdata"
)

const dataUsage = "show, check, status"

// Data is the command "azguest data": it shows the user data and vendor data of
// this machine and what became of them, and checks a document.
func (t *Tool) Data(args []string) int {
	if len(args) == 0 {
		return t.usage(fmt.Errorf("data: a command is missing (%s)", dataUsage))
	}
	switch args[0] {
	case "show":
		return t.dataShow(args[1:])
	case "check":
		return t.dataCheck(args[1:])
	case "status":
		return t.dataStatus(args[1:])
	}
	return t.usage(cli.OneOf("command", args[0], strings.Split(dataUsage, ", ")...))
}

// dataCheck is "azguest data check FILE". Exit status: 0 fine, 1 not.
func (t *Tool) dataCheck(args []string) int {
	f := flag.NewFlagSet("azguest data check", flag.ContinueOnError)
	asJSON := f.Bool("json", false, "as JSON")
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return code
	}
	if f.NArg() != 1 {
		fmt.Fprintln(t.Err, "usage: azguest data check [-json] FILE")
		return cli.ExitUsage
	}
	b, err := t.document(f.Arg(0))
	if err != nil {
		return t.end(err)
	}
	name := f.Arg(0)
	if name == "-" {
		name = "standard input"
	}
	d := userdata.Load([]userdata.Document{{Layer: userdata.Layer(name), Data: b}})
	ok := !d.Refused && len(d.Foreign) == 0
	if *asJSON {
		err = t.json(struct {
			OK       bool               `json:"ok"`
			Foreign  bool               `json:"foreign"`
			Problems []userdata.Problem `json:"problems"`
			Scripts  []shownScript      `json:"scripts"`
			Keys     []string           `json:"keys"`
		}{ok, len(d.Foreign) > 0, orEmpty(d.Problems), shownScripts(d), orEmpty(d.Keys())})
	} else {
		t.sayCheck(name, d)
	}
	if err != nil {
		return t.end(err)
	}
	if !ok {
		return exitFailed
	}
	return exitOK
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// document reads the file that the caller names, or standard input.
func (t *Tool) document(name string) ([]byte, error) {
	in := t.In
	if name != "-" {
		f, err := os.Open(name) //nolint:forbidigo // the caller names the file, relative to their working directory
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	// One byte more than is allowed: the check itself says that it is too large.
	b, err := io.ReadAll(io.LimitReader(in, userdata.MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	return b, nil
}

func (t *Tool) sayCheck(name string, d userdata.Data) {
	for _, p := range d.Problems {
		fmt.Fprintf(t.Out, "%s (%s)\n", p.Error(), p.ID)
	}
	switch {
	case len(d.Foreign) > 0:
		fmt.Fprintf(t.Out, "%s: neither a script nor a cloud-config; azguest leaves it alone\n", name)
	case d.Refused:
		fmt.Fprintf(t.Out, "%s: nothing of it would be carried out\n", name)
	case d.Empty():
		fmt.Fprintf(t.Out, "%s: nothing to carry out\n", name)
	default:
		var parts []string
		if keys := d.Keys(); len(keys) > 0 {
			parts = append(parts, "cloud-config ("+strings.Join(keys, ", ")+")")
		}
		for _, s := range d.Scripts {
			parts = append(parts, fmt.Sprintf("script %s, %s", s.Name, s.Class.When()))
		}
		fmt.Fprintf(t.Out, "%s: %s\n", name, strings.Join(parts, "; "))
	}
}

// A shownScript is a script without its content.
type shownScript struct {
	Name  string         `json:"name"`
	When  userdata.When  `json:"when"`
	Bytes int            `json:"bytes"`
	At    userdata.Place `json:"at"`
}

func shownScripts(d userdata.Data) []shownScript {
	out := []shownScript{}
	for _, s := range d.Scripts {
		out = append(out, shownScript{s.Name, s.Class.When(), len(s.Data), s.At})
	}
	return out
}

// dataFlags parses the flags of a command without arguments.
func (t *Tool) dataFlags(name string, args []string, origin bool) (asJSON, withOrigin bool, code int, ok bool) {
	f := flag.NewFlagSet("azguest data "+name, flag.ContinueOnError)
	j := f.Bool("json", false, "as JSON")
	o := new(bool)
	if origin {
		o = f.Bool("origin", false, "also show where each value comes from")
	}
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return false, false, code, false
	}
	if f.NArg() > 0 {
		return false, false, t.usage(fmt.Errorf("unexpected argument %q of data %s", f.Arg(0), name)), false
	}
	if err := t.needRoot(); err != nil {
		return false, false, t.end(err), false
	}
	return *j, *o, 0, true
}

// journal returns the journal of this machine's user data. An error says why
// there is none.
func (t *Tool) journal() (userdata.Store, userdata.Journal, error) {
	m := provisioning.NewMachine(t.system(), agent.ProvisioningOptions(t.Config), provisioning.Identity{})
	s := userdata.Store{Root: t.Root, Dir: m.Options.Dir()}
	j, err := s.Journal()
	switch owner := m.FindOwner(t.Config.Provisioning.Agent); {
	case err != nil:
		return s, j, err
	case j.State != "":
		return s, j, nil
	case owner.Owner != provisioning.OwnerSelf && owner.Owner != provisioning.OwnerNobody:
		return s, j, fmt.Errorf("this machine is provisioned by %s (%s), which also carries out its user data", owner.Owner, owner.Because)
	case !t.Config.UserData.Apply:
		return s, j, errors.New("user data is not carried out on this machine; UserData.Apply=y switches it on")
	case t.Config.Provisioning.Mode != config.ModeOn, owner.Owner == provisioning.OwnerNobody:
		return s, j, fmt.Errorf("user data is not carried out on this machine: azguest does not provision it (Provisioning.Mode=%s, Provisioning.Agent=%s)", t.Config.Provisioning.Mode, t.Config.Provisioning.Agent)
	}
	return s, j, errors.New("no user data has been carried out yet")
}

// dataShow is "azguest data show": the merged result.
func (t *Tool) dataShow(args []string) int {
	asJSON, origin, code, ok := t.dataFlags("show", args, true)
	if !ok {
		return code
	}
	s, j, err := t.journal()
	if err != nil {
		return t.end(err)
	}
	docs, err := s.Documents(j)
	if err != nil {
		return t.end(err)
	}
	d := userdata.Load(docs)
	if asJSON {
		return t.end(t.json(struct {
			VMID     string             `json:"vmId"`
			State    userdata.State     `json:"state"`
			Sources  []userdata.Source  `json:"sources"`
			Values   []userdata.Value   `json:"values"`
			Scripts  []shownScript      `json:"scripts"`
			Problems []userdata.Problem `json:"problems"`
		}{j.VMID, j.State, orEmpty(j.Sources), orEmpty(d.Values()), shownScripts(d), orEmpty(j.Problems)}))
	}
	text, err := d.YAML(origin)
	if err != nil {
		return t.end(err)
	}
	t.saySources(j)
	fmt.Fprint(t.Out, text)
	for _, s := range d.Scripts {
		fmt.Fprintf(t.Out, "# script %s, %s, %d bytes", s.Name, s.Class.When(), len(s.Data))
		if origin {
			fmt.Fprintf(t.Out, " (%s)", s.At)
		}
		fmt.Fprintln(t.Out)
	}
	return exitOK
}

func (t *Tool) saySources(j userdata.Journal) {
	for _, s := range j.Sources {
		fmt.Fprintf(t.Out, "# %s: %d bytes\n", userdata.Place{Layer: s.Layer, Part: s.Name}, s.Bytes)
	}
	if len(j.Sources) == 0 {
		fmt.Fprintln(t.Out, "# this machine has no user data")
	}
	for _, p := range j.Foreign {
		fmt.Fprintf(t.Out, "# %s: neither a script nor a cloud-config, left alone\n", p)
	}
	for _, p := range j.Problems {
		fmt.Fprintf(t.Out, "# %s (%s)\n", p.Error(), p.ID)
	}
	if j.State == userdata.Refused {
		fmt.Fprintln(t.Out, "# nothing of it was carried out")
	}
}

// dataStatus is "azguest data status": what ran, when, and how it ended.
func (t *Tool) dataStatus(args []string) int {
	asJSON, _, code, ok := t.dataFlags("status", args, false)
	if !ok {
		return code
	}
	_, j, err := t.journal()
	if err != nil {
		return t.end(err)
	}
	if asJSON {
		return t.end(t.json(j))
	}
	t.saySources(j)
	for _, e := range j.Items {
		line := fmt.Sprintf("%-12s %s, %s", e.State, e.What, e.When)
		if !e.Finished.IsZero() {
			line += ", " + e.Finished.Format(time.RFC3339) + " after " + e.Finished.Sub(e.Started).Round(time.Millisecond).String()
		}
		if e.Exit != nil {
			line += fmt.Sprintf(", exit code %d", *e.Exit)
		}
		fmt.Fprintln(t.Out, line)
		if e.Error != "" {
			fmt.Fprintf(t.Out, "%-12s %s: %s\n", "", e.Code, e.Error)
		}
		if e.Output != "" {
			fmt.Fprintf(t.Out, "%-12s output in %s\n", "", e.Output)
		}
	}
	return exitOK
}
