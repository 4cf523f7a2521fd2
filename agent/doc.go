// Package agent is the agent process: it creates the parts, connects them and
// decides in which order they run. Start reading at Agent.Run.
//
// What it promises:
//
//   - One agent per machine (a lock), one provisioning per VM id (a marker
//     that is on disk before Ready is sent), one Ready per boot.
//   - Status is reported while work is slow: provisioning, fetching, handlers
//     and reporting run concurrently, and a report is sent on every change
//     and at least once per heartbeat period.
//   - No failure is silent. What fails is retried by the code that is
//     responsible for it, shown in the snapshot that agentctl reads, and
//     logged once where the error is handled.
//   - The process may end at any time. Important state is on disk before it
//     is acted upon; handlers are processes of their own and continue.
//
// First boot:
//
//	DVD ─ ovf.Load ─► Environment ─ provisioning.Plan ─► []Step ─ Apply ─► marker
//	                                                        │                │
//	WireServer ◄── NotReady: Provisioning ◄─────────────────┘                │
//	WireServer ◄── Ready (or NotReady: ProvisioningFailed + reason) ◄────────┘
//
// After the first boot:
//
//	WireServer, HostGAPlugin ─ platform.GoalState ─► tick ─ Manager.Offer ─► handlers
//	     ▲                                                                      │
//	     └── status blob ◄─ report ◄─ Manager.Status, Manager.Changed ◄─────────┘
//	                          └─► /run/azguest/status.json ─► agentctl
//
// The package is flat, because its files have the methods of one type, [Agent],
// each on one subject, and share its fields; independent parts are in the
// packages below (agent/update decides about versions, agent/firewall sets rules,
// agent/status keeps the snapshot, agent/doctor the codes). The files, by subject:
//
//	life       agent.go (Run), parts.go (what runs side by side), jobs.go (what
//	           repeats), service.go, restarts.go, state.go (files of our own),
//	           watchdog.go, memory.go, idle.go
//	plumbing   wiring.go (makes the clients and the engine from the
//	           configuration), latch.go, turn.go
//	first boot boot.go, provisioning_input.go, other_provisioner.go, pps.go,
//	           health.go (Ready and NotReady)
//	platform   platform.go (connect and serve), loop.go (goal states),
//	           endpoints.go, start_gate.go, requesters.go, signature.go
//	reports    live_status.go (what is known now), snapshot.go (what agentctl
//	           sees), report.go (what the platform sees), history.go,
//	           certificates.go, telemetry.go
//	machine    firewall.go, jit.go (short-lived users), sshd_yield.go,
//	           hostname.go, resource_disk.go, scsi.go, clock.go
//	operator   control.go (agentctl's requests), doctor.go, ship_logs.go
//	updates    selfupdate.go, handover.go
//
// It may import every package of the product except agent/ctl, agent/log and
// agent/tool. Nothing but agent/tool and main imports it.
package agent
