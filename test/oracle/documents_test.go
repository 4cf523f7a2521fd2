package oracle

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// Keys of nobody, and the hash of the password "oracle". Its salt has the word
// by which look.py shows the hash as it is.
const (
	keyA     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKEk2Qi3i0EWLiEHIY0dDQ3KSFj4gm54PoKt6BCVKXhS ann1"
	keyB     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICVxeKnKuDRKhMPQTvk8Vn/F+qAyHJil34GSmyEraN4b ann2"
	orderKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHCScD9ZVVb+dEoTO1scQN0xN9ooRAefmI0VruMsQZVF order" // of the account of the order
	hash     = "$6$FIXEDsalt$9pqXx3nZbOMZEbyu9uo.U6DRUvAIgNdtz/EDdi2/0sfIYXMeV9.O26BkfIPi7c2EfDJ.Z5W5z9HbH5auCpn9o."
)

// documents are the forms of user data that azguest supports, each in the words
// of cloud-init's documentation.
func documents() []document {
	return slices.Concat(scripts(), parts(), merges(), files(), commands(), names(), systems(), groups(), accounts(), passwords(), keys(), inTheField())
}

// config makes a cloud-config of its lines.
func config(lines ...string) string {
	return "#cloud-config\n" + strings.Join(lines, "\n") + "\n"
}

// say is a script that adds a line to /srv/log.
func say(what string) string { return "#!/bin/sh\necho " + what + " >>/srv/log\n" }

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // a bytes.Buffer takes everything
	_ = w.Close()
	return b.String()
}

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// A part is one of a MIME message.
type part struct {
	kind, name string   // of the content
	header     []string // more lines
	body       string
}

func message(boundary string, parts ...part) string {
	return "Content-Type: multipart/mixed; boundary=\"" + boundary + "\"\nMIME-Version: 1.0\n\n" + bodyOf(boundary, parts...)
}

func bodyOf(boundary string, parts ...part) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "--%s\nContent-Type: %s\nMIME-Version: 1.0\n", boundary, p.kind)
		if p.name != "" {
			fmt.Fprintf(&b, "Content-Disposition: attachment; filename=%q\n", p.name)
		}
		for _, h := range p.header {
			b.WriteString(h + "\n")
		}
		b.WriteString("\n" + p.body + "\n")
	}
	return b.String() + "--" + boundary + "--\n"
}

func scripts() []document {
	return []document{
		{name: "script", user: "#!/bin/sh\necho \"$0\" >/dev/null\nid -u >/srv/log\npwd >>/srv/log\n"},
		{name: "script-of-another-interpreter", user: "#!/usr/bin/env python3\nopen('/srv/log', 'w').write('python\\n')\n"},
		{name: "script-that-fails", user: "#!/bin/sh\necho before >/srv/log\nexit 3\n"},
		{name: "script-gzip", user: gzipped(say("gzip"))},
		{name: "script-with-line-ends-of-dos", user: strings.ReplaceAll(say("dos")+"echo more >>/srv/log\n", "\n", "\r\n")},
		{name: "config-with-line-ends-of-dos", user: strings.ReplaceAll(config("write_files:", "- path: /srv/a", "  content: |", "    one", "    two"), "\n", "\r\n")},
		{name: "script-once", user: say("ran"), boots: 2},
		{name: "script-in-custom-data", custom: true, user: say("custom")},
		{name: "nothing-to-do", user: "#cloud-config\n{}\n"},
	}
}

