package provisioning

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// A Login is a log-in about which sshd is asked. Match blocks may test all of
// it, so an address that is not the person's gets another log-in's answer.
type Login struct {
	User string
	From string // the client's address; empty: FromInternet
}

// Addresses of clients. The first is of a block for documentation (RFC 5737):
// what applies to it applies to everybody for whom the image has no rule.
const (
	FromInternet = "203.0.113.1"
	FromNetwork  = "10.255.255.254"
)

// SSHDAnswer has what `sshd -T` prints: for each keyword, in lower case, its
// lines in order, without the keyword.
type SSHDAnswer map[string][]string

// Value returns the first value of a keyword; empty if sshd does not print it.
func (a SSHDAnswer) Value(key string) string {
	if v := a[strings.ToLower(key)]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Words returns the words of all lines of a keyword, as for AllowUsers and
// AuthorizedKeysFile.
func (a SSHDAnswer) Words(key string) []string {
	var out []string
	for _, v := range a[strings.ToLower(key)] {
		out = append(out, strings.Fields(v)...)
	}
	return out
}

// AskSSHD asks sshd which configuration applies to a log-in: the sshd of this
// machine, with the options of the process that listens, and for a log-in as
// sshd sees it (user, host, address, local address, local port), because
// without one of them `sshd -T` refuses a configuration that tests it. sshd -T
// checks everything that sshd -t does. An error for which host.NotFound holds
// means that there is no sshd; a *host.ExitError that sshd refuses its
// configuration.
func (m *Machine) AskSSHD(ctx context.Context, l Login) (SSHDAnswer, error) {
	q := m.sshdQuestion(l)
	a, err := q.ask(ctx, m)
	if err != nil {
		return nil, err
	}
	// What a Match tests for the address and port of this machine is known
	// from the first answer.
	if at, port, ok := listens(a); ok && (port != q.login["lport"] || at != "" && at != q.login["laddr"]) {
		q.login["lport"] = port
		if at != "" {
			q.login["laddr"] = at
		}
		return q.ask(ctx, m)
	}
	return a, nil
}

// listens returns the first address and port at which sshd listens by its
// configuration; no address if it listens at all of them.
func listens(a SSHDAnswer) (addr, port string, ok bool) {
	port = a.Value("port")
	for _, l := range a["listenaddress"] {
		ap, err := netip.ParseAddrPort(l)
		if err != nil {
			continue
		}
		if !ap.Addr().IsUnspecified() {
			addr = ap.Addr().String()
		}
		return addr, strconv.Itoa(int(ap.Port())), true
	}
	return "", port, port != ""
}

// An sshdQuestion is a command line of sshd -T.
type sshdQuestion struct {
	sshd  string
	args  []string          // options, among them -f and -h
	login map[string]string // of -C
}

func (m *Machine) sshdQuestion(l Login) *sshdQuestion {
	r, o := m.Root, m.Options
	if l.From == "" {
		l.From = FromInternet
	}
	local := "10.0.0.4" // any address that this machine might have
	if strings.Contains(l.From, ":") {
		local = "fd00::4"
	}
	q := &sshdQuestion{sshd: cmp.Or(Which(r, "sshd"), "sshd"), args: m.sshdOptions()}
	// Without UseDNS, the default, a client's name is its address.
	q.login = map[string]string{"user": l.User, "host": l.From, "addr": l.From, "laddr": local, "lport": "22"}
	if !slices.Contains(q.args, "-f") {
		main := path.Join(o.SSHDir, "sshd_config")
		if !r.Exists(main) {
			main = "/usr/etc/ssh/sshd_config"
		}
		if r.Exists(main) {
			q.args = append(q.args, "-f", r.Path(main))
		}
	}
	// Without a host key sshd does not check the rest; the keys that are
	// configured may not exist yet.
	if keys, err := r.Glob(path.Join(o.SSHDir, "ssh_host_*_key")); err == nil && len(keys) > 0 {
		q.args = append(q.args, "-h", r.Path(keys[0]))
	}
	return q
}

// unspecified is how sshd asks for what a Match in its configuration tests.
var unspecified = regexp.MustCompile(`'([a-z]+)' not in connection test specification`)

// ask runs sshd, at most four times: it names one missing part of the question
// at a time.
func (q *sshdQuestion) ask(ctx context.Context, m *Machine) (SSHDAnswer, error) {
	for try := 0; ; try++ {
		res, err := m.Run.Run(ctx, q.cmd())
		ex, refused := errors.AsType[*host.ExitError](err)
		switch {
		case err == nil:
			return parseSSHDAnswer(res.Stdout), nil
		case !refused || try == 3 || !q.complete(m, ex):
			return nil, err
		}
	}
}

func (q *sshdQuestion) cmd() host.Cmd {
	var spec []string
	for _, k := range sortedKeys(q.login) {
		spec = append(spec, k+"="+q.login[k])
	}
	args := slices.Concat([]string{"-T"}, q.args, []string{"-C", strings.Join(spec, ",")})
	return host.Cmd{Name: q.sshd, Args: args, Timeout: toolTimeout}
}

// complete adds what sshd says is missing, and reports whether it did.
func (q *sshdQuestion) complete(m *Machine, says *host.ExitError) bool {
	// Early in the boot, the directory that the unit makes may be missing.
	if _, dir, ok := strings.Cut(says.Stderr, "Missing privilege separation directory:"); ok {
		dir, _, _ = strings.Cut(strings.TrimSpace(dir), "\n")
		dir = strings.TrimSpace(dir)
		return !m.Root.Exists(dir) && m.Root.MkdirAll(dir, 0o755) == nil
	}
	if f := unspecified.FindStringSubmatch(says.Stderr); f != nil {
		if _, known := q.login[f[1]]; !known {
			q.login[f[1]] = "" // as for RDomain: none
			return true
		}
	}
	return false
}

func parseSSHDAnswer(out []byte) SSHDAnswer {
	a := SSHDAnswer{}
	for line := range strings.Lines(string(out)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			k = strings.ToLower(k)
			a[k] = append(a[k], v)
		}
	}
	return a
}

