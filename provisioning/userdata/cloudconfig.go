package userdata

import (
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/provisioning"
)

// decodeConfig makes a Config of a cloud-config, and finds everything that is
// wrong with it. A nil value is an empty one.
func decodeConfig(v *value, ps *problems) Config {
	var c Config
	if v == nil {
		return c
	}
	d := &decoder{problems: ps}
	d.fields(v, "", map[string]setter{
		"bootcmd":                   d.toCommands(&c.BootCommands),
		"runcmd":                    d.toCommands(&c.RunCommands),
		"write_files":               func(v *value, key string) { c.Files = d.files(v, key) },
		"hostname":                  d.toOptional(&c.HostName, hostName),
		"fqdn":                      d.toOptional(&c.FQDN, hostName),
		"prefer_fqdn_over_hostname": d.toTruth(&c.PreferFQDN),
		"manage_etc_hosts":          func(v *value, key string) { c.Hosts = d.hosts(v, key) },
		"mounts":                    func(v *value, key string) { c.Mounts = d.mounts(v, key) },
		"groups":                    func(v *value, key string) { c.Groups = d.groups(v, key) },
		"users":                     func(v *value, key string) { c.Users = d.users(v, key) },
		"ssh_authorized_keys":       func(v *value, key string) { c.Keys = d.keys(v, key) },
		"timezone":                  d.toOptional(&c.TimeZone, timeZone),
		"ntp":                       func(v *value, key string) { c.NTP = d.ntp(v, key) },
		"packages":                  func(v *value, key string) { c.Packages = d.packages(v, key) },
		"package_update":            d.toTruth(&c.PackageUpdate),
		"package_upgrade":           d.toTruth(&c.PackageUpgrade),
		"merge_how":                 func(v *value, key string) { d.merge(v, key) },
		"merge_type":                func(v *value, key string) { d.merge(v, key) },
	})
	if n := v.field("ntp"); n != nil && n.kind == aNull {
		c.NTP = &NTP{Enabled: true, Client: NTPAuto} // an empty value asks for the defaults
	}
	return c
}

func (d *decoder) toCommands(at *[]Command) setter {
	return func(v *value, key string) {
		d.each(v, key, func(item *value, key string) {
			if c, ok := d.command(item, key); ok {
				*at = append(*at, c)
			}
		})
	}
}

// command reads one command. An empty entry is none: a comment after the dash.
func (d *decoder) command(v *value, key string) (Command, bool) {
	c := Command{At: v.at}
	switch v.kind {
	case aNull:
		return c, false
	case aMap:
		d.bad(v, key, "must be a command, not a map; put a command that contains a colon and a blank in quotes")
		return c, false
	case aText, aBool, aNumber, aBinary:
		var ok bool
		c.Shell, ok = d.text(v, key)
		return c, ok
	case aList:
	}
	if len(v.items) == 0 {
		d.bad(v, key, "an empty command")
		return c, false
	}
	good := true
	d.each(v, key, func(arg *value, key string) {
		s, ok := d.text(arg, key)
		c.Args, good = append(c.Args, s), good && ok
	})
	return c, good
}

func (d *decoder) files(v *value, key string) []File {
	var out []File
	d.each(v, key, func(item *value, key string) {
		f := File{Owner: "root", Group: "root", Mode: 0o644, Content: secret.New(""), At: item.at}
		encoding := ""
		var content *value
		d.fields(item, key, map[string]setter{
			"path":        d.toPath(&f.Path, filePath),
			"content":     func(v *value, _ string) { content = v },
			"encoding":    d.toLine(&encoding, knownEncoding),
			"owner":       func(v *value, key string) { f.Owner, f.Group = d.owner(v, key) },
			"permissions": func(v *value, key string) { f.Mode = d.mode(v, key) },
			"append":      d.toTruth(&f.Append),
			"defer":       d.toTruth(&f.Defer),
		})
		if item.kind == aMap && missing(item, "path") {
			d.bad(item, key+".path", "is missing")
		}
		if content != nil {
			f.Content = d.content(content, key+".content", encoding)
		}
		out = append(out, f)
	})
	return out
}

// missing reports whether a key has no value, or an empty text.
func missing(v *value, key string) bool {
	f := v.field(key)
	return f == nil || f.kind == aText && f.text == ""
}

