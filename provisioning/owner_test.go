package provisioning_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// The unit of newer versions of cloud-init.
const (
	localUnit  = "/usr/lib/systemd/system/cloud-init-local.service"
	conditions = "[Unit]\nConditionPathExists=!/etc/cloud/cloud-init.disabled\nConditionKernelCommandLine=!cloud-init=disabled\n"
)

// TestIN10FindOwner: cases of IN10 are those of datasource_list.
func TestIN10FindOwner(t *testing.T) {
	t.Parallel()
	ci := map[string]string{"/usr/bin/cloud-init": "", "/run/systemd/system/.keep": "", "/run/cloud-init/enabled": ""}
	with := func(base map[string]string, more ...string) map[string]string {
		out := map[string]string{}
		maps.Copy(out, base)
		for i := 0; i < len(more); i += 2 {
			if more[i+1] == "-" {
				delete(out, more[i])
				continue
			}
			out[more[i]] = more[i+1]
		}
		return out
	}
	for _, tc := range []struct {
		name  string
		agent string
		files map[string]string
		links map[string]string
		want  provisioning.Owner
	}{
		{"nothing", "auto", nil, nil, "azguest"},
		{"configured self beats cloud-init", "waagent", ci, nil, "azguest"},
		{"configured cloud-init", "cloud-init", nil, nil, "cloud-init"},
		{"configured disabled", "Disabled", ci, nil, "nobody"},
		{"typo is auto", "atuo", ci, nil, "cloud-init"},
		{"generator enabled it", "auto", ci, nil, "cloud-init"},
		{"Azure found by ds-identify", "auto", with(ci, "/run/cloud-init/cloud.cfg", "di_report:\n  datasource_list: [ X ]\ndatasource_list: [ Azure, None ]\n"), nil, "cloud-init"},
		{"another platform found", "auto", with(ci, "/run/cloud-init/cloud.cfg", "datasource_list: [ NoCloud, None ]\n"), nil, "azguest"},
		{"image limits to Azure, block list", "auto", with(ci, "/etc/cloud/cloud.cfg.d/91.cfg", "# c\ndatasource_list:\n  - Azure # here\n  - None\nother: 1\n"), nil, "cloud-init"},
		{"IN10: wrapped over two lines", "auto", with(ci, "/etc/cloud/cloud.cfg.d/91.cfg", "datasource_list: [ NoCloud,\n  Azure, None ]\n"), nil, "cloud-init"},
		{"IN10: list with the dash in the first column", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list:\n- NoCloud\n- Azure\n"), nil, "cloud-init"},
		{"IN10: quoted key", "auto", with(ci, "/etc/cloud/cloud.cfg", "\"datasource_list\": [\"NoCloud\",\n\"azure\"]\n"), nil, "cloud-init"},
		{"IN10: flow mapping", "auto", with(ci, "/etc/cloud/cloud.cfg", "{datasource_list: [Azure], other: 1}\n"), nil, "cloud-init"},
		{"IN10: anchor", "auto", with(ci, "/etc/cloud/cloud.cfg", "x: &a [Azure]\ndatasource_list: *a\n"), nil, "cloud-init"},
		{"IN10: a string", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: NoCloud, Azure\n"), nil, "cloud-init"},
		{"IN10: # within a word", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: [a#b, Azure]\n"), nil, "cloud-init"},
		{"IN10: not YAML", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: [ NoCloud\n"), nil, "cloud-init"},
		{"IN10: not a list", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: {NoCloud: 1}\n"), nil, "cloud-init"},
		{"IN10: too large", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: [NoCloud]\n#"+strings.Repeat("x", 1<<20)), nil, "cloud-init"},
		{"IN10: the list in the comment", "auto", with(ci, "/etc/cloud/cloud.cfg", "# datasource_list: [Azure]\ndatasource_list: [NoCloud]\n"), nil, "azguest"},
		{"IN10: the last of two keys", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: [NoCloud]\ndatasource_list: [Azure]\n"), nil, "cloud-init"},
		{"IN10: empty files do not count", "auto", with(ci, "/etc/cloud/cloud.cfg.d/99.cfg", "# nothing\n", "/etc/cloud/cloud.cfg", "datasource_list: [NoCloud]\n"), nil, "azguest"},
		{"IN10: wrapped, another platform", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: [ NoCloud,\n  Ec2 ]\n"), nil, "azguest"},
		{"IN10: two documents, which cloud-init refuses", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: [NoCloud]\n---\nother: 1\n"), nil, "cloud-init"},
		{"IN10: one document between marks", "auto", with(ci, "/etc/cloud/cloud.cfg", "---\ndatasource_list: [NoCloud]\n...\n"), nil, "azguest"},
		{"IN10: a merge key", "auto", with(ci, "/etc/cloud/cloud.cfg.d/91.cfg", "x: &a {datasource_list: [Azure]}\n<<: *a\n", "/etc/cloud/cloud.cfg", "datasource_list: [NoCloud]\n"), nil, "cloud-init"},
		{"IN10: a list, not a mapping", "auto", with(ci, "/etc/cloud/cloud.cfg.d/91.cfg", "- datasource_list\n", "/etc/cloud/cloud.cfg", "datasource_list: [NoCloud]\n"), nil, "cloud-init"},
		{"image limits to another", "auto", with(ci, "/etc/cloud/cloud.cfg", "datasource_list: ['Ec2']\n"), nil, "azguest"},
		{"later drop-in wins", "auto", with(ci, "/etc/cloud/cloud.cfg.d/10.cfg", "datasource_list: [Ec2]\n", "/etc/cloud/cloud.cfg.d/99.cfg", "datasource_list: [Azure]\n"), nil, "cloud-init"},
		{"switched off by file", "auto", with(ci, "/etc/cloud/cloud-init.disabled", ""), nil, "azguest"},
		{"switched off by generator", "auto", with(ci, "/run/cloud-init/enabled", "-", "/run/cloud-init/disabled", ""), nil, "azguest"},
		{"switched off on the command line", "auto", with(ci, "/proc/cmdline", "root=/dev/sda cloud-init=disabled quiet"), nil, "azguest"},
		{"switched on by the command line, which the generator asks first", "auto", with(ci, "/etc/cloud/cloud-init.disabled", "", "/proc/cmdline", "quiet cloud-init=enabled"), nil, "cloud-init"},
		{"the same, and the unit follows the file", "auto", with(ci, "/etc/cloud/cloud-init.disabled", "", "/proc/cmdline", "quiet cloud-init=enabled", localUnit, conditions), nil, "azguest"},
		{"the last word of the command line", "auto", with(ci, "/proc/cmdline", "cloud-init=disabled cloud-init=enabled"), nil, "cloud-init"},
		{"the same, and the unit follows any word", "auto", with(ci, "/proc/cmdline", "cloud-init=disabled cloud-init=enabled", localUnit, conditions), nil, "azguest"},
		{"the last word is off", "auto", with(ci, "/proc/cmdline", "cloud-init=enabled cloud-init=disabled"), nil, "azguest"},
		{"switched on by file", "auto", with(ci, "/etc/cloud/cloud-init.disabled", "", "/etc/cloud/cloud-init.enabled", ""), nil, "cloud-init"},
		{"the command line is stronger than the file", "auto", with(ci, "/etc/cloud/cloud-init.enabled", "", "/proc/cmdline", "cloud-init=disabled"), nil, "azguest"},
		{"switched on, but no datasource", "auto", with(ci, "/run/cloud-init/enabled", "-", "/run/cloud-init/disabled", "", "/proc/cmdline", "cloud-init=enabled"), nil, "azguest"},
		{"unit enabled, generator said nothing", "auto", with(ci, "/run/cloud-init/enabled", "-"), map[string]string{"/etc/systemd/system/cloud-init.target.wants/cloud-init-local.service": "/x"}, "cloud-init"},
		{"installed but not enabled", "auto", with(ci, "/run/cloud-init/enabled", "-"), nil, "azguest"},
		{"masked", "auto", with(ci, "/run/cloud-init/enabled", "-"), map[string]string{"/usr/lib/systemd/system/cloud-init.target.wants/cloud-init-local.service": "/x", "/etc/systemd/system/cloud-init-local.service": "/dev/null"}, "azguest"},
		{"OpenRC", "auto", map[string]string{"/usr/bin/cloud-init": "", "/etc/runlevels/boot/cloud-init-local": ""}, nil, "cloud-init"},
		{"OpenRC, not in a runlevel", "auto", map[string]string{"/usr/bin/cloud-init": ""}, nil, "azguest"},
		{"azure-init enabled", "auto", nil, map[string]string{"/etc/systemd/system/multi-user.target.wants/azure-init.service": "/x"}, "azure-init"},
		{"azure-init's marker", "auto", map[string]string{"/var/lib/azure-init/" + vmID + ".provisioned": ""}, nil, "azure-init"},
		{"azure-init's marker of another VM", "auto", map[string]string{"/var/lib/azure-init/x.provisioned": ""}, nil, "azguest"},
		{"ignition with afterburn", "auto", map[string]string{"/etc/.ignition-result.json": "{}"}, map[string]string{"/etc/systemd/system/multi-user.target.requires/afterburn-checkin.service": "/x"}, "ignition"},
		{"ignition in this boot", "auto", map[string]string{"/etc/.ignition-result.json": ignitionRan, "/proc/sys/kernel/random/boot_id": "22e65c44-1111-4222-8333-444444444444\n"}, afterburn, "ignition"},
		{"ignition in an earlier boot of this VM", "auto", map[string]string{"/etc/.ignition-result.json": ignitionRan, "/proc/sys/kernel/random/boot_id": "33333333-1111-4222-8333-444444444444\n", "/var/lib/waagent/provisioned": vmID}, afterburn, "ignition"},
		{"ignition of the VM that was captured", "auto", map[string]string{"/etc/.ignition-result.json": ignitionRan, "/proc/sys/kernel/random/boot_id": "33333333-1111-4222-8333-444444444444\n"}, afterburn, "azguest"},
		{"ignition of the VM that was captured, with its marker", "auto", map[string]string{"/etc/.ignition-result.json": ignitionRan, "/proc/sys/kernel/random/boot_id": "33333333-1111-4222-8333-444444444444\n", "/var/lib/waagent/provisioned": "99999999-1111-4222-8333-444444444444"}, afterburn, "azguest"},
		{"ignition alone (Flatcar)", "auto", map[string]string{"/proc/cmdline": "ignition.platform.id=azure"}, nil, "azguest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := &machine{t: t, root: host.Root(t.TempDir())}
			for n, text := range tc.files {
				m.write(n, text, 0o755)
			}
			for n, target := range tc.links {
				p := m.root.Path(n)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(m.root.Path("/run/systemd/system"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(target, p); err != nil {
					t.Fatal(err)
				}
			}
			if got := m.prov().FindOwner(tc.agent); got.Owner != tc.want || got.Because == "" {
				t.Errorf("%+v, want %s", got, tc.want)
			}
		})
	}
}

const statusJSON = `{"v1":{"datasource":"DataSourceAzure [seed=/dev/sr0]","init":{"errors":[],"finished":17.5,"start":16.1},"init-local":{"errors":[],"finished":9.2,"start":8.8},"modules-config":{"errors":["bad thing"],"finished":null,"start":18.2},"modules-final":{"errors":[],"finished":null,"start":null},"stage":"modules-config"}}`

func TestCloudInitStatus(t *testing.T) {
	t.Parallel()
	m := &machine{t: t, root: host.Root(t.TempDir())}
	if _, ok := provisioning.CloudInit(m.root); ok {
		t.Error("CloudInit() of a machine without cloud-init: found")
	}
	m.write("/run/cloud-init/status.json", statusJSON[:100], 0o644)
	if _, ok := provisioning.CloudInit(m.root); ok {
		t.Error("an incomplete file was accepted")
	}
	m.write("/run/cloud-init/status.json", statusJSON, 0o644)
	got, ok := provisioning.CloudInit(m.root)
	want := provisioning.CloudInitStatus{Datasource: "DataSourceAzure [seed=/dev/sr0]", Running: "modules-config", Begun: []string{"init-local", "init", "modules-config"}, Over: []string{"init-local", "init"}, Errors: []string{"modules-config: bad thing"}}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !got.Passed(provisioning.StageInit) || got.Passed(provisioning.StageConfig) {
		t.Error("wrong stages")
	}
	m.write("/run/cloud-init/result.json", `{"v1":{"datasource":"DataSourceAzure","errors":["a"]}}`, 0o644)
	if got, _ := provisioning.CloudInit(m.root); !got.Finished || got.Passed(provisioning.StageFinal) || !got.Crashed(provisioning.StageFinal) {
		t.Errorf("a result without a last stage: %+v", got)
	}
}

func TestWaitOwnerSeesTheResultAppear(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	done := make(chan provisioning.Outcome, 1)
	go func() {
		out, err := m.prov().WaitOwner(t.Context(), provisioning.Finding{Owner: provisioning.OwnerCloudInit})
		if err != nil {
			t.Error(err)
		}
		done <- out
	}()
	m.write("/run/cloud-init/status.json", statusJSON, 0o644)
	m.write("/run/cloud-init/.result.tmp", `{"v1":{"datasource":"DataSourceAzure","errors":[]}}`, 0o644)
	if err := os.Rename(m.root.Path("/run/cloud-init/.result.tmp"), m.root.Path("/run/cloud-init/result.json")); err != nil {
		t.Fatal(err)
	}
	select {
	case out := <-done:
		if !out.Done || out.Failed {
			t.Errorf("%+v", out)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the result was not seen within five minutes")
	}
}

func TestWaitOwnerIsBounded(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := m.prov().WaitOwner(ctx, provisioning.Finding{Owner: provisioning.OwnerAzureInit})
	if !errors.Is(err, context.DeadlineExceeded) || provisioning.CodeOf(err) != provisioning.CodeOwner {
		t.Errorf("error %v", err)
	}
}

// What Ignition leaves, and the unit that reports Ready after it.
const ignitionRan = `{"provisioningBootID":"22e65c44-1111-4222-8333-444444444444","provisioningDate":"2026-11-30T10:00:00Z","userConfigProvided":true}`

var afterburn = map[string]string{"/etc/systemd/system/multi-user.target.requires/afterburn-checkin.service": "/x"}
