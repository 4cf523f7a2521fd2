package generalize_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/generalize"
)

// clean is an image in which nothing belongs to one machine.
func clean(t *testing.T) host.Root {
	t.Helper()
	// In memory: hundreds of files are written and synced.
	dir, err := os.MkdirTemp("/dev/shm", "identity-") //nolint:usetesting // t.TempDir is on a disk
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	r := host.Root(dir)
	for name, text := range map[string]string{
		"/etc/passwd":   "root:x:0:0::/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/bash\nremote:x:1001:1001::/data/remote:/bin/sh\n",
		"/etc/shadow":   "root:*:1::::::\nanna:!:1::::::\nremote:!:1::::::\n",
		"/etc/hostname": "localhost.localdomain\n", "/etc/hosts": "127.0.0.1 localhost\n", "/etc/machine-id": "",
		"/root/.profile": "", "/home/anna/.profile": "", "/data/remote/.profile": "", "/usr/sbin/azguest": "",
		"/etc/sudoers": "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n",
	} {
		write(t, r, name, text, 0o600)
	}
	return r
}

// A specimen is what one entry of the table looks for, and what looks like it.
type specimen struct {
	files map[string]string // that the entry finds; for Edit: before
	after map[string]string // content afterwards; others are gone, or as before if they are kept
	stay  map[string]string // decoys
	kept  bool              // found, but kept
}

const (
	hashed  = "anna:$6$salt$hash:1:0:99999:7:::\n"
	private = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n"
)

type texts = map[string]string

