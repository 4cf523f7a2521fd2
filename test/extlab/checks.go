package extlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/test/machine"
)

func (c *conformance) update(ctx context.Context) error {
	old := c.p.Old
	if old == nil {
		return errSkip("give --update-from")
	}
	if err := c.Lab.install(ctx, old, -1, c.p.Settings, c.p.Protected); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return fmt.Errorf("%s: %w", old.Version, err)
	}
	n := c.count()
	if err := c.Publish(c.p.Bundle.Name, c.version, c.p.Bundle.Data); err != nil {
		return err
	}
	if err := c.put(-1); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return err
	}
	r := c.Row()
	if r == nil || r.Version != c.version {
		return fmt.Errorf("wrong version in the status: %+v", r)
	}
	_, ops, err := c.since(n)
	if err != nil {
		return err
	}
	return errNote(strings.Join(ops, ", "))
}

func (c *conformance) install(ctx context.Context) error {
	if err := c.Publish(c.p.Bundle.Name, c.version, c.p.Bundle.Data); err != nil {
		return err
	}
	if err := c.put(c.p.Seq); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return err
	}
	steps, _, err := c.since(0)
	if err != nil {
		return err
	}
	var slow time.Duration
	for _, s := range steps {
		if s.Op == "enable" {
			slow = max(slow, s.End.Sub(s.Begin))
		}
	}
	if slow > 4*time.Minute {
		return errNote(fmt.Sprintf("enable took %v of the allowed 5 minutes; do long work in the background", slow.Round(time.Second)))
	}
	return nil
}

func (c *conformance) statusFile(context.Context) error {
	r := c.Row()
	if r == nil {
		return errors.New("no status was reported to the platform")
	}
	if r.Seq == "" {
		return errSkip("without settings, only the status of the handler is reported")
	}
	name := r.Seq + ".status"
	if r.Status == "" {
		return errors.New("no status file for sequence number " + r.Seq)
	}
	data, err := c.ReadTail(c.base()+"/status/"+name, maxStatus)
	if err != nil {
		return errSkip("multi-config: check the status files with fabric ext run")
	}
	var bad, odd []string
	for _, f := range LintStatus("status/"+name, data) {
		if f.Level == Error {
			bad = append(bad, f.String())
		} else {
			odd = append(odd, f.String())
		}
	}
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, "; "))
	}
	if len(odd) > 0 {
		return errNote(strings.Join(odd, "; "))
	}
	return nil
}

func (c *conformance) base() string { return lib + "/" + c.handler + "-" + c.version }

// secrets searches for the values of protected settings where other users could
// read them.
func (c *conformance) secrets(ctx context.Context) error {
	var walk func(v any) []string
	walk = func(v any) (out []string) {
		switch v := v.(type) {
		case string:
			if len(v) >= 6 {
				out = append(out, v)
			}
		case []any:
			for _, e := range v {
				out = append(out, walk(e)...)
			}
		case map[string]any:
			for _, e := range v {
				out = append(out, walk(e)...)
			}
		}
		return out
	}
	var v any
	if c.p.Protected == nil || json.Unmarshal(c.p.Protected, &v) != nil {
		return errSkip("give --protected")
	}
	doc, _ := c.VM.StatusDocument()
	for i, secret := range walk(v) {
		if strings.Contains(string(doc), secret) {
			return errors.New("a protected setting is in the reported status")
		}
		file := fmt.Sprintf("/run/secret-%d", i) // a file, because grep would find itself if it were an argument
		if err := c.WriteFile(file, []byte(secret), 0o600); err != nil {
			return err
		}
		found, err := c.Sh(ctx, "grep -rlF -f "+file+" /var/log /tmp "+c.base()+" 2>/dev/null | head -n 3 | tr '\\n' ' '; rm "+file)
		if err != nil {
			return err
		}
		if found != "" {
			return fmt.Errorf("a protected setting is in %s", found)
		}
	}
	return nil
}

