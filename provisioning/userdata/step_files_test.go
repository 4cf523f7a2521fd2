package userdata

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/sandbox"
)

func TestFiles(t *testing.T) {
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	sh(t, order+`
printf 'first\n' >/etc/appended; chown azureuser:azureuser /etc/appended
echo target >/etc/linked-to; ln -s linked-to /etc/link
mkdir -p /srv/open; chmod 1777 /srv/open; ln -s /etc/victim /srv/open/dir; ln -s /etc/passwd /srv/open/file
chown -h azureuser /srv/open/*; mkdir -m 777 /etc/victim
mkfifo /srv/pipe; ln -s pipe /srv/to-pipe; ln -s /etc/passwd /home/azureuser/x; chown -h azureuser /home/azureuser/x`)
	file := func(path, content string, more ...func(*File)) File {
		f := File{Path: path, Content: secret.New(content), Owner: "root", Mode: 0o644}
		for _, m := range more {
			m(&f)
		}
		return f
	}
	appended := func(f *File) { f.Append = true }
	deferred := func(f *File) { f.Defer = true }
	owned := func(user, group string) func(*File) {
		return func(f *File) { f.Owner, f.Group = user, group }
	}
	mode := func(m fs.FileMode) func(*File) { return func(f *File) { f.Mode = m } }
	c := Config{
		Users: []User{{Name: "alice"}},
		Files: []File{
			file("/etc/plain", "text\n"),
			file("/opt/a/b/c", "#!/bin/sh\necho ran\n", mode(0o750), owned("root", "adm")),
			file("/etc/binary", "\x00\xff\n"),
			file("/etc/appended", "second\n", appended),
			file("/etc/appended", "third\n", appended),
			file("/etc/fresh", "only\n", appended),
			file("/etc/link", "through\n"),
			file("/home/azureuser/dir/own", "x", owned("azureuser", "azureuser")),
			file("/etc/early", "x", owned("alice", "alice")),
			file("/home/alice/late", "x", owned("alice", "alice"), deferred),
			file("/etc/numeric", "x", owned("1234", "4321"), mode(0o755|fs.ModeSetuid)),
			file("/srv/open/dir/planted", "x"),
			file("/srv/open/file", "mine\n"),
			file("/proc/sys/kernel/domainname", "example.org\n"),
			file("/etc", "x"),
			file("/dev/null", "x"),
			file("/srv/pipe", "x"),
			file("/srv/to-pipe", "x", appended),
			file("/home/azureuser/x", "mine\n", appended),
		},
	}
	m := thisMachine(t)
	want := map[string]string{"file:9:/etc/early": "AZ-DATA-FILE", "file:12:/srv/open/dir/planted": "AZ-DATA-FILE", "file:15:/etc": "AZ-DATA-FILE", "file:16:/dev/null": "AZ-DATA-FILE", "file:17:/srv/pipe": "AZ-DATA-FILE", "file:18:/srv/to-pipe": "AZ-DATA-FILE", "file:19:/home/azureuser/x": "AZ-DATA-FILE"}
	domain, err := os.ReadFile("/proc/sys/kernel/domainname")
	if err != nil || os.WriteFile("/proc/sys/kernel/domainname", domain, 0o644) != nil {
		want["file:14:/proc/sys/kernel/domainname"] = "AZ-DATA-FILE" // read-only here
	}
	for _, run := range []string{"first", "second"} {
		if run == "second" {
			delete(want, "file:9:/etc/early") // the account is there by now
		}
		failures := applyAll(t.Context(), t, m, c, "azureuser")
		if diff := cmp.Diff(want, codes(failures)); diff != "" {
			t.Fatalf("failures of the %s run (-want +got):\n%s\n%v", run, diff, failures)
		}
		expect(t, map[string]string{
			"cat /etc/plain; /opt/a/b/c":                                                           "text\nran",
			"stat -c '%a %U:%G' /opt/a /opt/a/b /opt/a/b/c":                                        "755 root:root\n755 root:root\n750 root:adm",
			"od -An -tx1 /etc/binary":                                                              "00 ff 0a",
			"cat /etc/appended; stat -c '%a %U:%G' /etc/appended":                                  "first\nsecond\nthird\n644 root:azureuser",
			"cat /etc/fresh; readlink /etc/link; cat /etc/linked-to":                               "only\nlinked-to\nthrough",
			"stat -c '%U:%G' /home/azureuser/dir /home/azureuser/dir/own":                          "root:root\nazureuser:azureuser",
			"test -c /dev/null && test -p /srv/pipe && echo kept":                                  "kept",
			"ls /etc/victim/planted 2>/dev/null || true":                                           "",
			"stat -c '%U:%G' /home/alice/late; stat -c '%a %u:%g' /etc/numeric":                    "alice:alice\n4755 1234:4321",
			"cat /srv/open/file; stat -c '%F %U' /srv/open/file; grep -c mine /etc/passwd || true": "mine\nregular file root\n0",
			"ls -d /etc/.*azg* /opt/a/b/.* 2>/dev/null | grep azg || true":                         "",
		})
	}
	if err := os.WriteFile("/etc/appended", []byte("somebody's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	applyAll(t.Context(), t, m, c, "azureuser")
	expect(t, map[string]string{"cat /etc/appended": "somebody's"})

	m.VM.ID = strings.Replace(testVM, "1", "2", 1)
	applyAll(t.Context(), t, m, c, "azureuser")
	expect(t, map[string]string{"cat /etc/appended": "somebody's\nsecond\nthird"})
}

func TestHostNameAndHosts(t *testing.T) {
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	m := thisMachine(t)
	hosts := "127.0.0.1\tlocalhost\n127.0.1.1\tsandbox # azguest\n10.0.0.5\tdb\n"
	for _, tc := range []struct {
		name             string
		c                Config
		hostname, starts string
		hosts            string // all of it; empty: not compared
	}{
		{"name only", Config{HostName: "web"}, "web", "", ""},
		{"full name", Config{FQDN: "web2.example.org", Hosts: HostsLocalhost}, "web2", "", "127.0.0.1\tlocalhost\n10.0.0.5\tdb\n127.0.1.1\tweb2.example.org web2 # azguest\n"},
		{"full name preferred", Config{HostName: "web3.example.org", PreferFQDN: true, Hosts: HostsLocalhost}, "web3.example.org", "", "127.0.0.1\tlocalhost\n10.0.0.5\tdb\n127.0.1.1\tweb3.example.org web3 # azguest\n"},
		{"both", Config{HostName: "short", FQDN: "long.example.org", Hosts: HostsTemplate}, "short", "127.0.1.1\tlong.example.org short\n127.0.0.1\tlocalhost\n", ""},
		{"hosts only", Config{Hosts: HostsTemplate}, "short", "127.0.1.1\tshort\n127.0.0.1\tlocalhost\n", ""},
	} {
		if err := os.WriteFile("/etc/hosts", []byte(hosts), 0o644); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if failures := applyAll(t.Context(), t, m, tc.c, ""); len(failures) > 0 {
				t.Errorf("%s: %v", tc.name, failures)
			}
			b, err := os.ReadFile("/etc/hosts")
			if err != nil {
				t.Fatal(err)
			}
			if tc.hosts != "" && string(b) != tc.hosts || !strings.Contains(string(b), tc.starts) {
				t.Errorf("%s: /etc/hosts %q", tc.name, b)
			}
			if got := sh(t, "hostname; cat /etc/hostname"); got != tc.hostname+"\n"+tc.hostname {
				t.Errorf("%s: host name %q", tc.name, got)
			}
		}
	}
	// The agent sees that the name was changed, and knows the short one only.
	c := Config{FQDN: "web2.example.org", Hosts: HostsLocalhost}
	if err := os.WriteFile("/etc/hosts", []byte("127.0.1.1\told other\n"+hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	if failures := applyAll(t.Context(), t, m, c, ""); len(failures) > 0 {
		t.Error(failures)
	}
	before := sh(t, "cat /etc/hosts")
	monitor := provisioning.SetHostName{Name: "web2", Old: "old", Hosts: true, Record: "/run/published"}
	if err := monitor.Apply(t.Context(), m); err != nil {
		t.Error(err)
	}
	expect(t, map[string]string{"cat /etc/hosts": strings.Replace(before, "\told other", "\tother", 1)})
	if failures := applyAll(t.Context(), t, m, Config{HostName: "-bad-"}, ""); codes(failures)["hostname"] != "AZ-DATA-HOSTNAME" {
		t.Errorf("bad name: %v", failures)
	}
	if m.Root.Exists("/var/lib/waagent/published_hostname") {
		t.Error("the name is recorded as published")
	}
}
