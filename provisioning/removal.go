package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"slices"

	"github.com/azguest/azguest/agent/host"
)

// removing lists the accounts that a tool was called to remove, until they
// are gone. userdel takes an account out of one file after the other, passwd
// first: after a power cut in between nothing else would tell whose the group
// and the home were that are left.
type removing []host.Account

func removingName(o Options) string { return path.Join(o.Dir(), "removing.json") }

func readRemoving(r host.Root, o Options) removing {
	var l removing
	if !readJSON(r, removingName(o), &l) {
		return nil // damaged is as good as none
	}
	return l
}

func (l removing) without(name string) removing {
	return slices.DeleteFunc(slices.Clone(l), func(a host.Account) bool { return a.Name == name })
}

func (l removing) write(sys *System, o Options) error {
	if len(l) == 0 {
		return sys.Root.Remove(removingName(o))
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return put(sys, removingName(o), append(b, '\n'), 0o600)
}

// HalfRemoved lists the accounts that were being removed when the power went,
// and of which more may be left than their names.
func HalfRemoved(r host.Root, o Options) []host.Account {
	var out []host.Account
	for _, a := range readRemoving(r, o.WithDefaults()) {
		if _, have, err := r.Account(a.Name); err == nil && !have {
			out = append(out, a)
		}
	}
	return out
}

// RemoveAccount takes an account away, with its home, its group and its sudo
// rule. Of one that is half removed it takes the rest.
func RemoveAccount(ctx context.Context, sys *System, o Options, name string) error {
	o = o.WithDefaults()
	if err := ForgetSudo(sys.Root, o, name); err != nil {
		return err
	}
	a, have, err := sys.Root.Account(name)
	if err != nil {
		return err
	}
	open := readRemoving(sys.Root, o)
	sys.Root.BreakStaleAccountLocks()
	if have {
		open = append(open.without(name), a)
		if err := open.write(sys, o); err != nil {
			return err
		}
	} else if a, have = find(open, name); have {
		// With its line in passwd, the tool knows what else to remove.
		if have, err = sys.Root.RestoreAccount(ctx, a); err != nil {
			return err
		}
	}
	if have {
		_, err = sys.Run.Run(ctx, host.Cmd{Name: "userdel", Args: []string{"-f", "-r", name}, Timeout: toolTimeout})
		if host.NotFound(err) {
			_, err = sys.Run.Run(ctx, host.Cmd{Name: "deluser", Args: []string{"--remove-home", name}, Timeout: toolTimeout})
		}
		// userdel complains about a missing mail spool and such. What counts
		// is whether the account is still there, unless the tool was killed.
		ex, ended := errors.AsType[*host.ExitError](err)
		if _, still, aerr := sys.Root.Account(name); err != nil && (aerr != nil || still || !ended || ex.Code < 0) {
			return err
		}
	}
	if _, noted := find(open, name); noted {
		return open.without(name).write(sys, o)
	}
	return nil
}

// MendJIT ends the removals of short-lived accounts that were cut off.
func MendJIT(ctx context.Context, sys *System, o Options) error {
	for _, a := range HalfRemoved(sys.Root, o) {
		if a.Gecos != JITComment {
			continue
		}
		if err := RemoveAccount(ctx, sys, o, a.Name); err != nil {
			return fail(CodeUser, "failed to remove just-in-time user", err, Pair{"user", a.Name})
		}
	}
	return nil
}
