package arm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	armpolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/sandbox"
)

const (
	subscription = "00000000-0000-4000-8000-00000000f00d"
	// blobAddress is where the emulated storage listens: TEST-NET, never routed.
	blobAddress = "192.0.2.10"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	code := m.Run()
	if os.Getenv("AZGUEST_BIN") == "" {
		if dir, err := build(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// build makes the agent, unless AZGUEST_BIN names a folder with one.
var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("AZGUEST_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "azguest-arm-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-C", "../..", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./agent/cmd/azguest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return dir, nil
})

// runCommands are stand-ins for the two handlers behind run commands.
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

// A machine is one VM with the agent in it, and the address of its control
// plane.
type machine struct {
	*sandbox.Sandbox
	f    *fabric.Fabric
	name string
	url  string
	http *http.Client
	ca   []byte
}

// newCloud starts the platform and a machine whose agent is ready; layers lie
// over the machine's root.
func newCloud(t *testing.T, layers ...string) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	f := fabric.New(t, func(o *fabric.Options) { o.BlobURL = "http://" + blobAddress })
	for _, b := range append(bundles.Samples(), runCommands(t)...) {
		data, err := b.Zip()
		if err == nil {
			err = f.AddPackage(b.Name, b.Version, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	vm := f.CreateVM("vm-sdk", fabric.Provision(fabric.Provisioning{User: "azureuser", Password: "Passw0rd-for-tests", HostName: "sdk"}))
	image, err := vm.Medium().Image()
	if err != nil {
		t.Fatal(err)
	}
	dvd := filepath.Join(t.TempDir(), "dvd.img")
	if err := os.WriteFile(dvd, image, 0o600); err != nil {
		t.Fatal(err)
	}
	sb, err := sandbox.New(t.Context(), sandbox.Options{DVD: dvd, PlainDVD: true, Layers: layers, Addresses: []string{sandbox.WireServer, sandbox.IMDS, blobAddress}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sb.Close() })
	for service, addr := range map[fabric.Service]string{
		fabric.Wire: sandbox.WireServer + ":80", fabric.HostGA: sandbox.WireServer + ":32526",
		fabric.IMDS: sandbox.IMDS + ":80", fabric.Blob: blobAddress + ":80",
	} {
		if err := sb.InNetwork(func() error { _, err := f.Listen(service, addr, vm, false); return err }); err != nil {
			t.Fatal(err)
		}
	}
	addr, err := f.Listen(fabric.ARM, "127.0.0.1:0", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := f.CACertificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)

	log, err := os.Create(filepath.Join(t.TempDir(), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("agent:\n%s", b)
		}
		_ = log.Close()
	})
	if err := sb.Install(filepath.Join(bin, "azguest"), "/usr/sbin/azguest", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := sb.WriteFile("/etc/waagent.conf", []byte("Extensions.GoalStatePeriod=1\nStatus.HeartbeatPeriod=5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := sb.Start(sandbox.Cmd{Args: []string{"/usr/sbin/azguest", "run"}, Stdout: log, Stderr: log}); err != nil {
		t.Fatal(err)
	}
	await(t, "the agent", func() bool { _, n := vm.StatusDocument(); return n > 0 && vm.Health().State == "Ready" })
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &machine{Sandbox: sb, f: f, name: "vm-sdk", url: "https://" + addr.String(), http: &http.Client{Transport: transport}, ca: ca}
}

// token is a credential without anybody who would issue one.
type token struct{}

func (token) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "no-secret", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// options point the SDK at our cloud.
func (m *machine) options() *armpolicy.ClientOptions {
	return &armpolicy.ClientOptions{ClientOptions: policy.ClientOptions{
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: m.url,
			Services:                     map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: m.url, Audience: m.url}},
		},
		Transport: m.http,
	}}
}

// factory is the SDK, pointed at our cloud.
func (m *machine) factory(t *testing.T) *armcompute.ClientFactory {
	t.Helper()
	f, err := armcompute.NewClientFactory(subscription, token{}, m.options())
	if err != nil {
		t.Fatal(err)
	}
	return f
}
