package generalize

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// ErrDeclined means that the user did not confirm.
var ErrDeclined = errors.New("not confirmed, nothing changed")

// errNamesAccount is why the agent's records are kept: a second run would not
// know the account any more.
var errNamesAccount = errors.New("kept, because it names the account that could not be deleted")

// Apply applies the planned actions. An action that fails does not stop the
// others; all failures are returned joined. done, which may be nil, is called
// after each action.
func Apply(ctx context.Context, sys *provisioning.System, o Options, actions []Action, done func(Action, error)) error {
	m := o.machine(sys)
	var errs []error
	left := false // an account that could not be deleted
	for _, a := range actions {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		err := errNamesAccount
		if !left || a.Kind != Remove || a.Path != m.Options.Dir() {
			err = apply(ctx, m, o, a)
		}
		left = left || a.Kind == DelUser && err != nil
		if err != nil {
			err = fmt.Errorf("%s: %w", a, err)
			errs = append(errs, err)
		}
		if done != nil {
			done(a, err)
		}
	}
	return errors.Join(errs...)
}

const toolTimeout = 2 * time.Minute

func apply(ctx context.Context, m *provisioning.Machine, o Options, a Action) error {
	switch a.Kind {
	case Remove:
		return m.Root.RemoveAll(a.Path)
	case Empty:
		return empty(m.Root, a.Path)
	case Write:
		return m.Root.WriteFile(a.Path, []byte(a.Content), 0o644)
	case Edit:
		return rewrite(m.Root, a.Path, a.change)
	case Command:
		var errs []error
		for _, args := range a.tools {
			_, err := m.Run.Run(ctx, host.Cmd{Name: args[0], Args: args[1:], Dir: m.Root.Path("/"), Timeout: toolTimeout})
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	case StopUnit:
		_, err := m.Run.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"stop", a.Path}, Timeout: toolTimeout})
		return err
	case LockRoot:
		return provisioning.LockRoot{Shadow: a.Path}.Apply(ctx, m)
	case SSHD:
		return m.ForgetSSHD()
	case DelUser:
		return m.RemoveAccount(ctx, a.Path)
	case Later:
		return registerShutdown(ctx, m, o)
	}
	return fmt.Errorf("unknown action %q", a.Kind)
}

// empty replaces a file by an empty one with its mode and owner: a daemon that
// does not run as root must still be able to write to it.
func empty(r host.Root, name string) error {
	fi, err := r.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return fmt.Errorf("empty %s: %w", name, host.ErrUnsafe)
	}
	return r.WriteFileAs(name, nil, fi.Mode().Perm(), int(st.Uid), int(st.Gid))
}

// rewrite changes the content of a file, which keeps its mode and owner. A
// drop-in without any line left is removed.
func rewrite(r host.Root, name string, change func(string) string) error {
	b, err := r.ReadBounded(name, maxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an earlier action has removed it
	}
	if err != nil {
		return err
	}
	next := change(string(b))
	if next == string(b) {
		return nil
	}
	if next == "" && strings.HasSuffix(path.Dir(name), ".d") {
		return r.Remove(name)
	}
	fi, err := r.Stat(name)
	if err != nil {
		return err
	}
	return r.WriteFile(name, []byte(next), fi.Mode().Perm())
}

// Mode selects how Deprovision works.
type Mode struct {
	Force   bool // do not ask
	Plan    bool // only show
	JSON    bool // with Plan: as JSON
	Grouped bool // show the plan by groups, not in the classic form
}

// Deprovision is the classic command: it shows what will be removed, asks, and
// removes it. An answer that begins with y means yes. After an error something
// may be left, and the command must end with a non-zero status.
func Deprovision(ctx context.Context, sys *provisioning.System, o Options, m Mode, in io.Reader, out io.Writer) error {
	o.hostKeys = askHostKeys(ctx, o.machine(sys))
	p := Plan(sys.Root, o)
	if m.Plan && m.JSON {
		b, err := p.JSON()
		if err == nil {
			_, err = out.Write(b)
		}
		return err
	}
	if err := show(p, m, out); err != nil {
		return err
	}
	if m.Plan || len(p.Actions) == 0 {
		return nil
	}
	if !m.Force {
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(line)), "y") {
			return ErrDeclined
		}
	}
	failed := func(_ Action, err error) {
		if err != nil {
			fmt.Fprintln(out, "FAILED "+err.Error())
		}
	}
	err := Apply(ctx, sys, o, p.Actions, failed)
	if context.Cause(ctx) == nil {
		// The plan was made while the agent was running, which has written until
		// it was stopped, and tools have written, too.
		err = errors.Join(err, Apply(ctx, sys, o, Plan(sys.Root, o).without(p), failed))
	}
	unix.Sync() // the disk may be copied next
	return err
}

// without returns the actions of a plan that another one does not have.
func (p Planned) without(before Planned) []Action {
	return slices.DeleteFunc(p.Actions, func(a Action) bool {
		return slices.ContainsFunc(before.Actions, func(b Action) bool { return a.Kind == b.Kind && a.Entry == b.Entry && a.Path == b.Path })
	})
}

// show prints the plan, and the question if one is asked.
func show(p Planned, m Mode, out io.Writer) error {
	var text strings.Builder
	if m.Grouped {
		if _, err := p.WriteTo(&text); err != nil {
			return err
		}
	} else {
		for _, w := range p.Warnings {
			fmt.Fprintln(&text, "WARNING! "+w)
		}
		for _, a := range p.Actions {
			fmt.Fprintln(&text, "WARNING! This will "+a.String())
		}
		for _, k := range p.Kept {
			fmt.Fprintln(&text, "WARNING! "+k.String())
		}
		if len(p.Actions) == 0 {
			fmt.Fprintln(&text, "Nothing to do.")
		}
	}
	if !m.Plan && !m.Force && len(p.Actions) > 0 {
		fmt.Fprint(&text, "Do you want to proceed (y/n)")
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// askHostKeys asks the sshd of this machine for its host keys. Its
// configuration is read in any case, so that an error has no consequence.
func askHostKeys(ctx context.Context, m *provisioning.Machine) []string {
	a, err := m.AskSSHD(ctx, provisioning.Login{User: "root"})
	if err != nil {
		return nil
	}
	return append(a.Words("HostKey"), a.Words("HostCertificate")...)
}
