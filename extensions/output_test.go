package extensions

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host/job"
)

// TestNBR4NothingRawSurvives: what commands print is on the disk without
// secrets once it was reported, whether they fail or succeed, and also if a
// process that they have left goes on writing.
func TestNBR4NothingRawSurvives(t *testing.T) {
	t.Parallel()
	const script = `log
echo "GET https://st.example/c/b?sv=1&sig=canary10%2Fout0000000000&sp=r" >&2
echo "AccountKey=canary12/out0000000000+AAAABBBBCCCC==;EndpointSuffix=x"
printf 'PGPASSWORD=canary13secretsecret' # no line end
[ "$op" = enable ] && { nohup sh -c 'sleep 0.3; echo "sig=canary14secretsecret%3D"; echo plain words; touch $0/../later' $base & status success; }
exit $FAIL
`
	w := newWorld(t,
		pkg{name: "P.Good", version: "1.0", script: strings.Replace(script, "$FAIL", "0", 1)},
		pkg{name: "P.Bad", version: "1.0", script: strings.Replace(script, "$FAIL", `$([ "$op" = enable ] && echo 9 || echo 0)`, 1)})
	w.start()
	w.processed(ext("P.Good", "1.0", 0), ext("P.Bad", "1.0", 0))
	w.await("the background child", func(Snapshot) bool { return exists(w.base("later")) })
	left := func() (found []string) {
		err := filepath.WalkDir(w.root.Path("/"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.Contains(path, "run.sh") || strings.HasSuffix(path, ".zip") {
				return nil //nolint:nilerr // files come and go
			}
			b, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(b), "canary") {
				found = append(found, path+":\n"+string(b))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	var found []string
	for end := time.Now().Add(patience); ; {
		if found = left(); len(found) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("secrets are left in\n%s", strings.Join(found, "\n"))
		}
		<-time.After(50 * time.Millisecond)
	}
	// What is no secret is still there.
	words := 0
	jobs, err := filepath.Glob(w.m.store.Sub("jobs") + "/*/" + job.Stdout)
	for _, name := range jobs {
		b, rerr := os.ReadFile(name)
		err = errors.Join(err, rerr)
		words += strings.Count(string(b), "plain words")
	}
	if err != nil || words != 2 {
		t.Errorf("the words of %d background processes are left, want 2 (%v)", words, err)
	}
}
