package vm

import "github.com/azguest/azguest/test/bundles"

// sample is the extension that the customer requests; the platform serves its
// package.
var sample = Extension{
	Name: "hello", Publisher: "Azguest.Samples", Type: "Hello", Version: "1.0",
	Settings:  map[string]any{"name": "world"},
	Protected: map[string]any{"secret": "s3cret"},
}

// sampleScript is a minimal handler. Each command appends a line to a file, so
// that repeated calls are visible.
const sampleScript = `#!/bin/sh
set -eu
cd "$(dirname "$0")/.."
echo "$1" >>/var/lib/azguest-sample-commands
[ "$1" = enable ] || exit 0
n=$(ls config/*.settings | sed 's|.*/||; s|.settings||' | sort -n | tail -n 1)
status=$(sed -n 's/.*"statusFolder"[^"]*"\([^"]*\)".*/\1/p' HandlerEnvironment.json | head -n 1)
cat >"$status/$n.status.tmp" <<END
[{"version": "1.0", "timestampUTC": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "status": {"name": "Hello",
  "operation": "Enable", "status": "success", "code": 0,
  "formattedMessage": {"lang": "en-US", "message": "hello from $(hostname)"}}}]
END
mv "$status/$n.status.tmp" "$status/$n.status"
`

func samplePackages() (map[string][]byte, error) {
	b := bundles.Bundle{
		Name: sample.Publisher + "." + sample.Type, Version: "1.0.0.0",
		Install: "bin/hello install", Enable: "bin/hello enable", Disable: "bin/hello disable",
		Update: "bin/hello update", Uninstall: "bin/hello uninstall",
		Files: map[string]string{"bin/hello": sampleScript},
	}
	zip, err := b.Zip()
	return map[string][]byte{b.Version: zip}, err
}
