package oracle

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/azguest/azguest/test/sandbox"
)

// cloudConfig is the configuration of the machine's own cloud-init: the account
// of the order, as the data source of the platform sets it, and the modules that
// carry out the keys that azguest supports, in Debian's order.
const cloudConfig = `datasource_list: [NoCloud]
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
no_ssh_fingerprints: true
ssh: {emit_keys_to_console: false}
cloud_init_modules: [bootcmd, write-files, mounts, set_hostname, update_hostname, update_etc_hosts, users-groups, ssh]
cloud_config_modules: [ntp, timezone, runcmd]
cloud_final_modules: [package-update-upgrade-install, write-files-deferred, scripts-vendor, scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user, final-message]
system_info:
  default_user: {name: ` + user + `, groups: [adm]}
`

//go:embed stages.py
var stages []byte

// cloudInit returns what becomes of a machine that cloud-init sets up, and the
// warnings of cloud-init.
func cloudInit(ctx context.Context, layers []string, d document) (found facts, warnings []string, err error) {
	s, err := sandbox.New(ctx, sandbox.Options{Layers: layers, Hostname: hostName, Hide: []string{"/etc/apt/sources.list.d"}})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	const seed = "/var/lib/cloud/seed/nocloud"
	if r, err := s.Run(ctx, "sh", "-ec", prepare+"mkdir -p "+seed+"\n"+d.prepare); err != nil {
		return nil, nil, fmt.Errorf("prepare: %w: %s", err, r.Stderr)
	}
	for name, text := range map[string]string{
		"/etc/cloud/cloud.cfg.d/99-oracle.cfg": cloudConfig,
		seed + "/meta-data":                    "instance-id: i-1\nlocal-hostname: " + hostName + "\npublic-keys: [" + orderKey + "]\n",
		seed + "/user-data":                    d.user,
		seed + "/vendor-data":                  d.vendor,
	} {
		if err := s.WriteFile(name, []byte(text), 0o644); err != nil {
			return nil, nil, err
		}
	}
	for boot := range max(1, d.boots) {
		if boot > 0 {
			if err := s.Reboot(ctx); err != nil {
				return nil, nil, err
			}
		}
		// cloud-init looks for this directory to find out whether there is systemd.
		if _, err := s.Run(ctx, "mkdir", "-p", "/run/systemd/system"); err != nil {
			return nil, nil, err
		}
		if _, err := s.RunCmd(ctx, sandbox.Cmd{Args: []string{"python3", "-"}, Stdin: bytes.NewReader(stages)}); err != nil {
			// A stage has failed, as it does if a script fails.
			warnings = append(warnings, fmt.Sprintf("a stage of cloud-init failed: %v", err))
		}
	}
	text, err := s.ReadFile("/var/log/cloud-init.log")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "[WARNING]") || strings.Contains(line, "[ERROR]") {
			warnings = append(warnings, strings.TrimSpace(line))
		}
	}
	found, err = look(ctx, s)
	return found, warnings, err
}
