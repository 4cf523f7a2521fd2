package arch

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/azguest/azguest/agent/doctor"
)

// TestCodesExist: each code that a test looks for, a document names or a script
// prints must be known to `agentctl explain`, because a test for the absence of
// a code that nobody emits can't fail. TestCodesAreEmitted in agent/doctor
// checks that the agent emits all codes.
func TestCodesExist(t *testing.T) {
	code := regexp.MustCompile(`\bAZ-[A-Z]+-[A-Z0-9]+\b`)
	endings := []string{".go", ".md", ".sh", ".py", ".txt", ".golden", ".txtar", ".1", ".8", ".service", ".conf", ""}
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(d.Name()) > 2 && d.Name()[0] == '.':
			return fs.SkipDir // version control, build results
		case !d.Type().IsRegular() || !slices.Contains(endings, filepath.Ext(path)):
			return nil
		}
		text, err := os.ReadFile(path)
		for n, line := range bytes.Split(text, []byte("\n")) {
			for _, c := range code.FindAllString(string(line), -1) {
				seen++
				if _, ok := doctor.Lookup(c); !ok && !slices.Contains(noCodes, c) {
					t.Errorf("%s:%d: there is no code %s", path, n+1, c)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("found %d codes in the repository, which are too few to believe", seen)
	}
}

// noCodes have the form of a code but are placeholders.
var noCodes = []string{"AZ-AREA-WHAT"}