// restart: a new process of the agent must report the same status.
func (c *conformance) restart(ctx context.Context) error {
	before := c.Row()
	if err := c.Restart(ctx); err != nil {
		return err
	}
	if err := c.alive(ctx); err != nil {
		return err
	}
	return c.same(before)
}

// same returns an error if the reported status of the extension has changed.
func (c *conformance) same(before *machine.Row) error {
	after := c.Row()
	switch {
	case before == nil || after == nil:
		return errors.New("the extension is no longer in the status")
	case before.Status != after.Status || before.Seq != after.Seq:
		return fmt.Errorf("the status was %s for sequence number %s and is %s for sequence number %s: %s", before.Status, before.Seq, after.Status, after.Seq, after.Message())
	}
	return nil
}

// reboot: enable is called again with the same sequence number, and must end
// with the same status although there is nothing to do.
func (c *conformance) reboot(ctx context.Context) error {
	before, n := c.Row(), c.count()
	if err := c.Reboot(ctx); err != nil {
		return err
	}
	if err := c.until(ctx, "enable after the reboot", func() (bool, error) {
		steps, _, err := c.since(n)
		if len(steps) > 0 && steps[0].Op != "enable" {
			err = fmt.Errorf("the first command after the reboot was %s", steps[0].Op)
		}
		return len(steps) > 0 && !steps[len(steps)-1].End.IsZero(), err
	}); err != nil {
		return err
	}
	if err := c.until(ctx, "the status after the reboot to be as before", func() (bool, error) { return c.same(before) == nil, nil }); err != nil {
		return errors.Join(c.same(before), err)
	}
	return nil
}

// errBare: extensions without settings run again only after a reboot.
const errBare = errSkip("without settings, enable is not called again")

func (c *conformance) bare() bool { return c.p.Settings == nil && c.p.Protected == nil }

func (c *conformance) again(ctx context.Context) error {
	if c.bare() {
		return errBare
	}
	if err := c.put(-1); err != nil {
		return err
	}
	return c.good(ctx)
}

func (c *conformance) gap(ctx context.Context) error {
	r := c.Row()
	last, err := strconv.Atoi(r.Seq)
	if err != nil {
		return errSkip("without settings, there is no sequence number")
	}
	if err := c.put(last + 7); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return err
	}
	if r := c.Row(); r.Seq != strconv.Itoa(last+7) {
		return fmt.Errorf("the status is for sequence number %s, not %d", r.Seq, last+7)
	}
	return nil
}

// child reports what enable has left running; it must survive the agent.
func (c *conformance) child(ctx context.Context) error {
	pids, err := c.processes(ctx)
	if err != nil || pids == "" {
		return errors.Join(err, errNote("no process runs after enable"))
	}
	if err := c.Restart(ctx); err != nil {
		return err
	}
	after, err := c.processes(ctx)
	if err != nil {
		return err
	}
	if pids != after {
		return errNote("the processes have changed: " + pids + ", then " + after)
	}
	return errNote("still running: " + pids)
}

// processes lists the processes that belong to the package: those with the
// environment variable that the agent sets for commands, and those whose
// working directory is the package's.
func (c *conformance) processes(ctx context.Context) (string, error) {
	return c.Sh(ctx, `for p in /proc/[0-9]*; do
[ "$p" != /proc/$$ ] || continue
if grep -qs AZGUEST_OPERATION= $p/environ; then printf '%s ' "${p#/proc/}"; continue; fi
case "$(readlink $p/exe) $(readlink $p/cwd) $(tr '\0' ' ' <$p/cmdline)" in *`+lib+"/"+c.handler+`-*) printf '%s ' "${p#/proc/}" ;; esac
done 2>/dev/null; :`)
}