// encodings are the ways to write the content of a file: unpack last, first
// decode.
var encodings = map[string]struct{ base64, gzip bool }{
	"text/plain": {}, "gz": {gzip: true}, "gzip": {gzip: true}, "b64": {base64: true}, "base64": {base64: true},
	"gz+b64": {true, true}, "gz+base64": {true, true}, "gzip+b64": {true, true}, "gzip+base64": {true, true},
}

func knownEncoding(s string) error {
	if _, ok := encodings[strings.ToLower(s)]; !ok {
		return errors.New("must be text/plain, b64, gzip or gz+b64")
	}
	return nil
}

func (d *decoder) content(v *value, key, encoding string) secret.Secret {
	text, ok := v.text, v.kind == aBinary
	if !ok {
		text, ok = d.text(v, key)
	}
	how := encodings[strings.ToLower(encoding)]
	if ok && how.base64 {
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.Join(strings.Fields(text), ""), "="))
		if text = string(b); err != nil {
			d.bad(v, key, "not base64, as encoding says: %v", err)
			ok = false
		}
	}
	if ok && how.gzip {
		z, err := gzip.NewReader(strings.NewReader(text))
		var b []byte
		if err == nil {
			b, err = io.ReadAll(io.LimitReader(z, maxUnpacked-d.unpacked+1))
		}
		d.unpacked += int64(len(b))
		switch text = string(b); {
		case d.unpacked > maxUnpacked:
			d.problems.add(CodeLimit, v.at, key, "unpacks to more than %d MiB", maxUnpacked>>20)
			text = ""
		case err != nil:
			d.bad(v, key, "not gzip, as encoding says: %v", err)
			text = ""
		}
	}
	return secret.New(text)
}

// owner reads USER, USER:GROUP or :GROUP.
func (d *decoder) owner(v *value, key string) (user, group string) {
	s, ok := d.fit(v, key, func(s string) error {
		if u, g, _ := strings.Cut(s, ":"); !ownerName.MatchString(u) || g != "" && !ownerName.MatchString(g) {
			return errors.New("must be USER or USER:GROUP")
		}
		return nil
	})
	if !ok {
		return "root", "root"
	}
	user, group, _ = strings.Cut(s, ":")
	return user, group
}

