// Package cgroup is what the agent does with control groups: a scope of systemd
// for this process (Scope), what a cgroup may use and how long that has kept it
// waiting (LimitsOf, Throttled), what is in it (Procs), and what to do about one
// that is frozen (FrozenBy, Thaw). It works with both versions of cgroups, and
// where there is neither a cgroup nor systemd its answers are empty.
package cgroup
