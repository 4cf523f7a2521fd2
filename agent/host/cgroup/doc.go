// Package cgroup works with control groups: it moves this process into a scope
// of systemd (Scope), reads what a cgroup may use and how long it was
// throttled (LimitsOf, Throttled), lists its processes (Procs), and finds and
// thaws frozen ones (FrozenBy, Thaw). It works with both versions of cgroups.
// Without cgroups the results are empty, and without systemd Join returns an
// error.
package cgroup