// specimens are those of entries that look at contents. For the others they
// are made of the patterns, with a decoy beside each.
func specimens() map[string]specimen {
	keep := func(files, stay texts) specimen { return specimen{files: files, stay: stay, kept: true} }
	drop := func(files, stay texts) specimen { return specimen{files: files, stay: stay} }
	edit := func(name, before, after string, stay texts) specimen {
		return specimen{files: texts{name: before}, after: texts{name: after}, stay: stay}
	}
	const (
		ifcfg = "/etc/sysconfig/network-scripts/ifcfg-eth0"
		nm    = "/etc/NetworkManager/system-connections/eth0.nmconnection"
		netd  = "/etc/systemd/network/10-eth0.network"
	)
	return map[string]specimen{
		"sudo-rule": {
			files: texts{"/etc/sudoers.d/90-cloud-init-users": "# Created by cloud-init\n\n# User rules for buildadmin\nbuildadmin ALL=(ALL) NOPASSWD:ALL\n", "/etc/sudoers.d/waagent": "buildadmin ALL=(ALL) ALL\nanna ALL=(ALL) ALL\n"},
			after: texts{"/etc/sudoers.d/waagent": "anna ALL=(ALL) ALL\n"},
			stay:  texts{"/etc/sudoers.d/azure-init-user": "anna ALL=(ALL) ALL\n"},
		},
		"sudo-rule-unknown": keep(texts{"/etc/sudoers.d/packer": "packer ALL=(ALL) NOPASSWD: ALL\n", "/etc/sudoers.d/two": "anna, vagrant ALL = ALL\n"},
			texts{"/etc/sudoers.d/ok": "anna ALL=(ALL) ALL\n%wheel ALL=(ALL) ALL\n#1234 ALL=ALL\nDOM\\\\joe ALL=ALL\njoe@dom.example ALL=ALL\nDefaults:ghost !requiretty\nUser_Alias OPS = ghost\nOPS ALL=ALL\nanna ALL = /bin/a, \\\n ghost = /bin/b\n", "/etc/sudoers.d/x.rpmsave": "ghost ALL=ALL\n"}),
		"shadow-backup":      drop(texts{"/etc/shadow-": hashed, "/var/backups/shadow.bak": hashed}, texts{"/etc/gshadow-": "root:*::\n", "/var/backups/shadow.note": "n"}),
		"gone-account-state": drop(texts{"/var/lib/systemd/linger/ghost": "", "/var/lib/AccountsService/users/ghost": "x"}, texts{"/var/lib/systemd/linger/anna": "", "/var/lib/AccountsService/users/anna": "x"}),
		"jobs":               keep(texts{"/var/spool/cron/crontabs/root": "@daily x\n"}, texts{"/var/spool/cron/crontabs/anna": "# none\n"}),
		"mail":               keep(texts{"/var/mail/root": "From x\n"}, texts{"/var/mail/anna": ""}),
		"machine-id":         {files: texts{"/etc/machine-id": strings.Repeat("a", 32) + "\n"}, after: texts{"/etc/machine-id": ""}},
		"dbus-machine-id":    drop(texts{"/var/lib/dbus/machine-id": "a\n"}, nil),
		"hosts-own-name": {
			files: texts{"/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 buildvm.corp.example buildvm\n10.0.0.4 buildvm db # own\n::1 localhost\n127.0.1.1 old # azguest\n"},
			after: texts{"/etc/hosts": "127.0.0.1 localhost\n10.0.0.4\tdb # own\n::1 localhost\n", "/etc/hostname": "localhost.localdomain\n"}, stay: texts{"/etc/hosts.allow": "ALL: buildvm\n"},
		},
		"hosts-other": keep(texts{"/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 buildvm\n"}, nil),
		"hostname":    {files: texts{"/etc/hostname": "buildvm\n", "/etc/HOSTNAME": "buildvm.example\n"}, after: texts{"/etc/hostname": "localhost.localdomain\n", "/etc/HOSTNAME": "localhost.localdomain\n"}},
		"hostname-setting": {
			files: texts{"/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=buildvm\n", "/etc/machine-info": "CHASSIS=vm\nPRETTY_HOSTNAME=\"Build VM\"\n"},
			after: texts{"/etc/sysconfig/network": "NETWORKING=yes\n", "/etc/machine-info": "CHASSIS=vm\n"}, stay: texts{"/etc/sysconfig/network.orig": "HOSTNAME=buildvm\n"},
		},
		"mail-login":   keep(texts{"/etc/postfix/sasl_passwd": "[smtp.example]:587 u:p\n"}, texts{"/etc/exim4/passwd.client": "# none\n"}),
		"mail-name":    keep(texts{"/etc/mailname": "buildvm.example\n"}, texts{"/etc/postfix/main.cf": "# buildvm\nmyhostname = mail.example\n"}),
		"boot-entries": keep(texts{"/boot/loader/entries/" + strings.Repeat("0a", 16) + "-6.1.conf": "x"}, texts{"/boot/loader/entries/linux.conf": "x"}),
		"boot-once":    keep(texts{"/boot/grub2/grubenv": "saved_entry=0\nnext_entry=2\n"}, texts{"/boot/grub/grubenv": "saved_entry=0\nnext_entry=\n"}),
		"tpm":          keep(texts{"/var/lib/systemd/pcrlock.json": "{}"}, texts{"/etc/clevis/readme": "x"}),
		"cloud-config-password": keep(texts{"/etc/cloud/cloud.cfg.d/91-x.cfg": "chpasswd: {list: ['a:$6$salt$hash']}\n"},
			texts{"/etc/cloud/cloud.cfg.d/92-x.cfg": "datasource_list: [Azure]\n"}),
		"debconf-passwords":   keep(texts{"/var/cache/debconf/passwords.dat": "Name: x/password\nValue: x\n"}, texts{"/var/cache/debconf/config.dat": "Value: x\n"}),
		"dhcp-identity-fixed": keep(texts{"/etc/systemd/networkd.conf": "[DHCPv4]\nDUIDRawData=00:01\n"}, texts{"/etc/systemd/networkd.conf.d/x.conf": "#DUIDRawData=00:01\n"}),
		"dhcp-host-name":      keep(texts{"/etc/dhcp/dhclient.conf": `send host-name "buildvm";` + "\n"}, texts{"/etc/dhcp/dhclient-eth1.conf": "send host-name = gethostname();\n"}),
		"interface-names": {
			files: texts{"/etc/udev/rules.d/70-persistent-net.rules": "SUBSYSTEM==\"net\"\n", "/etc/udev/rules.d/70-persistent-cd.rules": "x"},
			stay:  texts{"/etc/udev/rules.d/75-persistent-net-generator.rules": "", "/etc/udev/rules.d/80-net-setup-link.rules": "", "/etc/systemd/network/99-default.link": ""},
		},
		"ifcfg-mac":       edit(ifcfg, "DEVICE=eth0\nHWADDR=00:0d:3a:01:02:03\nONBOOT=yes\n", "DEVICE=eth0\nONBOOT=yes\n", texts{ifcfg + "1": "DEVICE=eth01\n#HWADDR=00:0d:3a:01:02:03\n"}),
		"ifcfg-host-name": edit(ifcfg, "DEVICE=eth0\nDHCP_HOSTNAME=buildvm\n", "DEVICE=eth0\n", texts{ifcfg + "1": "DHCP_HOSTNAME=\n"}),
		"nmconnection-mac": edit(nm, "[connection]\nid=eth0\n\n[ethernet]\nmac-address=00:0D:3A:01:02:03\n\n[ipv4]\nmethod=auto\n", "[connection]\nid=eth0\n\n[ethernet]\n\n[ipv4]\nmethod=auto\n",
			texts{"/etc/NetworkManager/system-connections/x.nmconnection": "[ethernet]\nmac-address-blacklist=\n"}),
		"networkd-mac": edit(netd, "[Match]\nName=eth0\nMACAddress=00:0d:3a:01:02:03\n\n[Network]\nDHCP=yes\n", "[Match]\nName=eth0\n\n[Network]\nDHCP=yes\n", texts{"/etc/systemd/network/x.network": "[Match]\nName=eth1\n"}),
		"network-mac": keep(texts{
			"/etc/netplan/01.yaml": "network:\n  ethernets:\n    eth0:\n      match: {macaddress: \"00:0d:3a:01:02:03\"}\n", "/etc/systemd/network/only.network": "[Match]\nMACAddress=00:0d:3a:01:02:03\n", "/etc/systemd/network/10-eth.link": "[Match]\nPermanentMACAddress=00-0d-3a-01-02-03\n",
			"/etc/network/interfaces": "iface eth0 inet dhcp\n  hwaddress ether 00:0d:3a:01:02:03\n",
		}, texts{"/etc/netplan/02.yaml": "# 00:0d:3a:01:02:03\nnetwork: {ethernets: {eth1: {addresses: ['fd00:11:22:33:44:55:66:77/64']}}}\n"}),
		"network-address": keep(texts{ifcfg: "IPADDR=10.0.0.9\n"}, texts{"/etc/sysconfig/network-scripts/ifcfg-lo": "IPADDR=127.0.0.1\n"}),
		"network-secret":  keep(texts{"/etc/NetworkManager/system-connections/w": "[wifi-security]\npsk=secret\n"}, texts{"/etc/NetworkManager/system-connections/e": "[wifi-security]\npsk=\n"}),
		"ppp-secret":      keep(texts{"/etc/ppp/chap-secrets": "a * b *\n"}, texts{"/etc/ppp/pap-secrets": "# none\n"}),
		"proxy-password":  keep(texts{"/etc/environment": "http_proxy=http://u:p@proxy:3128\n", "/root/.config/pip/pip.conf": "[global]\nindex-url = https://u:p@pypi.example/simple\n"}, texts{"/root/.gitconfig": "url = ssh://git@example:22/x\n", "/etc/profile.d/p.sh": "export http_proxy=http://proxy:3128\n# http://u:p@x\n"}),
		"resolv-conf":     {files: texts{"/etc/resolv.conf": "nameserver 10.0.0.1\n"}, after: texts{"/etc/resolv.conf": ""}},
		"ipsec-secret":    keep(texts{"/etc/ipsec.secrets": "10.0.0.1 : PSK \"x\"\n"}, texts{"/etc/ipsec.d/a.secrets": "# : PSK x\ninclude /var/lib/x\n"}),
		"ssh-host-key": drop(texts{"/etc/ssh/ssh_host_rsa_key": "x", "/etc/ssh/ssh_host_rsa_key.pub": "x", "/etc/ssh/ssh_host_rsa_key-cert.pub": "x", "/var/lib/sshkeys/ed": private, "/var/lib/sshkeys/ed.pub": "x"},
			texts{"/etc/ssh/sshd_config": "HostKey /var/lib/sshkeys/ed\nHostKey /etc/services\n", "/etc/services": "ssh 22/tcp\n", "/var/lib/sshkeys/other": "x", "/etc/ssh/moduli": "m"}),
		"authorized-keys": keep(texts{"/root/.ssh/authorized_keys": "ssh-rsa A\n", "/data/remote/.ssh/authorized_keys": "ssh-rsa A\n", "/etc/ssh/keys-anna": "ssh-rsa A\n", "/etc/skel/.ssh/authorized_keys": "ssh-rsa A\n"},
			texts{"/home/anna/.ssh/authorized_keys": "# none\n", "/etc/ssh/sshd_config": "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys-%u\n", "/etc/ssh/revoked": "ssh-rsa R\n"}),
		"ssh-user-key":      keep(texts{"/home/anna/.ssh/id_ed25519": private}, texts{"/home/anna/.ssh/id_ed25519.pub": "ssh-ed25519 A\n", "/home/anna/.ssh/config": "Host x\n"}),
		"snakeoil":          drop(texts{"/etc/ssl/private/ssl-cert-snakeoil.key": "x", "/etc/ssl/certs/ssl-cert-snakeoil.pem": "x"}, texts{"/usr/lib/systemd/system/ssl-cert.service": "x", "/etc/ssl/certs/ca.pem": "x"}),
		"httpd-localhost":   drop(texts{"/etc/pki/tls/private/localhost.key": "x"}, texts{"/usr/lib/systemd/system/httpd-init.service": "x", "/etc/pki/tls/private/other.key": "x"}),
		"mail-certificate":  drop(texts{"/etc/pki/dovecot/private/dovecot.pem": "x"}, texts{"/usr/lib/systemd/system/dovecot-init.service": "x"}),
		"omi":               drop(texts{"/etc/opt/omi/ssl/omikey.pem": "x"}, texts{"/opt/omi/bin/omiserver": "x", "/etc/opt/omi/conf": "x"}),
		"sssd-password":     keep(texts{"/etc/sssd/sssd.conf": "ldap_default_authtok = x\n"}, texts{"/etc/sssd/conf.d/a.conf": "# ldap_default_authtok = x\n"}),
		"fstab-user-data":   edit("/etc/fstab", "UUID=a / ext4 defaults 0 1\n"+provisioning.FstabBegin+"\n/dev/sdc1 /data auto defaults,nofail 0 2\n"+provisioning.FstabEnd+"\n", "UUID=a / ext4 defaults 0 1\n", nil),
		"fstab-cloud-init":  edit("/etc/fstab", "UUID=a / ext4 defaults 0 1\n/dev/disk/cloud/azure_resource-part1\t/mnt\tauto\tdefaults,nofail,comment=cloudconfig\t0\t2\n", "UUID=a / ext4 defaults 0 1\n", nil),
		"fstab-disk":        keep(texts{"/etc/fstab": "UUID=a / ext4 defaults 0 1\nUUID=b /data ext4 defaults 0 2\n"}, nil),
		"crypttab":          keep(texts{"/etc/crypttab": "data UUID=x none luks\n"}, nil),
		"iscsi-initiator":   drop(texts{"/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.2004-10.example:1\n"}, texts{"/etc/iscsi/iscsid.conf": "node.startup = manual\n"}),
		"iscsi-password":    keep(texts{"/etc/iscsi/iscsid.conf": "node.session.auth.password = x\n"}, nil),
		"nvme-config":       keep(texts{"/etc/nvme/config.json": `[{"hostnqn": "x"}]` + "\n"}, texts{"/etc/nvme/discovery.conf": "# none\n"}),
		"mdadm":             keep(texts{"/etc/mdadm/mdadm.conf": "HOMEHOST <system>\nARRAY /dev/md0 UUID=x name=buildvm:0\n"}, texts{"/etc/mdadm.conf": "HOMEHOST <system>\n"}),
		"nfs-client-id":     keep(texts{"/etc/modprobe.d/nfs.conf": "options nfs nfs4_unique_id=x\n"}, texts{"/etc/modprobe.d/b.conf": "blacklist x\n"}),
		"share-credentials": keep(texts{"/etc/smbcredentials/acct.cred": "username=a\npassword=b\n"}, texts{"/etc/smbcredentials/note": "x\n"}),
		"resume":            keep(texts{"/etc/initramfs-tools/conf.d/resume": "RESUME=UUID=x\n"}, texts{"/etc/initramfs-tools/conf.d/r2": "RESUME=none\n"}),
		"suse-hosts":        keep(texts{"/etc/hosts": "127.0.0.1 localhost\n10.1.1.1 smt-azure.susecloud.net\n"}, nil),
		"repository-password": keep(texts{"/etc/apt/auth.conf.d/x.conf": "machine repo.example login u password p\n", "/etc/yum.repos.d/x.repo": "[x]\npassword=p\n"},
			texts{"/etc/yum.repos.d/y.repo": "[y]\ngpgcheck=1\n"}),
		"landscape-key":      keep(texts{"/etc/landscape/client.conf": "registration_key = x\n"}, nil),
		"popularity-contest": edit("/etc/popularity-contest.conf", "PARTICIPATE=\"yes\"\nMY_HOSTID=\"x\"\n", "PARTICIPATE=\"yes\"\n", nil),
		"npm-login":          keep(texts{"/home/anna/.npmrc": "//r/:_authToken=x\n"}, texts{"/root/.npmrc": "color=false\n"}),
		"time-key":           keep(texts{"/etc/chrony.keys": "1 SHA1 x\n"}, texts{"/etc/chrony/chrony.keys": "# none\n"}),
		"snmp":               keep(texts{"/var/lib/net-snmp/snmpd.conf": "oldEngineID 0x80\n"}, texts{"/etc/snmp/snmpd.conf": "rocommunity public\n"}),
		"device-rules":       keep(texts{"/etc/usbguard/rules.conf": "allow id 1:2\n"}, nil),
		"cloud-init":         drop(texts{"/var/lib/cloud/instance/x": "x", "/var/log/cloud-init.log": "x"}, texts{"/var/lib/cloud/scripts/per-boot/x": "x", "/etc/cloud/cloud.cfg": "users: []\n"}),
		"cloud-init-network": drop(texts{"/etc/netplan/50-cloud-init.yaml": "network: {ethernets: {eth0: {match: {macaddress: 00:0d:3a:01:02:03}}}}\n", "/etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection": "[ethernet]\nmac-address=00:0d:3a:01:02:03\n"}, texts{"/usr/bin/cloud-init": "x", "/etc/netplan/01-own.yaml": "network: {}\n"}),

		// Their own tests below.
		"provisioned-account": {}, "root-password": {}, "agent-sshd-settings": {},
	}
}

