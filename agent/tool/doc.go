// Package tool is the one-shot commands of azguest: everything that it does on a
// command line except being the agent. Each command is a method of [Tool] that
// returns an exit status; main makes the Tool.
//
//	waagent.go    the command line of the classic agent
//	logs.go       collect logs for support; redact.go masks secrets in them
//	generalize.go prepare a machine for an image, and check an image
//	policy.go     whether the policy allows an extension
//	decrypt.go    protected settings in clear
//	firewall.go   set the firewall rules once
//	cleanup.go    take back what outlives the agent
//
// The commands run beside the agent or without it. They use package agent only
// for what both must agree on (the meaning of the configuration, the names of
// the service and of a flag), and the packages below for the work.
package tool
