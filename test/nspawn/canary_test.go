package nspawn

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/canary"
	"github.com/azguest/azguest/test/fabric"
)

// leakyScript is a handler that prints signatures and keys and fails.
const leakyScript = `#!/bin/sh
cd "$(dirname "$0")/.."
echo "fetching https://st.example/c/b?sv=1&sig=canary10%2Fout0000000000&sp=r" >&2
echo '{"u":"https:\/\/st.example\/c\/b?se=2\u0026sig=canary11\u002fout0000000000"}'
echo "AccountName=st;AccountKey=canary12/out0000000000+AAAABBBBCCCC==;EndpointSuffix=x"
logger -t handler "a handler's own words" || true
exit 9
`

// TestCanaries: the journal contains no secret, whether from the agent, from
// what it starts, or from the dump of a hung agent. Other places are searched
// by the test of the same name in test/e2e.
func TestCanaries(t *testing.T) {
	t.Parallel()
	leaky := bundles.Bundle{Name: "Azguest.Samples.Leaky", Version: "1.0.0.0", Files: map[string]string{"bin/leaky": leakyScript}}
	for name, command := range map[string]*string{
		"install": &leaky.Install, "enable": &leaky.Enable, "disable": &leaky.Disable, "update": &leaky.Update, "uninstall": &leaky.Uninstall,
	} {
		*command = "bin/leaky " + name
	}
	secrets := map[string]string{
		"password": "canary01-Passw0rd!&<x>", "custom data": "canary02-customdata", "proxy": "canary03-proxy",
		"error output": "canary10%2Fout0000000000", "output": "canary11/out0000000000", "account key": "canary12/out0000000000+AAAABBBBCCCC==",
	}
	m := newMachine(t, order{
		noCloudInit: true, packages: []bundles.Bundle{leaky}, extension: leaky.Name,
		config:       "\nLogs.Verbose=y\nHttpProxy.Host=http://joe:canary03-proxy@192.0.2.99\nHttpProxy.Port=3128\n",
		provisioning: fabric.Provisioning{Password: secrets["password"], CustomData: []byte("#!/bin/sh\n# canary02-customdata\n")},
	})
	m.on()
	m.await("the handler's failure", func() bool {
		m.alive()
		_, err := m.vm.ProvisioningState("Leaky")
		return err != nil
	})
	for name, secret := range map[string]string{"key": "/var/lib/waagent/TransportPrivate.pem", "hash": "/etc/shadow"} {
		text := m.sh("cat " + secret)
		if name == "key" {
			secrets[name] = strings.Split(text, "\n")[3]
		} else {
			secrets[name] = strings.Split(after(text, account+":"), ":")[0]
		}
	}
	pid := m.sh("systemctl show -P MainPID azguest")
	m.sh("systemctl kill --kill-whom=main --signal=QUIT azguest")
	m.await("the next agent", func() bool {
		return m.holds(`p=$(systemctl show -P MainPID azguest); [ "$p" != 0 ] && [ "$p" != ` + pid + ` ] && agentctl status --wait ready --timeout 20s; [ $? -le 1 ]`)
	})
	s := canary.New(secrets)
	journal := m.sh("journalctl --sync; journalctl -b -o export --all")
	for place, text := range map[string]string{
		"the journal":      journal,
		"systemctl":        m.sh("systemctl status --full --no-pager -n 1000 azguest || :; systemctl show azguest; systemctl list-units --all --full --no-legend"),
		"files of systemd": m.sh("cat /run/systemd/transient/* /run/systemd/system/* 2>/dev/null || :"),
		"other logs":       m.sh("find /var/log /run/azguest /var/lib/systemd -type f ! -path '/var/log/journal/*' -exec cat {} +"),
		"processes":        m.sh("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || :"),
	} {
		for _, hit := range s.In(text) {
			t.Errorf("%s in %s: …%q…", hit.Secret, place, hit.Around)
		}
	}
	for _, want := range []string{"SIGQUIT: quit", "enable ended", "Azguest.Samples.Leaky"} {
		if !strings.Contains(journal, want) && !strings.Contains(journal, strings.Replace(want, "enable", "install", 1)) {
			t.Errorf("the journal has no %q", want)
		}
	}
	if got, _ := m.try("find / -xdev -name 'core*' -type f -size +100k -newer /run/systemd/system; ls -A /var/lib/systemd/coredump"); got != "" {
		t.Errorf("dumps of memory: %s", got)
	}
}
