package userdata

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/sandbox"
)

// needTools skips the test where this machine, which sandboxes show, lacks a
// program.
func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skip(err)
		}
	}
}

func TestTimeZone(t *testing.T) {
	if _, err := os.Stat("/usr/share/zoneinfo/Europe/Berlin"); err != nil {
		t.Skip(err)
	}
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	m := thisMachine(t)
	sh(t, "rm -f /etc/localtime /etc/timezone; cp /usr/share/zoneinfo/Etc/UTC /etc/localtime")
	for _, zone := range []string{"Europe/Berlin", "UTC", "Europe/Berlin"} {
		if failures := applyAll(t.Context(), t, m, Config{TimeZone: zone}, ""); len(failures) > 0 {
			t.Error(failures)
		}
		expect(t, map[string]string{
			"readlink /etc/localtime; cat /etc/timezone": "/usr/share/zoneinfo/" + zone + "\n" + zone,
		})
	}
	expect(t, map[string]string{"TZ= date -d '2020-07-01 12:00 UTC' +%H; env -u TZ date -d '2020-07-01 12:00 UTC' +%H": "12\n14"})
	for _, bad := range []string{"Mars/Olympus", "zone.tab", "Europe", "../../../etc/passwd", "/etc/passwd"} {
		failures := applyAll(t.Context(), t, m, Config{TimeZone: bad}, "")
		if codes(failures)["timezone"] != "AZ-DATA-TIMEZONE" {
			t.Errorf("%s: %v", bad, failures)
		}
	}
	expect(t, map[string]string{"cat /etc/timezone": "Europe/Berlin"})
}

// chronyConf has the lines of Debian's configuration that matter here.
const chronyConf = `confdir /etc/chrony/conf.d
pool 2.debian.pool.ntp.org iburst
sourcedir /run/chrony-dhcp
sourcedir /etc/chrony/sources.d
refclock PHC /dev/ptp_hyperv poll 3
keyfile /etc/chrony/chrony.keys
driftfile /var/lib/chrony/chrony.drift
`

func TestTimeServers(t *testing.T) {
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	m := thisMachine(t)
	c := Config{NTP: &NTP{Enabled: true, Servers: []string{"ntp.example.org", "10.0.0.1"}, Pools: []string{"pool.example.org"}, Client: NTPAuto}}
	apply := func() {
		t.Helper()
		for range 2 {
			if failures := applyAll(t.Context(), t, m, c, ""); len(failures) > 0 {
				t.Error(failures)
			}
		}
	}
	// The programs are not started: systemd does not run here.
	sh(t, `rm -f /usr/sbin/chronyd /usr/bin/chronyd; mkdir -p /usr/lib/systemd
printf '#!/bin/sh\n' >/usr/lib/systemd/systemd-timesyncd; chmod 755 /usr/lib/systemd/systemd-timesyncd`)
	apply()
	expect(t, map[string]string{"cat /etc/systemd/timesyncd.conf.d/azguest.conf": "# Written by azguest from the user data of this VM.\n[Time]\nNTP=ntp.example.org 10.0.0.1 pool.example.org"})

	sh(t, `printf '#!/bin/sh\n' >/usr/sbin/chronyd; chmod 755 /usr/sbin/chronyd; mkdir -p /etc/chrony`)
	if err := os.WriteFile("/etc/chrony/chrony.conf", []byte(chronyConf), 0o644); err != nil {
		t.Fatal(err)
	}
	apply()
	expect(t, map[string]string{"cat /etc/chrony/chrony.conf": `confdir /etc/chrony/conf.d
#azguest: pool 2.debian.pool.ntp.org iburst
#azguest: sourcedir /run/chrony-dhcp
#azguest: sourcedir /etc/chrony/sources.d
refclock PHC /dev/ptp_hyperv poll 3
keyfile /etc/chrony/chrony.keys
driftfile /var/lib/chrony/chrony.drift
# Time servers of this VM's user data, written by azguest:
pool pool.example.org iburst
server ntp.example.org iburst
server 10.0.0.1 iburst
# End of the time servers of this VM's user data.`})

	c.NTP = &NTP{Enabled: false, Servers: []string{"other"}}
	apply()
	c.NTP = &NTP{Enabled: true}
	apply()
	expect(t, map[string]string{"grep -c ^server /etc/chrony/chrony.conf": "2"})
	c.NTP = &NTP{Enabled: true, Servers: []string{"a b"}}
	if failures := applyAll(t.Context(), t, m, c, ""); codes(failures)["ntp"] != "AZ-DATA-NTP" {
		t.Errorf("bad server: %v", failures)
	}
}

