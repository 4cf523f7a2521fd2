package provisioning

import "strings"

// PPSType is the kind of pre-provisioned VM: one that waits in a pool until
// somebody orders it (spec/provisioning §4.7).
type PPSType string

const (
	PPSNone    PPSType = "None"
	PPSRunning PPSType = "Running" // its network changes when it is ordered
	PPSSavable PPSType = "Savable" // its interfaces are taken out and put in
	PPSOSDisk  PPSType = "PreprovisionedOSDisk"
	PPSUnknown PPSType = "Unknown" // Ready was reported by an earlier boot
)

// ParsePPSType reads the type as the document or the metadata spell it.
// Anything else is none: a VM must not wait in a pool by mistake.
func ParsePPSType(s string) PPSType {
	for _, t := range []PPSType{PPSRunning, PPSSavable, PPSOSDisk, PPSUnknown} {
		if strings.EqualFold(strings.TrimSpace(s), string(t)) {
			return t
		}
	}
	return PPSNone
}