var ownerName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?$`)

// mode reads permissions: octal digits in quotes, or a number that YAML 1.1
// reads as octal. A decimal number is a mistake that cloud-init takes at its
// word: 644 is 01204.
func (d *decoder) mode(v *value, key string) fs.FileMode {
	const usual = 0o644
	s := strings.TrimPrefix(v.text, "0o")
	n, err := strconv.ParseUint(s, 8, 32)
	switch {
	case v.kind == aNumber && !strings.HasPrefix(v.text, "0"):
		d.bad(v, key, "%s without quotes is a decimal number; write \"0%s\"", quote(v.text), v.text)
		return usual
	case v.kind != aNumber && v.kind != aText, err != nil, n > 0o7777:
		d.bad(v, key, "must be octal permissions such as \"0644\"")
		return usual
	}
	m := fs.FileMode(n & 0o777)
	for bit, mode := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			m |= mode
		}
	}
	return m
}

func (d *decoder) hosts(v *value, key string) Hosts {
	switch {
	case v.kind == aBool:
		return map[bool]Hosts{true: HostsTemplate, false: HostsLeave}[v.isTrue()]
	case v.kind == aText && (v.text == "true" || v.text == "template"):
		return HostsTemplate
	case v.kind == aText && v.text == "false":
		return HostsLeave
	case v.kind == aText && v.text == "localhost":
		return HostsLocalhost
	}
	d.bad(v, key, "must be true, false, template or localhost")
	return HostsLeave
}

func (d *decoder) mounts(v *value, key string) []Mount {
	var out []Mount
	d.each(v, key, func(item *value, key string) {
		if item.kind != aList || len(item.items) < 1 || len(item.items) > 6 {
			d.bad(item, key, "must be a list of up to 6 fields of fstab: device, mount point, type, options, dump, pass")
			return
		}
		if len(item.items) == 1 || item.items[1].kind == aNull {
			out = d.withoutMount(out, item.items[0], key+"[0]")
			return
		}
		m := Mount{Type: "auto", Options: "defaults,nofail", Pass: 2, At: item.at}
		for i, set := range []setter{
			d.toLine(&m.Device, fstabField), d.toLine(&m.Point, fstabField), d.toLine(&m.Type, fstabField), d.toHidden(&m.Options, fstabField),
			d.toWhole(&m.Dump, 0, 9), d.toWhole(&m.Pass, 0, 9),
		} {
			if i >= len(item.items) {
				break
			}
			k := fmt.Sprintf("%s[%d]", key, i)
			switch f := item.items[i]; {
			case f.kind != aNull:
				set(f, k)
			case i == 0:
				d.bad(f, k, "is empty")
			}
		}
		if swap := m.Point == "none" && m.Type == "swap"; m.Point != "" && !swap && absolute(m.Point) != nil {
			d.bad(item, key+"[1]", "%s: must be an absolute path, or none for swap", quote(m.Point))
		}
		m.Point = plainPath(m.Point)
		out = append(out, m)
	})
	return out
}

// withoutMount takes back the entries of a device: one without a mount point
// says that it is not mounted. The temporary disk is not mounted by mounts, but
// by the agent.
func (d *decoder) withoutMount(list []Mount, v *value, key string) []Mount {
	dev, ok := d.fit(v, key, fstabField)
	if ok && resourceName.MatchString(dev) {
		d.bad(v, key, "the temporary disk is left alone with ResourceDisk.Format=n in waagent.conf, not with an entry without a mount point")
	}
	return slices.DeleteFunc(list, func(m Mount) bool { return m.Device == dev })
}

func (d *decoder) toWhole(at *int, least, most int64) setter {
	return func(v *value, key string) { *at, _ = d.whole(v, key, least, most) }
}

func (d *decoder) groups(v *value, key string) []Group {
	var out []Group
	add := func(at Place, name string, members []string) {
		if i := slices.IndexFunc(out, func(g Group) bool { return g.Name == name }); i >= 0 {
			out[i].Members = append(out[i].Members, members...)
			return
		}
		out = append(out, Group{Name: name, Members: members, At: at})
	}
	named := func(v *value, key string) {
		for _, name := range v.keys {
			item, k := v.fields[name], key+"."+word(name)
			if err := groupName(name); err != nil {
				d.bad(item, k, "%v", err)
				continue
			}
			var members []string
			if item.kind != aNull {
				members = d.words(item, k, groupName)
			}
			add(item.at, name, members)
		}
	}
	switch v.kind {
	case aMap:
		named(v, key)
	case aList:
		d.each(v, key, func(item *value, key string) {
			if item.kind == aMap {
				named(item, key)
				return
			}
			for _, name := range d.words(item, key, groupName) {
				add(item.at, name, nil)
			}
		})
	case aText, aBool, aNumber, aNull, aBinary:
		for _, name := range d.words(v, key, groupName) {
			add(v.at, name, nil)
		}
	}
	return out
}

// defaultUser is the entry of users that stands for the account of the order.
const defaultUser = "default"

func (d *decoder) users(v *value, key string) []User {
	var out []User
	var bare bool // the entry of the default account has nothing but its name
	add := func(v *value, key string, u User) {
		if u.Name == defaultUser {
			u.Default, u.Name = true, ""
		}
		i := slices.IndexFunc(out, func(o User) bool { return o.Default == u.Default && o.Name == u.Name })
		switch {
		case i < 0:
			out = append(out, u)
			bare = bare || u.Default && v.kind != aMap
		case u.Default && v.kind != aMap:
		case u.Default && bare:
			out[i], bare = u, false
		default:
			d.bad(v, key, "the account is given twice, first at %s", out[i].At)
		}
	}
	one := func(item *value, key string) {
		if item.kind == aMap {
			if u, ok := d.user(item, key); ok {
				add(item, key, u)
			}
			return
		}
		for _, name := range d.words(item, key, accountName) {
			add(item, key, User{Name: name, At: item.at})
		}
	}
	if v.kind == aText {
		one(v, key)
		return out
	}
	d.each(v, key, one)
	return out
}

func (d *decoder) user(v *value, key string) (User, bool) {
	u := User{At: v.at}
	before := len(d.problems.list) + d.problems.more
	d.fields(v, key, map[string]setter{
		"name":                d.toOptional(&u.Name, accountName),
		"gecos":               d.toOptional(&u.Gecos, noColon),
		"primary_group":       d.toOptional(&u.PrimaryGroup, groupName),
		"groups":              d.toWords(&u.Groups, groupName),
		"shell":               d.toPath(&u.Shell, filePath),
		"homedir":             d.toPath(&u.HomeDir, homeDir),
		"no_create_home":      d.toTruth(&u.NoCreateHome),
		"system":              d.toTruth(&u.System),
		"no_user_group":       d.toTruth(&u.NoUserGroup),
		"no_log_init":         d.toTruth(&u.NoLogInit),
		"create_groups":       func(v *value, key string) { u.NoNewGroups = !d.truth(v, key) },
		"uid":                 d.toPointer(&u.UID, 1, 1<<32-2),
		"sudo":                func(v *value, key string) { u.Sudo = d.sudo(v, key) },
		"lock_passwd":         func(v *value, key string) { u.LockPassword = new(d.truth(v, key)) },
		"plain_text_passwd":   d.toSecret(&u.PlainPasswd, anything),
		"hashed_passwd":       d.toSecret(&u.HashedPasswd, cryptHash),
		"passwd":              d.toSecret(&u.Passwd, cryptHash),
		"ssh_authorized_keys": func(v *value, key string) { u.Keys = d.keys(v, key) },
		"expiredate":          d.toOptional(&u.ExpireDate, date),
		"inactive":            d.toPointer(&u.Inactive, 0, 1<<20),
	})
	if missing(v, "name") {
		d.bad(v, key+".name", "is missing")
	}
	return u, len(d.problems.list)+d.problems.more == before
}

func (d *decoder) toPointer(at **int, least, most int64) setter {
	return func(v *value, key string) {
		if n, ok := d.whole(v, key, least, most); ok {
			*at = &n
		}
	}
}

// toSecret takes a secret, which no message repeats.
func (d *decoder) toSecret(at *secret.Secret, judge func(string) error) setter {
	return func(v *value, key string) {
		switch {
		case v.kind == aBool || v.unlike:
			d.bad(v, key, "put it in quotes: YAML 1.1 does not take it for text")
		case v.kind != aText && v.kind != aNumber:
			d.bad(v, key, "must be text, not %s", v.kind)
		case strings.ContainsAny(v.text, "\n\r\x00") || v.text == "" || len(v.text) > maxLine:
			d.bad(v, key, "must be on one line, and not empty")
		default:
			if err := judge(v.text); err != nil {
				d.bad(v, key, "%v", err)
				return
			}
			*at = secret.New(v.text)
		}
	}
}

// sudo reads rules: a text, or a list of them; false is none.
func (d *decoder) sudo(v *value, key string) []string {
	switch {
	case v.kind == aBool && !v.isTrue():
		return nil
	case v.kind == aBool:
		d.bad(v, key, "must be rules of sudoers such as ALL=(ALL) NOPASSWD:ALL, or false")
		return nil
	case v.kind == aList:
		var out []string
		d.each(v, key, func(item *value, key string) {
			if s, ok := d.fit(item, key, sudoRule); ok {
				out = append(out, s)
			}
		})
		return out
	}
	if s, ok := d.fit(v, key, sudoRule); ok {
		return []string{s}
	}
	return nil
}

func (d *decoder) keys(v *value, key string) []string {
	var out []string
	one := func(item *value, key string) {
		s, ok := d.text(item, key)
		if !ok {
			return
		}
		lines, err := provisioning.ParseKeys(s)
		if err == nil && len(lines) == 0 {
			err = errors.New("no key")
		}
		if err != nil {
			d.bad(item, key, "%v", err)
		}
		out = append(out, lines...)
	}
	if v.kind == aList {
		d.each(v, key, one)
	} else {
		one(v, key)
	}
	return out
}

func (d *decoder) ntp(v *value, key string) *NTP {
	n := &NTP{Enabled: true, Client: NTPAuto}
	d.fields(v, key, map[string]setter{
		"enabled": d.toTruth(&n.Enabled),
		"servers": d.toWords(&n.Servers, hostName),
		"pools":   d.toWords(&n.Pools, hostName),
		"ntp_client": func(v *value, key string) {
			s, ok := d.line(v, key)
			n.Client = NTPClient(s)
			if ok && !slices.Contains([]NTPClient{NTPAuto, NTPChrony, NTPTimesyncd}, n.Client) {
				d.bad(v, key, "must be auto, chrony or systemd-timesyncd")
			}
		},
	})
	return n
}

func (d *decoder) packages(v *value, key string) []PackageName {
	var out []PackageName
	d.each(v, key, func(item *value, key string) {
		p := PackageName{At: item.at}
		var ok bool
		switch {
		case item.kind == aMap:
			d.problems.add(CodeKey, item.at, key, "packages of a certain package manager are not supported; give names alone")
			return
		case item.kind != aList:
			p.Name, ok = d.fit(item, key, packageName)
		case len(item.items) < 1 || len(item.items) > 2:
			d.bad(item, key, "must be a name, or a list of name and version")
			return
		default:
			p.Name, ok = d.fit(item.items[0], key+"[0]", packageName)
			if len(item.items) == 2 && item.items[1].kind != aNull {
				p.Version, _ = d.fit(item.items[1], key+"[1]", packageName)
			}
		}
		if ok {
			out = append(out, p)
		}
	})
	return out
}

// The judges of texts.

var (
	hostPattern    = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,251}[A-Za-z0-9_])?\.?$`)
	zonePattern    = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
	packagePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.:_~@/=*^-]*$`)
	hashPattern    = regexp.MustCompile(`^[!*]*(?:\$[!-9;-~]+|[./0-9A-Za-z]{13}|_[./0-9A-Za-z]{19})?$`)
	datePattern    = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
)

func hostName(s string) error {
	if !hostPattern.MatchString(s) || len(s) > 253 {
		return errors.New("not a host name")
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > 63 {
			return errors.New("not a host name: more than 63 characters without a dot")
		}
	}
	return nil
}

func timeZone(s string) error {
	if !zonePattern.MatchString(s) {
		return errors.New("not a time zone such as Europe/Berlin")
	}
	return nil
}

func packageName(s string) error {
	if !packagePattern.MatchString(s) {
		return errors.New("not a name or version of a package")
	}
	return nil
}

func absolute(s string) error {
	if s = plainPath(s); !path.IsAbs(s) || path.Clean(s) != s || s == "/" {
		return errors.New("must be an absolute path without . and .. in it")
	}
	return nil
}

// filePath judges the path of a file as it is written.
func filePath(s string) error {
	if strings.HasSuffix(s, "/") {
		return errors.New("is the path of a directory")
	}
	return absolute(s)
}

func homeDir(s string) error {
	if err := absolute(s); err != nil {
		return err
	}
	return noColon(s)
}

func noColon(s string) error {
	if strings.Contains(s, ":") {
		return errors.New("must not contain a colon")
	}
	return nil
}

func fstabField(s string) error {
	if strings.ContainsAny(s, " \t#") || strings.HasPrefix(s, "-") {
		return errors.New("not a field of fstab: it contains a blank or #; write a blank as \\040")
	}
	return nil
}

func groupName(s string) error {
	if s == "root" || s == "nobody" {
		return nil
	}
	return provisioning.CheckUserName(s)
}

func accountName(s string) error {
	if s == "root" {
		return nil
	}
	return provisioning.CheckUserName(s)
}

// cryptHash accepts what crypt(5) describes, and the marks of a locked account. A
// password that is given for a hash would be in shadow(5), and open nothing.
func cryptHash(s string) error {
	if !hashPattern.MatchString(s) {
		return errors.New("not a password hash such as $6$…; a password itself is given with plain_text_passwd")
	}
	return nil
}

func date(s string) error {
	if _, err := time.Parse(time.DateOnly, s); err != nil || !datePattern.MatchString(s) {
		return errors.New("must be a date YYYY-MM-DD")
	}
	return nil
}

func sudoRule(s string) error {
	if !strings.Contains(s, "=") || strings.HasSuffix(s, `\`) {
		return errors.New("not a rule of sudoers such as ALL=(ALL) NOPASSWD:ALL")
	}
	return nil
}
