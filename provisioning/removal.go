package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
)

// removing lists the accounts whose removal has begun, until nothing of them
// is left. userdel removes an account from one file after the other, passwd
// first. After a power cut in between, only this list tells to whom the
// remaining processes, jobs, group and home belong.
type removing []host.Account

func (m *Machine) removingName() string { return path.Join(m.Options.Dir(), "removing.json") }

func (m *Machine) readRemoving() removing {
	var l removing
	if !readJSON(m.Root, m.removingName(), &l) {
		return nil // a damaged file is ignored
	}
	return l
}

func (l removing) without(name string) removing {
	return slices.DeleteFunc(slices.Clone(l), func(a host.Account) bool { return a.Name == name })
}

func (l removing) write(m *Machine) error {
	if len(l) == 0 {
		return m.Root.Remove(m.removingName())
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return m.put(m.removingName(), append(b, '\n'), 0o600)
}

// HalfRemoved lists the accounts whose removal has begun and not ended. An
// account of the same name that was made later is not among them.
func (m *Machine) HalfRemoved() []host.Account {
	var out []host.Account
	ledger := m.readJITLedger()
	for _, a := range m.readRemoving() {
		if now, have, err := m.Root.Account(a.Name); err == nil && (!have || sameAccount(now, a, ledger)) {
			out = append(out, a)
		}
	}
	return out
}

func sameAccount(a, b host.Account, ledger jitLedger) bool {
	name := func(a host.Account) string { full, _, _ := strings.Cut(a.Gecos, ","); return full }
	// On some distributions users may change the full name as well; then the
	// ledger of just-in-time users decides.
	return a.Name == b.Name && a.UID == b.UID && (name(a) == name(b) || ledger.has(a))
}

// RemoveAccount removes an account: its rights, what it runs, and all that
// another account of the same name or UID would inherit; see removal. If the
// account is half removed, it removes the rest. If the caller works in a
// session of the account, that session is not ended.
func (m *Machine) RemoveAccount(ctx context.Context, name string) error {
	return m.removeAccount(ctx, name, true)
}

func (m *Machine) removeAccount(ctx context.Context, name string, spare bool) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/:\n\x00") {
		return fmt.Errorf("remove account %q: invalid name", printable(name))
	}
	a, have, err := m.Root.Account(name)
	if err != nil {
		return err
	}
	open := m.readRemoving()
	m.Root.BreakStaleAccountLocks()
	switch {
	case have && a.UID == 0:
		return fmt.Errorf("remove account %s: account is root", name)
	case have:
		open = append(open.without(name), a)
		if err := errors.Join(m.Root.MkdirAll(m.Options.Dir(), 0o700), open.write(m)); err != nil {
			return err
		}
	default:
		var noted bool
		if a, noted = find(open, name); !noted || a.UID == 0 {
			return m.ForgetSudo(name)
		}
	}
	all, err := m.Root.Accounts()
	if err != nil {
		return err
	}
	r := removal{Machine: m, a: a, have: have, spare: spare, all: slices.DeleteFunc(all, func(b host.Account) bool { return b.Name == name })}
	// If another account has the same UID, files and processes cannot be
	// attributed to this one.
	r.number = !slices.ContainsFunc(r.all, func(b host.Account) bool { return b.UID == a.UID })
	r.subordinate = m.Root.Subordinates(a)
	var errs []error
	for _, s := range r.steps() {
		if err := s.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // the note stays, so that it is tried again
	}
	return errors.Join(open.without(name).write(m), m.forgetJIT(name))
}

// A removal is the state of removing one account.
type removal struct {
	*Machine
	a           host.Account
	all         []host.Account // all other accounts
	have        bool           // it still has a line in passwd
	number      bool           // no other account has its UID
	spare       bool           // the caller's session is not ended
	subordinate []process.IDRange
	kept        bool // the home could not be removed
}

type removalStep struct {
	what string
	do   func(context.Context) error
}

// steps returns all steps of the removal, in order. Each can be repeated, and
// one that fails does not stop the others. First nobody can log in any more,
// then all processes end, and what remains is removed when nothing is left
// that could make it again.
func (r *removal) steps() []removalStep {
	return []removalStep{
		{"lock the account", r.lock},
		{"reserve its UID", r.retire},
		{"remove its sudo rights", r.sudo},
		{"remove its keys", r.keys},
		{"remove its jobs", r.jobs},
		{"end its sessions", r.sessions},
		{"end its processes", r.processes},
		{"remove jobs left by them", r.jobs},
		{"remove its shared memory", r.shared},
		{"remove its home", r.home},
		{"remove the account", r.account},
		{"remove the record of the account", r.forget},
		// A login may have been in progress when the account was locked.
		{"end its last processes", r.processes},
		{"remove the last jobs", r.jobs},
	}
}

