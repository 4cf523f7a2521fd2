package packages

import (
	"os"
	"path/filepath"
	"testing"
)

// debPrelude has the steps of the sequences. The database of this machine and
// triggers of other packages would only cost time.
const debPrelude = `
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
old=` + older + ` new=` + newer + `
passwd=$(dpkg-query -s passwd | grep -v -e Depends: -e Conffiles: -e '^ /')
mount -t tmpfs tmpfs /var/lib/dpkg
(cd /var/lib/dpkg; mkdir info updates triggers; echo "$passwd" >status; touch info/passwd.list)
d() { dpkg --force-unsafe-io --no-triggers --force-confold "$@" </dev/null; }
install() { d -i /p/azguest-${1:-$old}.deb; }
classic() { d -i /p/classic.deb; }
remove() { d -r ${1:-azguest}; }
purge() { d -P ${1:-azguest}; }
edit() { echo '# mine' >>/etc/waagent.conf; }
run() { mkdir -p /var/lib/waagent/azguest /var/log/azure; echo x >/var/lib/waagent/azguest/state; echo x >/var/lib/waagent/settings; echo x >/var/log/waagent.log; }
script() { sh "/var/lib/dpkg/info/azguest.$@"; }
state() {
	printf 'agent %s\n' "$(systemctl is-enabled azguest.service 2>&1 | grep -x -e enabled -e disabled -e masked || echo none)"
	case $(cat /etc/waagent.conf 2>&1) in *mine) c=edited ;; *classic*) c=classic ;; *Provisioning.Agent=auto*) c=ours ;; *No*) c=none ;; *) c=empty ;; esac
	echo "conf $c"
	[ ! -e /var/lib/waagent/settings ] || echo state
	[ ! -e /var/lib/waagent/azguest ] || echo own-state
	[ ! -e /var/lib/azguest ] || echo notes
	dpkg-divert --list | grep waagent | sed 's/ of .*//'
	dpkg-query -W -f '${db:Status-Abbrev}${Version}\n' walinuxagent 2>/dev/null | grep -v ^un
	[ "$(systemctl is-enabled walinuxagent.service 2>&1)" = alias ] || [ ! -e /lib/systemd/system/walinuxagent.service ] || echo "classic $(systemctl is-enabled walinuxagent.service)"
	ls /etc/waagent.conf.* 2>/dev/null; :
}
`

// preset makes the machine disable what no preset names, as distributions do.
const preset = "mkdir -p /etc/systemd/system-preset; echo 'disable *' >/etc/systemd/system-preset/99-default.preset; "

// forbidden makes the machine one that forbids packages to touch services, and
// prints a message of the package if one is restarted.
const forbidden = `mkdir -p /run/systemd/system; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
mv /usr/bin/systemctl /usr/bin/systemctl.real
printf '#!/bin/sh\ncase "$*" in *restart*) echo; echo azguest: restarted ;; *daemon-reload*) ;; *) exec /usr/bin/systemctl.real "$@" ;; esac\n' >/usr/bin/systemctl; chmod 755 /usr/bin/systemctl; `

// classicDeb is a package with the names, the configuration file and the scripts
// of the distribution's.
const classicDeb = `set -e; umask 022; cd "$1"
mkdir -p t/DEBIAN t/etc t/usr/sbin t/lib/systemd/system
echo '# classic' >t/etc/waagent.conf
echo '#!/bin/sh' >t/usr/sbin/waagent; chmod 755 t/usr/sbin/waagent
printf '[Service]\nExecStart=/usr/sbin/waagent\n[Install]\nWantedBy=multi-user.target\nAlias=waagent.service\n' >t/lib/systemd/system/walinuxagent.service
printf 'Package: walinuxagent\nProvides: waagent\nVersion: 2.2.45-4\nArchitecture: amd64\nMaintainer: x <x@example.com>\nDescription: x\n' >t/DEBIAN/control
echo /etc/waagent.conf >t/DEBIAN/conffiles
printf '#!/bin/sh\nset -e\nif [ "$1" = configure ]; then mkdir -p /var/lib/waagent; systemctl enable walinuxagent.service; fi\n' >t/DEBIAN/postinst
printf '#!/bin/sh\nset -e\ncase $1 in remove) rm -f /etc/systemd/system/waagent.service /etc/systemd/system/multi-user.target.wants/walinuxagent.service ;; purge) ;; esac\n' >t/DEBIAN/postrm
chmod 755 t/DEBIAN/post*
dpkg-deb --root-owner-group -Znone -b t classic.deb
`