// patternName is a name that a pattern of the table matches.
func patternName(pattern string) string {
	pattern = strings.NewReplacer("~/", "/home/anna/", "{lib}", "/var/lib/waagent", "{log}", "/var/log/azure", "{ssh}", "/etc/ssh", "{sudoers}", "/etc/sudoers.d", "{shadow}", "/etc/shadow").Replace(pattern)
	pattern = strings.ReplaceAll(pattern, "[!.]", "x")
	return strings.ReplaceAll(regexp.MustCompile(`\[0-9\]`).ReplaceAllString(pattern, "7"), "*", "x1")
}

// made is the specimen of an entry that looks at names only.
func made(e generalize.Entry) specimen {
	s := specimen{files: texts{}, after: texts{}, stay: texts{}, kept: e.Act == generalize.Keep}
	for _, p := range e.Paths {
		name := patternName(p)
		s.files[name] = "specimen\n"
		if e.Act == generalize.Blank {
			s.after[name] = ""
		}
		// A decoy: a longer name, in the nearest directory without a pattern.
		decoy := path.Dir(name) + "/zz-decoy-" + path.Base(name)
		if path.Base(p)[0] == '*' || strings.Contains(p, "[!.]") { // everything in it
			dir := path.Dir(p)
			for strings.ContainsAny(path.Base(dir), "*") {
				dir = path.Dir(dir)
			}
			decoy = patternName(dir) + "-decoy/" + path.Base(name)
		}
		s.stay[decoy] = "decoy\n"
	}
	return s
}

