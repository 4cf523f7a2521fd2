// Package web is the HTTP layer under every platform channel: one function, Do,
// with the status classes, limits and pace of protocol/SPEC.md §2.3 to §2.5. It
// knows nothing about documents.
//
// Begin with Do (web.go). Only Do repeats requests, and only faults (faults.go)
// keeps track of what fails: clients say in a Request how often and how long Do
// may repeat, ask with Paced whether a document that could not be used may be
// fetched again, and use Pace for schedules of their own. The loops above Do
// have reasons of their own, and never repeat faster than Do lets them:
//
//   - wire.Client.GoalState waits half a second, a few times, for a goal state
//     that is being changed; that is an answer, not a failure.
//   - platform.Client.Connect tries other addresses and looks for new ones.
//   - platform.Client.ReportHealth gets new names after a report was refused,
//     which Do does not repeat, and changes to a report that needs none.
//   - the health reporter of the agent starts again with a newer report.
//
// It may import the types of package protocol, agent/secret and agent/bound.
package web
