package e2e

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/sandbox"
)

// curious records what a handler's command inherits from the agent.
const curious = `
ls -l /proc/self/fd | sed -n 's/.* \([0-9]*\) -> \(.*\)/\1 \2/p' >"$work/fds-$op"
tr '\0' '\n' </proc/self/environ | cut -d= -f1 | sort >"$work/env-$op"
umask >"$work/umask-$op"
case $op in
enable) say success 0 "looked around" ;;
esac
`

// TestHygiene: the agent is started with the worst umask, in directories that
// are open to all, with stray descriptors and variables. It must leave no files
// that others may write or should not read, pass nothing on to handlers, and
// listen on no address.
func TestHygiene(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages["Azguest.E2E.Curious/1.0.0"] = handler(t, curious)
	c := newAgentCloud(t, o)
	c.Sh(t, `install -d -m 777 /var/lib/waagent /var/log/azure /run/azguest /etc/waagent.conf.d
chmod 755 /etc/waagent.conf.d
echo OS.EnableFirewall=y >/etc/waagent.conf.d/x.conf
install -m 666 /dev/null /var/log/waagent.log; install -m 666 /dev/null /run/azguest/agent.lock
chmod 1777 /tmp; touch -d '1 hour ago' /tmp/old
ss -Hlntu | sort >/tmp/listening`)
	_, err := c.Start(sandbox.Cmd{
		Args: []string{"sh", "-c", "umask 0; exec 7</etc/shadow 8>/tmp/leak; exec /usr/sbin/azguest run"},
		Env:  []string{"SECRET_OF_THE_STARTER=hunter2", "LD_LIBRARY_PATH=/tmp"}, Stdout: &c.Log, Stderr: &c.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	if got := c.follow(t, c.put(t, extension{name: "curious", publisher: "Azguest.E2E", kind: "Curious", version: "1.0", settings: map[string]any{"a": 1}, protected: map[string]any{"b": 2}})); got != "" {
		t.Fatal(got)
	}
	c.Sh(t, "agentctl status --wait=converged --timeout 30s; agentctl report; agentctl hold --for 1m; agentctl resume")

	// Files: nobody else may write any of them, and others may read only these.
	open := c.Sh(t, `find /var/lib/waagent /var/log/azure /run/azguest /var/log/waagent.log /etc/sudoers.d /etc/ssh /home/azureuser /root /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/hostname /etc/hosts \
	-newer /tmp/old ! -type l ! -path '/var/lib/waagent/Azguest.E2E.Curious-1.0.0/*' \( -perm /022 -o ! -user root ! -path '/home/azureuser*' \) -printf '%m %u %p\n'`)
	if open != "" {
		t.Errorf("files that others may write:\n%s", open)
	}
	readable := c.Sh(t, `find /var/lib/waagent /run/azguest /var/log/waagent.log /var/log/azure -newer /tmp/old -type f ! -path '/var/lib/waagent/Azguest.E2E.Curious-1.0.0/*' -perm /044 -printf '%p\n' | sort`)
	for name := range strings.FieldsSeq(readable) {
		switch name {
		case "/var/log/waagent.log": // existed before, with this mode
		case "/run/azguest/status.json", "/run/azguest/metadata.json", "/run/azguest/lives", "/run/azguest/ready-accepted", "/var/lib/waagent/published_hostname":
		default:
			if !strings.HasPrefix(name, "/var/log/azure/Azguest.E2E.Curious/") {
				t.Errorf("others may read %s", name)
			}
		}
	}
	if got := c.Sh(t, "stat -c '%a %n' /var/lib/waagent /var/lib/waagent/azguest /run/azguest /run/azguest/ctl.sock /run/azguest/agent.lock /var/lib/waagent/Azguest.E2E.Curious-1.0.0/config/0.settings"); got !=
		"700 /var/lib/waagent\n700 /var/lib/waagent/azguest\n755 /run/azguest\n600 /run/azguest/ctl.sock\n600 /run/azguest/agent.lock\n600 /var/lib/waagent/Azguest.E2E.Curious-1.0.0/config/0.settings" {
		t.Errorf("modes:\n%s", got)
	}
	// Only root may write to the programs that root runs, and to the
	// directories above them.
	walk := c.Sh(t, `for f in /usr/sbin/azguest /usr/bin/agentctl /etc/waagent.conf /etc/waagent.conf.d/x.conf $(find /var/lib/waagent/Azguest.E2E.Curious-1.0.0 -type f); do
	while :; do
		find "$f" -maxdepth 0 \( ! -user root -o -perm /022 \) -printf '%m %u %p\n'
		[ "$f" = / ] && break
		f=$(dirname "$f")
	done
done | sort -u`)
	if walk != "" {
		t.Errorf("files that are not root's alone:\n%s", walk)
	}
	// Handlers get three descriptors, a normal umask, and none of the variables
	// of the agent's parent.
	for _, op := range []string{"install", "enable"} {
		for l := range strings.Lines(c.Sh(t, "cat /var/tmp/handler/fds-"+op)) {
			fd, target, _ := strings.Cut(strings.TrimSpace(l), " ")
			if fd > "2" && !strings.HasPrefix(target, "/proc/") && !strings.Contains(target, "/bin/handler") && !strings.HasPrefix(target, "pipe:") {
				t.Errorf("%s: descriptor %s is %s", op, fd, target)
			}
		}
		if got := c.Sh(t, "cat /var/tmp/handler/umask-"+op); got != "0022" {
			t.Errorf("%s: umask %s", op, got)
		}
		env := c.Sh(t, "cat /var/tmp/handler/env-"+op)
		for _, bad := range []string{"SECRET_OF_THE_STARTER", "LD_LIBRARY_PATH", "NOTIFY_SOCKET", "INVOCATION_ID", "AZGUEST_"} {
			if strings.Contains(env, bad) {
				t.Errorf("%s: the environment has %s", op, bad)
			}
		}
	}
	if got := c.Sh(t, "ss -Hlntu | sort | diff /tmp/listening - || :"); got != "" {
		t.Errorf("sockets that listen (difference):\n%s", got)
	}
	// Only root may use the control socket.
	r, _ := c.Run(t.Context(), "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "agentctl", "retry", "curious")
	if r.Code == 0 || !strings.Contains(r.Stderr, "AZ-CTL-DENIED") {
		t.Errorf("an ordinary user: exit %d %s", r.Code, r.Stderr)
	}
}
