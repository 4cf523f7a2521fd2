package provisioning_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/sandbox"
)

func (b *box) jit(names string) {
	b.t.Helper()
	res, err := b.RunCmd(b.t.Context(), sandbox.Cmd{Args: []string{"/usr/local/bin/provisioning.test"}, Env: []string{jitEnv + "=" + names}})
	if err != nil {
		b.t.Errorf("%v: %s%s", err, res.Stdout, res.Stderr)
	}
}

// password writes the users' password to a file from which sudo can read it.
func (b *box) password() {
	b.t.Helper()
	res, err := b.RunCmd(b.t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", "cat >/tmp/pw; chmod 644 /tmp/pw"}, Stdin: strings.NewReader(passwd + "\n")})
	if err != nil {
		b.t.Fatalf("%v: %s", err, res.Stderr)
	}
}

// as is a shell function that runs a script in the background as a user, in a
// session of its own.
const as = `as() { setsid setpriv --reuid="$1" --regid="$(id -g "$1")" --init-groups sh -c "$2" >/dev/null 2>&1 </dev/null & }
`

// ofUser is a shell function, of_user, that lists the processes with the
// number among their user ids.
const ofUser = `of_user() { grep -lE "^Uid:.*[[:space:]]$1([[:space:]]|$)" /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3; }
`

// TestSEC3RevokedUserKeepsNothing: an expired user has processes that restart
// each other and fork continuously, and everything that could start another
// process later. All of it must be removed, and the next user must get another
// UID.
func TestSEC3RevokedUserKeepsNothing(t *testing.T) {
	t.Parallel()
	b := newBox(t, sandbox.Options{})
	b.sh(`mkdir -p /etc/ssh/keys /var/spool/cron/crontabs /var/spool/cron/tabs /var/spool/cron/atjobs /var/spool/at /var/lib/systemd/linger /run/sudo/ts /var/mail
groupadd -f project; sed -i '1i AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u' /etc/ssh/sshd_config`)
	b.jit("ann")
	b.password()
	uid := b.sh("id -u ann")
	b.sh(as + ofUser + `
usermod -aG project ann; gpasswd -A ann project 2>/dev/null
u=$(id -u ann)
for f in /var/spool/cron/crontabs/ann /var/spool/cron/ann /var/spool/cron/tabs/ann /var/mail/ann /etc/ssh/keys/ann; do echo '* * * * * touch /tmp/cron' >$f; chown ann $f; done
for f in /var/spool/cron/atjobs/a0000101 /var/spool/at/a0000101 /dev/shm/left; do echo 'touch /tmp/at' >$f; chown ann $f; chmod 700 $f; done
touch /var/lib/systemd/linger/ann /run/sudo/ts/ann /run/sudo/ts/$u
mkdir -p /run/user/$u/systemd; chown -R ann /run/user/$u
mkdir /home/ann/.ssh; ln -s /etc/passwd /home/ann/link; ln -s / /home/ann/root; echo key >/home/ann/.ssh/authorized_keys; chown -Rh ann /home/ann
as ann 'sleep 100000'
as ann 'trap "" TERM HUP INT; while :; do sleep 100000; done'
# Ends and goes on in a child, all the time.
as ann "perl -e 'while (1) { my \$p = fork; exit if \$p }'"
# A tree that grows as fast as it is cut.
as ann "perl -e 'for (1..4) { last unless fork } while (1) { my \$p = fork; if (defined \$p && !\$p) { select undef, undef, undef, 0.01; exit } waitpid \$p, 0 if \$p }'"
# Two that make each other again.
as ann 'guard() { while :; do sh -c "sleep 100000" & wait $!; done; }; guard & guard & wait'
as ann 'perl -e "shmget(0x4711, 4096, 0600 | 512)"'
as ann "unshare -Ur sleep 100000"
as ann "sudo -S </tmp/pw sh -c 'trap \"\" HUP TERM; sleep 100000; :'"
i=0; until grep -q sleep /proc/[0-9]*/comm && ipcs -m | grep -q 4711 && pgrep -x sudo >/dev/null && pgrep -u ann perl >/dev/null; do i=$((i+1)); [ $i -lt 500 ] || exit 1; sleep 0.02; done
[ -n "$(of_user $u)" ]`)
	b.jit("bob")
	left := b.sh(ofUser + `u=` + uid + `
for p in $(of_user $u); do tr '\0' ' ' </proc/$p/cmdline; grep -E '^(Uid|State)' /proc/$p/status; done
pgrep -a sleep; pgrep -xa sudo
ls -d /var/spool/cron/crontabs/ann /var/spool/cron/ann /var/spool/cron/tabs/ann /var/mail/ann /etc/ssh/keys/ann /var/spool/cron/atjobs/a* /var/spool/at/a* /dev/shm/left \
  /var/lib/systemd/linger/ann /run/sudo/ts/ann /run/sudo/ts/$u /run/user/$u /home/ann /var/lib/waagent/azguest/removing.json 2>/dev/null
grep -Hw ann /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/subuid /etc/subgid /etc/sudoers.d/waagent
ipcs -m | grep 4711; true`)
	if left != "" {
		t.Errorf("left of the user:\n%s", left)
	}
	if got := b.sh("id -u bob"); got == uid {
		t.Errorf("the next user got the number %s of the one before", got)
	}
	if got := b.sh("test -e /etc/passwd && test -d /usr && getent group project && sudo -l -U bob | tail -n 1"); !strings.Contains(got, "project:") || !strings.Contains(got, "(ALL) ALL") {
		t.Errorf("others: %s", got)
	}
	// An account with the same name must not get the same UID either.
	b.jit("ann bob")
	if got := b.sh("id -u ann; ls /var/spool/cron/crontabs"); got == uid || strings.Contains(got, "ann") {
		t.Errorf("a new user of the old name has %q", got)
	}
}

// TestSEC3RemovalFromOwnSessionCompletes: an administrator who removes the
// account of the current session, as somebody who makes an image does, must see
// the command end. Other processes of the account are ended.
func TestSEC3RemovalFromOwnSessionCompletes(t *testing.T) {
	t.Parallel()
	b := newBox(t, sandbox.Options{})
	b.jit("ann")
	b.password()
	got := b.sh(as + ofUser + `
as ann 'sleep 100000'
u=$(id -u ann); cd /
setsid setpriv --reuid=ann --regid=$(id -g ann) --init-groups sh -c "sudo -S </tmp/pw ` + jitEnv + `=remove:ann /usr/local/bin/provisioning.test 2>/dev/null; echo ended \$?; echo and goes on" | cat
getent passwd ann; ls -d /home/ann 2>/dev/null; of_user $u; true`)
	if got != "ended 0\nand goes on" {
		t.Errorf("got %q", got)
	}
}

// TestSEC3ANumberIsNotGivenTwice: a UID is not reused within a boot, nor while
// something of its former account is left; only UIDs in the range for users
// are given.
func TestSEC3ANumberIsNotGivenTwice(t *testing.T) {
	t.Parallel()
	b := newBox(t, sandbox.Options{})
	b.sh(`sed -i '/^UID_M/d' /etc/login.defs; printf 'UID_MIN 3000\nUID_MAX 3004\n' >>/etc/login.defs
mkdir /home/unknown; chown 3001 /home/unknown; useradd -u 3002 somebody`)
	next := func() string {
		b.jit("")
		b.jit("ann")
		return b.sh("id -u ann")
	}
	var got []string
	for range 3 {
		got = append(got, next())
	}
	if want := "3000 3003 3004"; strings.Join(got, " ") != want {
		t.Errorf("numbers %v, want %s", got, want)
	}
	b.jit("")
	res, err := b.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"/usr/local/bin/provisioning.test"}, Env: []string{jitEnv + "=ann"}})
	if err == nil || !strings.Contains(res.Stdout, "no free UID from 3000 to 3004") || b.sh("getent passwd ann || echo none") != "none" {
		t.Errorf("a number was given again: %v %s", err, res.Stdout)
	}
	// In another boot they may be reused, except those of which something is
	// left.
	b.sh(`sed -i 's/"boot":"[^"]*"/"boot":"another"/' /var/lib/waagent/azguest/uids.json; mkdir /home/left; chown 3000 /home/left`)
	if got := next(); got != "3003" {
		t.Errorf("in another boot: %s, want 3003", got)
	}
}

