package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
)

// lives is the file that counts restarts of the agent since boot; /run is empty
// after a reboot.
const lives = "/run/azguest/lives"

// A life is the content of the file: how often the agent was started again
// without having been stopped, and whether it is running.
type life struct {
	Restarts int  `json:"restarts"`
	Running  bool `json:"running"`
}

// countLife records a start; end records a regular end. Only a start without a
// regular end before it counts as a restart.
func (a *Agent) countLife() (restarts int, end func()) {
	var l life
	b, err := a.Root.ReadFile(lives)
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Debug().Err(err).Msg("could not count restarts")
	}
	if l.Running {
		l.Restarts++
	}
	write := func(l life) {
		b, err := json.Marshal(l)
		if err == nil {
			err = a.Root.WriteFile(lives, append(b, '\n'), 0o644)
		}
		if err != nil {
			a.Log.Debug().Err(err).Msg("could not save restart counter")
		}
	}
	l.Running = true
	write(l)
	return l.Restarts, func() {
		l.Running = false
		write(l)
	}
}
