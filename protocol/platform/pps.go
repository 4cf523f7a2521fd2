package platform

import (
	"context"
	"time"

	"github.com/azguest/azguest/protocol/imds"
)

// Extended asks the metadata service, once, for what the first boot of a
// pooled VM must know.
func (c *Client) Extended(ctx context.Context, timeout time.Duration) (imds.Extended, error) {
	return c.metadata.Extended(ctx, timeout)
}

// FirstBoot asks the metadata service, once, for what a first boot needs.
// Callers repeat it until there is an answer: the network may still be coming
// up.
func (c *Client) FirstBoot(ctx context.Context, timeout time.Duration) (*imds.Instance, imds.Extended, bool, error) {
	i, x, known, err := c.metadata.FirstBoot(ctx, timeout)
	if err == nil {
		c.mu.Lock()
		c.instance = i
		c.mu.Unlock()
	}
	return i, x, known, err
}

// Reprovision asks the metadata service, once, for the document of a pooled
// VM's new owner (provisioning/SPEC.md §10.3). The network changes at that
// time and older connections stop working, so none is kept after a failure.
func (c *Client) Reprovision(ctx context.Context) ([]byte, error) {
	b, err := c.metadata.Reprovision(ctx)
	if err != nil {
		c.hostWeb.Close()
	}
	return b, err
}

// Reordered forgets what is known about the machine from its time in the pool:
// the metadata and the names that the platform had for it.
func (c *Client) Reordered() {
	c.hostWeb.Close()
	c.mu.Lock()
	c.instance, c.instanceAsked = nil, time.Time{}
	c.ids.InstanceID = "" // the next health report asks anew
	c.mu.Unlock()
}
