package platform

import (
	"context"
	"errors"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
)

// errChanged ends a wait early.
var errChanged = errors.New("this machine has changed")

// lookEvery is how often Wait looks for changes that nobody announces.
const lookEvery = 2 * time.Second

// clockSet is by how much the clock must have been set to be noticed.
const clockSet = 2 * time.Second

// resolvers are the files that name the servers for DNS.
var resolvers = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Wait waits for d, or until something has changed on this machine that
// requests fail for: its addresses and routes, its name servers, its clock,
// which certificates are compared with. Requests that did not reach their peer,
// or could not trust it, may be made again at once then.
func (c *Client) Wait(ctx context.Context, d time.Duration) (changed bool, err error) {
	wctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer crash.Guard()
		if watch(wctx, c.o.Root) {
			cancel(errChanged)
		}
	}()
	defer func() {
		cancel(nil)
		// wait: it ends with the context
		<-ended
	}()
	changed, err = c.storage.Wait(wctx, d)
	if errors.Is(err, errChanged) {
		changed, err = true, nil
	}
	if changed {
		c.storage.Moved()
		c.hostWeb.Moved()
	}
	return changed, err
}

// watch returns true when the name servers were changed or the clock was set,
// and false when the context ends.
func watch(ctx context.Context, root host.Root) bool {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	began, wall := time.Now(), time.Now().Round(0) // the second one without the monotonic clock
	servers := nameServers(root)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
		set := time.Now().Round(0).Sub(wall) - time.Since(began)
		if set.Abs() >= clockSet || nameServers(root) != servers {
			return true
		}
	}
}

// nameServers identifies the configuration of the name servers.
func nameServers(root host.Root) (id string) {
	for _, name := range resolvers {
		fi, err := root.Stat(name)
		if err != nil {
			id += " -"
			continue
		}
		id += " " + fi.ModTime().String()
	}
	return id
}