// TestSEC3AStepThatFailsIsTriedAgain: a step that fails does not stop the
// others, its error is returned, and the name is not given to a new account
// before the step has succeeded.
func TestSEC3AStepThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	passwd := m.read("/etc/passwd")
	m.write("/etc/passwd", passwd+"ann:x:1500:1500:JIT_Account:/home/ann:/bin/bash\n", 0o644)
	m.write("/etc/shadow", m.read("/etc/shadow")+"ann:$6$a$b:19000:0:99999:7::20000:\n", 0o640)
	m.write("/etc/group", m.read("/etc/group")+"ann:x:1500:\nproject:x:1600:bob,ann,eve\n", 0o644)
	m.write("/etc/gshadow", "ann:!::\nproject:!:ann:bob,ann,eve\n", 0o640)
	m.write("/etc/sudoers.d/waagent", "ann ALL=(ALL) ALL\nbob ALL=(ALL) ALL\n", 0o440)
	m.write("/var/spool/cron/crontabs/ann", "x", 0o600)
	stuck := true
	var locked string
	sys := m.prov()
	sys.Kernel.EndProcesses = func(_ context.Context, u process.Revoked) error {
		if locked == "" {
			locked = m.read("/etc/shadow") + m.read("/etc/passwd")
		}
		if u.UID != 1500 || u.SpareCaller {
			t.Errorf("end %+v", u)
		}
		if stuck {
			return errors.New("two left")
		}
		return nil
	}
	m.run.Answers["userdel"] = hosttest.Answer{Do: func(host.Cmd) error { m.write("/etc/passwd", passwd, 0o644); return nil }}
	err := provisioning.RemoveJIT{Name: "ann"}.Apply(t.Context(), sys)
	if err == nil || strings.Count(err.Error(), "two left") != 2 {
		t.Errorf("not said: %v", err)
	}
	if !strings.Contains(locked, "ann:!$6$a$b:19000:0:99999:7::1:") || !strings.Contains(locked, "ann:x:1500:1500:JIT_Account:/home/ann:/bin/false") {
		t.Errorf("not locked before its processes are ended:\n%s", locked)
	}
	for _, f := range []string{"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers.d/waagent"} {
		if strings.Contains(m.read(f), "ann") {
			t.Errorf("%s: %s", f, m.read(f))
		}
	}
	if got := m.read("/etc/gshadow"); got != "project:!::bob,eve\n" || m.root.Exists("/var/spool/cron/crontabs/ann") {
		t.Errorf("gshadow %q, or the crontab is there", got)
	}
	f, err := sys.Gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []provisioning.JITUser{{Name: "ann", Password: host.NewSecret("Pass w0rd!"), Expires: time.Now().Add(time.Hour)}}
	if steps, warnings := provisioning.JITSteps(want, f, provisioning.Options{}, time.Now()); len(steps) != 0 || len(warnings) != 1 {
		t.Errorf("while it is being removed: %v %v", steps, warnings)
	}
	if err := sys.MendJIT(t.Context()); err == nil {
		t.Error("the failed removal was not reported again")
	}
	stuck = false
	if err := sys.MendJIT(t.Context()); err != nil || len(m.prov().HalfRemoved()) != 0 {
		t.Errorf("not ended: %v", err)
	}
	if n := strings.Count(strings.Join(m.run.Commands(), "\n"), "userdel"); n != 1 {
		t.Errorf("userdel was run %d times", n)
	}
}