func tree(t *testing.T, r host.Root) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(string(r), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		got[strings.TrimPrefix(p, string(r))] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A pair is an entry with its specimen.
type pair struct {
	generalize.Entry
	specimen
}

// alone are entries whose specimens change what others find.
var alone = []string{"hosts-own-name", "hosts-other", "hostname", "mail-name", "sudo-rule"}

// batches distributes the table over as few trees as possible: no two
// specimens of one tree have a name in common.
func batches(t *testing.T) [][]pair {
	t.Helper()
	special := specimens()
	var out [][]pair
	var used []map[string]bool
	for _, e := range generalize.Table() {
		s, ok := special[e.Name]
		if !ok {
			s = made(e)
		} else if s.files == nil {
			continue
		}
		at := slices.IndexFunc(used, func(names map[string]bool) bool {
			return !slices.Contains(alone, e.Name) && !names["alone"] && !slices.ContainsFunc(fileNames(s), func(n string) bool { return names[n] })
		})
		if at < 0 {
			at = len(out)
			out, used = append(out, nil), append(used, map[string]bool{})
		}
		out[at] = append(out[at], pair{e, s})
		used[at]["alone"] = slices.Contains(alone, e.Name)
		for _, n := range fileNames(s) {
			used[at][n] = true
		}
	}
	return out
}

func fileNames(s specimen) (out []string) {
	for _, files := range []texts{s.files, s.stay, s.after} {
		for n := range files {
			out = append(out, n)
		}
	}
	return out
}

// TestIdentityTable tries every entry of the table: the plan names what it
// looks for and nothing else, generalize removes, edits or keeps exactly that,
// and what is left is named by verify.
func TestIdentityTable(t *testing.T) {
	t.Parallel()
	special := specimens()
	seen := map[string]bool{}
	for _, e := range generalize.Table() {
		if seen[e.Name] {
			t.Errorf("%s: two entries", e.Name)
		}
		seen[e.Name] = true
		if e.Why == "" || e.Source == "" || e.Group == "" || e.Harm == "" || (e.Act == generalize.Keep || len(e.Maker) > 0) && e.Fix == "" {
			t.Errorf("%s: incomplete: %+v", e.Name, e)
		}
	}
	for n := range special {
		if !seen[n] {
			t.Errorf("%s: a specimen of no entry", n)
		}
	}
	if len(seen) < 130 {
		t.Errorf("%d entries", len(seen))
	}
	for i, batch := range batches(t) {
		t.Run(fmt.Sprint(i, " ", batch[0].Name), func(t *testing.T) { tryBatch(t, batch) })
	}
}

func tryBatch(t *testing.T, batch []pair) {
	r := clean(t)
	o := opts()
	if len(batch) == 1 {
		switch batch[0].Name {
		case "sudo-rule": // the removal of an account includes it
			o.User = false
		case "hosts-own-name", "mail-name":
			write(t, r, "/etc/hostname", "buildvm.corp.example\n", 0o644)
		}
	}
	owner := map[string]pair{} // by the names of specimens
	for _, p := range batch {
		for _, files := range []texts{p.stay, p.files} {
			for name, text := range files {
				write(t, r, name, text, 0o640)
			}
		}
		for name := range p.files {
			owner[name] = p
		}
	}
	want := tree(t, r)
	for name, p := range owner {
		if _, changed := p.after[name]; !changed && !p.kept {
			delete(want, name)
		}
	}
	for _, p := range batch {
		maps.Copy(want, p.after)
		if p.Name == "mail-name" {
			want["/etc/hostname"] = "localhost.localdomain\n"
		}
	}
	p := generalize.Plan(r, o)
	checkNames(t, p, owner)
	if err := generalize.Apply(t.Context(), system(r, &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}), o, p.Actions, nil); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, tree(t, r)); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
	if left := generalize.Plan(r, o).Actions; len(left) > 0 {
		t.Errorf("a second run would %v", left)
	}
	checkVerify(t, r, batch)
}

