package provisioning

import (
	"os"

	"github.com/azguest/azguest/agent/host"
)

// readlink is where a link points, not followed.
func readlink(r host.Root, name string) (string, error) { return os.Readlink(r.Path(name)) }
