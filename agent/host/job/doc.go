// Package job runs a command of a handler so that it neither dies with the agent
// nor loses its deadline when the agent is restarted, upgraded or killed
// (DESIGN.md, decision 8). The agent does not run the command: a second process
// of its own binary, the supervisor, does.
//
// What the two agree on is at the top of supervise.go: begin there. supervise.go
// is the supervisor; job.go is the agent's side, which starts one and waits;
// end.go ends a job whose supervisor does not (decisions 50 to 52).
package job