func parts() []document {
	perBoot, perInstance, perOnce := "text/x-shellscript-per-boot", "text/x-shellscript-per-instance", "text/x-shellscript-per-once"
	return []document{
		{name: "parts-in-order", user: message("B",
			part{kind: "text/x-shellscript", name: "b.sh", body: say("first")},
			part{kind: "text/cloud-config", name: "c.yaml", body: config("runcmd:", "- echo runcmd >>/srv/log")},
			part{kind: "text/x-shellscript", name: "a.sh", body: say("second")},
		)},
		{name: "parts-by-boot", boots: 2, user: message("B",
			part{kind: perBoot, name: "boot.sh", body: say("boot")},
			part{kind: perInstance, name: "instance.sh", body: say("instance")},
			part{kind: perOnce, name: "once.sh", body: say("once")},
			part{kind: "text/x-shellscript", name: "script.sh", body: say("script")},
		)},
		{name: "parts-without-names", user: message("B", part{kind: "text/x-shellscript", body: say("one")}, part{kind: "text/x-shellscript", body: say("two")})},
		{name: "parts-base64", user: message("B",
			part{kind: "text/x-shellscript; charset=\"utf-8\"", name: "a.sh", header: []string{"Content-Transfer-Encoding: base64"}, body: base64Of(say("base64"))},
		)},
		{name: "parts-quoted-printable", user: message("B",
			part{kind: "text/x-shellscript", name: "a.sh", header: []string{"Content-Transfer-Encoding: quoted-printable"}, body: "#!/bin/sh\necho a=3Db >>/srv/=\nlog\n"},
		)},
		{name: "parts-gzip", user: message("B",
			part{kind: "application/gzip", name: "a.sh.gz", header: []string{"Content-Transfer-Encoding: base64"}, body: base64Of(gzipped(say("gzip")))},
		)},
		{name: "parts-nested", user: message("B",
			part{kind: "multipart/mixed; boundary=\"C\"", body: bodyOf("C",
				part{kind: "text/x-shellscript", name: "a.sh", body: say("inner")},
				part{kind: "text/cloud-config", body: config("write_files:", "- {path: /srv/inner, content: x}")},
			)},
			part{kind: "text/x-shellscript", name: "b.sh", body: say("outer")},
		)},
		{name: "parts-by-first-line", user: message("B",
			part{kind: "text/plain", name: "a.sh", body: say("plain")},
			part{kind: "text/plain", name: "b.yaml", body: config("write_files:", "- {path: /srv/plain, content: x}")},
		)},
		{name: "message-gzip", user: gzipped(message("B", part{kind: "text/x-shellscript", name: "a.sh", body: say("whole")}))},
	}
}

// merges are documents in which two say something about the same key.
func merges() []document {
	two := func(first, second string, header ...string) string {
		return message("B", part{kind: "text/cloud-config", name: "a", body: first}, part{kind: "text/cloud-config", name: "b", header: header, body: second})
	}
	write := func(name string) string { return "- {path: /srv/" + name + ", content: " + name + "}" }
	return []document{
		{name: "merge-later-part", user: two(config("write_files:", write("a"), "timezone: Europe/Paris"), config("write_files:", write("b"), "hostname: second"))},
		{name: "merge-append", user: two(config("write_files:", write("a")), config("merge_how: list(append)+dict(recurse_array)+str()", "write_files:", write("b")))},
		{name: "merge-prepend", user: two(config("runcmd:", "- echo a >>/srv/log"), config("merge_how: 'list(prepend)+dict(recurse_array)+str()'", "runcmd:", "- echo b >>/srv/log"))},
		{name: "merge-by-type", user: two(config("write_files:", write("a"), "ntp: {servers: [a.example.org]}"), config("merge_type: list(append)+dict(no_replace,recurse_list)+str()", "write_files:", write("b"), "ntp: {pools: [b.example.org]}"))},
		{name: "merge-maps", user: two(config("ntp: {servers: [a.example.org]}", "hostname: a"), config("ntp: {pools: [b.example.org]}", "hostname: b"))},
		{name: "merge-as-list", user: two(config("write_files:", write("a")), config("merge_how:", "- {name: list, settings: [append]}", "- {name: dict, settings: [no_replace, recurse_list]}", "write_files:", write("b")))},
		{name: "merge-by-header", user: two(config("write_files:", write("a")), config("write_files:", write("b")), "Merge-Type: list(append)+dict(recurse_array)+str()")},
		{name: "vendor-beneath", vendor: config("timezone: Europe/Paris", "write_files:", write("vendor")), user: config("write_files:", write("user"))},
		{name: "vendor-alone", vendor: config("timezone: Europe/Paris", "write_files:", write("vendor")), user: config("{}")},
		{name: "vendor-list-replaced", vendor: config("packages: [oracle-lib]", "runcmd:", "- echo vendor >>/srv/log"), user: config("packages: [oracle-tool]", "runcmd:", "- echo user >>/srv/log")},
		{name: "vendor-map-merged", vendor: config("ntp:", "  servers: [v.example.org]", "  pools: [p.example.org]"), user: config("ntp:", "  servers: [u.example.org]")},
		{name: "vendor-appended-to", vendor: config("write_files:", write("vendor")), user: config("merge_how: list(append)+dict(recurse_array)+str()", "write_files:", write("user"))},
		{name: "vendor-parts", vendor: message("V", part{kind: "text/x-shellscript", name: "v.sh", body: say("vendor")}, part{kind: "text/cloud-config", body: config("write_files:", write("vendor"))}), user: say("user")},
		{name: "vendor-script", vendor: say("vendor"), user: say("user")},
	}
}

