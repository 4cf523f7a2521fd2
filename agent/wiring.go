package agent

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/protocol/transfer"
	"github.com/azguest/azguest/provisioning"
)

// newPlatform makes the client for the platform's services.
func (a *Agent) newPlatform() *platform.Client {
	id, err := provisioning.Identify(a.Root)
	if err != nil || !id.Firm() {
		id.ID = "" // then a new transport key is made at each start
	}
	order := transfer.HostFirst
	if a.cfg.Download.Order == config.OrderDirect {
		order = transfer.DirectFirst
	}
	info := a.osInfo()
	v := a.vm()
	o := platform.Options{
		Root: a.Root, LibDir: a.cfg.Paths.Lib,
		Endpoint: a.cfg.Protocol.Endpoint, HostGA: a.cfg.Protocol.HostGA, IMDS: a.cfg.Protocol.IMDS,
		DHCP:  a.cfg.Protocol.Discovery == "dhcp",
		Proxy: a.proxy(), Order: order,
		AgentVersion: a.Version, UserAgent: a.cfg.Protocol.UserAgent, VMID: id.ID,
		NoFastTrack: !a.cfg.Extensions.FastTrack, NoTelemetry: !a.cfg.Telemetry.Enabled, IMDSHeartbeat: a.cfg.Protocol.IMDSHeartbeat,
		Facts: platform.Facts{
			OSVersion:    fmt.Sprintf("Linux:%s-%s:%s", info.Name, info.Version, v.Kernel),
			Architecture: unameMachine(), RAM: memoryMB(a.Root), Processors: runtime.NumCPU(),
		},
		Routes:   a.Kernel.Routes,
		Metadata: a.cacheMetadata,
		Log:      a.Log.With().Str("component", "platform").Logger(),
	}
	if a.Platform != nil {
		a.Platform(&o)
	}
	return platform.New(o)
}

func unameMachine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

func memoryMB(r host.Root) int64 {
	b, err := r.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kb / 1024
			}
		}
	}
	return 0
}

// proxy returns the proxy for storage, the only service that uses one: that of
// the configuration, else that of the environment (protocol/SPEC.md §2.7).
func (a *Agent) proxy() platform.Proxy {
	env := func(names ...string) string {
		for _, n := range names {
			if v := os.Getenv(n); v != "" { //nolint:forbidigo // the service's environment is where administrators put a proxy
				return v
			}
		}
		return ""
	}
	p := platform.Proxy{NoProxy: env("no_proxy", "NO_PROXY")}
	if h := a.cfg.Proxy.Host; h != "" {
		if !strings.Contains(h, "://") {
			h = "http://" + h
		}
		if a.cfg.Proxy.Port > 0 {
			h = strings.TrimSuffix(h, "/") + ":" + strconv.Itoa(a.cfg.Proxy.Port)
		}
		p.HTTP, p.HTTPS = h, h
		return p
	}
	p.HTTP, p.HTTPS = env("http_proxy"), env("https_proxy", "HTTPS_PROXY")
	return p
}

// sendHealth sends a health report to the platform.
func (a *Agent) sendHealth(ctx context.Context, h protocol.Health) error {
	return a.platform.ReportHealth(ctx, h)
}

// metadata asks the metadata service once for provisioning data.
func (a *Agent) metadata(ctx context.Context) (*provisioning.Metadata, error) {
	i, x, known, err := a.platform.FirstBoot(ctx, metadataTry)
	if err != nil {
		return nil, err
	}
	c := i.Compute
	md := &provisioning.Metadata{
		VMID: c.VMID, ComputerName: cmp.Or(c.ComputerName, c.Name), AdminUserName: c.Admin,
		PPSType: x.PPSType, HasCustomData: x.HasCustomData, CustomDataKnown: known,
	}
	if c.Admin != "" {
		md.DisablePasswordAuth = &c.PasswordOff
	}
	for _, k := range c.Keys {
		md.Keys = append(md.Keys, provisioning.Key{Path: k.Path, Value: k.Data})
	}
	if c.UserData.Set() {
		md.UserData = secret.New(base64.StdEncoding.EncodeToString([]byte(c.UserData.Reveal())))
	}
	return md, nil
}

