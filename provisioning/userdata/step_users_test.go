package userdata

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/test/sandbox"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICAfHh0cGxoZGBcWFRQTEhEQDw4NDAsKCQgHBgUEAwIB"

// order makes the account of the provisioning order.
const order = "useradd -m -p '$6$salt$hash' -s /bin/bash azureuser"

func TestUsersAndGroups(t *testing.T) {
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	sh(t, order+"; useradd -m -s /bin/sh image; echo image:pw | chpasswd; mkdir -p /srv/app; chown www-data: /srv/app")
	c := Config{
		Groups: []Group{{Name: "admins", Members: []string{"azureuser", "nobody-yet"}}, {Name: "alice"}, {Name: "video"}},
		Users: []User{
			{Default: true, Groups: []string{"docker"}, Gecos: "The Owner", Keys: []string{otherKey + " order"}},
			{
				Name: "alice", Gecos: "Alice A.", Groups: []string{"admins", "made"}, Shell: "/bin/bash",
				Sudo: []string{"ALL=(ALL) NOPASSWD:ALL", "ALL=(ALL) ALL"}, Keys: []string{testKey + " a@b"}, ExpireDate: "2099-01-02", Inactive: new(5),
			},
			{Name: "bob", PrimaryGroup: "staffers", UID: new(1777), HomeDir: "/opt/homes/bob", PlainPasswd: secret.New("pw: with 'quotes'"), LockPassword: new(false)},
			{Name: "svc", System: true, Shell: "/usr/sbin/nologin"},
			{Name: "deploy", HomeDir: "/srv/app"},
			{Name: "hashed", Passwd: secret.New("$6$abc$def"), NoCreateHome: true, Keys: []string{testKey}},
			{Name: "image", Shell: "/bin/bash", Groups: []string{"admins"}, Keys: []string{testKey}},
			{Name: "bad.rule", Sudo: []string{"this is no rule"}},
			{Name: "root", LockPassword: new(false), HashedPasswd: secret.New("$6$root$hash"), Keys: []string{testKey}},
			{Name: "plain", NoUserGroup: true, NoLogInit: true, Groups: []string{"adm"}, NoNewGroups: true},
			{Name: "nogroup", Groups: []string{"missing"}, NoNewGroups: true, LockPassword: new(false)},
			{Name: "bob2", UID: new(1777), Sudo: []string{"ALL=(ALL) ALL"}},
		},
		Keys: []string{testKey + " top"},
	}
	m := thisMachine(t)
	failures := applyAll(t.Context(), t, m, c, "azureuser")
	wantFailures := map[string]string{
		"group:admins": "AZ-DATA-GROUP warning", "user:image": "AZ-DATA-USER warning", "sudo:bad.rule": "AZ-DATA-SUDO", "keys:hashed": "AZ-DATA-KEYS",
		"user:nogroup": "AZ-DATA-USER", "user:bob2": "AZ-DATA-USER", "password:bob2": "AZ-DATA-USER", "sudo:bob2": "AZ-DATA-SUDO",
	}
	if diff := cmp.Diff(wantFailures, codes(failures)); diff != "" {
		t.Errorf("failures (-want +got):\n%s\n%v", diff, failures)
	}
	expect(t, map[string]string{
		"id -nG azureuser":  "azureuser admins docker",
		"getent group made": "made:x:" + strings.Split(sh(t, "getent group made"), ":")[2] + ":alice",
		"getent passwd azureuser alice bob svc deploy hashed image bad.rule | cut -d: -f1,5-": `azureuser:The Owner:/home/azureuser:/bin/bash
alice:Alice A.:/home/alice:/bin/bash
bob::/opt/homes/bob:/bin/sh
svc::/home/svc:/usr/sbin/nologin
deploy::/srv/app:/bin/sh
hashed::/home/hashed:/bin/sh
image::/home/image:/bin/sh
bad.rule::/home/bad.rule:/bin/sh`,
		"id bob | sed 's/([^)]*)//g; s/ .*//'; id -gn bob; id -gn alice": "uid=1777\nstaffers\nalice",
		"id -nG alice":                       "alice admins made",
		"id -nG plain":                       "users adm",
		"getent group missing plain || true": "",
		"getent shadow azureuser alice hashed deploy image root | cut -d: -f1,2 | sed 's/\\$y\\$.*/HASH/'": `azureuser:$6$salt$hash
alice:*
hashed:!$6$abc$def
deploy:*
image:!HASH
root:$6$root$hash`,
		"getent shadow alice | cut -d: -f7,8":                              "5:47118",
		"getent shadow bob | cut -c1-7":                                    "bob:$6$",
		"test $(id -u svc) -lt 1000 && echo system":                        "system",
		"stat -c '%U %a' /srv/app /home/alice":                             "www-data 755\nalice 755",
		"ls -A /srv/app; ls -d /home/svc /home/hashed 2>/dev/null || true": "",
		"test -f /home/alice/.profile && echo skeleton":                    "skeleton",
		"cat /etc/sudoers.d/90-azguest-users": `# Written by azguest from the user data of this VM.

# User rules for alice
alice ALL=(ALL) NOPASSWD:ALL
alice ALL=(ALL) ALL`,
		"stat -c '%a %U:%G' /etc/sudoers.d/90-azguest-users /home/alice/.ssh/authorized_keys": "440 root:root\n600 alice:alice",
		"cat /home/alice/.ssh/authorized_keys":                                                testKey + " a@b",
		"cat /home/azureuser/.ssh/authorized_keys":                                            otherKey + " order\n" + testKey + " top",
		"visudo -c >/dev/null && echo fine":                                                   "fine",
	})
	defer func() {
		if err := m.ForgetSudo("alice"); err != nil {
			t.Error(err)
		}
		expect(t, map[string]string{"ls /etc/sudoers.d/90-azguest-users 2>/dev/null || true": ""})
	}()
	state := func() string {
		return sh(t, "cat /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/subuid /etc/sudoers.d/*; find /home /opt/homes /srv /root/.ssh -printf '%M %u %g %p\\n' | sort; cat /home/*/.ssh/authorized_keys /root/.ssh/authorized_keys")
	}
	before := state()
	failures = applyAll(t.Context(), t, m, c, "azureuser")
	if diff := cmp.Diff(wantFailures, codes(failures)); diff != "" {
		t.Errorf("failures of the second run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, state()); diff != "" {
		t.Errorf("a second run changed something (-first +second):\n%s", diff)
	}
}

// TestLockedOrder: the password of the account of the order is locked only if
// that is asked for.
func TestLockedOrder(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		u    User
		lock bool
		step bool
	}{
		{"by default", User{Default: true}, false, false},
		{"by its name", User{Name: "azureuser"}, false, false},
		{"asked for", User{Default: true, LockPassword: new(true)}, true, true},
		{"not to be", User{Default: true, LockPassword: new(false)}, false, false},
		{"somebody else", User{Name: "bob"}, true, true},
		{"somebody else, not to be", User{Name: "bob", LockPassword: new(false)}, false, false},
	} {
		got, found := SetPassword{}, false
		for _, s := range userSteps(Config{Users: []User{tc.u}}, Facts{}, Options{User: "azureuser"}) {
			if p, ok := s.(SetPassword); ok {
				got, found = p, true
			}
		}
		if found != tc.step || got.Lock != tc.lock {
			t.Errorf("%s: step %v, locks %v", tc.name, found, got.Lock)
		}
	}
}

