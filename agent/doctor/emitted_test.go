package doctor

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCodesAreEmitted: the table and the rest of the program have the same
// codes. A code that is never used documents something that does not exist; one
// that is not in the table is not documented.
func TestCodesAreEmitted(t *testing.T) {
	emitted := map[string]string{}
	code := regexp.MustCompile(`AZ-[A-Z]+-[A-Z0-9]+\b`)
	for _, dir := range []string{"..", "../../extensions", "../../provisioning", "../../protocol", "../../ovf", "../../test/sandbox"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "doctor/codes.go") {
				return err
			}
			data, err := os.ReadFile(path)
			for _, c := range code.FindAllString(string(data), -1) {
				emitted[c] = path
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range Codes() {
		if emitted[c.Code] == "" {
			t.Errorf("%s is explained, but never emitted", c.Code)
		}
		delete(emitted, c.Code)
	}
	for c, path := range emitted {
		if c != "AZ-AREA-WHAT" {
			t.Errorf("%s: %s is not explained", path, c)
		}
	}
}
