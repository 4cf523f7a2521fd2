package generalize

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// ErrDeclined means that the user did not confirm.
var ErrDeclined = errors.New("not confirmed, nothing changed")

// Apply applies the planned actions. An action that fails does not stop the
// others; all failures are returned joined. done, which may be nil, is called
// after each action.
func Apply(ctx context.Context, sys *provisioning.System, o Options, actions []Action, done func(Action, error)) error {
	m := o.machine(sys)
	var errs []error
	for _, a := range actions {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		err := apply(ctx, m, a)
		if err != nil {
			err = fmt.Errorf("%s: %w", a, err)
			errs = append(errs, err)
		}
		if done != nil {
			done(a, err)
		}
	}
	// The disk may be copied next.
	unix.Sync()
	return errors.Join(errs...)
}

const toolTimeout = 2 * time.Minute

func apply(ctx context.Context, m *provisioning.Machine, a Action) error {
	switch a.Kind {
	case Remove:
		return m.Root.RemoveAll(a.Path)
	case Empty:
		fi, err := m.Root.Stat(a.Path)
		if err != nil {
			return err
		}
		return m.Root.WriteFile(a.Path, nil, fi.Mode().Perm())
	case Write:
		return m.Root.WriteFile(a.Path, []byte(a.Content), 0o644)
	case Command:
		_, err := m.Run.Run(ctx, host.Cmd{Name: a.Args[0], Args: a.Args[1:], Dir: m.Root.Path("/"), Timeout: toolTimeout})
		return err
	case StopUnit:
		_, err := m.Run.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"stop", a.Path}, Timeout: toolTimeout})
		return err
	case LockRoot:
		return provisioning.LockRoot{Shadow: a.Path}.Apply(ctx, m)
	case SSHD:
		return m.ForgetSSHD()
	case DelUser:
		return m.RemoveAccount(ctx, a.Path)
	}
	return fmt.Errorf("unknown action %q", a.Kind)
}

// Mode selects how Deprovision works.
type Mode struct {
	Force bool // do not ask
	Plan  bool // only show
	JSON  bool // with Plan: as JSON
}

// Deprovision is the classic command: it shows what will be removed, asks, and
// removes it. An answer that begins with y means yes. After an error something
// may be left, and the command must end with a non-zero status.
func Deprovision(ctx context.Context, sys *provisioning.System, o Options, m Mode, in io.Reader, out io.Writer) error {
	actions, warnings := Plan(sys.Root, o)
	if m.Plan && m.JSON {
		b, err := JSON(actions, warnings)
		if err == nil {
			_, err = out.Write(b)
		}
		return err
	}
	var text strings.Builder
	for _, w := range warnings {
		fmt.Fprintln(&text, "WARNING! "+w)
	}
	for _, a := range actions {
		fmt.Fprintln(&text, "WARNING! This will "+a.String())
	}
	if len(actions) == 0 {
		fmt.Fprintln(&text, "Nothing to do.")
	}
	if !m.Plan && !m.Force && len(actions) > 0 {
		fmt.Fprint(&text, "Do you want to proceed (y/n)")
	}
	if _, err := io.WriteString(out, text.String()); err != nil {
		return err
	}
	if m.Plan || len(actions) == 0 {
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
	return Apply(ctx, sys, o, actions, func(_ Action, err error) {
		if err != nil {
			fmt.Fprintln(out, "FAILED "+err.Error())
		}
	})
}