// interrupt puts new settings and calls do while the first command is running.
func (c *conformance) interrupt(ctx context.Context, do func() error) error {
	if c.bare() {
		return errBare
	}
	n := c.count()
	if err := c.put(-1); err != nil {
		return err
	}
	if err := c.until(ctx, "enable to start", func() (bool, error) {
		steps, _, err := c.since(n)
		return len(steps) > 0, err
	}); err != nil {
		return err
	}
	return do()
}

// kill: after a command was killed, the next one must succeed.
func (c *conformance) kill(ctx context.Context) error {
	if err := c.interrupt(ctx, func() error {
		_, err := c.Sh(ctx, `for p in $(grep -sl AZGUEST_OPERATION= /proc/[0-9]*/environ); do kill -9 "$(basename "$(dirname "$p")")" 2>/dev/null; done; :`)
		return err
	}); err != nil {
		return err
	}
	state, _, err := c.Settle(ctx)
	if err != nil {
		return err
	}
	if err := c.put(-1); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return fmt.Errorf("after the command was killed: %w", err)
	}
	return errNote("killed command: " + state + "; next settings: Succeeded")
}

func (c *conformance) rebootMeanwhile(ctx context.Context) error {
	if err := c.interrupt(ctx, func() error { return c.Reboot(ctx) }); err != nil {
		return err
	}
	state, failure, err := c.Settle(ctx)
	if err != nil {
		return fmt.Errorf("the operation did not end: %w", err)
	}
	if state == "Succeeded" {
		return nil
	}
	if err := c.put(-1); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return fmt.Errorf("after the reboot: %w", err)
	}
	return errNote("reported: " + failure + "; next settings: Succeeded")
}

// full: on a full disk the extension must report an error, and succeed once
// there is space again.
func (c *conformance) full(ctx context.Context) error {
	if c.bare() {
		return errBare
	}
	if _, err := c.Sh(ctx, "cat /dev/zero >"+lib+"/ballast 2>/dev/null; :"); err != nil {
		return err
	}
	if err := c.put(-1); err != nil {
		return err
	}
	state, failure, err := c.Settle(ctx)
	_, rmErr := c.Sh(ctx, "rm "+lib+"/ballast")
	if err != nil || rmErr != nil {
		return errors.Join(err, rmErr)
	}
	if err := c.put(-1); err != nil {
		return err
	}
	if err := c.good(ctx); err != nil {
		return fmt.Errorf("after space was freed: %w", err)
	}
	if failure != "" {
		state += " (" + failure[:min(len(failure), 100)] + ")"
	}
	return errNote("full disk: " + state + "; after space was freed: Succeeded")
}

func (c *conformance) remove(ctx context.Context) error {
	n := c.count()
	if err := c.VM.DeleteExtension(resource); err != nil {
		return err
	}
	if state, failure, err := c.Settle(ctx); err != nil || state != "gone" {
		return errors.Join(err, fmt.Errorf("%s %s", state, failure))
	}
	steps, ops, err := c.since(n)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.Class != "ok" {
			return fmt.Errorf("%s exited with code %d (%s)", s.Op, s.Code, s.Class)
		}
	}
	return errNote(strings.Join(ops, ", "))
}

// left looks for remains that an uninstall should have removed.
func (c *conformance) left(ctx context.Context) error {
	pids, err := c.processes(ctx)
	if err != nil {
		return err
	}
	files, err := c.Sh(ctx, "ls -d "+lib+"/"+c.handler+"-* 2>/dev/null; grep -rlF "+lib+"/"+c.handler+"- /etc/systemd/system /etc/cron* /var/spool/cron /etc/init.d 2>/dev/null; :")
	if err != nil {
		return err
	}
	var left []string
	if pids != "" {
		left = append(left, "processes "+pids)
	}
	if files != "" {
		left = append(left, "files "+strings.ReplaceAll(files, "\n", " "))
	}
	if left != nil {
		return errors.New("left after uninstall: " + strings.Join(left, ", "))
	}
	return nil
}

func (c *conformance) anew(ctx context.Context) error {
	if err := c.put(-1); err != nil {
		return err
	}
	return c.good(ctx)
}
