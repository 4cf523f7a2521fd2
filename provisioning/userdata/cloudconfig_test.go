package userdata

import (
	"encoding/base64"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/secret"
)

func config(t *testing.T, text string) Config {
	t.Helper()
	d := Load(user("#cloud-config\n" + text))
	if len(d.Problems) > 0 {
		t.Fatal(d.Problems)
	}
	return d.Config
}

const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl user@host"

func at(line int) Place { return Place{Layer: UserData, Line: line} }

// TestConfig: every key, in all its forms.
func TestConfig(t *testing.T) {
	number := func(n int) *int { return &n }
	for _, tc := range []struct {
		name, doc string
		want      Config
	}{
		{"commands", "bootcmd:\n- echo a\n- [echo, 'b c', 5]\nruncmd:\n- |\n  one\n  two\n", Config{
			BootCommands: []Command{{Shell: "echo a", At: at(3)}, {Args: []string{"echo", "b c", "5"}, At: at(4)}},
			RunCommands:  []Command{{Shell: "one\ntwo\n", At: at(6)}},
		}},
		{"files", `write_files:
- path: /a
- {path: /b, content: "x\n", owner: "bob:staff", permissions: '0755', append: yes, defer: on}
- {path: /c, content: aGk=, encoding: b64, permissions: 04750, owner: bob}
- {path: /d, content: ` + base64.StdEncoding.EncodeToString([]byte(packed(t, "packed"))) + `, encoding: gz+b64, permissions: "0o600", owner: "bob:"}
- {path: /e, content: !!binary aGk=, permissions: "644"}
`, Config{Files: []File{
			{Path: "/a", Content: secret.New(""), Owner: "root", Group: "root", Mode: 0o644, At: at(3)},
			{Path: "/b", Content: secret.New("x\n"), Owner: "bob", Group: "staff", Mode: 0o755, Append: true, Defer: true, At: at(4)},
			{Path: "/c", Content: secret.New("hi"), Owner: "bob", Mode: 0o750 | fs.ModeSetuid, At: at(5)},
			{Path: "/d", Content: secret.New("packed"), Owner: "bob", Mode: 0o600, At: at(6)},
			{Path: "/e", Content: secret.New("hi"), Owner: "root", Group: "root", Mode: 0o644, At: at(7)},
		}}},
		{"names", "hostname: web-1\nfqdn: web-1.example.org\nprefer_fqdn_over_hostname: True\nmanage_etc_hosts: localhost\ntimezone: Europe/Berlin\n", Config{
			HostName: "web-1", FQDN: "web-1.example.org", PreferFQDN: true, Hosts: HostsLocalhost, TimeZone: "Europe/Berlin",
		}},
		{"hosts", "manage_etc_hosts: yes\n", Config{Hosts: HostsTemplate}},
		{"hosts off", "manage_etc_hosts: false\n", Config{}},
		{"groups", "groups:\n- admins: [bob, eve]\n- staff, wheel\n- admins: joe\n", Config{Groups: []Group{
			{Name: "admins", Members: []string{"bob", "eve", "joe"}, At: at(3)}, {Name: "staff", At: at(4)}, {Name: "wheel", At: at(4)},
		}}},
		{"groups, a map", "groups: {a: [], b: bob}\n", Config{Groups: []Group{{Name: "a", At: at(2)}, {Name: "b", Members: []string{"bob"}, At: at(2)}}}},
		{"groups, a text", "groups: a, b\n", Config{Groups: []Group{{Name: "a", At: at(2)}, {Name: "b", At: at(2)}}}},
		{"users", `users:
- default
- eve
- name: bob
  gecos: Bob, Builder
  primary-group: staff
  groups: a, b
  shell: /bin/bash
  homedir: /srv/bob
  no_create_home: true
  system: true
  uid: "1500"
  sudo: ["ALL=(ALL) NOPASSWD:ALL"]
  lock-passwd: false
  passwd: $6$x$y
  hashed_passwd: $6$x$z
  plain_text_passwd: 1234
  ssh_authorized_keys: [` + sshKey + `]
  expiredate: 2030-01-31
  inactive: 5
- name: joe
  sudo: false
`, Config{Users: []User{
			{Default: true, At: at(3)},
			{Name: "eve", At: at(4)},
			{
				Name: "bob", Gecos: "Bob, Builder", PrimaryGroup: "staff", Groups: []string{"a", "b"}, Shell: "/bin/bash", HomeDir: "/srv/bob",
				NoCreateHome: true, System: true, UID: number(1500), Sudo: []string{"ALL=(ALL) NOPASSWD:ALL"},
				LockPassword: new(false), Passwd: secret.New("$6$x$y"), HashedPasswd: secret.New("$6$x$z"), PlainPasswd: secret.New("1234"),
				Keys: []string{sshKey}, ExpireDate: "2030-01-31", Inactive: number(5), At: at(5),
			},
			{Name: "joe", At: at(22)},
		}}},
		{"users, a text", "users: default, bob\n", Config{Users: []User{{Default: true, At: at(2)}, {Name: "bob", At: at(2)}}}},
		{"the default user in full", "users:\n- default\n- name: default\n  shell: /bin/sh\n", Config{Users: []User{{Default: true, Shell: "/bin/sh", At: at(4)}}}},
		{"keys", "ssh_authorized_keys:\n- |\n  " + sshKey + "\n", Config{Keys: []string{sshKey}}},
		{"ntp", "ntp: {enabled: true, servers: [a.example, '2001:db8::1'], pools: [b.example], ntp_client: chrony}\n", Config{NTP: &NTP{
			Enabled: true, Servers: []string{"a.example", "2001:db8::1"}, Pools: []string{"b.example"}, Client: NTPChrony,
		}}},
		{"ntp, the defaults", "ntp:\n", Config{NTP: &NTP{Enabled: true, Client: NTPAuto}}},
		{"packages", "packages: [nginx, [curl, 7.88.1-10], 'git=1:2.39']\npackage_update: true\npackage_upgrade: no\n", Config{
			Packages:      []PackageName{{Name: "nginx", At: at(2)}, {Name: "curl", Version: "7.88.1-10", At: at(2)}, {Name: "git=1:2.39", At: at(2)}},
			PackageUpdate: true,
		}},
		{"mounts", "mounts:\n- [sdc, /data]\n- [/dev/sdd, none, swap, sw, '0', 0]\n", Config{Mounts: []Mount{
			{Device: "sdc", Point: "/data", Type: "auto", Options: "defaults,nofail", Pass: 2, At: at(3)},
			{Device: "/dev/sdd", Point: "none", Type: "swap", Options: "sw", At: at(4)},
		}}},
		{"mounts, taken back", "mounts: [[sdc, /data], [sdd, /other], [sdc, null], [sde]]\n", Config{Mounts: []Mount{
			{Device: "sdd", Point: "/other", Type: "auto", Options: "defaults,nofail", Pass: 2, At: at(2)},
		}}},
		{"commands, comments", "runcmd:\n- # first\n- a\n-\n", Config{RunCommands: []Command{{Shell: "a", At: at(4)}}}},
		{"empty values", "hostname:\nusers: ~\nruncmd: null\n", Config{}},
		{"anchors", "users:\n- &bob {name: bob, shell: /bin/sh}\n- {<<: *bob, name: eve}\n", Config{Users: []User{
			{Name: "bob", Shell: "/bin/sh", At: at(3)}, {Name: "eve", Shell: "/bin/sh", At: at(4)},
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, config(t, tc.doc)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestValues: values that are not allowed, each with its place and its reason.
func TestValues(t *testing.T) {
	for _, tc := range []struct{ doc, want string }{
		{"runcmd: echo", "runcmd: must be a list, not text"},
		{"runcmd: [{a: b}]", "runcmd[0]: must be a command, not a map; put a command that contains a colon and a blank in quotes"},
		{"runcmd: [[]]", "runcmd[0]: an empty command"},
		{"runcmd: [[echo, yes]]", `runcmd[0][1]: without quotes it is a boolean in YAML 1.1; put it in quotes`},
		{"runcmd: [[chmod, 0644, /x]]", `runcmd[0][1]: without quotes it is a number in YAML 1.1; put it in quotes`},
		{"runcmd: [[x, 1.10]]", `runcmd[0][1]: without quotes it is a number in YAML 1.1; put it in quotes`},
		{"runcmd: [[x, 12:30:00]]", `runcmd[0][1]: without quotes it is a number in YAML 1.1; put it in quotes`},
		{"runcmd: [[a, ~]]", "runcmd[0][1]: must be text, not empty"},
		{"write_files: [{content: x}]", "write_files[0].path: is missing"},
		{"write_files: [{path: etc/x}]", `write_files[0].path: "etc/x": must be an absolute path without . and .. in it`},
		{"write_files: [{path: /etc/../x}]", `write_files[0].path: "/etc/../x": must be an absolute path without . and .. in it`},
		{"write_files: [{path: \"/a\\0\"}]", "write_files[0].path: contains a line break or another control character"},
		{"write_files: [{path: /a, permissions: 644}]", `write_files[0].permissions: "644" without quotes is a decimal number; write "0644"`},
		{"write_files: [{path: /a, permissions: '999'}]", `write_files[0].permissions: must be octal permissions such as "0644"`},
		{"write_files: [{path: /a, permissions: '77777'}]", `write_files[0].permissions: must be octal permissions such as "0644"`},
		{"write_files: [{path: /a, owner: 'a b'}]", `write_files[0].owner: "a b": must be USER or USER:GROUP`},
		{"write_files: [{path: /a, encoding: rot13}]", `write_files[0].encoding: "rot13": must be text/plain, b64, gzip or gz+b64`},
		{"write_files: [{path: /a, encoding: b64, content: '!'}]", "write_files[0].content: not base64, as encoding says: illegal base64 data at input byte 0"},
		{"write_files: [{path: /a, encoding: gz+b64, content: aGk=}]", "write_files[0].content: not gzip, as encoding says: unexpected EOF"},
		{"write_files: [{path: /a, source: {uri: x}}]", "write_files[0].source: this key is not supported; nothing is fetched from elsewhere; use content"},
		{"hostname: a b", `hostname: "a b": not a host name`},
		{"hostname: 'a;reboot'", `hostname: "a;reboot": not a host name`},
		{"hostname: [a]", "hostname: must be text, not a list"},
		{"manage_etc_hosts: maybe", "manage_etc_hosts: must be true, false, template or localhost"},
		{"timezone: ../../etc/passwd", `timezone: "../../etc/passwd": not a time zone such as Europe/Berlin`},
		{"timezone: /etc/passwd", `timezone: "/etc/passwd": not a time zone such as Europe/Berlin`},
		{"users: {bob: {}}", "users: must be a list, not a map"},
		{"users: [{gecos: x}]", "users[0].name: is missing"},
		{"users: [{name: '../x'}]", `users[0].name: "../x": must start with a letter, a digit or _ and consist of letters, digits and . _ -`},
		{"users: [{name: bob, shell: bash}]", `users[0].shell: "bash": must be an absolute path without . and .. in it`},
		{"users: [{name: bob, uid: 0}]", "users[0].uid: must be between 1 and 4294967294"},
		{"users: [{name: bob, gecos: 'a:b'}]", `users[0].gecos: "a:b": must not contain a colon`},
		{"users: [{name: bob, lock_passwd: 'no'}]", `users[0].lock_passwd: must be true or false without quotes, not text`},
		{"users: [{name: bob, passwd: 'a:b'}]", "users[0].passwd: not a password hash such as $6$…; a password itself is given with plain_text_passwd"},
		{"users: [{name: bob, hashed_passwd: hunter2}]", "users[0].hashed_passwd: not a password hash such as $6$…; a password itself is given with plain_text_passwd"},
		{"users: [{name: bob, plain_text_passwd: \"a\\nroot:x\"}]", "users[0].plain_text_passwd: must be on one line, and not empty"},
		{"users: [{name: bob, plain_text_passwd: 0123}]", "users[0].plain_text_passwd: put it in quotes: YAML 1.1 does not take it for text"},
		{"users: [{name: bob, sudo: true}]", `users[0].sudo: must be rules of sudoers such as ALL=(ALL) NOPASSWD:ALL, or false`},
		{"users: [{name: bob, sudo: 'False'}]", `users[0].sudo: "False": not a rule of sudoers such as ALL=(ALL) NOPASSWD:ALL`},
		{"users: [{name: bob, sudo: \"ALL\\nroot\"}]", "users[0].sudo: contains a line break or another control character"},
		{"users: [{name: bob, expiredate: tomorrow}]", `users[0].expiredate: "tomorrow": must be a date YYYY-MM-DD`},
		{"users: [{name: bob, lock_passwd: true, lock-passwd: true}]", "users[0].lock-passwd: given twice, with - and with _"},
		{"users: [bob, bob]", "users[1]: the account is given twice, first at user data, line 2"},
		{"groups: [{'a b': []}]", `groups[0].a b: must start with a letter, a digit or _ and consist of letters, digits and . _ -`},
		{"ntp: true", "ntp: must be a map, not a boolean"},
		{"ntp: {ntp_client: openntpd}", "ntp.ntp_client: must be auto, chrony or systemd-timesyncd"},
		{"packages: [--force]", `packages[0]: "--force": not a name or version of a package`},
		{"packages: [{apt: [x]}]", "packages[0]: packages of a certain package manager are not supported; give names alone"},
		{"mounts: [[]]", "mounts[0]: must be a list of up to 6 fields of fstab: device, mount point, type, options, dump, pass"},
		{"mounts: [[~, /data]]", "mounts[0][0]: is empty"},
		{"mounts: [[ephemeral0, null]]", "mounts[0][0]: the temporary disk is left alone with ResourceDisk.Format=n in waagent.conf, not with an entry without a mount point"},
		{"mounts: [[sdc, data]]", `mounts[0][1]: "data": must be an absolute path, or none for swap`},
		{"mounts: [[sdc, '/a b']]", `mounts[0][1]: "/a b": not a field of fstab: it contains a blank or #; write a blank as \040`},
		{"merge_how: sum()", `merge_how: "sum": merging is by dict, list and str`},
		{"merge_how: str(append)", `merge_how: the setting "append" of str is not supported`},
		{"merge_how: [{name: list, settings: [shuffle]}]", `merge_how[0]: the setting "shuffle" of list is not supported`},
		{"disable_root: true", "disable_root: this key is not supported"},
	} {
		d := Load(user("#cloud-config\n" + tc.doc + "\n"))
		if len(d.Problems) != 1 || d.Problems[0].Error() != "user data, line 2: "+tc.want || !d.Refused {
			t.Errorf("%s:\ngot  %v\nwant %s", tc.doc, d.Problems, tc.want)
		}
	}
}

// TestSecretsAreNotRepeated: what is wrong with a password is said without it.
func TestSecretsAreNotRepeated(t *testing.T) {
	const word = "hunter:2"
	for _, key := range []string{"passwd", "hashed_passwd", "plain_text_passwd"} {
		for _, v := range []string{word, "[" + word + "]", "{a: " + word + "}", "\"" + word + "\\n\"", "0x" + word} {
			d := Load(user("#cloud-config\nusers:\n- name: bob\n  " + key + ": " + v + "\n"))
			for _, p := range d.Problems {
				if strings.Contains(p.Error(), word) {
					t.Errorf("%s: %v", key, p)
				}
			}
		}
	}
}

// TestSecretsWithoutQuotes: passwords that YAML takes for something else, and
// secrets in commands, in contents and in documents that are no cloud-config.
func TestSecretsWithoutQuotes(t *testing.T) {
	const at = "user data, line 2: "
	for _, tc := range []struct{ doc, want string }{
		{"#cloud-config\nusers: [{name: a, plain_text_passwd: *hunter2 }]\n", at + "not YAML: an alias without its anchor; put text that begins with * in quotes"},
		{"#cloud-config\nusers: [{name: a, plain_text_passwd: !hunter2 }]\n", at + "a tag (!) that is not supported; put text that begins with ! in quotes"},
		{"#cloud-config\nusers: !hunter2 [a]\n", at + "a tag (!) that is not supported; put text that begins with ! in quotes"},
		{"#cloud-config\nusers: [{name: a, plain_text_passwd: %hunter2}]\n", at + "not YAML: found character that cannot start any token (a tab cannot indent; put text that begins with @, % or a backquote in quotes)"},
		{"#cloud-config\nwrite_files: [{path: /pin, content: 0712}]\n", at + "write_files[0].content: without quotes it is a number in YAML 1.1; put it in quotes"},
		{"#cloud-config\nruncmd: [[login, 0712]]\n", at + "runcmd[0][1]: without quotes it is a number in YAML 1.1; put it in quotes"},
		{"#cloud-config\nusers: [{name: a, plain_text_passwd: one,hunter2}]\n", at + "users[0].…: a key without a value, beside a password, is not supported; put text that contains a comma in quotes"},
		{"#hunter2 is the token\n", "user data: neither a script with #! nor a #cloud-config"},
		{"# hunter2\n", "user data: neither a script with #! nor a #cloud-config"},
		{"# cloud-config\n", "user data: neither a script with #! nor a #cloud-config: it begins with \"# cloud-config\""},
	} {
		d := Load(user(tc.doc))
		if len(d.Problems) != 1 || d.Problems[0].Error() != tc.want {
			t.Errorf("%s\ngot  %v\nwant %s", tc.doc, d.Problems, tc.want)
		}
	}
}

// TestManyProblems: a document with more problems than anybody reads.
func TestManyProblems(t *testing.T) {
	d := Load(user("#cloud-config\npackages: [" + strings.Repeat("-x,", 5000) + "]\n"))
	if n := len(d.Problems); n != maxProblems+1 || d.Problems[n-1].Text != "4900 more problems" {
		t.Errorf("%d problems, the last: %v", n, d.Problems[n-1])
	}
}

// TestHashes: what is a hash, or locks an account.
func TestHashes(t *testing.T) {
	for s, want := range map[string]bool{
		"*": true, "!": true, "!!": true, "$6$salt$hash": true, "!$6$salt$hash": true, "$y$j9T$a/b$c.": true, "$2b$12$abcdefghijklmnopqrstuv": true, "ab0123456789.": true,
		"hunter2": false, "correct horse": false, "a:b": false, "$6$a:b": false, "$": false,
	} {
		if err := cryptHash(s); (err == nil) != want {
			t.Errorf("%s: %v", s, err)
		}
	}
}