func (r *removal) lock(ctx context.Context) error {
	if !r.have {
		return nil
	}
	shell := "/bin/false"
	for _, s := range []string{"/usr/sbin/nologin", "/sbin/nologin", "/usr/bin/nologin"} {
		if r.Root.Exists(s) {
			shell = s
			break
		}
	}
	return r.Root.LockAccount(ctx, r.Options.Shadow, r.a.Name, shell)
}

func (r *removal) retire(context.Context) error { return r.retireUID(r.a.UID) }

func (r *removal) sudo(context.Context) error {
	errs := []error{r.ForgetSudo(r.a.Name)}
	for _, dir := range []string{"/run/sudo/ts", "/var/lib/sudo/ts", "/var/db/sudo/ts", "/var/lib/sudo/lectured", "/var/db/sudo/lectured"} {
		errs = append(errs, r.file(path.Join(dir, r.a.Name)))
		if r.number { // newer versions of sudo name the file by UID
			errs = append(errs, r.file(path.Join(dir, strconv.Itoa(r.a.UID))))
		}
	}
	if r.number {
		// OpenDoas: <parent>-<session>-<terminal>-<start>-<uid>
		errs = append(errs, eachOwned(r.Root, "/run/doas", func(d *host.Dir, name string, _ int) error {
			if strings.Count(name, "-") < 4 || !strings.HasSuffix(name, "-"+strconv.Itoa(r.a.UID)) {
				return nil
			}
			return d.Remove(name)
		}))
	}
	return errors.Join(errs...)
}