// TestTOOL3Deb: after any sequence of installations and removals, the service is
// as the administrator wants it, and nothing that they wrote is lost.
func TestTOOL3Deb(t *testing.T) {
	t.Parallel()
	programs(t, "dpkg", "dpkg-deb", "systemctl")
	dir := filepath.Join(scratch, "classic-deb")
	must(t, os.MkdirAll(dir, 0o755))
	_, err := output(t.Context(), "", nil, "sh", "-c", classicDeb, "classic", dir)
	must(t, err)
	play(t, debPrelude, []sequence{
		{name: "install", long: true, steps: "install", want: "agent enabled\nconf ours\nnotes\ndiversion"},
		{name: "upgrade", steps: "install; edit; install $new", want: "agent enabled\nconf edited\nnotes\ndiversion"},
		{name: "upgrade of a disabled service", long: true, steps: "install; systemctl disable azguest; install $new", want: "agent disabled\nconf ours\nnotes\ndiversion"},
		{name: "downgrade", long: true, steps: "install $new; edit; install", want: "agent enabled\nconf edited\nnotes\ndiversion"},
		{name: "reinstall", long: true, steps: "install; edit; install", want: "agent enabled\nconf edited\nnotes\ndiversion"},
		{name: "remove", steps: "install; edit; run; remove", want: "agent none\nconf edited\nstate\nown-state\nnotes"},
		{name: "remove and install", steps: "install; edit; remove; install", want: "agent enabled\nconf edited\nnotes\ndiversion"},
		{name: "disable, remove and install", long: true, steps: "install; systemctl disable azguest; remove; install", want: "agent enabled\nconf ours\nnotes\ndiversion"},
		{name: "mask and install", long: true, steps: "systemctl mask azguest; install; install $new", want: "agent masked\nconf ours\nnotes\ndiversion"},
		{name: "purge", steps: "install; run; purge", want: "agent none\nconf none"},
		{name: "remove and purge", long: true, steps: "install; edit; run; remove; purge", want: "agent none\nconf none"},
		{name: "purge beside a mount", steps: "mkdir /srv/data; echo mine >/srv/data/file; install; run; mkdir '/var/lib/waagent/a b'; mount --bind /srv/data '/var/lib/waagent/a b'; purge; grep -q mine /srv/data/file", want: "agent none\nconf none\nstate", says: "azguest: /var/lib/waagent is kept: something is mounted at /var/lib/waagent/a b\n"},
		{name: "preset", steps: preset + "install; systemctl preset azguest.service azguest-firewall.service; systemctl is-enabled azguest-firewall.service", want: "agent enabled\nconf ours\nnotes\ndiversion"},
		{name: "upgrade without restart", steps: "install; " + forbidden + "install $new", want: "agent enabled\nconf ours\nnotes\ndiversion"},
		{name: "purge beside files of the administrator", steps: "edit; run; install; purge", want: "agent none\nconf edited\nstate"},
		{name: "purge beside another agent", steps: "install; run; remove; echo >/usr/bin/waagent; purge", want: "agent none\nconf ours\nstate"},
		{name: "aborted removal", steps: "install; script prerm remove; script postinst abort-remove", want: "agent enabled\nconf ours\nnotes\ndiversion"},
		{name: "aborted removal of a disabled service", long: true, steps: "install; systemctl disable azguest; script prerm remove; script postinst abort-remove; install $new", want: "agent disabled\nconf ours\nnotes\ndiversion"},
		{name: "deconfigured", steps: "install; script prerm deconfigure in-favour x 1; script postinst configure $old", want: "agent enabled\nconf ours\nnotes\ndiversion"},
		{name: "deconfigured while disabled", long: true, steps: "install; systemctl disable azguest; script prerm deconfigure in-favour x 1; script postinst configure $old", want: "agent disabled\nconf ours\nnotes\ndiversion"},
		{name: "dangling configuration", steps: "ln -s /nowhere/conf /etc/waagent.conf; install", want: "agent enabled\nconf none\nnotes\ndiversion", says: "azguest: /etc/waagent.conf is a dangling link"},
		{name: "unwritable configuration", long: true, steps: "mkdir /etc/waagent.conf.new; mkdir /etc/waagent.conf.new/waagent.conf; install; rm -r /etc/waagent.conf.new", want: "agent enabled\nconf none\nnotes\ndiversion", says: "azguest: could not create /etc/waagent.conf"},
		{name: "classic to ours", steps: "classic; edit; install", want: "agent enabled\nconf edited\nnotes\ndiversion\nic 2.2.45-4"},
		{name: "classic to ours, purge", steps: "classic; edit; run; install; purge", want: "agent none\nconf edited\nstate\nic 2.2.45-4"},
		{name: "classic to ours, purge the classic package", steps: "classic; edit; install; purge walinuxagent", want: "agent enabled\nconf edited\nnotes\ndiversion"},
		{name: "classic to ours and back", steps: "classic; edit; run; install; remove; classic", want: "agent none\nconf edited\nstate\nown-state\nnotes\nii 2.2.45-4\nclassic enabled"},
		{name: "classic to ours and back, purge ours", long: true, steps: "classic; edit; run; install; remove; classic; purge", want: "agent none\nconf edited\nstate\nii 2.2.45-4\nclassic enabled"},
		{name: "ours to classic to ours", long: true, steps: "install; edit; remove; classic; install", want: "agent enabled\nconf edited\nnotes\ndiversion\nic 2.2.45-4\n/etc/waagent.conf.dpkg-dist"},
	}, filepath.Join(dir, "classic.deb"))
}
