package provisioning

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// A directive is one line of the sshd configuration, includes resolved, in
// the order sshd reads them. Match is the condition of the block it stands
// in, lower case; empty at top level.
type directive struct {
	File  string
	Key   string // lower case
	Args  []string
	Match string
	Ours  bool // written by us
}

const (
	blockBegin = "# azguest: begin. Set at provisioning; sshd takes the first value it reads."
	blockEnd   = "# azguest: end"
	dropInName = "00-azguest.conf"
	dropInHead = "# Written by azguest when this VM was provisioned, and read before sshd_config.\n" +
		"# A keyword that gets another value there later is taken out of here.\n"
)

// sshdDefaults are sshd's defaults of the keywords that the agent sets.
var sshdDefaults = map[string]string{
	"passwordauthentication": "yes", "kbdinteractiveauthentication": "yes", "challengeresponseauthentication": "yes", "clientaliveinterval": "0",
}

// namesOf returns the names of a keyword, lower case. Two names mean the same
// keyword since OpenSSH 8.7.
func namesOf(key string) []string {
	switch key = strings.ToLower(key); key {
	case "kbdinteractiveauthentication", "challengeresponseauthentication":
		return []string{"kbdinteractiveauthentication", "challengeresponseauthentication"}
	}
	return []string{key}
}

// others returns the lines that the agent did not write.
func others(conf []directive) []directive {
	return slices.DeleteFunc(slices.Clone(conf), func(d directive) bool { return d.Ours })
}

func dropIn(sshDir string) string { return path.Join(sshDir, "sshd_config.d", dropInName) }

// readSSHD reads the configuration as sshd does (servconf.c of OpenSSH):
// keywords in any case, "=" allowed after them, white space and form feeds
// at the end ignored, Match up to the end of its file, Include in place and
// sorted. extra holds files that are not on disk (yet).
func readSSHD(r host.Root, main, sshDir string, extra map[string][]byte) []directive {
	rd := sshdReader{root: r, dir: sshDir, extra: extra}
	rd.file(main, "", 0)
	return rd.out
}

type sshdReader struct {
	root  host.Root
	dir   string
	extra map[string][]byte
	out   []directive
	files int // read so far
}

func (rd *sshdReader) file(name, match string, depth int) {
	// sshd itself stops at 16 levels; files that include themselves twice
	// would still be read 65,536 times.
	if rd.files++; depth > 16 || rd.files > 1000 {
		return
	}
	b, ok := rd.extra[name]
	if !ok {
		var err error
		if b, err = rd.root.ReadFile(name); err != nil {
			return // sshd reports it when it checks the configuration
		}
	}
	ours := path.Base(name) == dropInName
	inBlock := false
	for raw := range bytes.Lines(b) {
		line := strings.Trim(string(raw), " \t\r\n\f")
		switch line {
		case blockBegin:
			inBlock = true
		case blockEnd:
			inBlock = false
		}
		key, args := sshdFields(line)
		if key == "" {
			continue
		}
		switch key {
		case "match":
			match = strings.ToLower(strings.Join(args, " "))
		case "include":
			for _, pattern := range args {
				if !strings.HasPrefix(pattern, "/") {
					pattern = path.Join(rd.dir, pattern)
				}
				for _, f := range rd.glob(pattern) {
					rd.file(f, match, depth+1)
				}
			}
		default:
			rd.out = append(rd.out, directive{File: name, Key: key, Args: args, Match: match, Ours: ours || inBlock})
		}
	}
}

func (rd *sshdReader) glob(pattern string) []string {
	names, err := rd.root.Glob(pattern)
	if err != nil {
		return nil
	}
	// glob(3) does not let * match a leading dot, Go's does.
	names = slices.DeleteFunc(names, func(n string) bool {
		return strings.HasPrefix(path.Base(n), ".") && !strings.HasPrefix(path.Base(pattern), ".")
	})
	for n := range rd.extra {
		if ok, err := path.Match(pattern, n); err == nil && ok && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// sshdFields splits a line into keyword and arguments.
func sshdFields(line string) (key string, args []string) {
	if line == "" || line[0] == '#' {
		return "", nil
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return strings.ToLower(line), nil
	}
	key = strings.ToLower(strings.Trim(line[:end], `"`))
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	var cur strings.Builder
	var quote byte
	started := false
	flush := func() {
		if started {
			args = append(args, cur.String())
			cur.Reset()
			started = false
		}
	}
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				cur.WriteByte(c)
			}
		case c == '"' || c == '\'':
			quote, started = c, true
		case c == ' ' || c == '\t':
			flush()
		case c == '#' && !started:
			return key, args
		default:
			cur.WriteByte(c)
			started = true
		}
	}
	flush()
	return key, args
}

// effective returns the directive that applies to everybody whom no Match
// condition selects: the first value in a "Match all" block, which precedes
// anything at top level, else the first one at top level.
func effective(conf []directive, keys ...string) (directive, bool) {
	for _, match := range []string{"all", ""} {
		for _, d := range conf {
			if slices.Contains(keys, d.Key) && d.Match == match {
				return d, true
			}
		}
	}
	return directive{}, false
}

// inMatch reports whether some Match block sets the keyword.
func inMatch(conf []directive, key string) bool {
	return slices.ContainsFunc(conf, func(d directive) bool { return d.Key == key && d.Match != "" })
}

// dropInDecides reports whether keywords in the agent's drop-in would take
// effect: the main file includes the directory, at top level, and nothing
// earlier sets them.
func dropInDecides(r host.Root, main, sshDir string) bool {
	name := dropIn(sshDir)
	conf := readSSHD(r, main, sshDir, map[string][]byte{name: []byte("PasswordAuthentication no\nKbdInteractiveAuthentication no\nChallengeResponseAuthentication no\n")})
	pw, ok := effective(conf, "passwordauthentication")
	if !ok || pw.File != name {
		return false
	}
	// The two names are one keyword since OpenSSH 8.7.
	kbd, ok := effective(conf, "kbdinteractiveauthentication", "challengeresponseauthentication")
	return ok && kbd.File == name
}

// A Setting is a keyword of sshd_config and its value.
type Setting struct{ Key, Value string }

func renderSettings(set []Setting) string {
	var b strings.Builder
	for _, s := range set {
		b.WriteString(s.Key + " " + s.Value + "\n")
	}
	return b.String()
}

// withBlock puts the settings at the very top of a configuration, where no
// Include and no Match precedes them, and removes an older block of the agent.
// Every other byte stays.
func withBlock(old []byte, set []Setting) []byte {
	if len(set) == 0 {
		return withoutBlock(old)
	}
	var out bytes.Buffer
	out.WriteString(blockBegin + "\n" + renderSettings(set) + blockEnd + "\n")
	out.Write(withoutBlock(old))
	return out.Bytes()
}

// withoutBlock removes the agent's blocks; a begin without its end is left
// alone.
func withoutBlock(old []byte) []byte {
	for {
		from := bytes.Index(old, []byte(blockBegin+"\n"))
		if from < 0 {
			return old
		}
		n := bytes.Index(old[from:], []byte(blockEnd+"\n"))
		if n < 0 {
			return old
		}
		old = slices.Concat(old[:from], old[from+n+len(blockEnd)+1:])
	}
}
