package e2e

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// withUserData makes a machine that carries out its user data.
func withUserData(t *testing.T, user, custom, vendor string) *cloud {
	t.Helper()
	o := blank()
	o.Provisioning.UserData, o.Provisioning.CustomData, o.Provisioning.VendorData = []byte(user), []byte(custom), []byte(vendor)
	c := newAgentCloud(t, o)
	c.Sh(t, "mkdir -p /etc/waagent.conf.d /usr/lib/azguest/vendor-data.d; echo UserData.Apply=y >/etc/waagent.conf.d/data.conf")
	return c
}

// dataDone waits until the user data has been carried out in this boot.
func dataDone(t *testing.T, c *cloud, want string) {
	t.Helper()
	await(t, "the user data", func() bool { return strings.Contains(c.Sh(t, "agentctl status || :"), want) })
}

// restarted kills the agent and starts it again, and waits until the status is no
// longer the one that the killed agent has left.
func restarted(t *testing.T, c *cloud) {
	t.Helper()
	if err := c.KillAgent(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.StartAgent(t)
	await(t, "a status of the new agent", func() bool { return c.shown().Written.After(began) })
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestUserData: vendor data of the image and of the platform beneath custom data
// and user data; the agent is killed while a script runs; the machine is booted
// again; the commands show what became of it, without secrets.
func TestUserData(t *testing.T) {
	t.Parallel()
	const user = `Content-Type: multipart/mixed; boundary="=="
MIME-Version: 1.0

--==
Content-Type: text/cloud-config

merge_how: list(append)
users:
- name: bob
  plain_text_passwd: hunter2-S3cret
  lock_passwd: false
write_files:
- {path: /etc/motd, content: "from the user\n", permissions: "0640"}
runcmd:
- [sh, -c, "echo runcmd >>/var/tmp/log"]
ntp: {enabled: false}
--==
Content-Type: text/x-shellscript; name=a.sh

#!/bin/sh
echo "a $INSTANCE_ID $HOME" >>/var/tmp/log
until [ -e /var/tmp/go ]; do sleep 0.01; done
echo "a ended" >>/var/tmp/log
--==
Content-Type: text/x-shellscript-per-boot; name=boot.sh

#!/bin/sh
echo boot >>/var/tmp/log
--==
Content-Type: text/x-shellscript; name=z.sh

#!/bin/sh
echo "password=hunter2-S3cret"; exit 7
--==--
`
	c := withUserData(t, user, gzipped(t, "#cloud-config\nwrite_files:\n- {path: /etc/issue.net, content: from custom data}\n"),
		"#cloud-config\nwrite_files: [{path: /etc/motd, content: from the platform}, {path: /etc/vendor, content: vendor}]\nmerge_how: list(append)\n")
	c.Sh(t, `cd /usr/lib/azguest/vendor-data.d; printf '#!/bin/sh\necho vendor >>/var/tmp/log\n' >10.sh; printf '#cloud-config\nfrobnicate: 1\n' >20.yaml; cp 10.sh 30.sh; chmod 666 30.sh`)
	p := c.StartAgent(t)
	c.WaitReady(t)
	await(t, "the script", func() bool { return strings.Contains(c.Sh(t, "cat /var/tmp/log 2>/dev/null || :"), "a ") })
	if err := c.KillAgent(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	id := c.Sh(t, "cat /var/lib/waagent/provisioned")
	c.StartAgent(t)
	c.Sh(t, "touch /var/tmp/go")
	dataDone(t, c, " items, 1 with problems carried out")
	const log = "vendor\nboot\na ID /root\na ended\nruncmd"
	want := strings.ReplaceAll(log, "ID", id)
	if got := c.Sh(t, "cat /var/tmp/log"); got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	// The lists of custom data took the place of the vendor's, the user's are
	// appended to them.
	if got := c.Sh(t, "cat /etc/motd /etc/issue.net; stat -c '%a' /etc/motd; id -un bob; ls /etc/vendor 2>&1 || :"); !strings.HasPrefix(got, "from the user\nfrom custom data640\nbob\nls: ") {
		t.Errorf("machine: %s", got)
	}
	c.screen(t, 1, "user data  ", "AZ-DATA-SCRIPT", "exit code 7", "AZ-DATA-FETCH", "vendor-data.d, 30.sh: unsafe path: others than root can change it (and 1 more: agentctl data status)")
	if got := c.Sh(t, "agentctl data show --origin"); !strings.Contains(got, "plain_text_passwd: '[hidden]' # user data, part 1, line 4") || !strings.Contains(got, "path: /etc/issue.net # custom data, line 3") ||
		!strings.Contains(got, "# script boot.sh, at every boot, ") || !strings.Contains(got, "(user data, part 3 (boot.sh))") || strings.Contains(got, "from the platform") {
		t.Errorf("data show:\n%s", got)
	}
	if got := c.Sh(t, "agentctl data status; agentctl data status -o json; agentctl data show -o json"); !strings.Contains(got, "failed       run the script z.sh") || !strings.Contains(got, "20.yaml, line 2: frobnicate: this key is not supported (AZ-DATA-KEY)") || !strings.Contains(got, `"exit": 7`) || !strings.Contains(got, "others than root can change it") || strings.Contains(got, "hunter2") {
		t.Errorf("data status:\n%s", got)
	}
	if got := c.Sh(t, "grep -rl hunter2 /var/log /run/azguest || :; find /var/lib/waagent/azguest/data -perm /077"); got != "" {
		t.Errorf("everybody can read a secret, or state: %s", got)
	}
	if got := c.Sh(t, "cat /var/lib/waagent/azguest/data/runs/*z.sh*/stdout"); !strings.HasPrefix(got, "password=") || strings.Contains(got, "hunter2") {
		t.Errorf("output: %s", got)
	}
	c.Sh(t, "! setpriv --reuid=65534 --regid=65534 --clear-groups agentctl data show")

	restarted(t, c)
	dataDone(t, c, " carried out, ")
	if got := c.Sh(t, "cat /var/tmp/log"); got != want {
		t.Errorf("log after a restart of the agent %q", got)
	}
	c.Reboot(t)
	c.StartAgent(t)
	dataDone(t, c, " carried out, ")
	if got := c.Sh(t, "cat /var/tmp/log"); got != want+"\nboot" {
		t.Errorf("log after a boot %q", got)
	}
}

// TestUserDataRefused: a fault in the user data stops everything, the machine is
// provisioned and as it was, and what is wrong is shown with its place.
func TestUserDataRefused(t *testing.T) {
	t.Parallel()
	c := withUserData(t, "#cloud-config\nruncmd: [touch /var/tmp/ran]\nusers: [{name: bob, snapuser: x}]\npower_state: {mode: reboot}\n", "#!/bin/sh\ntouch /var/tmp/ran\n", "#!/bin/sh\ntouch /var/tmp/ran\n")
	before := c.Sh(t, "cp /etc/motd /var/tmp/motd 2>/dev/null; id bob 2>&1 || :")
	c.StartAgent(t)
	c.WaitReady(t)
	dataDone(t, c, "not carried out: it has faults")
	c.screen(t, 1, "AZ-DATA-KEY", "user data, line 3: users[0].snapuser: this key is not supported (and 1 more: agentctl data status)")
	if got := c.Sh(t, "agentctl data status"); !strings.Contains(got, "user data, line 4: power_state: this key is not supported; use runcmd (AZ-DATA-KEY)") || !strings.Contains(got, "nothing of it was carried out") {
		t.Errorf("data status: %s", got)
	}
	for do, want := range map[string]string{
		"agentctl data check /var/tmp/doc; echo $?":      "/var/tmp/doc, line 3: users[0].snapuser: this key is not supported (AZ-DATA-KEY)\n",
		"head -n 2 /var/tmp/doc | agentctl data check -": "standard input: cloud-config (runcmd)",
		"agentctl data check; echo $?":                   "64",
		"agentctl data chek; echo $?":                    `did you mean "check"`,
		"agentctl data check /no/such; echo $?":          "1",
	} {
		if got := c.Sh(t, "exec 2>&1; agentctl metadata userdata >/var/tmp/doc; chmod 644 /var/tmp/doc; setpriv --reuid=65534 --regid=65534 --clear-groups sh -c '"+do+"'"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", do, got)
		}
	}
	if got := c.Sh(t, "ls /var/tmp/ran 2>/dev/null; id bob 2>&1 || :"); got != before {
		t.Errorf("the machine has changed: %s", got)
	}
}

// TestUserDataLeft: where cloud-init provisions, the agent reads, applies and
// reports nothing, and without UserData.Apply neither.
func TestUserDataLeft(t *testing.T) {
	t.Parallel()
	c := withUserData(t, "#!/bin/sh\ntouch /var/tmp/ran\n", "", "")
	c.Sh(t, "mkdir -p /run/cloud-init /usr/lib/cloud-init /var/lib/cloud/data; touch /run/cloud-init/enabled")
	c.StartAgent(t)
	dataDone(t, c, "left to cloud-init")
	if r, _ := c.Run(t.Context(), "agentctl", "data", "show"); r.Code != 1 || !strings.Contains(r.Stderr, "provisioned by cloud-init") {
		t.Errorf("data show: %d %s", r.Code, r.Stderr)
	}
	off := newAgentCloud(t, func() setup {
		o := blank()
		o.Provisioning.UserData = []byte("#!/bin/sh\ntouch /var/tmp/ran\n")
		return o
	}())
	off.StartAgent(t)
	off.WaitReady(t)
	if got := off.Sh(t, "agentctl status; agentctl data status 2>&1 || :; ls /var/tmp/ran /var/lib/waagent/azguest/data* 2>/dev/null || :"); strings.Contains(got, "user data  ") || !strings.Contains(got, "UserData.Apply=y switches it on") || strings.Contains(got, "/var/") {
		t.Errorf("switched off: %s", got)
	}
	if got := off.Sh(t, "mkdir -p /etc/waagent.conf.d; printf 'UserData.Apply=y\nProvisioning.Mode=ready-only\n' >/etc/waagent.conf.d/data.conf; agentctl data status 2>&1 || :"); !strings.Contains(got, "azguest does not provision it (Provisioning.Mode=ready-only") {
		t.Errorf("only Ready is reported: %s", got)
	}
}

// TestUserDataKilled: the agent is killed after each item in turn, the end is the
// same as without. Then the disk is in another VM: everything is carried out once
// more, except for what runs once per disk.
func TestUserDataKilled(t *testing.T) {
	t.Parallel()
	const user = `Content-Type: multipart/mixed; boundary="=="

--==
Content-Type: text/cloud-config

bootcmd: ["echo bootcmd >>/var/tmp/log"]
hostname: data-1
manage_etc_hosts: localhost
groups: [crew]
users:
- default
- {name: bob, groups: [crew], sudo: "ALL=(ALL) NOPASSWD:ALL", plain_text_passwd: pw-of-Bob1, lock_passwd: false}
write_files:
- {path: /etc/motd, content: "once\n", append: true}
- {path: /home/bob/note, content: hi, owner: "bob:bob", defer: true}
timezone: Europe/Berlin
runcmd: ["echo runcmd >>/var/tmp/log"]
--==
Content-Type: text/x-shellscript-per-once; name=once

#!/bin/sh
echo once >>/var/tmp/log
--==--
`
	look := func(c *cloud) string {
		return c.Sh(t, `cat /var/tmp/log /etc/motd; hostname; id bob; stat -c '%U:%G %a' /home/bob/note; grep -c '^bob:' /etc/passwd /etc/shadow; sudo -n -l -U bob | tail -n 1; readlink /etc/localtime`)
	}
	whole := withUserData(t, user, "", "")
	whole.StartAgent(t)
	whole.WaitReady(t)
	dataDone(t, whole, " carried out, ")
	want := look(whole)
	if !strings.HasPrefix(want, "bootcmd\nonce\nruncmd\n") || !strings.Contains(want, "data-1\n") || !strings.Contains(want, "crew") {
		t.Errorf("the machine: %s", want)
	}
	items := strings.Fields(whole.Sh(t, `agentctl data status -o json | sed -n 's/^ *"id": "\(.*\)",$/\1/p'`))
	if len(items) < 9 {
		t.Fatalf("items %q", items)
	}

	c := withUserData(t, user, "", "")
	for i, item := range items {
		at := []string{"doing", "planned", "done"}[i%3]
		p := c.StartAgent(t, "AZGUEST_TEST_DIE_AFTER="+item+":"+at)
		await(t, "the end of the agent at "+item+":"+at, func() bool {
			select {
			case <-p.Done():
				return true
			default:
				return false
			}
		})
	}
	c.StartAgent(t)
	dataDone(t, c, " carried out, ")
	if got := look(c); got != want {
		t.Errorf("killed: %s\nwhole: %s", got, want)
	}

	c.Sh(t, "echo 11111111-2222-4333-8444-555555555555 >/var/lib/waagent/provisioned; rm /var/tmp/log")
	restarted(t, c)
	await(t, "the log of the copy", func() bool {
		return strings.Contains(c.Sh(t, "cat /var/tmp/log 2>/dev/null; agentctl data status || :"), "bootcmd\nruncmd\n")
	})
	dataDone(t, c, " carried out, ")
	if got := c.Sh(t, "cat /var/tmp/log; agentctl data status"); !strings.HasPrefix(got, "bootcmd\nruncmd\n") || !strings.Contains(got, "skipped      run the script once") {
		t.Errorf("copy: %s", got)
	}
}

// TestUserDataWaits: the metadata service is down at the first boot. Nothing is
// carried out before it answers, the vendor's neither, and then everything.
func TestUserDataWaits(t *testing.T) {
	t.Parallel()
	c := withUserData(t, "#!/bin/sh\necho user >>/var/tmp/log\n", "#!/bin/sh\necho custom >>/var/tmp/log\n", "#!/bin/sh\necho vendor >>/var/tmp/log\n")
	down := fail(t, c, fabric.Fault{Kind: fabric.Metadata, Reset: true})
	c.StartAgent(t)
	c.WaitReady(t)
	dataDone(t, c, "user data  waiting for the metadata service")
	if got := c.Sh(t, "ls /var/tmp/log 2>/dev/null || :"); got != "" {
		t.Error("something has run")
	}
	c.Fabric.RemoveFault(down)
	dataDone(t, c, "user data  3 of 3 items carried out, ")
	if got := c.Sh(t, "cat /var/tmp/log"); got != "vendor\ncustom\nuser" {
		t.Errorf("log %q", got)
	}
}
