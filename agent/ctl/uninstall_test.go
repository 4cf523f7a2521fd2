package ctl

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/status"
)

// removable makes a machine with the agent's package, and with files of others.
func removable(t *testing.T, s status.Snapshot) string {
	t.Helper()
	root := machine(t, s)
	for _, name := range []string{
		"/usr/lib/systemd/system/azguest.service", "/usr/lib/systemd/system/azguest-firewall.service", "/usr/lib/systemd/system/ssh.service",
		"/usr/lib/systemd/system/azure.slice", "/usr/lib/systemd/system/azure-vmextensions.slice",
		"/run/systemd/transient/azure-vmextensions-Contoso.Echo.slice", "/run/systemd/system/azguest.service.d/50-CPUQuota.conf",
		"/usr/lib/systemd/system/cloud-init-main.service.d/50-azguest.conf",
		"/usr/lib/udev/rules.d/66-azguest-storage.rules", "/usr/sbin/azguest", "/usr/bin/agentctl",
		"/etc/waagent.conf", "/var/lib/waagent/ovf-env.xml", "/var/log/waagent.log", "/var/log/waagent.log.1",
		"/home/ada/.ssh/authorized_keys", "/etc/ssh/sshd_config.d/00-azguest.conf", "/etc/ssh/sshd_config.d/50-cloud.conf",
	} {
		put(t, root, name, "")
	}
	put(t, root, "/etc/sudoers.d/waagent", "# made by the agent\nada ALL=(ALL) NOPASSWD: ALL\ngone ALL=(ALL) ALL\n")
	put(t, root, "/etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/bash\n")
	put(t, root, "/sys/fs/cgroup/azure.slice/azure-vmextensions.slice/x.scope/cgroup.procs", "71\n72\n")
	put(t, root, "/sys/fs/cgroup/azure.slice/azguest.service/cgroup.procs", "70\n")
	for link, to := range map[string]string{
		"/etc/systemd/system/multi-user.target.wants/azguest.service": "/usr/lib/systemd/system/azguest.service",
		"/etc/systemd/system/waagent.service":                         "/usr/lib/systemd/system/azguest.service",
		"/etc/systemd/system/walinuxagent.service":                    "/opt/other/walinuxagent.service",
	} {
		link = filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestUninstallPlan(t *testing.T) {
	t.Parallel()
	root := removable(t, wellSnapshot())
	put(t, root, "/var/lib/dpkg/info/azguest.list", "")
	put(t, root, "/var/lib/azguest/created", "/etc/waagent.conf\n/var/log/azure\n/var/log/waagent.log\n")
	for name, args := range map[string][]string{"uninstall-deb": {"uninstall", "--plan"}, "uninstall-json": {"uninstall", "--plan", "-o", "json"}} {
		code, out, errs := run(t, root, args...)
		if code != 0 || errs != "" {
			t.Errorf("%v: %d, %q", args, code, errs)
		}
		golden(t, name, out)
	}
	s := wellSnapshot()
	s.Firewall.Backend = "iptables"
	root = removable(t, s)
	put(t, root, "/var/lib/rpm/rpmdb.sqlite", "")
	_, out, _ := run(t, root, "uninstall", "--plan")
	golden(t, "uninstall-rpm", out)
	if code, _, errs := run(t, root, "uninstall"); code != ExitUsage || !strings.Contains(errs, "package manager") {
		t.Errorf("without --plan: %d, %q", code, errs)
	}
	_, out, _ = run(t, t.TempDir(), "uninstall", "--plan")
	golden(t, "uninstall-nothing", out)
}

// TestUninstallPlanKnowsThePackage: everything that is packed, or removed by
// the scripts, is in the table.
func TestUninstallPlanKnowsThePackage(t *testing.T) {
	t.Parallel()
	known := func(name string) bool {
		name = strings.TrimSuffix(name, "*")
		for _, g := range append(goes[:], purged[:]...) {
			if ok, err := path.Match(g.pattern, name); err != nil || ok || g.pattern == name+"*" || strings.HasPrefix(name, g.pattern+"/") {
				return true
			}
		}
		return false
	}
	for file, find := range map[string]string{
		"nfpm.yaml": `src: \S+, dst: (/\S+),`, // directories go if they are empty
		"postrm":    `(/(?:run|etc|var)/[^\s\\");]+)`,
	} {
		b, err := os.ReadFile("../../scripts/packaging/" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(find).FindAllStringSubmatch(string(b), -1)
		if len(found) < 8 {
			t.Fatalf("%s: only %d paths found", file, len(found))
		}
		for _, m := range found {
			name := strings.ReplaceAll(m[1], "$alias", "waagent")
			if name == "/run/systemd/system" { // only the check whether systemd runs
				continue
			}
			if !known(name) && !known(strings.ReplaceAll(name, "*", "x")) {
				t.Errorf("%s: %s is not in the plan", file, name)
			}
		}
	}
}
