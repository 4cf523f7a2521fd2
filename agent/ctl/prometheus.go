package ctl

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// prometheus writes the text format for node_exporter's textfile collector.
func (v view) prometheus(w io.Writer) {
	ver := v.verdict()
	gauge := func(name, help string, value float64) {
		fmt.Fprintf(w, "# HELP azguest_%s %s\n# TYPE azguest_%s gauge\nazguest_%s %s\n", name, help, name, name, strconv.FormatFloat(value, 'f', -1, 64))
	}
	gauge("status", "0 healthy, 1 degraded, 2 failed, 3 not running, 4 unknown", float64(ver.ExitCode))
	up := 0.0
	if v.life.Running {
		up = 1
	}
	gauge("up", "1 if the agent is running", up)
	if v.snapErr != nil {
		return
	}
	s := v.snap
	gauge("snapshot_age_seconds", "age of the status snapshot", v.now.Sub(s.WrittenAt).Seconds())
	if t := s.Platform.LastReport.AcceptedAt; !t.IsZero() {
		gauge("report_accepted_timestamp_seconds", "time of the last accepted status report", float64(t.Unix()))
	}
	gauge("goal_state_lag_seconds", "time from receiving to applying the goal state", s.Platform.GoalState.LagS)
	gauge("resident_memory_bytes", "memory of the agent", float64(s.Agent.RSS))
	gauge("restarts", "restarts of the agent since boot", float64(s.Agent.Restarts))
	gauge("disk_used_bytes", "disk space used by the agent", float64(s.Disk.Used))
	gauge("telemetry_dropped", "dropped telemetry events", float64(s.Telemetry.Dropped))
	if len(ver.Codes) > 0 {
		fmt.Fprint(w, "# HELP azguest_problem 1 for each reported code\n# TYPE azguest_problem gauge\n")
		for _, c := range ver.Codes {
			fmt.Fprintf(w, "azguest_problem{code=%s} 1\n", label(c))
		}
	}
	if len(s.Extensions) > 0 {
		fmt.Fprint(w, "# HELP azguest_extension_state 0 failed, 1 waiting or warning, 2 running, 3 ok\n# TYPE azguest_extension_state gauge\n")
		for _, e := range s.Extensions {
			_, rank := extWord(e, v.now)
			fmt.Fprintf(w, "azguest_extension_state{name=%s,config=%s,version=%s} %d\n", label(e.Name), label(e.Config), label(e.Version), rank)
		}
	}
}

func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(clean(s)) + `"`
}