// TestInterruptedUser: the power was cut after the first file that useradd
// writes.
func TestInterruptedUser(t *testing.T) {
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	m := thisMachine(t)
	c := Config{Users: []User{{Name: "alice", Groups: []string{"extra"}}, {Name: "kept", HomeDir: "/srv/kept"}}}
	sh(t, `groupadd extra; mkdir -p /var/lib/waagent/azguest/data /srv/kept
echo alice:x:1700:1700::/home/alice:/bin/sh >>/etc/passwd
printf 4194000 >/etc/passwd.lock
echo '{"vmId":"`+testVM+`","users":["alice"],"making":"alice"}' >/var/lib/waagent/azguest/data/users.json`)
	if failures := applyAll(t.Context(), t, m, c, ""); len(failures) > 0 {
		t.Error(failures)
	}
	expect(t, map[string]string{
		"id alice | tr -d 0-9; id -u alice":                               "uid=(alice) gid=(alice) groups=(alice),(extra)\n1700",
		"grep -c ^alice: /etc/passwd /etc/shadow /etc/group /etc/gshadow": "/etc/passwd:1\n/etc/shadow:1\n/etc/group:1\n/etc/gshadow:1",
		"stat -c %U /home/alice /home/alice/.profile /srv/kept":           "alice\nalice\nroot",
		"ls /etc/*.lock 2>/dev/null || true":                              "",
	})
}
