package host

import (
	"os"
	"testing"
)

// TestMain can turn the test binary into a process that may open few files.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == fewFilesArg {
		os.Exit(removeWithFewFiles(os.Args[2]))
	}
	os.Exit(m.Run())
}
