package extensions

// Modes of the policy.
const (
	PolicyOff     = "off"
	PolicyAudit   = "audit"   // say what would be refused
	PolicyEnforce = "enforce" // refuse it
)

type policyState struct{ mode string }

func (p policyState) deny(string, string, string, bool) string { return "" }

func (m *Manager) loadPolicy() policyState { return policyState{mode: m.cfg.PolicyMode} }
