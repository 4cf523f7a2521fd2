// Package config reads waagent.conf and its drop-ins into a typed [Config].
//
// The syntax is that of the classic agent, trailing comments included
// (spec/provisioning §7.1). Every key is one row of the table in keys.go:
// name, type, default, meaning, and where the value goes. `agentctl config
// show`, the defaults, the warnings and the documentation all come from that
// table.
//
// Later files win over earlier ones, within a file the later line wins:
//
//	/usr/lib/azguest/waagent.conf.d/*.conf   the distribution
//	/etc/waagent.conf                        the classic file
//	/etc/waagent.conf.d/*.conf               the administrator
//	/run/azguest/waagent.conf.d/*.conf       until the next boot
//
// Nothing in a file is fatal: a key nobody knows, a value that does not parse
// and a file that is missing each give a [Warning] and leave the default.
//
// The package imports nothing of ours and starts no goroutine.
package config
