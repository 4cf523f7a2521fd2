package platform

import (
	"context"
	"errors"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/imds"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Extended asks the metadata service, once, for what the first boot of a
// pooled VM must know.
func (c *Client) Extended(ctx context.Context, timeout time.Duration) (imds.Extended, error) {
	return c.metadata.Extended(ctx, timeout)
}

// MetadataPatience is how long a machine's first boot waits for the metadata service, as long as that is of
// use (protocol.Outlook). A service that answers "not now" is there: by the
// vendor's table it may do so for up to 70 s (410), and longer while it is
// restarted. If nothing answers there may be no such service, or no network yet.
type MetadataPatience struct {
	Answered time.Duration // after the first request, while it answers
	Silent   time.Duration // while it does not
}

// Left is how much longer to wait for the service after err, 0 or less if no
// more.
func (p MetadataPatience) Left(err error, began time.Time) time.Duration {
	switch {
	case err != nil && protocol.OutlookOf(err, protocol.Later) == protocol.Never:
		return 0
	case answeredAtAll(err):
		return p.Answered - time.Since(began)
	}
	return p.Silent - time.Since(began)
}

// answeredAtAll reports whether an error is about an answer.
func answeredAtAll(err error) bool {
	if _, ok := errors.AsType[*web.StatusError](err); ok {
		return true
	}
	_, ok := errors.AsType[*protocol.DocumentError](err)
	return ok
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