// keys removes the files that sshd reads for this user. Those in the home are
// removed with it in any case, so errors about them do not matter: a link on
// the way may be the user's, which root does not follow.
func (r *removal) keys(context.Context) error {
	var errs []error
	for _, name := range r.authorizedKeysFiles(r.a) {
		if slices.ContainsFunc(r.all, func(b host.Account) bool {
			return b.Home != "" && b.Home != "/" && strings.HasPrefix(name, b.Home+"/")
		}) {
			continue
		}
		if err := r.file(name); err != nil && !strings.HasPrefix(name, r.a.Home+"/") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Directories of jobs and mail, in files that are named after their user or
// owned by it.
var (
	crontabDirs = []string{"/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/etc/crontabs", "/var/spool/fcron", "/var/spool/incron"}
	jobDirs     = []string{"/var/spool/cron/atjobs", "/var/spool/cron/atspool", "/var/spool/at", "/var/spool/at/spool", "/var/spool/atjobs", "/var/spool/atspool"}
	mailDirs    = []string{"/var/mail", "/var/spool/mail"}
)

func (r *removal) jobs(context.Context) error {
	errs := []error{r.file(path.Join("/var/lib/systemd/linger", r.a.Name))}
	for _, dir := range crontabDirs {
		errs = append(errs, r.file(path.Join(dir, r.a.Name)), r.file(path.Join(dir, r.a.Name+".orig")), r.owned(dir))
		if r.Root.Exists(path.Join(dir, "cron.update")) || busybox(r.Root, "crond") && path.Base(dir) == "crontabs" && r.Root.Exists(dir) {
			// crond of busybox reads a user's crontab again if this file
			// contains the name.
			errs = append(errs, r.tellCron(path.Join(dir, "cron.update")))
		}
	}
	for _, dir := range jobDirs {
		errs = append(errs, r.owned(dir))
	}
	return errors.Join(errs...)
}

func (r *removal) tellCron(name string) error {
	f, err := r.Root.Append(name, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(r.a.Name + "\n")
	return errors.Join(err, f.Close())
}

// file removes a file or a link; a directory of that name is left alone.
func (r *removal) file(name string) error {
	if fi, err := r.Root.Lstat(name); err != nil || fi.IsDir() {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return r.Root.Remove(name)
}

// owned removes the files in a directory that belong to the user.
func (r *removal) owned(dir string) error {
	if !r.number {
		return nil
	}
	return eachOwned(r.Root, dir, func(d *host.Dir, name string, uid int) error {
		if uid != r.a.UID {
			return nil
		}
		if fi, err := d.Lstat(name); err != nil || fi.IsDir() {
			return err
		}
		return d.Remove(name)
	})
}

// sessions asks logind, if it runs, to end the sessions: it knows the
// processes of each, including those of root. Errors are only logged, because
// the next step finds the processes too.
func (r *removal) sessions(ctx context.Context) error {
	id := strconv.Itoa(r.a.UID)
	in := r.Kernel.InSession
	if !r.number || !r.Root.Exists("/run/systemd/users/"+id) || r.spare && (in == nil || in(r.a.UID)) {
		return nil
	}
	if _, err := r.Run.Run(ctx, host.Cmd{Name: "loginctl", Args: []string{"terminate-user", id}, Timeout: toolTimeout}); err != nil {
		r.Log.Debug().Err(err).Str("user", r.a.Name).Msg("logind did not end the sessions")
	}
	return nil
}

func (r *removal) processes(ctx context.Context) error {
	if !r.number || r.Kernel.EndProcesses == nil {
		return nil
	}
	return r.Kernel.EndProcesses(ctx, process.Revoked{UID: r.a.UID, Subordinate: r.subordinate, SpareCaller: r.spare})
}

func (r *removal) shared(context.Context) error {
	if !r.number {
		return nil
	}
	var errs []error
	if r.Kernel.RemoveIPC != nil {
		errs = append(errs, r.Kernel.RemoveIPC(r.a.UID))
	}
	errs = append(errs, r.owned("/dev/shm"), r.owned("/dev/mqueue"))
	for _, dir := range mailDirs {
		errs = append(errs, r.file(path.Join(dir, r.a.Name)), r.owned(dir))
	}
	run := path.Join("/run/user", strconv.Itoa(r.a.UID))
	if r.Root.Exists(run) && !(r.spare && r.Kernel.InSession != nil && r.Kernel.InSession(r.a.UID)) {
		errs = append(errs, r.detach(run, func(host.Mount) bool { return true }), r.Root.RemoveAll(run))
	}
	return errors.Join(errs...)
}

func (r *removal) detach(below string, which func(host.Mount) bool) error {
	mounts, err := r.Root.Mounts(below)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, mt := range mounts {
		if which(mt) {
			errs = append(errs, r.Root.Detach(mt))
		}
	}
	return errors.Join(errs...)
}

// home removes the home directory if no other account uses it. FUSE file
// systems that the user has mounted there are detached first; what root has
// mounted stays, and the home with it.
func (r *removal) home(context.Context) (err error) {
	home := path.Clean(r.a.Home)
	if !r.number || !strings.HasPrefix(home, "/") || strings.Count(home, "/") < 2 {
		return nil
	}
	for _, b := range r.all {
		if b.Home == home || strings.HasPrefix(b.Home, home+"/") {
			return nil // as userdel does
		}
	}
	defer func() { r.kept = err != nil }()
	d, err := r.Root.OpenDir(home, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	uid, _, _, err := d.Owner()
	home = d.Name() // the real path, after links of root
	// useradd makes a home as root and then changes the owner. If it was
	// interrupted in between, the home belongs to the account nevertheless.
	half := uid == os.Geteuid() && path.Clean(r.a.Home) == path.Join(r.Options.HomeDir, r.a.Name)
	if err = errors.Join(err, d.Close()); err != nil || uid != r.a.UID && !half {
		return err
	}
	err = r.detach(home, func(mt host.Mount) bool {
		return strings.HasPrefix(mt.Type, "fuse") && slices.Contains(mt.Options, "user_id="+strconv.Itoa(r.a.UID))
	})
	return errors.Join(err, r.Root.RemoveAll(home))
}

func (r *removal) account(ctx context.Context) error {
	if !r.have {
		return nil
	}
	args, long := []string{"-f", "-r", r.a.Name}, []string{"--remove-home", r.a.Name}
	if r.kept { // the tool must not remove the home by its path
		args, long = []string{"-f", r.a.Name}, []string{r.a.Name}
	}
	_, err := r.Run.Run(ctx, host.Cmd{Name: "userdel", Args: args, Timeout: toolTimeout})
	if host.NotFound(err) {
		_, err = r.Run.Run(ctx, host.Cmd{Name: "deluser", Args: long, Timeout: toolTimeout})
	}
	// userdel complains about a missing home, mail spool and such. What counts
	// is whether the account is still there, unless the tool was killed.
	ex, ended := errors.AsType[*host.ExitError](err)
	if _, still, aerr := r.Root.Account(r.a.Name); err != nil && (aerr != nil || still || !ended || ex.Code < 0) {
		return err
	}
	return nil
}

func (r *removal) forget(ctx context.Context) error {
	if _, still, err := r.Root.Account(r.a.Name); err != nil || still {
		return err // already reported by the step before
	}
	return r.Root.ForgetAccount(ctx, r.Options.Shadow, r.a)
}

// MendJIT completes removals of short-lived accounts that were interrupted or
// partly failed.
func (m *Machine) MendJIT(ctx context.Context) error {
	var errs []error
	if err := m.mendJITLedger(); err != nil {
		errs = append(errs, fail(CodeUser, "failed to note just-in-time users", err))
	}
	for _, a := range m.HalfRemoved() {
		if !m.ShortLived(a) {
			continue
		}
		if err := m.removeAccount(ctx, a.Name, false); err != nil {
			errs = append(errs, fail(CodeUser, "failed to remove just-in-time user", err, Pair{"user", a.Name}))
		}
	}
	return errors.Join(errs...)
}
