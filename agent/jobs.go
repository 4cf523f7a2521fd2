package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
)

// A periodicJob runs periodically. A turn that is due while the previous one is
// still running is skipped; turns never pile up. (A command of a handler is a
// job.Job.)
type periodicJob struct {
	name  string
	every time.Duration
	run   func(context.Context) error
}

// quietFor is how long the same job's failures stay out of the log after one
// was written: a fault gets at most one line in ten minutes.
const quietFor = 10 * time.Minute

// jobGoalState is the job that fetches the goal state; the agent can't work
// without it.
const jobGoalState = "goal-state"

// jobs returns all periodic work of the agent.
func (a *Agent) jobs() []periodicJob {
	list := []periodicJob{
		{jobGoalState, a.pollEvery(), a.poll},
		{"heartbeat", a.cfg.Status.HeartbeatPeriod, a.heartbeat},
		{"telemetry", a.cfg.Telemetry.Period, a.sendEvents},
		{"handler-events", a.cfg.Protocol.ETPPeriod, a.collectEvents},
		{"firewall", a.cfg.OS.FirewallPeriod, a.keepFirewall},
		{"host-health", time.Minute, a.hostHealth},
		{"memory", 30 * time.Second, a.trim},
		{"clock", clockPeriod, a.checkClock},
		{"endpoints", probeFirst, a.probeFailing},
		{"measure", 5 * time.Minute, a.measure},
		{"housekeeping", time.Hour, a.housekeeping},
		{"self-update", a.updateEvery(), a.selfUpdate},
	}
	// Jobs that an administrator has to enable.
	for _, j := range []struct {
		on bool
		periodicJob
	}{
		{a.cfg.OS.RootDeviceScsiTimeout != "", periodicJob{"scsi-timeout", a.cfg.OS.ScsiTimeoutPeriod, a.scsiTimeout}},
		{a.cfg.Provisioning.MonitorHostName, periodicJob{"host-name", a.cfg.Provisioning.MonitorHostNamePeriod, a.monitorHostName}},
		{a.shipsLogs(), periodicJob{"logs", time.Minute, a.shipLogs}},
		{a.copiesMetadata(), periodicJob{"metadata", cmp.Or(a.cfg.Metadata.Period, time.Minute), a.copyMetadata}},
	} {
		if j.on {
			list = append(list, j.periodicJob)
		}
	}
	return list
}

// scheduler runs the job table until the context ends.
type scheduler struct {
	gocron.Scheduler
	log  zerolog.Logger
	ids  map[string]gocron.Job
	opts []gocron.JobOption
}

func startJobs(ctx context.Context, log zerolog.Logger, jobs []periodicJob) (*scheduler, error) {
	// Shutdown polls in a tight loop while a job runs. Every job obeys ctx,
	// which is cancelled first, and the time it may take is limited.
	g, err := gocron.NewScheduler(gocron.WithStopTimeout(5*time.Second), gocron.WithLogger(quiet{}))
	if err != nil {
		return nil, fmt.Errorf("start scheduler: %w", err)
	}
	s := &scheduler{Scheduler: g, log: log, ids: map[string]gocron.Job{}}
	// gocron's singleton mode is not used: it keeps a goroutine and a queue for
	// a thousand turns for each job. See task.
	s.opts = []gocron.JobOption{gocron.WithContext(ctx)}
	for _, j := range jobs {
		opts := append([]gocron.JobOption{gocron.WithName(j.name), gocron.WithStartAt(gocron.WithStartImmediately())}, s.opts...)
		id, err := g.NewJob(gocron.DurationJob(j.every), s.task(j), opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("schedule %s: %w", j.name, err), g.Shutdown())
		}
		s.ids[j.name] = id
	}
	g.Start()
	return s, nil
}

// errKnown is returned by a turn that failed for a reason that was already
// logged. It is not logged again, and the job does not count as recovered.
var errKnown = errors.New("failed as before")

// task returns a function for gocron that runs a job and logs its errors: the
// first failure, a reminder every ten minutes with the count, and the recovery.
func (s *scheduler) task(j periodicJob) gocron.Task {
	var failures int
	var logged time.Time
	var turn sync.Mutex // guards them, and is held while the job runs
	return gocron.NewTask(func(ctx context.Context) {
		if !turn.TryLock() {
			return
		}
		defer turn.Unlock()
		err := host.Safely(func() error { return j.run(ctx) })
		switch {
		case err == nil:
			if failures > 0 {
				s.log.Info().Str("job", j.name).Int("failures", failures).Msg("job works again")
			}
			failures, logged = 0, time.Time{}
		case ctx.Err() != nil:
		case errors.Is(err, errKnown):
			failures++
		default:
			failures++
			if time.Since(logged) >= quietFor {
				logged = time.Now()
				s.log.Warn().Err(err).Func(host.LogStack(err)).Str("job", j.name).Int("failures", failures).Msg("job failed")
			}
		}
	})
}

// every changes the period of a job; the next turn comes one period later.
func (s *scheduler) every(j periodicJob) error {
	old, ok := s.ids[j.name]
	if !ok {
		return fmt.Errorf("unknown job %q", j.name)
	}
	opts := append([]gocron.JobOption{gocron.WithName(j.name)}, s.opts...)
	id, err := s.Update(old.ID(), gocron.DurationJob(j.every), s.task(j), opts...)
	if err != nil {
		return fmt.Errorf("reschedule %s: %w", j.name, err)
	}
	s.ids[j.name] = id
	return nil
}

// quiet drops the scheduler's own log; what matters is logged per job.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Error(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
