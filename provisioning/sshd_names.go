package provisioning

import (
	"path"
	"slices"
	"strings"
)

// SSHDNames returns the arguments of all lines with this keyword in sshd's
// configuration, in Match blocks too: the files that it may name for anybody
// (HostKey, AuthorizedKeysFile). The configuration is read, so that it works
// for the root file system of an image, too; AskSSHD knows more about a
// machine that runs.
func (m *Machine) SSHDNames(key string) []string {
	r, o := m.Root, m.Options
	var out []string
	for _, main := range []string{path.Join(o.SSHDir, "sshd_config"), "/usr/etc/ssh/sshd_config"} {
		if !r.Exists(main) {
			continue
		}
		for _, d := range readSSHD(r, main, o.SSHDir, nil) {
			if d.Key != strings.ToLower(key) {
				continue
			}
			for _, a := range d.Args {
				if !slices.Contains(out, a) {
					out = append(out, a)
				}
			}
		}
		return out
	}
	return out
}
