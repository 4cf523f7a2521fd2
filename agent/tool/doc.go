// Package tool has the one-shot commands of azguest: everything on its command
// line except running the agent. Each command is a method of [Tool] that
// returns an exit status; main makes the Tool.
//
//	waagent.go    the command line of the classic agent
//	logs.go       collect logs for support; redact.go masks secrets in them
//	generalize.go prepare a machine for an image, and check an image
//	policy.go     show whether the policy allows an extension
//	metadata.go   show the instance metadata
//	decrypt.go    decrypt protected settings
//	firewall.go   set the firewall rules once
//	cleanup.go    remove what outlives the agent
//
// The commands work whether or not the agent is running. They use package agent
// only for what both must agree on (the meaning of the configuration, the names
// of the service and of a flag), and the packages below for the work.
package tool
