package e2e

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"testing"

	"github.com/azguest/azguest/test/bundles"
)

// handler returns a package of a handler whose commands are one shell script
// that is called with the name of the command. The script can use:
//
//	$now           when the command began, in nanoseconds
//	$work          a directory that exists from the first command on
//	say STATUS CODE MESSAGE   writes the status file of this sequence number
//
// data are further files, which are not compressed.
func handler(t testing.TB, script string, data ...[]byte) []byte {
	t.Helper()
	const manifest = `[{"version": 1.0, "handlerManifest": {
  "installCommand": "bin/handler install", "enableCommand": "bin/handler enable",
  "updateCommand": "bin/handler update", "disableCommand": "bin/handler disable",
  "uninstallCommand": "bin/handler uninstall",
  "rebootAfterInstall": false, "reportHeartbeat": false}}]`
	const prelude = `#!/bin/sh
now=$(date +%s%N)
set -eu
home=$(cd "$(dirname "$0")/.." && pwd)
status=$(sed -n 's/.*"statusFolder" *: *"\([^"]*\)".*/\1/p' "$home/HandlerEnvironment.json" | head -n 1)
seq=${ConfigSequenceNumber:-0}
work=/var/tmp/handler
mkdir -p "$work"
echo "$1 $seq $$" >>"$work/calls"
say() {
	cat >"$status/.$seq.new" <<END
[{"version": "1.0", "timestampUTC": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "status": {"operation": "$op", "status": "$1", "code": $2,
 "formattedMessage": {"lang": "en-US", "message": "$3"}}}]
END
	mv "$status/.$seq.new" "$status/$seq.status"
}
op=$1
`
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range []struct {
		name, text string
		mode       fs.FileMode
	}{
		{"HandlerManifest.json", manifest, 0o644},
		{"bin/handler", prelude + script, 0o755},
	} {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(f.mode)
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(out, f.text); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range data {
		out, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint("data/", i), Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// samples returns the sample handlers of the project.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, b := range bundles.Samples() {
		data, err := b.Zip()
		if err != nil {
			t.Fatal(err)
		}
		out[b.Name+"/"+b.Version] = data
	}
	return out
}

// slow is a handler whose enable waits until the test releases it.
const slow = `
case $op in
enable)
	say transitioning 0 "waiting"
	while [ ! -e "$work/go" ]; do sleep 0.05; done
	say success 0 "waited in process $$"
	;;
esac
`

// crash is a handler whose enable fails with an exit code that must be
// reported.
const crash = `
case $op in
enable) echo "disk is full" >&2; exit 52 ;;
esac
`
