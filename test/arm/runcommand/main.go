// Command runcommand replaces the two handlers behind run commands: it runs the
// script in its settings and reports the result. With a name
// (ConfigExtensionName) the report is that of managed run commands: JSON inside
// the message.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] != "enable" {
		return
	}
	if err := enable(); err != nil {
		fmt.Fprintln(os.Stderr, "runcommand:", err)
		os.Exit(1)
	}
}

// settings are the settings of either handler.
type settings struct {
	Runtime []struct {
		Handler struct {
			Public struct {
				Script string `json:"script"` // base64, for the action
				Source struct {
					Script string `json:"script"`
				} `json:"source"`
				FailureIsDeployment bool `json:"treatFailureAsDeploymentFailure"`
				Parameters          []struct {
					Value string `json:"value"`
				} `json:"parameters"`
			} `json:"publicSettings"`
		} `json:"handlerSettings"`
	} `json:"runtimeSettings"`
}

func enable() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	base := filepath.Dir(filepath.Dir(self))
	name, seq := os.Getenv("ConfigExtensionName"), os.Getenv("ConfigSequenceNumber")
	prefix := ""
	if name != "" {
		prefix = name + "."
	}
	// Each sequence number runs once.
	done := filepath.Join(base, prefix+"done")
	if last, err := os.ReadFile(done); err == nil && string(last) == seq {
		return nil
	}
	var s settings
	data, err := os.ReadFile(filepath.Join(base, "config", prefix+seq+".settings"))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && len(s.Runtime) != 1 {
		err = errors.New("not one settings object")
	}
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	public := s.Runtime[0].Handler.Public
	script := public.Source.Script
	if script == "" {
		text, err := base64.StdEncoding.DecodeString(public.Script)
		if err != nil {
			return fmt.Errorf("decode script: %w", err)
		}
		script = string(text)
	}
	args := []string{"-c", script, "script"}
	for _, p := range public.Parameters {
		args = append(args, p.Value)
	}
	var out, errOut bytes.Buffer
	cmd := exec.Command("sh", args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	start := time.Now().UTC().Format(time.RFC3339)
	code, status, execution := 0, "success", ""
	if err := cmd.Run(); err != nil {
		code = -1
		if ee, ok := errors.AsType[*exec.ExitError](err); ok {
			code = ee.ExitCode()
		}
		execution = "Execution failed: failed to execute command: " + err.Error()
		if public.FailureIsDeployment {
			status = "error"
		}
	}
	now := time.Now().UTC().Format(time.RFC3339)
	message := "Enable succeeded: \n[stdout]\n" + out.String() + "\n[stderr]\n" + errOut.String()
	if name != "" {
		state := "Succeeded"
		if code != 0 {
			state = "Failed"
		}
		said, err := json.Marshal(map[string]any{
			"executionState": state, "executionMessage": execution, "output": out.String(), "error": errOut.String(), "exitCode": code, "startTime": start, "endTime": now,
		})
		if err != nil {
			return err
		}
		message = string(said)
	}
	report, err := json.Marshal([]any{map[string]any{"version": 1.0, "timestampUTC": now, "status": map[string]any{
		"name": "run", "operation": "Enable", "configurationAppliedTime": now, "status": status, "code": 0,
		"formattedMessage": map[string]any{"lang": "en-US", "message": message},
	}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(done, []byte(seq), 0o600); err != nil {
		return err
	}
	file := filepath.Join(base, "status", prefix+seq+".status")
	if err := os.WriteFile(file+".tmp", report, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}