// belongs reports whether a name that was found is of a specimen of an entry:
// it, or a directory that it is in.
func belongs(owner map[string]pair, entry, found string) (names []string) {
	for name, p := range owner {
		if p.Name == entry && (name == found || strings.HasPrefix(name, found+"/")) {
			names = append(names, name)
		}
	}
	return names
}

// checkNames compares the plan with the specimens.
func checkNames(t *testing.T, p generalize.Planned, owner map[string]pair) {
	t.Helper()
	named := map[string]bool{}
	check := func(entry, name string, kept bool) {
		names := belongs(owner, entry, name)
		if len(names) == 0 && name != "/etc/hostname" {
			t.Errorf("the plan has another action: %s: %s", entry, name)
		}
		for _, n := range names {
			named[n] = true
			if owner[n].kept != kept {
				t.Errorf("%s: %s is kept: %v, want %v", entry, n, kept, owner[n].kept)
			}
		}
	}
	for _, a := range p.Actions {
		if a.Kind != generalize.Command {
			check(a.Entry, a.Path, false)
		}
	}
	for _, k := range p.Kept {
		check(k.Entry, k.Path, true)
	}
	for name, p := range owner {
		if !named[name] {
			t.Errorf("the plan does not name %s (%s)", name, p.Name)
		}
	}
}

