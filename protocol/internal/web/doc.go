// Package web is the HTTP layer under every platform channel: one Do with
// the status classes, limits and pace of protocol/SPEC.md §2.3 to §2.5. It
// knows no document.
//
// Begin with Do (web.go). It is the one place that repeats requests, and
// faults (faults.go) is the one memory of what fails: clients say in a Request
// how often and how long Do may repeat, ask with Paced whether a document that
// could not be used may be fetched again, and use Pace for schedules of their
// own. What still loops above Do has a reason of its own, and never repeats
// faster than Do lets it:
//
//   - wire.Client.GoalState waits half a second, a few times, for a goal state
//     that is being changed; that is an answer, not a failure.
//   - platform.Client.Connect tries other addresses and looks for new ones.
//   - platform.Client.ReportHealth gets new names after a report was refused,
//     which Do takes for final, and changes to a report that needs none.
//   - the health reporter of the agent begins anew with a newer report.
//
// It may import the vocabulary (protocol), agent/secret and agent/bound.
package web
