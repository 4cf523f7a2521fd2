package fabric

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Kinds returns the kinds of requests, in the order of the journal's help.
func Kinds() []string {
	var out []string
	for _, k := range []Kind{
		Versions, GoalState, HostingEnvironment, SharedConfig, ExtensionsConfig, FullConfig, Certificates, RemoteAccess,
		Health, RoleProperties, Telemetry, HealthService, ProvisioningHealth,
		PluginVersions, PluginHealth, VMSettings, Artifact, PluginStatus, AgentLog, ImmediateGoalState,
		BlobGet, BlobPut, Metadata, ScheduledEvents, Control, Unknown,
	} {
		out = append(out, string(k))
	}
	return out
}

// Events returns the kinds of journal entries that are no requests.
func Events() []string { return []string{string(Status), string(Change), string(Maintenance)} }

// KnownKind returns an error unless a kind, or a path.Match pattern, selects at
// least one of known.
func KnownKind(kind string, known []string) error {
	if !strings.ContainsAny(kind, `*?[\`) {
		return OneOf("kind", kind, known...)
	}
	for _, k := range known {
		switch matched, err := path.Match(kind, k); {
		case err != nil:
			return fmt.Errorf("kind %q: %w", kind, err)
		case matched:
			return nil
		}
	}
	return fmt.Errorf("no kind matches %q (kinds: %s)", kind, strings.Join(known, ", "))
}

// OneOf returns nil if word is one of known. Otherwise the error names all of
// them, and the one that was probably meant; what is the kind of word, such as
// "action".
func OneOf(what, word string, known ...string) error {
	if slices.Contains(known, word) {
		return nil
	}
	text := fmt.Sprintf("unknown %s %q", what, word)
	if near := nearest(word, known); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	return errors.New(text + " (must be one of: " + strings.Join(known, ", ") + ")")
}

// nearest returns the known word of which at most one letter in four differs
// from word, or that begins with it; "" if there is none.
func nearest(word string, known []string) string {
	best, least := "", max(1, len(word)/4)+1
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if len(word) > 1 && strings.HasPrefix(strings.ToLower(k), strings.ToLower(word)) {
			d = min(d, 1)
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns the number of letters to insert, remove or replace to turn a
// into b; two that are exchanged count once.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
		for j := 1; j <= len(b); j++ {
			if i == 0 {
				rows[0][j] = j
				continue
			}
			cost := 0
			if a[i-1] != b[j-1] {
				cost = 1
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