func TestMounts(t *testing.T) {
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	m := thisMachine(t)
	const fstab = "UUID=1 / ext4 defaults 0 1\n/dev/sdr1 /taken auto defaults 0 2\n"
	if err := os.WriteFile("/etc/fstab", []byte(fstab), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, "touch /dev/sdq /dev/sdq1 /dev/sdr /dev/sdr1; mkdir -p /opt/from /dev/disk/cloud; echo x >/opt/from/file; ln -s ../../sdq1 /dev/disk/cloud/azure_resource-part1; ln -s ../../sdq2 /dev/disk/cloud/azure_resource-part2; touch /dev/sdq2")
	mount := func(dev, point, typ, options string) Mount {
		return Mount{Device: dev, Point: point, Type: typ, Options: options, Pass: 2}
	}
	c := Config{Mounts: []Mount{
		mount("tmpfs", "/data/a", "tmpfs", "size=1M,nofail"),
		mount("/opt/from", `/data/with\040blank`, "none", "bind"),
		mount("sdq", "/later", "auto", "noauto,nofail"),
		mount("/dev/sdr", "/again", "auto", "noauto"),
		mount("ephemeral0", "/scratch", "auto", "noauto"),
		mount("ephemeral0.2", "none", "swap", "sw,noauto"),
		mount("ephemeral0.3", "/absent", "auto", "defaults,nofail"),
		mount("ephemeral1", "/absent", "auto", "defaults,nofail"),
		mount("/dev/sdz9", "/nothing", "auto", "defaults,nofail"),
		mount("/dev/sdz8", "/stops-the-boot", "auto", "defaults"),
		mount("LABEL=none", "/label", "auto", "noauto"),
	}}
	ours := fstab + provisioning.FstabBegin + `
tmpfs	/data/a	tmpfs	size=1M,nofail	0	2
/opt/from	/data/with\040blank	none	bind	0	2
/dev/sdq1	/later	auto	noauto,nofail	0	2
/dev/disk/cloud/azure_resource-part1	/scratch	auto	noauto	0	2
/dev/disk/cloud/azure_resource-part2	none	swap	sw,noauto	0	2
/dev/sdz9	/nothing	auto	defaults,nofail	0	2
LABEL=none	/label	auto	noauto	0	2
` + provisioning.FstabEnd + "\n"
	for range 2 {
		failures := applyAll(t.Context(), t, m, c, "")
		if codes(failures)["mounts"] != "AZ-DATA-MOUNT warning" || !strings.Contains(failures["mounts"].Error(), "/dev/sdz9") {
			t.Error(failures)
		}
		b, err := os.ReadFile("/etc/fstab")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ours, string(b)); diff != "" {
			t.Errorf("fstab (-want +got):\n%s", diff)
		}
		expect(t, map[string]string{
			"findmnt -n -o FSTYPE /data/a; cat '/data/with blank/file'":         "tmpfs\nx",
			"grep -c ' /data/' /proc/self/mountinfo":                            "2",
			"ls -d /later /nothing /absent /stops-the-boot 2>/dev/null || true": "/later\n/nothing",
		})
	}
	if got := provisioning.WithoutFstabBlock(ours); got != fstab {
		t.Errorf("without our block: %q", got)
	}
}

// repository is a script that makes a repository of packages in a directory.
const repository = `set -e
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
mkdir -p /repo; cd /repo
make() {
	mkdir -p p/DEBIAN p/etc; printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' $1 $2 >p/DEBIAN/control
	echo $2 >p/etc/$1.conf; echo /etc/$1.conf >p/DEBIAN/conffiles
	dpkg-deb -Znone -b p $1_$2.deb >/dev/null; rm -r p
}
make azg-one 1.0; make azg-one 2.0; make azg-two 1.0
mkdir -p p/DEBIAN; printf '#!/bin/sh\necho x >>/run/runs; echo x >/run/began; read x </run/go\n' >p/DEBIAN/preinst; chmod 755 p/DEBIAN/preinst
make azg-slow 1.0
for f in *.deb; do dpkg-deb -f $f; printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $f $(stat -c %s $f) $(sha256sum <$f | cut -d' ' -f1); done >Packages
echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list`

