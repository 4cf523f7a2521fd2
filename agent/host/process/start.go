package process

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// Start starts cmd. Whatever this program starts is started here, so that it
// inherits nothing that is meant for the agent alone:
//
//   - ignored and blocked signals: what ignores a signal here, ignores it with
//     Swallow, and Normalize has undone what this program has inherited itself;
//   - descriptors: Normalize has marked those that were inherited, and Go marks
//     those that it opens;
//   - the adjustment of the OOM killer, which protects the agent.
//
// The environment is host.Environ's. Umask, priorities and resource limits are
// those of the caller; a supervisor of a handler's command first takes those of
// a service, see AsService.
func Start(cmd *exec.Cmd) error {
	protection.Lock()
	defer protection.Unlock()
	// A process inherits the score from its parent at the fork. Setting it
	// afterwards would be too late for what it has forked itself by then.
	if score := oomScore(); score != 0 && setOOMScore(0) == nil {
		defer func() { _ = setOOMScore(score) }() // root may; otherwise nothing was protected
	}
	return cmd.Start()
}

// protection is held while this process may be without its protection from the
// OOM killer.
var protection sync.Mutex

const oomScoreFile = "/proc/self/oom_score_adj"

// oomScore returns the adjustment of this process, 0 if it can't be read.
func oomScore() int {
	b, err := os.ReadFile(oomScoreFile)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

func setOOMScore(n int) error {
	return os.WriteFile(oomScoreFile, []byte(strconv.Itoa(n)), 0)
}
