package agent

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/azguest/azguest/provisioning"
)

// yieldSSHD lets later edits of sshd's configuration take precedence over what
// was set at provisioning. VMAccess, with which customers restore lost access,
// edits the main file. The check is made only if a file has changed.
func (a *Agent) yieldSSHD(ctx context.Context) {
	if !a.startGate.opened.Load() {
		return // the machine is being provisioned
	}
	newest := a.newestSSHD()
	if newest.Equal(a.sshdSeen) {
		return
	}
	a.sshdSeen = newest
	given, err := a.machine(provisioning.Identity{}).YieldSSHD(ctx)
	if len(given) > 0 {
		a.Log.Info().Strs("keywords", given).Msg("sshd configuration was changed after provisioning, keeping the change")
		a.live.note("sshd", "later change kept: "+strings.Join(given, ", "))
	}
	if err != nil {
		a.Log.Warn().Err(err).Str("code", provisioning.CodeOf(err)).Msg("could not check sshd configuration")
	}
}

// newestSSHD returns when a file of sshd's configuration was last changed.
func (a *Agent) newestSSHD() time.Time {
	dir := a.cfg.OS.SSHDir
	names := []string{path.Join(dir, "sshd_config"), path.Join(dir, "sshd_config.d")}
	if more, err := a.Root.Glob(path.Join(dir, "sshd_config.d/*")); err == nil {
		names = append(names, more...)
	}
	var newest time.Time
	for _, n := range names {
		if st, err := a.Root.Stat(n); err == nil && st.ModTime().After(newest) {
			newest = st.ModTime()
		}
	}
	return newest
}
