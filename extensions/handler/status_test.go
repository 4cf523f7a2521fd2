package handler

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// TestFact20OnlyFilesAbove128KiBAreCut: the size of the file decides, exactly to
// the character, and not that of a field.
func TestFact20OnlyFilesAbove128KiBAreCut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 11000)
	doc := fmt.Sprintf(`[{"status":{"status":"success","formattedMessage":{"lang":"en","message":%q},"substatus":[{"name":%q,"status":"success","formattedMessage":{"lang":"en","message":%q}}]}}]`,
		long, long, long)
	sizes := func(chars int) []int {
		t.Helper()
		path := t.TempDir() + "/0.status"
		writeFile(t, path, doc+strings.Repeat(" ", chars-utf8.RuneCountInString(doc)))
		st, _, _ := ReadStatus(path, "P.X", "1.0", 0)
		if st.Message == nil || len(st.Substatus) != 1 {
			t.Fatalf("status: %+v", st)
		}
		out := []int{utf8.RuneCountInString(*st.Message)}
		for _, s := range st.Substatus {
			out = append(out, utf8.RuneCountInString(s.Name), utf8.RuneCountInString(*s.Message))
		}
		return out
	}
	if diff := cmp.Diff([]int{11000, 11000, 11000}, sizes(131072)); diff != "" {
		t.Errorf("at 128 KiB (-want +got):\n%s", diff)
	}
	mark := len(" ... [TRUNCATED]")
	if diff := cmp.Diff([]int{1024 + mark, 10240 + mark, 10240 + mark}, sizes(131073)); diff != "" {
		t.Errorf("above 128 KiB (-want +got):\n%s", diff)
	}
}
