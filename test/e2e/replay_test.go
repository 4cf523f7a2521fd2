package e2e

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

// A replay is a host without any logic: it serves documents recorded by others
// unchanged and keeps what it receives. It shares no code with the fabric, so
// it does not repeat its mistakes.
type replay struct {
	dir string // of the documents
	zip []byte // what every package address answers

	mu       sync.Mutex        // guards what follows
	files    map[string]string // kind of document: file
	requests []string
	health   []string
	status   []byte // the last one, decoded
}

func (r *replay) document(kind string) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := r.files[kind]
	if name == "" {
		return nil, false
	}
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	return b, err == nil
}

func (r *replay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	r.requests = append(r.requests, q.Method+" "+q.URL.RequestURI())
	r.mu.Unlock()
	kind := ""
	switch v := q.URL.Query(); {
	case q.Method == http.MethodPost && v.Get("comp") == "health":
		r.mu.Lock()
		r.health = append(r.health, string(body))
		r.mu.Unlock()
		return
	case q.Method == http.MethodPost:
		return
	case q.URL.Path == "/status":
		r.relay(body)
		return
	case q.URL.Path == "/versions":
		fmt.Fprint(w, `["2015-09-01"]`)
		return
	case q.URL.Path == "/health":
		return
	case q.URL.Path == "/vmSettings":
		kind = "vmSettings"
		w.Header().Set("ETag", "1")
		if q.Header.Get("If-None-Match") == "1" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	case q.URL.Path == "/extensionArtifact":
		at, _, _ := strings.Cut(q.Header.Get("x-ms-artifact-location"), "?")
		switch {
		case strings.Contains(strings.ToLower(at), "manifest"):
			kind = "manifest"
		case strings.HasSuffix(at, "vmSettings"):
			_, _ = io.WriteString(w, "{}") // the recorded one puts everything on hold
			return
		default:
			_, _ = w.Write(r.zip)
			return
		}
	case q.URL.Path == "/metadata/instance" || q.URL.Path == "/metadata/instance/compute":
		kind = "imds"
	case v.Get("comp") == "config":
		kind = v.Get("type")
	default:
		kind = v.Get("comp")
	}
	b, ok := r.document(kind)
	if !ok {
		http.NotFound(w, q)
		return
	}
	_, _ = w.Write(b)
}

// relay extracts the status document from a PUT request to the HostGAPlugin,
// for a block blob or a page blob.
func (r *replay) relay(body []byte) {
	var put struct{ Content string }
	if json.Unmarshal(body, &put) != nil || put.Content == "" {
		return
	}
	doc, err := base64.StdEncoding.DecodeString(put.Content)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = bytes.TrimRight(doc, " \x00")
}

// rows returns the handlers of the last status document: name, version, status,
// extension name and status.
func (r *replay) rows() (rows []string, aggregate string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var doc struct {
		AggregateStatus struct {
			HandlerAggregateStatus []struct {
				HandlerName, HandlerVersion, Status string
				Code                                int
				RuntimeSettingsStatus               struct {
					SequenceNumber int
					ExtensionName  string
					SettingsStatus struct{ Status struct{ Status string } }
				}
			}
			VMArtifactsAggregateStatus struct {
				GoalStateAggregateStatus struct {
					Status string
					Code   int
				}
			}
		}
	}
	if json.Unmarshal(r.status, &doc) != nil {
		return nil, ""
	}
	for _, h := range doc.AggregateStatus.HandlerAggregateStatus {
		s := h.RuntimeSettingsStatus
		rows = append(rows, strings.Join(strings.Fields(fmt.Sprint(h.HandlerName, " ", h.HandlerVersion, " ", h.Status, " ", h.Code, " ", s.ExtensionName, " ", s.SequenceNumber, " ", s.SettingsStatus.Status.Status)), " "))
	}
	slices.Sort(rows)
	a := doc.AggregateStatus.VMArtifactsAggregateStatus.GoalStateAggregateStatus
	return rows, strings.TrimSpace(fmt.Sprint(a.Status, " ", a.Code))
}

