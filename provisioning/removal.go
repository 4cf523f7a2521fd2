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
)

// removing lists the accounts whose removal has begun, until nothing of them is
// left. userdel takes an account out of one file after the other, passwd first:
// after a power cut in between nothing else would tell whose the processes, the
// jobs, the group and the home are that are left.
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

// HalfRemoved lists the accounts whose removal has begun and not ended. One of
// the same name that is another by now is not among them.
func HalfRemoved(r host.Root, o Options) []host.Account {
	var out []host.Account
	o = o.WithDefaults()
	ledger := readJITLedger(r, o)
	for _, a := range readRemoving(r, o) {
		if now, have, err := r.Account(a.Name); err == nil && (!have || sameAccount(now, a, ledger)) {
			out = append(out, a)
		}
	}
	return out
}

func sameAccount(a, b host.Account, ledger jitLedger) bool {
	name := func(a host.Account) string { full, _, _ := strings.Cut(a.Gecos, ","); return full }
	// Who may change the fields after the first may change the first as well,
	// on some distributions.
	return a.Name == b.Name && a.UID == b.UID && (name(a) == name(b) || ledger.has(a))
}

// RemoveAccount ends what an account runs and may do, and takes it away with
// all that another account of its name or number would inherit; see removal. Of
// one that is half removed it takes the rest. If the caller works in a session
// of the account, that session comes to its own end.
func RemoveAccount(ctx context.Context, sys *System, o Options, name string) error {
	return removeAccount(ctx, sys, o.WithDefaults(), name, true)
}

func removeAccount(ctx context.Context, sys *System, o Options, name string, spare bool) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/:\n\x00") {
		return fmt.Errorf("remove account %q: invalid name", printable(name))
	}
	a, have, err := sys.Root.Account(name)
	if err != nil {
		return err
	}
	open := readRemoving(sys.Root, o)
	sys.Root.BreakStaleAccountLocks()
	switch {
	case have && a.UID == 0:
		return fmt.Errorf("remove account %s: account is root", name)
	case have:
		open = append(open.without(name), a)
		if err := errors.Join(sys.Root.MkdirAll(o.Dir(), 0o700), open.write(sys, o)); err != nil {
			return err
		}
	default:
		var noted bool
		if a, noted = find(open, name); !noted || a.UID == 0 {
			return ForgetSudo(sys.Root, o, name)
		}
	}
	all, err := sys.Root.Accounts()
	if err != nil {
		return err
	}
	m := removal{sys: sys, o: o, a: a, have: have, spare: spare, all: slices.DeleteFunc(all, func(b host.Account) bool { return b.Name == name })}
	// What has no account any more may be somebody else's by number.
	m.number = !slices.ContainsFunc(m.all, func(b host.Account) bool { return b.UID == a.UID })
	m.subordinate = sys.Root.Subordinates(a)
	var errs []error
	for _, s := range m.steps() {
		if err := s.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // the note stays, so that it is tried again
	}
	return errors.Join(open.without(name).write(sys, o), forgetJIT(sys, o, name))
}

// A removal is one account on its way out.
type removal struct {
	sys         *System
	o           Options
	a           host.Account
	all         []host.Account // the others
	have        bool           // it still has a line in passwd
	number      bool           // its number is nobody else's
	spare       bool           // the caller's session stays
	subordinate []host.IDRange
	kept        bool // the home could not be removed
}

type removalStep struct {
	what string
	do   func(context.Context) error
}

// steps is everything that is done, in order. Each can be repeated, and one
// that fails does not keep the others from being done: first nobody gets in any
// more, then nothing runs any more, and what is left behind goes when nobody is
// there to make it again.
func (m *removal) steps() []removalStep {
	return []removalStep{
		{"lock the account", m.lock},
		{"reserve its UID", m.retire},
		{"remove its sudo rights", m.sudo},
		{"remove its keys", m.keys},
		{"remove its jobs", m.jobs},
		{"end its sessions", m.sessions},
		{"end its processes", m.processes},
		{"remove jobs left by them", m.jobs},
		{"remove its shared memory", m.shared},
		{"remove its home", m.home},
		{"remove the account", m.account},
		{"remove the record of the account", m.forget},
		// Somebody may have been on the way in when the account was locked.
		{"end its last processes", m.processes},
		{"remove the last jobs", m.jobs},
	}
}

func (m *removal) lock(ctx context.Context) error {
	if !m.have {
		return nil
	}
	shell := "/bin/false"
	for _, s := range []string{"/usr/sbin/nologin", "/sbin/nologin", "/usr/bin/nologin"} {
		if m.sys.Root.Exists(s) {
			shell = s
			break
		}
	}
	return m.sys.Root.LockAccount(ctx, m.o.Shadow, m.a.Name, shell)
}