// TestSEC3DoasRules: the rule of a short-lived user is added beside that of
// the provisioned account, and removed without it.
func TestSEC3DoasRules(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "alpine")
	const file = "/etc/doas.d/azguest.conf"
	for _, s := range []provisioning.Sudo{
		{User: "admin", NoPassword: true, Dir: "/etc/doas.d", Doas: true},
		{User: "ann", Dir: "/etc/doas.d", Doas: true},
		{User: "admin", NoPassword: true, Dir: "/etc/doas.d", Doas: true},
	} {
		if err := s.Apply(t.Context(), m.prov()); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.read(file); got != "permit ann\npermit nopass admin\n" {
		t.Errorf("rules: %q", got)
	}
	if err := m.prov().RemoveAccount(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	if got := m.read(file); got != "permit nopass admin\n" {
		t.Errorf("rules: %q", got)
	}
}

// TestRemovalAmongManyFiles: any number of files of other users in a
// world-writable directory must neither stop a removal nor hide a file of the
// user.
func TestRemovalAmongManyFiles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to others")
	}
	m := newMachine(t, "debian")
	passwd := m.read("/etc/passwd")
	m.write("/etc/passwd", passwd+"ann:x:1500:1500:JIT_Account:/home/ann:/bin/bash\n", 0o644)
	m.run.Answers["userdel"] = hosttest.Answer{Do: func(host.Cmd) error { m.write("/etc/passwd", passwd, 0o644); return nil }}
	dir := m.root.Path("/dev/shm")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range host.MaxEntries + 1 {
		name := filepath.Join(dir, strconv.Itoa(i))
		err := unix.Mknod(name, unix.S_IFREG|0o600, 0)
		if i%10_000 == 0 {
			err = errors.Join(err, os.Chown(name, 1500, 1500))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := (provisioning.RemoveJIT{Name: "ann"}).Apply(t.Context(), m.prov()); err != nil {
		t.Error(err)
	}
	for i := 0; i <= host.MaxEntries; i += 10_000 {
		if m.root.Exists("/dev/shm/" + strconv.Itoa(i)) {
			t.Errorf("the user's file %d is there", i)
		}
	}
}