// certificateWait is how long a first boot waits for certificates. Without
// them, the rest of the provisioning data and the metadata service still
// provide an account that can be used.
const certificateWait = 5 * time.Minute

// fetchCertificates fetches the goal state early, because keys of the account
// may be given only as thumbprints of certificates.
func (a *Agent) fetchCertificates(ctx context.Context, need []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, certificateWait, fmt.Errorf("not available after %v", certificateWait))
	defer cancel()
	if err := a.platform.Connect(ctx); err != nil {
		return err
	}
	gs, err := a.platform.GoalState(ctx, "")
	if err != nil {
		return err
	}
	var missing []string
	for _, tp := range need {
		if !slices.ContainsFunc(gs.Certs, func(c protocol.Certificate) bool { return strings.EqualFold(c.Thumbprint, tp) }) {
			missing = append(missing, tp)
		}
	}
	if len(missing) > 0 {
		return errors.Join(fmt.Errorf("goal state has no certificate %s", strings.Join(missing, ", ")), gs.CertsErr)
	}
	return nil
}

// fetcher fetches packages for the extension engine.
type fetcher struct {
	*platform.Client
	root host.Root
}

func (f fetcher) Manifest(ctx context.Context, uris []secret.URL) (protocol.Manifest, error) {
	m, err := f.Client.Manifest(ctx, uris)
	if err != nil {
		return protocol.Manifest{}, err
	}
	return *m, nil
}

func (f fetcher) Package(ctx context.Context, m protocol.Manifest, v protocol.PackageVersion, dst string, limit int64, check func(file, digest string) error) (string, error) {
	// The engine uses absolute paths, the client uses paths below the root.
	return f.Client.Package(ctx, v.URIs, m.From, strings.TrimPrefix(dst, f.root.Path("")), limit, check)
}

// newManager makes the extension engine.
func (a *Agent) newManager() *extensions.Manager {
	e := a.cfg.Extensions
	wire := a.cfg.Protocol.Endpoint
	if h, _, err := net.SplitHostPort(wire); err == nil {
		wire = h
	}
	return extensions.New(a.Root, a.Launcher, fetcher{a.platform, a.Root}, a.events, a.Log.With().Str("component", "extensions").Logger(), extensions.Config{
		Lib: a.cfg.Paths.Lib, LogDir: a.cfg.Paths.ExtensionLogs, ExecDir: e.ExecDir, Wire: wire, Agent: a.Version,
		Mode: e.Mode, IgnoreHold: !e.OverProvisioning, Features: []string{"MultipleExtensionsPerHandler"},
		Policy: policy.Config{File: a.cfg.Policy.File, Mode: a.cfg.Policy.Mode},
		Verify: trust{a.Root, e.TrustRoots, a.cfg.Paths.Lib}.verify,
		Turn:   func() { a.pulse.beat("extensions") },
		Gate:   a.whyWait, StatusPoll: e.StatusPoll, EnableEveryStart: e.EnableEveryStart,
		Timeouts: extensions.Timeouts{Fetch: e.FetchTimeout},
	})
}

// ProvisioningOptions returns what the configuration says about provisioning.
func ProvisioningOptions(c *config.Config) provisioning.Options {
	p, o := c.Provisioning, c.OS
	return provisioning.Options{
		Lib: c.Paths.Lib, SSHDir: o.SSHDir, HomeDir: o.HomeDir, Shadow: o.PasswordPath, SudoersDir: o.SudoersDir,
		DeleteRootPassword: p.DeleteRootPassword, RegenerateHostKeys: p.RegenerateHostKeys, HostKeyType: p.HostKeyType,
		DecodeCustomData: p.DecodeCustomData, ExecuteCustomData: p.ExecuteCustomData, AppliesUserData: c.UserData.Apply, AllowResetSysUser: p.AllowResetSysUser,
		PasswordCryptID: p.PasswordCryptID, PasswordSaltLength: p.PasswordSaltLength, ClientAliveInterval: o.SSHClientAliveInterval,
	}
}

func (a *Agent) provisioningOptions() provisioning.Options { return ProvisioningOptions(a.cfg) }