func files() []document {
	const gz = "H4sIAAAAAAACA8tIzcnJV0grys9VSK/KLOACAHgtvXgQAAAA"
	return []document{
		{name: "file", user: config("write_files:", "- path: /srv/dir/sub/file", "  content: |", "    one", "    two")},
		{name: "file-mode-and-owner", user: config("write_files:", "- {path: /srv/a, content: x, permissions: '0600'}", "- {path: /srv/b, content: x, permissions: '4755', owner: 'daemon:adm'}", "- {path: /srv/c, content: x, permissions: 0640, owner: bin}")},
		{name: "file-encodings", user: config("write_files:",
			"- {path: /srv/b64, encoding: b64, content: aGVsbG8K}", "- {path: /srv/base64, encoding: base64, content: aGVsbG8K}",
			"- {path: /srv/gz-b64, encoding: gz+b64, content: "+gz+"}", "- {path: /srv/gzip-base64, encoding: gzip+base64, content: "+gz+"}",
			"- {path: /srv/gz-base64, encoding: gz+base64, content: "+gz+"}", "- {path: /srv/plain, encoding: text/plain, content: 'x=y'}",
			"- path: /srv/gzip", "  encoding: gzip", "  content: !!binary |", "    "+gz)},
		{name: "file-append", prepare: "printf 'old\\n' >/srv/a; chmod 600 /srv/a", user: config("write_files:", "- {path: /srv/a, content: \"new\\n\", append: true}", "- {path: /srv/b, content: \"new\\n\", append: true}")},
		{name: "file-replace", prepare: "echo a long old text >/srv/a; chmod 600 /srv/a; ln -s /srv/a /srv/link", user: config("write_files:", "- {path: /srv/a, content: new}")},
		{name: "file-deferred", user: config("users:", "- default", "- ann", "write_files:", "- {path: /home/ann/note, content: x, owner: 'ann:ann', permissions: '0600', defer: true}", "- {path: /srv/late, content: x, defer: true}", "runcmd:", "- stat -c '%U %a' /home/ann/note >/srv/log")},
		{name: "file-empty", user: config("write_files:", "- path: /srv/empty", "- {path: /srv/also, content: ''}")},
		{name: "file-twice", user: config("write_files:", "- {path: /srv/a, content: first}", "- {path: /srv/a, content: second, permissions: '0600'}")},
	}
}

func commands() []document {
	return []document{
		{name: "runcmd", boots: 2, user: config("runcmd:", "- echo line >>/srv/log", "- [ sh, -c, 'echo \"$0 $1\" >>/srv/log', \"it's\", 'two  words' ]", "- |", "  x=1", "  echo $x >>/srv/log", "- echo $x after >>/srv/log")},
		{name: "runcmd-that-fails", user: config("runcmd:", "- 'false'", "- echo goes on >>/srv/log", "- [ls, /does/not/exist]", "- exit 4", "- echo never >>/srv/log")},
		{name: "bootcmd", boots: 2, user: config("bootcmd:", "- echo boot >>/srv/log", "- [ sh, -c, 'echo list >>/srv/log' ]", "runcmd:", "- echo run >>/srv/log")},
		{name: "bootcmd-once", boots: 2, user: config("bootcmd:", "- [ cloud-init-per, once, mark, sh, -c, 'echo once >>/srv/log' ]")},
		{name: "order", user: config(
			"bootcmd:", "- echo bootcmd $(ls /srv) $(id -u ann 2>&1 | grep -c no) >>/srv/log",
			"write_files:", "- {path: /srv/file, content: x}", "- {path: /srv/late, content: x, defer: true}",
			"users:", "- default", "- {name: ann, homedir: /srv/ann}",
			"packages: [oracle-lib]",
			"runcmd:", "- echo runcmd $(ls /srv) $(dpkg-query -W oracle-lib) >>/srv/log")},
	}
}

