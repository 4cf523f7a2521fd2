// Package plan decides what is to be done for one handler, and nothing else:
// it runs no command, reads no file and asks no clock. The engine (package
// extensions) gives it facts and does what it says.
//
//   - state.go has the states of a handler version and the tables of what
//     leads from one to the next. testdata/states.mmd is their picture, which
//     a test draws from the tables.
//   - plan.go has For, which makes tasks of facts and a wish. Whether an
//     extension is enabled once more is decided in WhyEnable, at its end.
//   - version.go orders versions, and names.go says what may become the name
//     of a directory.
//
// It imports package protocol, for the list of published versions.
package plan
