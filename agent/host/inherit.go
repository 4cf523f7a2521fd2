package host

import (
	"path"
	"slices"
	"strings"
)

// Environ returns the environment of a program that the agent starts. own is
// the agent's environment, extra are variables of the program, which take
// precedence. In this order:
//
//   - what an administrator has given to the agent, for example in a drop-in of
//     its unit: proxies, certificates, the time zone. It is the documented way
//     to get them to handlers, because the classic agent passes everything;
//   - BaseEnvironment, with the directories of the agent's own PATH appended to
//     that one;
//   - extra.
func Environ(own []string, extra ...string) []string {
	env := newEnvironment(len(own) + len(extra) + 6)
	search := DefaultPath
	for _, kv := range own {
		name, value, ok := strings.Cut(kv, "=")
		switch {
		case !ok || name == "" || notInherited(name):
		case name == "PATH":
			search = longerPath(value)
		default:
			env.set(name, value)
		}
	}
	for _, kv := range Root("/").BaseEnvironment() {
		name, value, _ := strings.Cut(kv, "=")
		env.set(name, value)
	}
	env.set("PATH", search)
	for _, kv := range extra {
		name, value, _ := strings.Cut(kv, "=")
		env.set(name, value)
	}
	return env.list
}

// notInherited reports whether a variable says something about the agent, its
// unit or the session in which it was started, or has a meaning in the contract
// with handlers (extensions/SPEC.md §9.3). Scripts of published handlers ask
// whether VERSION is set.
func notInherited(name string) bool {
	if slices.Contains(ownVariables, name) {
		return true
	}
	return slices.ContainsFunc(ownPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

var (
	ownVariables = []string{
		// What systemd tells a service (systemd.exec(5), sd_listen_fds(3)).
		"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "MANAGERPIDFDID", "PIDFILE",
		"RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY",
		"SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "FDSTORE", "SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS",
		// The contract with handlers.
		"VERSION", "ConfigSequenceNumber", "ConfigExtensionName",
		// The session of whoever has started the agent by hand.
		"HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "MAIL", "HOSTNAME", "DISPLAY", "LS_COLORS", "BASH_ENV", "ENV", "CDPATH", "IFS",
		// Output is parsed.
		"LANG", "LANGUAGE",
		// The Go runtime of the agent.
		"GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GODEBUG", "GOTRACEBACK", "GORACE", "GOCOVERDIR",
	}
	ownPrefixes = []string{"LISTEN_", "TRIGGER_", "REMOTE_", "AZURE_GUEST_AGENT_", "AZGUEST_", "LC_", "SUDO_", "SSH_", "XDG_", "DBUS_", "BASH_FUNC_"}
)

// longerPath appends the absolute directories of a PATH to DefaultPath.
func longerPath(value string) string {
	dirs := strings.Split(DefaultPath, ":")
	for dir := range strings.SplitSeq(value, ":") {
		if path.IsAbs(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return strings.Join(dirs, ":")
}

// An environment has each variable once; some programs use the first of two,
// others the last.
type environment struct {
	list []string
	at   map[string]int
}

func newEnvironment(size int) *environment {
	return &environment{list: make([]string, 0, size), at: make(map[string]int, size)}
}

func (e *environment) set(name, value string) {
	kv := name + "=" + value
	if i, ok := e.at[name]; ok {
		e.list[i] = kv
		return
	}
	e.at[name] = len(e.list)
	e.list = append(e.list, kv)
}