// names are the host name and /etc/hosts.
func names() []document {
	return []document{
		{name: "hostname", user: config("hostname: web01")},
		{name: "fqdn", user: config("fqdn: web01.example.org")},
		{name: "hostname-and-fqdn", user: config("hostname: web01", "fqdn: web02.example.org")},
		{name: "hostname-prefer-fqdn", user: config("hostname: web01", "fqdn: web02.example.org", "prefer_fqdn_over_hostname: true")},
		{name: "hostname-with-dots", user: config("hostname: web01.example.org")},
		{name: "hosts", user: config("hostname: web01", "fqdn: web01.example.org", "manage_etc_hosts: true")},
		{name: "hosts-template", user: config("fqdn: web01.example.org", "manage_etc_hosts: template")},
		{name: "hosts-without-names", user: config("manage_etc_hosts: true")},
		{name: "hosts-localhost", prepare: "printf '127.0.0.1 localhost\\n127.0.1.1 old\\n10.0.0.9 other\\n' >/etc/hosts", user: config("fqdn: web01.example.org", "manage_etc_hosts: localhost")},
		{name: "hosts-localhost-twice", boots: 2, user: config("hostname: web01", "manage_etc_hosts: localhost")},
		{name: "hosts-false", user: config("hostname: web01", "manage_etc_hosts: false")},
		{name: "hosts-every-boot", boots: 2, user: config("manage_etc_hosts: true", "runcmd:", "- echo 10.0.0.9 other >>/etc/hosts")},
	}
}

// systems are the time zone, the time, packages and mounts.
func systems() []document {
	return []document{
		{name: "custom-data", custom: true, user: config("timezone: Europe/Berlin", "runcmd:", "- echo custom >>/srv/log")},
		{name: "timezone", user: config("timezone: Europe/Berlin")},
		{name: "timezone-with-dirs", user: config("timezone: America/Argentina/Ushuaia")},
		{name: "ntp-chrony", user: config("ntp:", "  ntp_client: chrony", "  servers: [a.example.org, 10.0.0.5]", "  pools: [p.example.org]")},
		{name: "ntp-timesyncd", user: config("ntp:", "  enabled: true", "  ntp_client: systemd-timesyncd", "  servers: [a.example.org, b.example.org]", "  pools: [p.example.org]")},
		{name: "ntp-auto", user: config("ntp:", "  ntp_client: auto", "  servers: [a.example.org]")},
		{name: "ntp-pools-only", user: config("ntp: {pools: [p.example.org, q.example.org]}")},
		{name: "ntp-empty", user: config("ntp: {}")},
		{name: "ntp-off", user: config("ntp:", "  enabled: false", "  servers: [a.example.org]")},
		{name: "packages", user: config("packages:", "- oracle-lib", "- [oracle-tool, '1.0']")},
		{name: "packages-update", user: config("package_update: true", "packages: [oracle-tool]")},
		{name: "package-upgrade", prepare: "dpkg -i " + repoPath + "/oracle-tool_1.0_all.deb", user: config("package_update: true", "package_upgrade: true")},
		{name: "mounts", user: config("mounts:", "- ['server:/export', /srv/nfs, nfs, 'ro,noauto', '0', '0']", "- ['server:/other', /srv/other]")},
		{name: "mounts-taken-back", user: config("mounts:", "- ['server:/export', /srv/nfs, nfs, 'ro,noauto', '0', '0']", "- ['LABEL=a', /srv/a, ext4, 'noauto']", "- ['server:/export', null]")},
		{name: "runcmd-comments", user: config("runcmd:", "- # first", "- echo a >/srv/log", "-")},
		{name: "mounts-that-stop-the-boot", user: config("mounts:", "- [/dev/doesnotexist, /srv/none, ext4, defaults]")},
		{name: "mounts-of-devices", user: config("mounts:", "- [/dev/doesnotexist, /srv/none, ext4, 'defaults,nofail', '0', '2']", "- ['LABEL=data', /srv/label, ext4, 'noauto']")},
	}
}

