package platform

import (
	"context"
	"time"

	"github.com/azguest/azguest/protocol/imds"
)

// ScheduledEvents asks the metadata service, once, what the platform is going to
// do to this machine and others.
func (c *Client) ScheduledEvents(ctx context.Context) (imds.ScheduledEvents, error) {
	return c.metadata.ScheduledEvents(ctx)
}

// StartEvent tells the platform, once, that an event need not wait any longer.
func (c *Client) StartEvent(ctx context.Context, id string) error {
	return c.metadata.StartEvent(ctx, id)
}

// MachineName returns the name that the platform has for this machine in
// scheduled events. Unlike Instance it asks each time until there was an answer.
func (c *Client) MachineName(ctx context.Context) (string, error) {
	c.mu.Lock()
	if c.instance == nil {
		c.instanceAsked = time.Time{}
	}
	c.mu.Unlock()
	i, err := c.Instance(ctx)
	if err != nil {
		return "", err
	}
	return i.Compute.Name, nil
}
