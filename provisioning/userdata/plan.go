package userdata

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/provisioning"
)

// An Item is one thing that is carried out. It has either a step or a script.
type Item struct {
	id     string
	what   string
	when   When
	step   provisioning.Step
	limit  time.Duration
	script []byte // what is run
	vendor bool
}

// ID identifies the item in the journal and in tests; it is unique in a plan.
func (i Item) ID() string { return i.id }

// String describes the item for people. It contains no secret.
func (i Item) String() string { return i.what }

// Apply applies the step of an item; scripts are run by a Runner. With this
// method an item can be shown as a step of provisioning is.
func (i Item) Apply(ctx context.Context, m *provisioning.Machine) error {
	if i.step == nil {
		return nil
	}
	return i.step.Apply(ctx, m)
}

// sum identifies the content of a script.
func (i Item) sum() string {
	s := sha256.Sum256(i.script)
	return hex.EncodeToString(s[:])
}

const stepLimit = 2 * time.Minute

// plan decides what is carried out, in order. It is pure.
func plan(d Data, f Facts, o Options) []Item {
	var out []Item
	if c := d.Config.BootCommands; len(c) > 0 {
		out = append(out, Item{id: "bootcmd", what: fmt.Sprintf("run %s of bootcmd", count(len(c), "command")), when: PerBoot, script: shellScript(c)})
	}
	for _, s := range configSteps(d.Config, f, o) {
		i := Item{id: s.Step.ID(), what: s.Step.String(), when: PerInstance, step: s.Step, limit: s.Limit}
		if s.EveryBoot {
			i.when = PerBoot
		}
		if i.limit <= 0 {
			i.limit = stepLimit
		}
		out = append(out, i)
	}
	return unique(append(out, scriptItems(d)...))
}

// runcmdName is the place of runcmd among the scripts, which run in the order of
// their names: that of the file which cloud-init makes of it.
const runcmdName = "runcmd"

func scriptItems(d Data) []Item {
	var out []Item
	run := d.Config.RunCommands
	runcmd := func() {
		if len(run) > 0 {
			out = append(out, Item{id: runcmdName, what: fmt.Sprintf("run %s of runcmd", count(len(run), "command")), when: PerInstance, script: shellScript(run)})
			run = nil
		}
	}
	for _, s := range d.Scripts {
		if !s.At.Layer.Vendor() && s.Class == Plain && s.Name > runcmdName {
			runcmd()
		}
		layer := strings.ReplaceAll(string(s.At.Layer), " ", "-")
		out = append(out, Item{
			id: layer + "/" + string(s.Class) + "/" + s.Name, what: fmt.Sprintf("run the script %s (%s)", s.Name, s.At),
			when: s.Class.When(), script: s.Data, vendor: s.At.Layer.Vendor(),
		})
	}
	runcmd()
	return out
}

// unique makes ids unique that are not.
func unique(items []Item) []Item {
	seen := map[string]int{}
	for i := range items {
		id := items[i].id
		if seen[id]++; seen[id] > 1 {
			items[i].id = fmt.Sprintf("%s#%d", id, seen[id])
		}
	}
	return items
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// shellScript makes one script of commands. As with cloud-init, a command that
// fails does not keep the next one from running, and the last one's status is
// that of the script.
func shellScript(commands []Command) []byte {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	if slices.ContainsFunc(commands, Command.per) {
		b.WriteString(perFunction)
	}
	for _, c := range commands {
		if c.Args == nil {
			b.WriteString(c.Shell)
		}
		for i, a := range c.Args {
			if i > 0 {
				b.WriteByte(' ')
			}
			if i == 0 && a == perName {
				b.WriteString(a) // an alias, see perFunction
				continue
			}
			b.WriteString(shellQuote(a))
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// perName is the program of cloud-init that runs a command of bootcmd once: the
// documentation of bootcmd uses it.
const perName = "cloud-init-per"

// per reports whether a command needs it.
func (c Command) per() bool {
	return len(c.Args) > 0 && c.Args[0] == perName || strings.Contains(c.Shell, perName)
}

// perFunction takes the place of cloud-init-per on machines without cloud-init:
//
//	cloud-init-per once|instance|always NAME COMMAND [ARGUMENT…]
//
// A name of a function cannot contain a hyphen, but one of an alias can. What has
// run is marked, also if the command has failed: for the disk in data-per-once,
// which stays on a copy of it, and for the VM in data/per.
const perFunction = `if ! command -v cloud-init-per >/dev/null 2>&1; then
azguest_per() {
	case $1 in
	once) azguest_mark=${0%/data/runs/*}/data-per-once ;;
	instance) azguest_mark=${0%/runs/*}/per/$INSTANCE_ID ;;
	always) azguest_mark= ;;
	*) echo "cloud-init-per: $1: must be once, instance or always" >&2; return 1 ;;
	esac
	case $2 in
	"" | .* | */*) echo "cloud-init-per: $2: not a name" >&2; return 1 ;;
	esac
	azguest_mark=${azguest_mark:+$azguest_mark/$2}
	shift 2
	if [ -z "$azguest_mark" ]; then
		("$@")
		return
	fi
	[ ! -e "$azguest_mark" ] || return 0
	(umask 077 && mkdir -p "${azguest_mark%/*}") || return 1
	("$@")
	set -- $?
	: >"$azguest_mark"
	return "$1"
}
alias cloud-init-per=azguest_per
fi
`

// shellQuote returns a text as a shell reads it as one word.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
