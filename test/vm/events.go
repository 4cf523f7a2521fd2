package vm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// story is a file on the machine to which everything that runs adds a line.
const story = "/var/lib/story"

// eventful is an image that carries out user data above its own vendor data, and
// has scripts for the start and for the shutdown.
var eventful = Variant{
	Name: "data-and-events",
	Files: map[string]string{
		"/etc/waagent.conf.d/events.conf":         "UserData.Apply=y\nHooks.Enabled=y\n",
		"/usr/lib/azguest/vendor-data.d/10-image": "#cloud-config\nwrite_files:\n- {path: /etc/issue.net, content: \"from the image\\n\"}\ntimezone: Europe/Berlin\n",
		"/etc/azguest/hooks.d/startup/10-story":   "#!/bin/sh\necho \"startup, after $(cat /etc/motd)\" >>" + story + "\n",
		// The network leads to the platform, and ordinary services are up.
		"/etc/azguest/hooks.d/shutdown/10-story": `#!/bin/bash
{
	echo "$AZGUEST_HOOK $AZGUEST_EVENT_TYPE"
	systemctl is-active ssh azguest | sort -u
	ip -4 -o address show scope global | grep -c .
	exec 3<>/dev/tcp/168.63.129.16/80 && printf 'GET /?comp=versions HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3 | cut -d' ' -f2
} >>` + story + " 2>&1\n",
	},
	Script: "chmod 755 /etc/azguest/hooks.d/*/*\n",
}

// userData has a script for an event, too: what user data write is there before
// the startup scripts run.
const userData = `Content-Type: multipart/mixed; boundary="=="
MIME-Version: 1.0

--==
Content-Type: text/cloud-config

timezone: Asia/Tokyo
users:
- {name: deploy, lock_passwd: true, shell: /bin/sh}
write_files:
- {path: /etc/motd, content: "user data\n"}
- path: /etc/azguest/hooks.d/preempt/10-drain
  permissions: "0755"
  content: |
    #!/bin/sh
    echo "$1 $AZGUEST_EVENT_TYPE $AZGUEST_EVENT_STATUS" >>` + story + `
runcmd:
- echo runcmd >>` + story + `
--==
Content-Type: text/x-shellscript-per-boot; name=boot.sh

#!/bin/sh
echo boot >>` + story + `
--==--
`

// What runs in the first boot, in its shutdown, and in the second boot.
const (
	first  = "boot\nruncmd\nstartup, after user data\n"
	last   = "shutdown reboot\nactive\n1\n200\n"
	second = "boot\nstartup, after user data\n"
)

// tells waits until the story of the machine is the expected one.
func tells(want string) step {
	return step{"story", func(ctx context.Context, r *Run) (string, error) {
		want := strings.TrimSuffix(want, "\n")
		got := ""
		err := until(ctx, "what was to run", func() (bool, error) {
			out, err := r.Machine.Run(ctx, "sudo cat "+story+" 2>/dev/null | tr -d '\\r' || true")
			if got = out; err == nil && !strings.HasPrefix(want, got) {
				err = fmt.Errorf("the machine tells\n%s\nwant\n%s", got, want)
			}
			return got == want, err
		})
		if err != nil {
			return "", fmt.Errorf("%w; the machine tells %q", err, got)
		}
		return strings.ReplaceAll(got, "\n", ", "), nil
	}}
}

var (
	giveData = step{"user data", func(_ context.Context, r *Run) (string, error) {
		r.Platform.VM.SetUserData([]byte(userData))
		return fmt.Sprintf("%d bytes, above those of the image and custom data", len(userData)), nil
	}}

	merged = step{"merged", func(ctx context.Context, r *Run) (string, error) {
		return "the user's values count; the list of the image is replaced", r.same(ctx,
			check{"readlink /etc/localtime", "/usr/share/zoneinfo/Asia/Tokyo"},
			check{"cat /etc/motd; grep -c 'from the image' /etc/issue.net", "user data\n0"},
			check{"getent passwd deploy | cut -d: -f7", "/bin/sh"},
			check{"sudo agentctl data show --origin | grep -c timezone", "1"},
		)
	}}

	// preempt is the last step: the platform then regards the machine as
	// stopped.
	preempt = step{"preempt", func(ctx context.Context, r *Run) (string, error) {
		id, err := r.Platform.VM.ScheduleEvent(fabric.ScheduledEvent{Type: fabric.Preempt, Notice: time.Hour, Lasts: time.Hour})
		if err != nil {
			return "", err
		}
		var took time.Duration
		err = until(ctx, "the event to be acknowledged", func() (bool, error) {
			for _, e := range r.Platform.VM.ScheduledEvents() {
				if e.ID == id && !e.Acknowledged.IsZero() {
					took = e.Acknowledged.Sub(e.Scheduled)
					return true, nil
				}
			}
			return false, r.Machine.Died()
		})
		if err != nil {
			return "", err
		}
		// The agent records it when it has the answer.
		return fmt.Sprintf("acknowledged %.1f s after it was announced", took.Seconds()), r.becomes(ctx,
			check{"sudo agentctl events show " + id + " | grep -e '^10-drain' -e '^acknowledged' | cut -d: -f1 | cut -d' ' -f1-3", "acknowledged yes\n10-drain  ok"},
			check{"sudo agentctl events | grep '^shutdown-' | grep -c ' 1 ok'", "1"},
		)
	}}
)

// started waits until the agent knows the end of the startup scripts of some
// boots: what a script tells, it tells before it has ended.
func started(boots string) step {
	return step{"startup", func(ctx context.Context, r *Run) (string, error) {
		return "the scripts have succeeded", r.becomes(ctx, check{"sudo agentctl events | grep -c '^startup-.* 1 ok'", boots})
	}}
}

func dataAndEvents(ctx context.Context, r *Run) error {
	return steps(ctx, r, giveData, powerOn, ready, login, tells(first), merged, started("1"),
		restart, tells(first+last+second), started("2"), preempt, tells(first+last+second+"preempt Preempt Scheduled\n"))
}
