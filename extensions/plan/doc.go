// Package plan decides what has to be done for one handler. It is pure: it runs
// no command and reads no file or clock. The engine (package extensions) passes
// it facts and runs the tasks that it returns.
//
//   - state.go has the states of a handler version and the tables of the
//     transitions between them. testdata/states.mmd is a diagram of them, which
//     a test generates from the tables.
//   - plan.go has For, which turns facts and a wish into tasks. WhyEnable
//     decides whether an extension is enabled again.
//   - version.go compares versions, and names.go checks names that become
//     directory names.
//
// It imports package protocol, for the list of published versions.
package plan