// TestPackages installs real packages from a repository in a directory.
func TestPackages(t *testing.T) {
	needTools(t, "apt-get", "dpkg-deb")
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	sh(t, repository)
	m := thisMachine(t)
	installed := "dpkg-query -W -f '${Package} ${Version} ${Status}\n' 'azg-*' 2>/dev/null | grep 'ok installed' | cut -d' ' -f1,2 || true"
	c := Config{Packages: []PackageName{{Name: "azg-one", Version: "1.0"}, {Name: "azg-two"}}}
	for range 2 {
		if failures := applyAll(t.Context(), t, m, c, ""); len(failures) > 0 {
			t.Fatal(failures, words(failures["packages"]))
		}
		expect(t, map[string]string{installed: "azg-one 1.0\nazg-two 1.0"})
	}
	sh(t, "echo mine >/etc/azg-one.conf")
	if failures := applyAll(t.Context(), t, m, Config{PackageUpgrade: true}, ""); len(failures) > 0 {
		t.Error(failures, words(failures["packages"]))
	}
	expect(t, map[string]string{installed: "azg-one 2.0\nazg-two 1.0", "cat /etc/azg-one.conf": "mine"})

	failures := applyAll(t.Context(), t, m, Config{Packages: []PackageName{{Name: "azg-none"}}}, "")
	if codes(failures)["packages"] != "AZ-DATA-PACKAGES warning" || strings.Contains(failures["packages"].Error(), "locate") || !strings.Contains(words(failures["packages"]), "azg-none") {
		t.Errorf("%v\n%s", failures, words(failures["packages"]))
	}
	failures = applyAll(t.Context(), t, m, Config{Packages: []PackageName{{Name: "-oAPT::Foo"}}}, "")
	if codes(failures)["packages"] != "AZ-DATA-PACKAGES warning" {
		t.Errorf("an option as a name: %v", failures)
	}
}

// TestPackagesGoOn: when the agent is stopped in the middle, dpkg is not.
func TestPackagesGoOn(t *testing.T) {
	needTools(t, "apt-get", "dpkg-deb")
	if !insideBox(t, sandbox.Options{}) {
		return
	}
	sh(t, repository+"\nmkfifo /run/began /run/go")
	m := thisMachine(t)
	c := Config{Packages: []PackageName{{Name: "azg-slow"}}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan map[string]error, 1)
	go func() { ended <- applyAll(ctx, t, m, c, "") }()
	if _, err := os.ReadFile("/run/began"); err != nil { // dpkg is in the middle of it
		t.Fatal(err)
	}
	stop()
	if failures := <-ended; !errors.Is(failures["packages"], context.Canceled) {
		t.Errorf("stopped: %v", failures)
	}
	go func() { ended <- applyAll(t.Context(), t, m, c, "") }()
	if err := os.WriteFile("/run/go", []byte("x\n"), 0); err != nil {
		t.Fatal(err)
	}
	if failures := <-ended; len(failures) > 0 {
		t.Errorf("%v\n%s", failures, words(failures["packages"]))
	}
	expect(t, map[string]string{"dpkg-query -W -f '${Status}' azg-slow; grep -c x /run/runs": "install ok installed1"})
}

// words returns what a program has printed, which is for root only.
func words(err error) string {
	if w, ok := errors.AsType[*provisioning.Warning](err); ok {
		return w.Words
	}
	return ""
}

func TestPackagers(t *testing.T) {
	t.Parallel()
	names := []PackageName{{Name: "nano"}, {Name: "vim", Version: "9.1"}}
	for _, tc := range []struct {
		p    Packager
		want []string
	}{
		{APT, []string{
			"dpkg --force-confold --configure -a",
			"apt-get -q -y -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=600 update",
			"apt-get -q -y -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=600 dist-upgrade",
			"apt-get -q -y -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=600 install -- nano vim=9.1",
		}},
		{DNF, []string{"dnf -y makecache", "dnf -y upgrade", "dnf -y install -- nano vim-9.1"}},
		{Zypper, []string{"zypper --non-interactive refresh", "zypper --non-interactive update", "zypper --non-interactive install -- nano vim=9.1"}},
	} {
		var got []string
		for _, c := range (Packages{Packager: tc.p, Update: true, Upgrade: true, Names: names}).commands(true) {
			got = append(got, c.String())
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.p, diff)
		}
	}
}