// sshdOptions returns the options with which sshd was started that change its
// configuration, or that it will be started with.
func (m *Machine) sshdOptions() []string {
	var conf []directive
	if main := path.Join(m.Options.SSHDir, "sshd_config"); m.Root.Exists(main) {
		conf = readSSHD(m.Root, main, m.Options.SSHDir, nil)
	}
	up := SSHDUp{}
	if d, ok := effective(conf, "pidfile"); ok && len(d.Args) > 0 {
		up.PidFile = d.Args[0]
	}
	if l, ok := up.listener(m.Root); ok {
		if b, err := m.Root.ReadFile(path.Join("/proc", strconv.Itoa(l.pid), "cmdline")); err == nil {
			return m.optionsOf(titleArgs(string(b)))
		}
	}
	// The files from which the units of the distributions take them.
	for _, f := range []struct{ file, variable string }{
		{"/etc/default/ssh", "SSHD_OPTS"}, {"/etc/sysconfig/sshd", "OPTIONS"}, {"/etc/sysconfig/ssh", "SSHD_OPTS"}, {"/etc/conf.d/sshd", "SSHD_OPTS"},
	} {
		b, err := m.Root.ReadFile(f.file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && strings.TrimSpace(k) == f.variable {
				return m.optionsOf(strings.Fields(strings.Trim(strings.TrimSpace(v), `"'`)))
			}
		}
	}
	return nil
}

// titleArgs returns the arguments in the command line of a process. sshd
// replaces its own by "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100
// startups".
func titleArgs(cmdline string) []string {
	args := strings.Split(strings.TrimRight(cmdline, "\x00"), "\x00")
	if rest, ok := strings.CutPrefix(args[0], "sshd: "); ok {
		rest, _, _ = strings.Cut(rest, " [")
		args = strings.Fields(rest)
	}
	if len(args) == 0 {
		return nil
	}
	return args[1:]
}

// optionsOf returns those of sshd's arguments that change its configuration.
// The others (-D, -e, -E) are about how it runs. A title has lost the quotes
// of `-o "Keyword value"`, so words without a dash belong to the option.
func (m *Machine) optionsOf(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			continue
		}
		flag, value := a[:2], a[2:]
		if strings.Contains("bCcEfghkopuV", flag[1:]) && value == "" {
			for i+1 < len(args) && (value == "" || flag == "-o" && !strings.HasPrefix(args[i+1], "-")) {
				i++
				value = strings.TrimSpace(value + " " + args[i])
			}
		}
		switch flag {
		case "-f", "-h", "-c":
			out = append(out, flag, m.Root.Path(value))
		case "-o", "-p":
			out = append(out, flag, value)
		case "-4", "-6":
			out = append(out, flag)
		}
	}
	return out
}
