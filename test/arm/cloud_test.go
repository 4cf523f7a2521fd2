package arm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	armpolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

const subscription = "00000000-0000-4000-8000-00000000f00d"

func TestMain(m *testing.M) { machinetest.Main(m) }

// runCommands are replacements of the two handlers behind run commands.
func runCommands(t *testing.T) []bundles.Bundle {
	t.Helper()
	program := filepath.Join(t.TempDir(), "run")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./runcommand")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the handler: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var out []bundles.Bundle
	for name, multi := range map[string]bool{"RunCommandLinux": false, "RunCommandHandlerLinux": true} {
		const command = "bin/run "
		out = append(out, bundles.Bundle{
			Name: "Microsoft.CPlat.Core." + name, Version: "1.3.0",
			Install: command + "install", Enable: command + "enable", Disable: command + "disable", Update: command + "update", Uninstall: command + "uninstall",
			Flags: map[string]any{"supportsMultipleExtensions": multi}, Files: map[string]string{"bin/run": string(data)},
		})
	}
	return out
}

// A guest is one VM with the agent, and the address of its control plane.
type guest struct {
	*machinetest.Machine
	name string
	url  string
	http *http.Client
	ca   []byte
}

// newCloud starts the platform and a machine whose agent is ready; layers are
// added to the machine's root.
func newCloud(t *testing.T, layers ...string) *guest {
	t.Helper()
	machinetest.Need(t)
	packages := map[string][]byte{}
	for _, b := range append(bundles.Samples(), runCommands(t)...) {
		data, err := b.Zip()
		if err != nil {
			t.Fatal(err)
		}
		packages[b.Name+"/"+b.Version] = data
	}
	m := machinetest.WithAgent(t, machine.Options{
		Name: "vm-sdk", Packages: packages, Conf: "Extensions.GoalStatePeriod=1\nStatus.HeartbeatPeriod=5\n",
		Provisioning: fabric.Provisioning{Password: "Passw0rd-for-tests", HostName: "sdk"},
		Sandbox:      sandbox.Options{PlainDVD: true, Layers: layers},
	})
	addr, err := m.Fabric.Listen(fabric.ARM, "127.0.0.1:0", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := m.Fabric.CACertificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	m.StartAgent(t)
	await(t, "the agent", func() bool { _, n := m.VM.StatusDocument(); return n > 0 && m.VM.Health().State == "Ready" })
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &guest{m, "vm-sdk", "https://" + addr.String(), &http.Client{Transport: transport}, ca}
}

// await waits until ok returns true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	machinetest.Await(t, what, ok)
}

// token is a credential that is not issued by anybody.
type token struct{}

func (token) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "no-secret", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// options configure the SDK for the emulated cloud.
func (g *guest) options() *armpolicy.ClientOptions {
	return &armpolicy.ClientOptions{ClientOptions: policy.ClientOptions{
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: g.url,
			Services:                     map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: g.url, Audience: g.url}},
		},
		Transport: g.http,
	}}
}

// factory returns the SDK's client factory for the emulated cloud.
func (g *guest) factory(t *testing.T) *armcompute.ClientFactory {
	t.Helper()
	f, err := armcompute.NewClientFactory(subscription, token{}, g.options())
	if err != nil {
		t.Fatal(err)
	}
	return f
}
