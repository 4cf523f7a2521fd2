package nspawn

import "testing"

// TestAlone is the package on a machine without another provisioner.
func TestAlone(t *testing.T) {
	m := newMachine(t, order{noCloudInit: true})
	m.on()
	m.ready()
	s := m.provisioned()
	if s.Provisioning.By != "azguest" {
		t.Errorf("provisioned by %q", s.Provisioning.By)
	}
	m.oneReady("azguest")
	t.Log(m.sh("python3 -c \"from cloudinit import net; print(net.get_devicelist(), net.get_interfaces(), net.get_interfaces_by_mac())\"; ls -la /sys/class/net/ /sys/class/net/eth0/; cat /sys/class/net/eth0/addr_assign_type; id azureuser; systemctl is-system-running; systemctl --failed; systemd-analyze verify /usr/lib/systemd/system/azguest.service 2>&1; agentctl status"))
}

func TestBeside(t *testing.T) {
	m := newMachine(t, order{})
	m.on()
	m.ready()
	s := m.provisioned()
	if s.Provisioning.By != "cloud-init" {
		t.Errorf("provisioned by %q", s.Provisioning.By)
	}
	m.oneReady("cloud-init")
	t.Log(m.sh("python3 -c \"from cloudinit import net; print(net.get_devicelist(), net.get_interfaces(), net.get_interfaces_by_mac())\"; ls -la /sys/class/net/ /sys/class/net/eth0/; cat /sys/class/net/eth0/addr_assign_type; id azureuser; systemctl is-system-running --wait; systemctl --failed; agentctl status; cat /run/cloud-init/ds-identify.log | tail -n 12; cat /run/cloud-init/result.json; grep -a 'WARN' /var/log/cloud-init.log; cat /var/lib/waagent/ovf-env.xml"))
	m.explain()
}
