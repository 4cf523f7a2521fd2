package packages

import (
	"os"
	"path/filepath"
	"testing"
)

// rpmPrelude has the steps of the sequences. Dependencies are in another
// package manager's database here.
const rpmPrelude = `
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
old=` + older + ` new=` + newer + `
install() { rpm -U --nodeps "${2:---oldpackage}" /p/azguest-${1:-$old}.rpm; }
classic() { rpm -U --nodeps /p/classic.rpm; }
remove() { rpm -e --nodeps ${1:-azguest}; }
edit() { echo '# mine' >>/etc/waagent.conf; }
state() {
	printf 'agent %s\n' "$(systemctl is-enabled azguest.service 2>&1 | grep -x -e enabled -e disabled -e masked || echo none)"
	case $(cat /etc/waagent.conf 2>&1) in *mine) c=edited ;; *classic*) c=classic ;; *Provisioning.Agent=auto*) c=ours ;; *No*) c=none ;; *) c=empty ;; esac
	echo "conf $c"
	grep -l mine /etc/waagent.conf.rpmsave 2>/dev/null
	[ ! -e /var/lib/azguest ] || find /var/lib/azguest -type f
	rpm -q WALinuxAgent | grep -v 'not installed'
	[ ! -e /usr/lib/systemd/system/waagent.service ] || echo "classic $(systemctl is-enabled waagent.service)"
}
`

// classicSpec is a package with the names, the configuration file and the
// scripts of the distributions' packages.
const classicSpec = `
Name: WALinuxAgent
Version: 2.2.45
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/etc %{buildroot}/usr/sbin %{buildroot}/usr/lib/systemd/system
echo '# classic' >%{buildroot}/etc/waagent.conf
echo '#!/bin/sh' >%{buildroot}/usr/sbin/waagent
printf '[Service]\nExecStart=/usr/sbin/waagent\n[Install]\nWantedBy=multi-user.target\n' >%{buildroot}/usr/lib/systemd/system/waagent.service
%post
if [ "$1" = 1 ]; then systemctl enable waagent.service; fi
%preun
if [ "$1" = 0 ]; then systemctl disable waagent.service; systemctl stop waagent.service >/dev/null 2>&1 || :; fi
%files
%config(noreplace) /etc/waagent.conf
%attr(755,root,root) /usr/sbin/waagent
/usr/lib/systemd/system/waagent.service
`

// TestTOOL3RPM is TestTOOL3Deb for rpm, which has no purge: a removal keeps an
// edited configuration under another name.
func TestTOOL3RPM(t *testing.T) {
	t.Parallel()
	programs(t, "rpm", "rpmbuild", "systemctl")
	dir := filepath.Join(scratch, "classic-rpm")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "classic.spec"), []byte(classicSpec), 0o644))
	_, err := output(t.Context(), dir, nil, "sh", "-c", `rpmbuild -bb --quiet --define "_topdir $1" --define '_rpmfilename classic.rpm' --define "_rpmdir $1" --define '_dbpath /nonexistent' "$1/classic.spec"`, "classic", dir)
	must(t, err)
	play(t, rpmPrelude, []sequence{
		{name: "install", long: true, steps: "install", want: "agent enabled\nconf ours"},
		{name: "upgrade", steps: "install; edit; install $new", want: "agent enabled\nconf edited"},
		{name: "upgrade of a disabled service", long: true, steps: "install; systemctl disable azguest; install $new", want: "agent disabled\nconf ours"},
		{name: "downgrade", long: true, steps: "install $new; edit; install", want: "agent enabled\nconf edited"},
		{name: "reinstall", long: true, steps: "install; edit; install $old --replacepkgs", want: "agent enabled\nconf edited"},
		{name: "preset", steps: preset + "install; systemctl preset azguest.service azguest-firewall.service; systemctl is-enabled azguest-firewall.service", want: "agent enabled\nconf ours"},
		{name: "remove leaves no directory", steps: "ours() { find /etc /usr /var -xdev -type d '(' -name '*azguest*' -o -name cloud-init-main.service.d ')'; }; ours >/tmp/before; install; remove; ours | diff /tmp/before -", want: "agent none\nconf none"},
		{name: "remove", long: true, steps: "install; remove", want: "agent none\nconf none"},
		{name: "remove with an edited configuration", steps: "install; edit; remove", want: "agent none\nconf none\n/etc/waagent.conf.rpmsave"},
		{name: "remove and install", steps: "install; remove; install", want: "agent enabled\nconf ours"},
		{name: "mask and install", long: true, steps: "systemctl mask azguest; install; install $new", want: "agent masked\nconf ours"},
		{name: "classic to ours", steps: "classic; edit; install", want: "agent enabled\nconf edited"},
		{name: "classic removed, then ours", steps: "classic; edit; remove WALinuxAgent; install", want: "agent enabled\nconf ours\n/etc/waagent.conf.rpmsave", says: "compare: diff /etc/waagent.conf.rpmsave /etc/waagent.conf"},
		{name: "classic to ours and back", steps: "classic; edit; install; remove; mv /etc/waagent.conf.rpmsave /etc/waagent.conf; classic", want: "agent none\nconf edited\nWALinuxAgent-2.2.45-1.noarch\nclassic enabled"},
		{name: "ours to classic in one transaction", steps: "install; rpm -U --nodeps --replacefiles --noscripts --force /p/classic.rpm; systemctl enable waagent.service || :; remove", want: "agent none\nconf classic\nWALinuxAgent-2.2.45-1.noarch\nclassic enabled"},
	}, filepath.Join(dir, "classic.rpm"))
}
