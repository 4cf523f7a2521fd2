// Package config reads waagent.conf and its drop-ins into a typed [Config].
//
// The syntax is that of the classic agent, trailing comments included
// (provisioning/SPEC.md §15.2). Every key is one row of the table in keys.go:
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
// No error in a file is fatal: an unknown key, an invalid value and a missing
// file each give a [Warning] and leave the default.
//
// Begin with Config in config.go and the table in keys.go. Of this module, the
// package imports only the floor (DESIGN.md, The shape), and it starts no
// goroutine.
package config