// checkVerify: verify names what is kept, and nothing else is a fault.
func checkVerify(t *testing.T, r host.Root, batch []pair) {
	t.Helper()
	found, err := generalize.Verify(r, opts(), generalize.Immutable)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, f := range found {
		codes[f.Code] = true
		i := slices.IndexFunc(batch, func(p pair) bool { return p.Name == f.Code })
		switch {
		case i < 0 && f.Fatal && f.Code != "provisioned-account":
			t.Errorf("verify has something else: %s: %s", f.Code, f)
		case i >= 0 && f.Fatal != (batch[i].Harm != generalize.Stale):
			t.Errorf("%s: fatal is %v", f, f.Fatal)
		case i >= 0 && !batch[i].kept:
			t.Errorf("left: %s: %s", f.Code, f)
		}
	}
	for _, p := range batch {
		// Without the machine's own name, nobody can tell what is named after it.
		if p.kept && !codes[p.Name] && p.Name != "mail-name" {
			t.Errorf("verify does not name %s", p.Name)
		}
	}
}

// TestIdentityEverything builds an image with all that the table knows: verify
// names every entry, and after generalize only what is kept.
func TestIdentityEverything(t *testing.T) {
	t.Parallel()
	r := clean(t)
	special := specimens()
	keptToo := map[string]bool{}
	for _, e := range generalize.Table() {
		s, ok := special[e.Name]
		if !ok {
			s = made(e)
		}
		keptToo[e.Name] = s.kept
		for _, files := range []texts{s.stay, s.files} {
			for name, text := range files {
				if r.Exists(name) && !strings.HasPrefix(name, "/etc/machine-id") {
					if b, err := r.ReadFile(name); err == nil && name != "/etc/hosts" {
						text = string(b) + text
					}
				}
				write(t, r, name, text, 0o640)
			}
		}
	}
	codes := func() map[string]bool {
		found, err := generalize.Verify(r, opts(), generalize.CIS)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, f := range found {
			out[f.Code] = true
		}
		return out
	}
	// What another entry removes, or hides in one shared file.
	hidden := []string{"provisioned-account", "root-password", "agent-sshd-settings", "hosts-own-name", "hosts-other", "mail-name", "sudo-rule", "suse-hosts"}
	before := codes()
	for _, e := range generalize.Table() {
		if !before[e.Name] && !slices.Contains(hidden, e.Name) {
			t.Errorf("verify does not name %s", e.Name)
		}
	}
	p := generalize.Plan(r, opts())
	if err := generalize.Apply(t.Context(), system(r, &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}), opts(), p.Actions, nil); err != nil {
		t.Error(err)
	}
	for code := range codes() {
		if kept, ok := keptToo[code]; ok && !kept {
			t.Errorf("generalize has left %s", code)
		}
	}
	var text strings.Builder
	if _, err := p.WriteTo(&text); err != nil || !strings.Contains(text.String(), "This is kept") || !strings.Contains(text.String(), "\nSubscriptions\n") {
		t.Errorf("the plan is not grouped: %v\n%s", err, fmt.Sprint(text.Len()))
	}
}
