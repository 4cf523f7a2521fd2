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

// LogsForUpload is a flag of -collect-logs that the classic agent does not
// have. shipLogs uses it to collect a smaller archive, with idle priority.
const LogsForUpload = "for-upload"

// LogsUploadMax is the largest archive of logs that is uploaded, in bytes.
const LogsUploadMax = 8 << 20

// shipLogs is the job that uploads logs for support. It is off by default: logs
// leave the machine only if a configuration file says Logs.Collect=y.
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
	// A separate process with the lowest priority: its memory is freed when it
	// ends, and the agent goes on meanwhile.
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
	// Only the first one is logged at info level: an idle machine would log
	// nothing but these.
	level := zerolog.DebugLevel
	if !a.logsShipped {
		a.logsShipped, level = true, zerolog.InfoLevel
	}
	a.Log.WithLevel(level).Int("bytes", len(b)).Msg("logs uploaded for support")
	return nil
}

// shipsLogs reports whether logs are uploaded. A default is not consent, so a
// configuration file has to say it.
func (a *Agent) shipsLogs() bool {
	return a.cfg.Logs.Collect && a.cfg.Origin("Logs.Collect").File != ""
}

// logsDue reports whether the next upload is due: first some minutes after the
// start, then once per period, also after a failure.
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
