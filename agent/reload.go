package agent

import (
	"context"
	"slices"

	"github.com/azguest/azguest/agent/config"
)

// appliedByReload are the keys that Options.Reload applies. All others are read
// in many places while the agent works, some of them once, so they take effect
// with the next start. What has a file of its own, such as the policy, is read
// anew each time it is needed.
var appliedByReload = []string{"Logs.Verbose"}

// hangUp reloads the agent at each SIGHUP, until the context ends. Signals that
// arrive during one reload lead to one more.
func (a *Agent) hangUp(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.HangUp:
			a.reload()
		}
	}
}

func (a *Agent) reload() {
	cfg, warnings, err := a.Reload()
	if err != nil {
		a.Log.Error().Err(err).Msg("configuration could not be read again, it stays as it was; log file reopened")
		return
	}
	for _, w := range warnings {
		if !w.Note && !slices.Contains(a.Warnings, w) {
			a.Log.Warn().Str("at", w.Origin.String()).Str("key", w.Key).Msg("configuration: " + w.Message)
		}
	}
	if later := changedKeys(a.cfg, cfg); len(later) > 0 {
		a.Log.Warn().Strs("keys", later).Msg("log file reopened; these changes of the configuration take effect when the agent is restarted")
		return
	}
	a.Log.Info().Msg("log file reopened, configuration read again")
}

// changedKeys returns the keys whose values differ and that a reload does not
// apply.
func changedKeys(have, want *config.Config) []string {
	values := map[string]string{}
	for _, s := range have.Settings() {
		values[s.Key] = s.Value
	}
	var keys []string
	for _, s := range want.Settings() {
		if s.Value != values[s.Key] && !slices.Contains(appliedByReload, s.Key) {
			keys = append(keys, s.Key)
		}
	}
	return keys
}