// anyHandler is a package for every name and version; its handler writes the
// status that its settings ask for.
func anyHandler(t testing.TB, multi bool) []byte {
	t.Helper()
	const script = `#!/bin/sh
[ "$1" = enable ] || exit 0
f=status/${ConfigExtensionName:+$ConfigExtensionName.}$ConfigSequenceNumber.status
echo '[{"version":1.0,"timestampUTC":"2026-01-01T00:00:00Z","status":{"operation":"Enable","status":"success","code":0,"formattedMessage":{"lang":"en-US","message":"ok"}}}]' >"$f.tmp"
mv "$f.tmp" "$f"
`
	manifest := fmt.Sprintf(`[{"version":1.0,"handlerManifest":{"installCommand":"h.sh install","enableCommand":"h.sh enable","disableCommand":"h.sh disable","updateCommand":"h.sh update","uninstallCommand":"h.sh uninstall","supportsMultipleExtensions":"%v"}}]`, multi)
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, f := range [][2]string{{"h.sh", script}, {"HandlerManifest.json", manifest}} {
		w, err := z.Create(f[0])
		if err == nil {
			_, err = w.Write([]byte(f[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// newReplay boots a machine on a host that replays documents. medium is the
// provisioning document, by file name.
func newReplay(t *testing.T, medium string, r *replay) *sandbox.Sandbox {
	t.Helper()
	machinetest.Need(t)
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	r.dir = filepath.Join(dir, "waagent")
	so := sandbox.Options{DMI: sandbox.AzureDMI("7b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d")}
	if medium != "" {
		tree, image := t.TempDir(), filepath.Join(t.TempDir(), "dvd.iso")
		b, err := os.ReadFile(filepath.Join(r.dir, medium))
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, "ovf-env.xml"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("genisoimage", "-quiet", "-udf", "-J", "-R", "-o", image, tree).CombinedOutput(); err != nil {
			t.Skipf("genisoimage: %v: %s", err, out)
		}
		so.DVD = image
	}
	s, err := sandbox.New(t.Context(), so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, addr := range []string{sandbox.WireServer + ":80", sandbox.WireServer + ":32526", sandbox.IMDS + ":80"} {
		var srv *http.Server
		err := s.InNetwork(func() error {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			srv = &http.Server{Handler: r}
			go func() { _ = srv.Serve(l) }()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = srv.Close() })
	}
	for name, to := range map[string]string{"azguest": "/usr/sbin/azguest", "agentctl": "/usr/bin/agentctl"} {
		if err := s.Install(release.Binary(t, name), to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WriteFile("/etc/waagent.conf", []byte("Telemetry.Enabled=n\nOS.EnableFirewall=n\nResourceDisk.Format=n\nProvisioning.DeleteRootPassword=y\nProvisioning.RegenerateSshHostKeyPair=y\nProvisioning.DecodeCustomData=y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.PrepareSSHD(t.Context()); err != nil {
		t.Skip(err)
	}
	return s
}

// oldHost is a host of some years ago, which has only the WireServer and the
// status relay.
func oldHost(t testing.TB, extensions string, multi bool) *replay {
	return &replay{zip: anyHandler(t, multi), files: map[string]string{
		"versions": "wire/version_info.xml", "goalstate": "wire/goal_state.xml", "hostingEnvironmentConfig": "wire/hosting_env.xml",
		"sharedConfig": "wire/shared_config.xml", "certificates": "wire/certs.xml", "extensionsConfig": extensions, "manifest": "wire/manifest.xml",
		"imds": "imds/valid.json",
	}}
}

// TestReplay: recorded documents, byte for byte, are processed by the whole
// agent. The account in them is unusual: capital letters, an invalid key,
// custom data that is not base64. Most documents name versions that the
// recorded manifest lacks; those handlers, and the extensions that depend on
// them, must report that, without affecting others.
func TestReplay(t *testing.T) {
	for _, tc := range []struct {
		extensions string
		multi      bool
		rows       []string // what the status document must say
		aggregate  string
	}{
		{"wire/ext_conf.xml", false, []string{"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 0 success"}, "Success 0"},
		{"wire/ext_conf_in_vm_metadata.xml", false, []string{"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 0 success"}, "Success 0"},
		{"wire/ext_conf_invalid_and_valid_handlers.xml", false, []string{
			"OSTCExtensions.InvalidExampleHandlerLinux 1.0.0 NotReady -1 0",
			"OSTCExtensions.ValidExampleHandlerLinux 1.0.0 Ready 0 0 success",
		}, "Success 0"},
		{"wire/ext_conf_multiple_extensions.xml", false, []string{
			"Microsoft.CPlat.Core.ExampleExtensionLinux 1.0.0 Ready 0 0 success",
			"Microsoft.EnterpriseCloud.Monitoring.ExampleHandlerLinux 1.0.0 Ready 0 0 success",
			"Microsoft.OSTCExtensions.Edp.ExampleExtensionLinuxInTest 1.0.0 Ready 0 0 success",
			"Microsoft.Powershell.ExampleExtension 1.0.0 Ready 0 0 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 0 success",
		}, "Success 0"},
		{"wire/ext_conf_no_settings.xml", false, []string{"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 0"}, "Success 0"},
		{"wire/ext_conf_required_features.xml", false, nil, "Failed 2001"},
		{"wire/ext_conf_sequencing.xml", false, []string{
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 0 success",
			"OSTCExtensions.OtherExampleHandlerLinux 1.0.0 Ready 0 0 success",
		}, "Success 0"},
		{"wire/ext_conf_settings_case_mismatch.xml", false, []string{
			"Microsoft.CPlat.Core.ExampleExtensionLinux 1.0.0 Ready 0 0 success",
			"Microsoft.EnterpriseCloud.Monitoring.ExampleHandlerLinux 1.0.0 Ready 0 0 success",
			"Microsoft.OSTCExtensions.Edp.ExampleExtensionLinuxInTest 1.0.0 Ready 0 0 success",
			"Microsoft.Powershell.ExampleExtension 1.0.0 Ready 0 0 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 0 success",
		}, "Success 0"},
		{"wire/multi-config/ext_conf_mc_disabled_extensions.xml", true, []string{
			"Microsoft.Powershell.ExampleExtension 1.0.0 Ready 0 10 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 fourthExtension 101 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 thirdExtension 99 success",
		}, "Success 0"},
		{"wire/multi-config/ext_conf_mc_update_extensions.xml", true, []string{
			"Microsoft.Powershell.ExampleExtension 1.1.0 Ready 0 10 success",
			"OSTCExtensions.ExampleHandlerLinux 1.1.0 Ready 0 thirdExtension 99 success",
		}, "Success 0"},
		{"wire/multi-config/ext_conf_multi_config_no_dependencies.xml", true, []string{
			"Microsoft.Powershell.ExampleExtension 1.0.0 Ready 0 9 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 firstExtension 1 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 secondExtension 2 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 thirdExtension 3 success",
		}, "Success 0"},
		{"wire/multi-config/ext_conf_with_disabled_multi_config.xml", true, []string{
			"Microsoft.Azure.Geneva.GenevaMonitoring 2.20.0.1 NotReady -1 0",
			"Microsoft.Azure.Security.AntimalwareSignature.AntimalwareConfiguration 2.0.53.0 NotReady -1 0",
			"Microsoft.CPlat.Core.RunCommandHandlerWindows 2.3.0 Ready 0 firstRunCommand 3 success",
			"Microsoft.CPlat.Core.RunCommandHandlerWindows 2.3.0 Ready 0 secondRunCommand 3 success",
			"Microsoft.Compute.CustomScriptExtension 1.10.9 NotReady -1 0",
			"Microsoft.Compute.VMAccessAgent 2.4.7 NotReady -1 2 error",
		}, "Success 0"},
		{"wire/multi-config/ext_conf_with_multi_config.xml", true, []string{
			"Microsoft.Azure.Geneva.GenevaMonitoring 2.20.0.1 NotReady -1 0",
			"Microsoft.Azure.Security.AntimalwareSignature.AntimalwareConfiguration 2.0.53.0 NotReady -1 0",
			"Microsoft.CPlat.Core.RunCommandHandlerWindows 2.3.0 Ready 0 firstRunCommand 2 success",
			"Microsoft.CPlat.Core.RunCommandHandlerWindows 2.3.0 Ready 0 secondRunCommand 2 error",
			"Microsoft.CPlat.Core.RunCommandHandlerWindows 2.3.0 Ready 0 thirdRunCommand 1 error",
			"Microsoft.Compute.CustomScriptExtension 1.10.9 NotReady -1 0",
			"Microsoft.Compute.VMAccessAgent 2.4.7 NotReady -1 1 error",
		}, "Success 0"},
		{"wire/multi-config/ext_conf_with_multi_config_dependencies.xml", true, []string{
			"Microsoft.Azure.Geneva.GenevaMonitoring 1.1.0 Ready 0 1 success",
			"Microsoft.Powershell.ExampleExtension 1.0.0 Ready 0 2 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 firstExtension 2 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 secondExtension 2 success",
			"OSTCExtensions.ExampleHandlerLinux 1.0.0 Ready 0 thirdExtension 1 success",
		}, "Success 0"},
		{"hostgaplugin/ext_conf.xml", false, []string{
			"Microsoft.Azure.Extensions.CustomScript 2.1.6 NotReady -1 0 error",
			"Microsoft.Azure.Monitor.AzureMonitorLinuxAgent 1.9.1 NotReady -1 0",
			"Microsoft.Azure.Security.Monitoring.AzureSecurityLinuxAgent 2.15.112 NotReady -1 0",
			"Microsoft.CPlat.Core.RunCommandHandlerLinux 1.2.0 NotReady -1 MCExt1 0 error",
			"Microsoft.CPlat.Core.RunCommandHandlerLinux 1.2.0 NotReady -1 MCExt2 0 error",
			"Microsoft.CPlat.Core.RunCommandHandlerLinux 1.2.0 NotReady -1 MCExt3 0 error",
			"Microsoft.OSTCExtensions.VMAccessForLinux 1.5.11 NotReady -1 0",
		}, "Success 0"},
	} {
		t.Run(strings.TrimSuffix(tc.extensions, ".xml"), func(t *testing.T) {
			t.Parallel()
			r := oldHost(t, tc.extensions, tc.multi)
			s := newReplay(t, "ovf-env-2.xml", r)
			var log machine.Buffer
			if _, err := s.Start(sandbox.Cmd{Args: []string{"/usr/sbin/azguest", "run"}, Stdout: &log, Stderr: &log}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if t.Failed() {
					rows, aggregate := r.rows()
					t.Logf("%s\n%s\nrequests:\n%s\nhealth:\n%s\nstatus: %s\nagent:\n%s", strings.Join(rows, "\n"), aggregate, strings.Join(r.requests, "\n"), strings.Join(r.health, "\n"), r.status, log.String())
				}
			})
			await(t, "the rows", func() bool {
				rows, aggregate := r.rows()
				return slices.Equal(rows, tc.rows) && aggregate == tc.aggregate
			})
			await(t, "Ready", func() bool { // in no order with the rows
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.health) > 0 && strings.Contains(r.health[len(r.health)-1], "<State>Ready</State>")
			})
		})
	}
}