func (m *removal) retire(context.Context) error { return retireUID(m.sys, m.o, m.a.UID) }

func (m *removal) sudo(context.Context) error {
	errs := []error{ForgetSudo(m.sys.Root, m.o, m.a.Name)}
	for _, dir := range []string{"/run/sudo/ts", "/var/lib/sudo/ts", "/var/db/sudo/ts", "/var/lib/sudo/lectured", "/var/db/sudo/lectured"} {
		errs = append(errs, m.file(path.Join(dir, m.a.Name)))
		if m.number { // newer versions use it for the file's name
			errs = append(errs, m.file(path.Join(dir, strconv.Itoa(m.a.UID))))
		}
	}
	if m.number {
		// OpenDoas: <parent>-<session>-<terminal>-<start>-<uid>
		errs = append(errs, eachOwned(m.sys.Root, "/run/doas", func(d *host.Dir, name string, _ int) error {
			if strings.Count(name, "-") < 4 || !strings.HasSuffix(name, "-"+strconv.Itoa(m.a.UID)) {
				return nil
			}
			return d.Remove(name)
		}))
	}
	return errors.Join(errs...)
}

// keys takes the files away that sshd reads for this user. Those in the home
// go with it in any case; a link on the way there is the user's, and no way of
// root's.
func (m *removal) keys(context.Context) error {
	var errs []error
	for _, name := range authorizedKeysFiles(m.sys.Root, m.o, m.a) {
		if slices.ContainsFunc(m.all, func(b host.Account) bool {
			return b.Home != "" && b.Home != "/" && strings.HasPrefix(name, b.Home+"/")
		}) {
			continue
		}
		if err := m.file(name); err != nil && !strings.HasPrefix(name, m.a.Home+"/") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Where jobs and mail wait, in files with the name of their user or owned by
// it.
var (
	crontabDirs = []string{"/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/etc/crontabs", "/var/spool/fcron", "/var/spool/incron"}
	jobDirs     = []string{"/var/spool/cron/atjobs", "/var/spool/cron/atspool", "/var/spool/at", "/var/spool/at/spool", "/var/spool/atjobs", "/var/spool/atspool"}
	mailDirs    = []string{"/var/mail", "/var/spool/mail"}
)

func (m *removal) jobs(context.Context) error {
	errs := []error{m.file(path.Join("/var/lib/systemd/linger", m.a.Name))}
	for _, dir := range crontabDirs {
		errs = append(errs, m.file(path.Join(dir, m.a.Name)), m.file(path.Join(dir, m.a.Name+".orig")), m.owned(dir))
		if m.sys.Root.Exists(path.Join(dir, "cron.update")) || busybox(m.sys.Root, "crond") && path.Base(dir) == "crontabs" && m.sys.Root.Exists(dir) {
			// Busybox reads the file of a user again when the name is in here.
			errs = append(errs, m.tellCron(path.Join(dir, "cron.update")))
		}
	}
	for _, dir := range jobDirs {
		errs = append(errs, m.owned(dir))
	}
	return errors.Join(errs...)
}

func (m *removal) tellCron(name string) error {
	f, err := m.sys.Root.Append(name, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(m.a.Name + "\n")
	return errors.Join(err, f.Close())
}

// file removes a file, or a link; a directory of that name is something else.
func (m *removal) file(name string) error {
	if fi, err := m.sys.Root.Lstat(name); err != nil || fi.IsDir() {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return m.sys.Root.Remove(name)
}

// owned removes the files in a directory that belong to the user.
func (m *removal) owned(dir string) error {
	if !m.number {
		return nil
	}
	return eachOwned(m.sys.Root, dir, func(d *host.Dir, name string, uid int) error {
		if uid != m.a.UID {
			return nil
		}
		if fi, err := d.Lstat(name); err != nil || fi.IsDir() {
			return err
		}
		return d.Remove(name)
	})
}

// sessions are for logind to end, where it is: it knows the processes of each,
// root's too. That it does not is no failure, as they are looked for below.
func (m *removal) sessions(ctx context.Context) error {
	id := strconv.Itoa(m.a.UID)
	in := m.sys.Kernel.InSession
	if !m.number || !m.sys.Root.Exists("/run/systemd/users/"+id) || m.spare && (in == nil || in(m.a.UID)) {
		return nil
	}
	if _, err := m.sys.Run.Run(ctx, host.Cmd{Name: "loginctl", Args: []string{"terminate-user", id}, Timeout: toolTimeout}); err != nil {
		m.sys.Log.Debug().Err(err).Str("user", m.a.Name).Msg("logind did not end the sessions")
	}
	return nil
}

func (m *removal) processes(ctx context.Context) error {
	if !m.number || m.sys.Kernel.EndProcesses == nil {
		return nil
	}
	return m.sys.Kernel.EndProcesses(ctx, host.Revoked{UID: m.a.UID, Subordinate: m.subordinate, SpareCaller: m.spare})
}

func (m *removal) shared(context.Context) error {
	if !m.number {
		return nil
	}
	var errs []error
	if m.sys.Kernel.RemoveIPC != nil {
		errs = append(errs, m.sys.Kernel.RemoveIPC(m.a.UID))
	}
	errs = append(errs, m.owned("/dev/shm"), m.owned("/dev/mqueue"))
	for _, dir := range mailDirs {
		errs = append(errs, m.file(path.Join(dir, m.a.Name)), m.owned(dir))
	}
	run := path.Join("/run/user", strconv.Itoa(m.a.UID))
	if m.sys.Root.Exists(run) && !(m.spare && m.sys.Kernel.InSession != nil && m.sys.Kernel.InSession(m.a.UID)) {
		errs = append(errs, m.detach(run, func(host.Mount) bool { return true }), m.sys.Root.RemoveAll(run))
	}
	return errors.Join(errs...)
}

func (m *removal) detach(below string, which func(host.Mount) bool) error {
	mounts, err := m.sys.Root.Mounts(below)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, mt := range mounts {
		if which(mt) {
			errs = append(errs, m.sys.Root.Detach(mt))
		}
	}
	return errors.Join(errs...)
}

// home removes the home, if it is the account's alone. What the user has
// mounted there without being root is taken away first; what root has, stays,
// and the home with it.
func (m *removal) home(context.Context) (err error) {
	home := path.Clean(m.a.Home)
	if !m.number || !strings.HasPrefix(home, "/") || strings.Count(home, "/") < 2 {
		return nil
	}
	for _, b := range m.all {
		if b.Home == home || strings.HasPrefix(b.Home, home+"/") {
			return nil // as userdel does
		}
	}
	defer func() { m.kept = err != nil }()
	d, err := m.sys.Root.OpenDir(home, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	uid, _, _, err := d.Owner()
	home = d.Name() // without the links of root's on the way
	// useradd makes a home as root and hands it over; one that it was cut off
	// over is the account's all the same.
	half := uid == os.Geteuid() && path.Clean(m.a.Home) == path.Join(m.o.HomeDir, m.a.Name)
	if err = errors.Join(err, d.Close()); err != nil || uid != m.a.UID && !half {
		return err
	}
	err = m.detach(home, func(mt host.Mount) bool {
		return strings.HasPrefix(mt.Type, "fuse") && slices.Contains(mt.Options, "user_id="+strconv.Itoa(m.a.UID))
	})
	return errors.Join(err, m.sys.Root.RemoveAll(home))
}

func (m *removal) account(ctx context.Context) error {
	if !m.have {
		return nil
	}
	args, long := []string{"-f", "-r", m.a.Name}, []string{"--remove-home", m.a.Name}
	if m.kept { // not by a tool that walks over names
		args, long = []string{"-f", m.a.Name}, []string{m.a.Name}
	}
	_, err := m.sys.Run.Run(ctx, host.Cmd{Name: "userdel", Args: args, Timeout: toolTimeout})
	if host.NotFound(err) {
		_, err = m.sys.Run.Run(ctx, host.Cmd{Name: "deluser", Args: long, Timeout: toolTimeout})
	}
	// userdel complains about a missing home, mail spool and such. What counts
	// is whether the account is still there, unless the tool was killed.
	ex, ended := errors.AsType[*host.ExitError](err)
	if _, still, aerr := m.sys.Root.Account(m.a.Name); err != nil && (aerr != nil || still || !ended || ex.Code < 0) {
		return err
	}
	return nil
}

func (m *removal) forget(ctx context.Context) error {
	if _, still, err := m.sys.Root.Account(m.a.Name); err != nil || still {
		return err // said already
	}
	return m.sys.Root.ForgetAccount(ctx, m.o.Shadow, m.a)
}

// MendJIT ends the removals of short-lived accounts that were cut off, or of
// which a part has failed.
func MendJIT(ctx context.Context, sys *System, o Options) error {
	o = o.WithDefaults()
	var errs []error
	if err := mendJITLedger(sys, o); err != nil {
		errs = append(errs, fail(CodeUser, "failed to note just-in-time users", err))
	}
	for _, a := range HalfRemoved(sys.Root, o) {
		if !ShortLived(sys.Root, o, a) {
			continue
		}
		if err := removeAccount(ctx, sys, o, a.Name, false); err != nil {
			errs = append(errs, fail(CodeUser, "failed to remove just-in-time user", err, Pair{"user", a.Name}))
		}
	}
	return errors.Join(errs...)
}
