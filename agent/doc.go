// Package agent is the process: it puts the parts together and owns their
// order in time. Start reading at Agent.Run.
//
// What it promises:
//
//   - One agent per machine (a lock), one provisioning per VM id (a marker
//     that is on disk before Ready is sent), one Ready per boot.
//   - Status flows while work is slow: provisioning, fetching, handlers and
//     reporting run side by side, and a report goes out on every change and
//     at least once a heartbeat.
//   - Nothing in here gives up silently. What fails is retried by the one
//     place that owns it, shown in the snapshot that agentctl reads, and
//     logged once by whoever stops the error.
//   - Dying is always allowed. Everything that matters is on disk before it
//     is acted upon; handlers live in processes of their own and go on.
//
// First boot:
//
//	DVD ─ ovf.Load ─► Environment ─ provisioning.Plan ─► []Step ─ Apply ─► marker
//	                                                        │                │
//	WireServer ◄── NotReady: Provisioning ◄─────────────────┘                │
//	WireServer ◄── Ready (or NotReady: ProvisioningFailed + reason) ◄────────┘
//
// For ever after:
//
//	WireServer, HostGAPlugin ─ platform.GoalState ─► tick ─ Manager.Offer ─► handlers
//	     ▲                                                                      │
//	     └── status blob ◄─ report ◄─ Manager.Status, Manager.Changed ◄─────────┘
//	                          └─► /run/azguest/status.json ─► agentctl
package agent