func groups() []document {
	return []document{
		{name: "groups", user: config("groups:", "- cloud-users", "- staff2: [daemon, bin]")},
		{name: "groups-mapping", user: config("groups:", "  red: [daemon]", "  blue: []")},
		{name: "groups-text", user: config("groups: red,blue")},
		{name: "groups-that-exist", user: config("groups:", "- adm", "- audio: [daemon]")},
		{name: "groups-of-users", user: config("groups: [admins]", "users:", "- default", "- {name: ann, groups: [admins]}")},
	}
}

func accounts() []document {
	return []document{
		{name: "user", user: config("users:", "- name: ann")},
		{name: "user-by-name", user: config("users: [default, ann]")},
		{name: "users-text", user: config("users: default, ann, bob")},
		{name: "users-default-only", user: config("users: [default]")},
		{name: "users-empty", user: config("users: []")},
		{name: "user-full", user: config("users:", "- default", "- name: ann", "  gecos: Ann Example", "  primary_group: red", "  groups: [adm, blue]", "  shell: /bin/bash", "  homedir: /srv/home/ann", "  uid: 61001", "  sudo: 'ALL=(ALL) NOPASSWD:ALL'", "groups: [red]")},
		{name: "user-groups-text", user: config("users:", "- {name: ann, groups: 'adm, audio'}")},
		{name: "user-system", user: config("users:", "- {name: svc, system: true}", "- {name: svc2, system: true, no_create_home: true, shell: /usr/sbin/nologin, homedir: /srv/svc2}")},
		{name: "user-no-home", user: config("users:", "- {name: ann, no_create_home: true}", "- {name: bob}")},
		{name: "user-sudo-list", user: config("users:", "- name: ann", "  sudo:", "  - ALL=(root) NOPASSWD:/usr/bin/id", "  - ALL=(daemon) ALL", "- {name: bob, sudo: null}")},
		{name: "user-expires", user: config("users:", "- {name: ann, expiredate: '2031-02-03', inactive: '5'}")},
		{name: "user-exists", prepare: "useradd -m -s /bin/sh -c Old ann", user: config("users:", "- {name: ann, gecos: New, shell: /bin/bash, groups: [adm], sudo: 'ALL=(ALL) ALL', ssh_authorized_keys: ["+keyA+"]}")},
		{name: "user-root", user: config("users:", "- default", "- {name: root, ssh_authorized_keys: ["+keyA+"]}")},
		{name: "user-default-extended", user: config("users:", "- {name: default, groups: [audio], ssh_authorized_keys: ["+keyA+"]}")},
		{name: "user-default-and-others-later", user: config("users:", "- {name: bob, groups: users}", "- default")},
		{name: "user-inactive-number", user: config("users:", "- {name: ann, inactive: '0', expiredate: '2030-12-31'}")},
		{name: "user-uid-text", user: config("users:", "- {name: ann, uid: '61002'}")},
	}
}

func passwords() []document {
	return []document{
		{name: "password-hash-of-new", user: config("users:", "- {name: ann, passwd: '"+hash+"', lock_passwd: false}")},
		{name: "password-hashed", user: config("users:", "- {name: ann, hashed_passwd: '"+hash+"', lock_passwd: false}")},
		{name: "password-plain", user: config("users:", "- {name: ann, plain_text_passwd: oracle, lock_passwd: false}")},
		{name: "password-locked", user: config("users:", "- {name: ann, passwd: '"+hash+"'}", "- {name: bob, plain_text_passwd: oracle, lock_passwd: true}")},
		{name: "password-none-open", user: config("users:", "- {name: ann, lock_passwd: false}")},
		{name: "password-of-existing", prepare: "useradd -m ann; useradd -m bob; useradd -m cyd", user: config("users:", "- {name: ann, passwd: '"+hash+"', lock_passwd: false}", "- {name: bob, hashed_passwd: '"+hash+"', lock_passwd: false}", "- {name: cyd, plain_text_passwd: oracle, lock_passwd: false}")},
	}
}

