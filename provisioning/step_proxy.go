package provisioning

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// ProxyAgent waits until the guest proxy agent works, if the document requests
// one: it protects the platform's services on this machine and has to be up
// when Ready is reported. It is part of the image. The reason strings are
// those of cloud-init, which portals know.
type ProxyAgent struct{}

// proxyPatience is how long azure-proxy-agent may wait. It leaves time to
// answer within stepTimeout.
const proxyPatience = 90 * time.Second

// ID implements Step.
func (ProxyAgent) ID() string { return StepProxy }

func (ProxyAgent) String() string { return "wait for the guest proxy agent" }

// Apply implements Step.
func (ProxyAgent) Apply(ctx context.Context, m *Machine) error {
	c := host.Cmd{
		Name: "azure-proxy-agent", Args: []string{"--status", "--wait", strconv.Itoa(int(proxyPatience.Seconds()))},
		Timeout: proxyPatience + 15*time.Second,
	}
	res, err := m.Run.Run(ctx, c)
	if err == nil {
		return nil
	}
	if host.NotFound(err) {
		return fail(CodeProxy, "azure-proxy-agent not found", errors.New("the provisioning document requests a guest proxy agent, but the image has none"))
	}
	data := []Pair{{"exit_code", strconv.Itoa(res.Code)}}
	for _, out := range []struct {
		name string
		text []byte
	}{{"stdout", res.Stdout}, {"stderr", res.Stderr}} {
		if s := strings.TrimSpace(string(out.text)); s != "" {
			data = append(data, Pair{out.name, cutRunes(strings.ToValidUTF8(s, "?"), 400)})
		}
	}
	return fail(CodeProxy, "azure-proxy-agent status failure", fmt.Errorf("status check: %w", err), data...)
}
