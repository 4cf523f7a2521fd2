package nspawn

import "testing"

// userData has what only a systemd carries out.
const userData = `#cloud-config
hostname: web
manage_etc_hosts: localhost
timezone: Europe/Berlin
mounts:
- [tmpfs, /srv/data, tmpfs, 'size=1M,nofail']
- [tmpfs, /srv/later, tmpfs, 'noauto']
ntp: {servers: [10.0.0.9]}
bootcmd: ['grep -o "[^/]*.scope" /proc/self/cgroup | sort -u >>/srv/scope']
runcmd:
- findmnt -n -o FSTYPE /srv/data >/srv/ran
`

// TestUserData: mounts are units, systemd knows the time zone and the name, and
// scripts run in scopes of their own; the same after the next boot.
func TestUserData(t *testing.T) {
	t.Parallel()
	o := order{noCloudInit: true, config: "\nUserData.Apply=y\n"}
	o.provisioning.UserData = []byte(userData)
	// What stands for chrony tells with which servers it was started.
	o.files = map[string]string{
		"/usr/sbin/chronyd":                                   "",
		"/etc/chrony/chrony.conf":                             "pool 2.debian.pool.ntp.org iburst\n",
		"/etc/systemd/system/multi-user.target.d/chrony.conf": "[Unit]\nWants=chrony.service\n",
		"/usr/lib/systemd/system/chrony.service":              "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sh -c 'grep -E \"^(pool|server)\" /etc/chrony/chrony.conf >/run/chrony'\n",
	}
	m := newMachine(t, o)
	for _, boot := range []string{"1", "2"} {
		m.on()
		m.await("the end of the user data", func() bool {
			return m.holds(`grep -q "^ \"boot\": \"$(cat /proc/sys/kernel/random/boot_id)\"" /var/lib/waagent/azguest/data.json && grep -q '^ "state": "done"' /var/lib/waagent/azguest/data.json && [ $(grep -c . /srv/scope) = ` + boot + ` ]`)
		})
		m.settled()
		m.await("the end of the scopes", func() bool { return m.holds("! systemctl list-units --no-legend 'azguest-*.scope' | grep -q .") })
		for script, want := range map[string]string{
			"systemctl is-system-running":                         "running",
			"systemctl is-active srv-data.mount srv-later.mount":  "active\ninactive",
			"systemctl show -P SourcePath srv-data.mount":         "/etc/fstab",
			"date -d 2020-07-01 +%Z; readlink -f /etc/localtime":  "CEST\n/usr/share/zoneinfo/Europe/Berlin",
			"systemctl is-active chrony; cat /run/chrony":         "active\nserver 10.0.0.9 iburst",
			"hostnamectl hostname; hostnamectl --static hostname": "web\nweb",
			"getent hosts web":                "127.0.1.1       web",
			"cat /srv/ran; wc -l </srv/scope": "tmpfs\n" + boot,
		} {
			if got, _ := m.try(script); got != want {
				t.Errorf("boot %s: %s: %q, want %q", boot, script, got, want)
			}
		}
		m.off()
		m.medium = ""
	}
}