func keys() []document {
	return []document{
		{name: "keys-of-user", user: config("users:", "- default", "- name: ann", "  ssh_authorized_keys:", "  - "+keyA, "  - "+keyB)},
		{name: "keys-of-user-text", user: config("users:", "- name: ann", "  ssh_authorized_keys: "+keyA)},
		{name: "keys-of-account", user: config("ssh_authorized_keys:", "- "+keyA)},
		{name: "keys-of-existing", prepare: "useradd -m ann; mkdir -m 700 /home/ann/.ssh; echo '" + keyB + "' >/home/ann/.ssh/authorized_keys; chmod 600 /home/ann/.ssh/authorized_keys; chown -R ann: /home/ann/.ssh", user: config("users:", "- {name: ann, ssh_authorized_keys: ["+keyA+"]}")},
	}
}

// inTheField are documents as other tools write them, and habits of people.
func inTheField() []document {
	return []document{
		{name: "field-terraform", user: gzipped("Content-Type: multipart/mixed; boundary=\"MIMEBOUNDARY\"\nMIME-Version: 1.0\r\n\r\n" +
			"--MIMEBOUNDARY\r\nContent-Transfer-Encoding: 7bit\r\nContent-Type: text/cloud-config\r\nMime-Version: 1.0\r\n\r\n" + config("write_files:", "- {path: /srv/a, content: x}") +
			"\r\n--MIMEBOUNDARY\r\nContent-Disposition: attachment; filename=\"init.sh\"\r\nContent-Transfer-Encoding: 7bit\r\nContent-Type: text/x-shellscript\r\nMime-Version: 1.0\r\n\r\n" + say("terraform") +
			"\r\n--MIMEBOUNDARY\r\nContent-Transfer-Encoding: 7bit\r\nContent-Type: text/cloud-config\r\nMime-Version: 1.0\r\nX-Merge-Type: list(append)+dict(recurse_array)+str()\r\n\r\n" + config("write_files:", "- {path: /srv/b, content: y}") +
			"\r\n--MIMEBOUNDARY--\r\n")},
		{name: "field-make-mime", user: "From nobody Tue Jan  3 10:00:00 2023\n" + message("===============2600==",
			part{kind: "text/x-shellscript; charset=\"utf-8\"", name: "a.sh", header: []string{"Content-Transfer-Encoding: base64"}, body: base64Of(say("gr\u00fc\u00dfe"))},
			part{kind: "text/cloud-config; charset=\"us-ascii\"", name: "b.yaml", header: []string{"Content-Transfer-Encoding: 7bit"}, body: config("runcmd: [echo run >>/srv/log]")},
		)},
		{name: "field-json", user: "#cloud-config\n{\"runcmd\": [\"echo a: b >>/srv/log\"], \"write_files\": [{\"path\": \"/srv/a\", \"content\": \"tab\\tx\", \"permissions\": \"0600\"}]}\n"},
		{name: "field-comments", user: "#cloud-config for web servers\n# vim: syntax=yaml\n---\nruncmd:   # all\n  - echo 'it''s # no comment' >>/srv/log # comment\n  - >\n    echo folded\n    line >>/srv/log\n  - [sh, -c, 'echo $0 $1 >>/srv/log', 1.5, 22]\npackages: [[oracle-tool, 1.0]]\n...\n"},
		{name: "field-users", user: config("fqdn: ''", "users:", "- &base {name: ann, shell: /bin/bash, groups: &g [adm]}", "- {<<: *base, name: bob}", "- {name: cyd, groups: *g, gecos: '', shell: '', no_user_group: true, no_log_init: true}",
			"- {name: dan, primary-group: staff, lock-passwd: false, passwd: '"+hash+"', no-create-home: true}", "- {name: eve, primary_group: users, no_user_group: true, groups: ''}", "- {name: fay, groups: [adm], create_groups: false}", "- {name: gus, homedir: /srv/gus/}",
			"mounts:", "- ['server:/x', /srv/x/, nfs, 'ro,noauto']")},
		{name: "field-files", prepare: "echo old >/srv/a; ln -s a /srv/link; mkdir /srv/d; ln -s d /srv/dirlink; ln -s new /srv/dangling", user: config("write_files:",
			"- {path: /srv/link, content: x}", "- {path: /srv/dirlink/b, content: x}", "- {path: /srv/dangling, content: ''}", "- {path: /srv//e//f, content: x, permissions: 0o750}", "- {path: /srv/g, content: x, permissions: '750'}", "- {path: /srv/owner, content: x, owner: '1:4'}")},
	}
}
