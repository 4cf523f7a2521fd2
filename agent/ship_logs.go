package agent

import (
	"context"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
)

// LogsForUpload is the flag, our own addition to the classic ones, with which
// shipLogs collects logs: in a smaller archive, and with idle priority.
const LogsForUpload = "for-upload"

// LogsUploadMax bounds an archive of logs that goes to the host.
const LogsUploadMax = 8 << 20

// shipLogs is the job that uploads logs for support. It is not the default:
// logs leave the machine only where a configuration file says Logs.Collect=y
// in so many words.
func (a *Agent) shipLogs(ctx context.Context) error {
	if !a.logsDue(time.Now()) {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	args := []string{"waagent", "-collect-logs", "-" + LogsForUpload}
	if a.ConfigFile != "" {
		args = append(args, "-configuration-path:"+a.ConfigFile)
	}
	// A process of its own, with the lowest priority: what it needs is gone
	// when it ends, and the agent goes on meanwhile.
	if _, err := a.Runner.Run(ctx, host.Cmd{Name: self, Args: args, Timeout: 5 * time.Minute}); err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	b, err := a.Root.ReadBounded(path.Join(a.cfg.Paths.Lib, "logcollector", "logs.zip"), 2*LogsUploadMax)
	if err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	if err := a.platform.UploadLogs(ctx, b); err != nil {
		return fmt.Errorf("upload logs: %w", err)
	}
	// Each hour's would be all that an idle machine has to say.
	level := zerolog.DebugLevel
	if !a.logsShipped {
		a.logsShipped, level = true, zerolog.InfoLevel
	}
	a.Log.WithLevel(level).Int("bytes", len(b)).Msg("logs uploaded for support")
	return nil
}

// shipsLogs: a default is no consent.
func (a *Agent) shipsLogs() bool {
	return a.cfg.Logs.Collect && a.cfg.Origin("Logs.Collect").File != ""
}

// logsDue keeps the period: the first time some minutes after the start. A
// failure waits for the next period.
func (a *Agent) logsDue(now time.Time) bool {
	if a.nextLogs.IsZero() {
		a.nextLogs = a.started.Add(a.cfg.Logs.CollectDelay)
	}
	if now.Before(a.nextLogs) {
		return false
	}
	a.nextLogs = now.Add(a.cfg.Logs.CollectPeriod)
	return true
}
