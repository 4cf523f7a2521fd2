package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// sshdNote has the values that other files set for the agent's keywords:
// lower-case name to value, empty if none.
type sshdNote map[string]string

// sayOthers returns what the configuration says without the agent's lines.
func sayOthers(conf []directive, keys []string) sshdNote {
	n := sshdNote{}
	conf = others(conf)
	for _, k := range keys {
		n[k] = ""
		if d, ok := effective(conf, namesOf(k)...); ok {
			n[k] = strings.ToLower(strings.Join(d.Args, " "))
		}
	}
	return n
}

func (n sshdNote) save(r host.Root, name string) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("save sshd configuration: %w", err)
	}
	return r.WriteFile(name, append(b, '\n'), 0o600)
}

// ourKeys returns the keywords that the agent sets, and their values.
func ourKeys(conf []directive) (keys []string, values map[string]string) {
	values = map[string]string{}
	for _, d := range conf {
		if d.Ours && d.Match == "" && values[d.Key] == "" {
			keys = append(keys, d.Key)
			values[d.Key] = strings.Join(d.Args, " ")
		}
	}
	return keys, values
}

// remember saves the values in other files, so that a later change is noticed.
func (s ConfigureSSHD) remember(r host.Root) error {
	conf := readSSHD(r, s.Main, s.Dir, nil)
	keys, _ := ourKeys(conf)
	if s.Note == "" || len(keys) == 0 {
		return nil
	}
	return sayOthers(conf, keys).save(r, s.Note)
}

// YieldSSHD removes the agent's sshd settings from provisioning for which
// another file has since been given a different value. The agent's lines are
// read first, so an edit of an administrator, or of VMAccess for a customer
// who is locked out, would otherwise have no effect. Values that were there
// before, or that are the same, change nothing. It returns the keywords that
// were removed; sshd has been reloaded then.
func (m *Machine) YieldSSHD(ctx context.Context) ([]string, error) {
	r, o := m.Root, m.Options
	var f Facts
	m.gatherSSHD(&f)
	conf := readSSHD(r, f.SSHDMain, o.SSHDir, nil)
	keys, values := ourKeys(conf)
	if len(keys) == 0 {
		return nil, nil
	}
	note := path.Join(o.Dir(), "sshd.json")
	now := sayOthers(conf, keys)
	before := sshdNote{}
	if !readJSON(r, note, &before) {
		return nil, now.save(r, note) // values from before the first note are not changes
	}
	var given []string
	for _, k := range keys {
		was, known := before[k]
		if known && now[k] != "" && now[k] != was && !strings.EqualFold(now[k], values[k]) {
			given = append(given, k)
		}
	}
	if len(given) == 0 {
		return nil, nil
	}
	var left []Setting
	for _, k := range keys {
		if !slices.Contains(given, k) {
			left = append(left, Setting{properName(k), values[k]})
		}
	}
	s := ConfigureSSHD{Main: f.SSHDMain, Dir: o.SSHDir, User: "root", DropIn: r.Exists(dropIn(o.SSHDir))}
	undo, _, err := s.ways(r)[0](left)
	if err != nil {
		return nil, fail(CodeSSHD, "failed to update sshd config", err)
	}
	if v := s.ask(ctx, m, nil); v.err != nil {
		// sshd does not start with the edit either, which is not the agent's
		// to repair.
		return nil, fail(CodeSSHD, "failed to update sshd config", errors.Join(v.err, undo()))
	}
	if err := now.save(r, note); err != nil {
		return given, err
	}
	m.sshdChanged = bootClock()
	return given, SSHDUp{PidFile: f.SSHDSet["pidfile"]}.Apply(ctx, m)
}

// properName returns a keyword as sshd_config(5) spells it.
func properName(key string) string {
	for _, n := range []string{"PasswordAuthentication", "KbdInteractiveAuthentication", "ChallengeResponseAuthentication", "ClientAliveInterval"} {
		if strings.EqualFold(n, key) {
			return n
		}
	}
	return key
}
