package generalize

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/azguest/azguest/provisioning"
)

// Functions of the table that judge or change the text of a configuration
// file. They are pure. A line that they don't understand stays.

// lineMatches returns a match function: whether a line matches.
func lineMatches(expr string) func(*survey, string) bool {
	re := regexp.MustCompile("(?m)" + expr)
	return func(_ *survey, text string) bool { return re.MatchString(text) }
}

// hasLines reports whether a text has a line that is not a comment.
func hasLines(_ *survey, text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return false
}

func notBlank(_ *survey, text string) bool { return strings.TrimSpace(text) != "" }

// isMachineID is false for "uninitialized", which is an image's (machine-id(5)).
func isMachineID(_ *survey, text string) bool {
	t := strings.TrimSpace(text)
	return t != "" && t != "uninitialized"
}

var hash = regexp.MustCompile(`\$(1|2[abxy]|5|6|7|y|gy|sha1|argon2\w+)\$[^\s:$]`)

// hasHash reports whether a text has a password hash (crypt(5)).
func hasHash(_ *survey, text string) bool { return hash.MatchString(text) }

func hasOwnName(s *survey, text string) bool {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(" \t=,:;'\"", c) })
		if slices.ContainsFunc(words, s.isOwnName) {
			return true
		}
	}
	return false
}

// isOwnName reports whether a name is the machine's, with or without a domain.
func (s *survey) isOwnName(name string) bool {
	return slices.ContainsFunc(s.names, func(own string) bool {
		own, name := strings.ToLower(own), strings.ToLower(name)
		return name == own || strings.HasPrefix(name, own+".")
	})
}

// keepLines returns the lines that keep accepts.
func keepLines(text string, keep func(line string) bool) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if keep(strings.TrimSpace(line)) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// dropKeys returns an edit function: without the lines that set these keys.
func dropKeys(keys ...string) func(*survey, string) string {
	return func(_ *survey, text string) string {
		return keepLines(text, func(line string) bool {
			k, v, ok := strings.Cut(line, "=")
			return !ok || !slices.Contains(keys, strings.TrimSpace(k)) || strings.Trim(v, ` "'`) == ""
		})
	}
}

// withoutOwnName removes the machine's own name, and lines of the agent, from
// /etc/hosts. A line that has no other name is removed.
func withoutOwnName(s *survey, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasSuffix(strings.TrimSpace(line), "# azguest") {
			continue
		}
		data, comment, _ := strings.Cut(line, "#")
		f := strings.Fields(data)
		if len(f) < 2 || !slices.ContainsFunc(f[1:], s.isOwnName) {
			out.WriteString(line)
			continue
		}
		others := slices.DeleteFunc(f[1:], s.isOwnName)
		if len(others) == 0 {
			continue
		}
		out.WriteString(f[0] + "\t" + strings.Join(others, " "))
		if comment = strings.TrimSpace(comment); comment != "" {
			out.WriteString(" # " + comment)
		}
		out.WriteString("\n")
	}
	return out.String()
}

// otherOwnHost reports whether /etc/hosts has a name for 127.0.1.1, which
// Debian's installer, cloud-init and the agent use for the own name, that can't
// be compared with /etc/hostname any more.
func otherOwnHost(s *survey, text string) bool {
	for line := range strings.Lines(withoutOwnName(s, text)) {
		data, _, _ := strings.Cut(line, "#")
		f := strings.Fields(data)
		if len(f) > 1 && f[0] == "127.0.1.1" && !slices.ContainsFunc(f[1:], isLocalName) {
			return true
		}
	}
	return false
}

// withoutCloudConfig removes the lines that cloud-init has written to fstab.
// It marks them with this option.
func withoutCloudConfig(_ *survey, text string) string {
	return keepLines(text, func(line string) bool {
		f := strings.Fields(line)
		return len(f) < 4 || f[0][0] == '#' || !slices.Contains(strings.Split(f[3], ","), "comment=cloudconfig")
	})
}

// withoutDataMounts removes the mounts of user data from fstab.
func withoutDataMounts(_ *survey, text string) string { return provisioning.WithoutFstabBlock(text) }

// systemMounts are the mount points of a system's own disk.
var systemMounts = []string{"/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/var/log", "/var/log/audit", "/var/tmp", "/var/lib", "/var/cache", "/var/opt", "/home", "/tmp", "/opt", "/srv", "/root", "/usr/local", "none", "swap"}

// needsDisk reports whether fstab has a disk, other than the system's, without
// which the boot stops.
func needsDisk(_ *survey, text string) bool {
	text = withoutDataMounts(nil, withoutCloudConfig(nil, text))
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0][0] == '#' {
			continue
		}
		disk := strings.Contains(f[0], "UUID=") || strings.HasPrefix(f[0], "/dev/disk/") || strings.HasPrefix(f[0], "/dev/sd") || strings.HasPrefix(f[0], "/dev/nvme")
		azure := strings.HasPrefix(f[0], "/dev/disk/azure/") || strings.HasPrefix(f[0], "/dev/disk/cloud/")
		opts := ""
		if len(f) > 3 {
			opts = f[3]
		}
		optional := slices.ContainsFunc(strings.Split(opts, ","), func(o string) bool { return o == "nofail" || o == "noauto" || o == "x-systemd.automount" })
		if disk && !optional && (azure || !slices.Contains(systemMounts, path.Clean(f[1])) && f[2] != "swap" && !strings.HasPrefix(f[2], "btrfs")) {
			return true
		}
	}
	return false
}

var macForm = regexp.MustCompile(`(?i)[0-9a-f:-]+`)

// hasMAC reports whether a line has an Ethernet address: six pairs of digits,
// which are not part of a longer number such as an IPv6 address.
func hasMAC(line string) bool {
	for _, w := range macForm.FindAllString(line, -1) {
		if len(w) != 17 {
			continue
		}
		sep, ok := w[2], w[2] == ':' || w[2] == '-'
		for i := range w {
			ok = ok && (w[i] == sep) == (i%3 == 2)
		}
		if ok && w != "00:00:00:00:00:00" && !strings.EqualFold(w, "ff:ff:ff:ff:ff:ff") {
			return true
		}
	}
	return false
}

// macStays reports whether a file has a hardware address that the edits of the
// table leave.
func macStays(s *survey, text string) bool {
	text = withoutMatchMAC(s, dropKeys("HWADDR", "mac-address")(s, text))
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' && hasMAC(line) {
			return true
		}
	}
	return false
}

// withoutMatchMAC removes the hardware address from [Match] sections of
// systemd.network(5) that match something else, too. A section with nothing in
// it would not match anything.
func withoutMatchMAC(_ *survey, text string) string {
	lines := slices.Collect(strings.Lines(text))
	isMAC := func(line string) bool {
		k, _, _ := strings.Cut(line, "=")
		k = strings.TrimSpace(k)
		return k == "MACAddress" || k == "PermanentMACAddress"
	}
	drop := map[int]bool{}
	for i := 0; i < len(lines); {
		head := strings.TrimSpace(lines[i])
		end := i + 1
		for end < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[end]), "[") {
			end++
		}
		if head == "[Match]" {
			var macs []int
			others := false
			for j := i + 1; j < end; j++ {
				switch l := strings.TrimSpace(lines[j]); {
				case isMAC(l):
					macs = append(macs, j)
				case l != "" && l[0] != '#' && l[0] != ';':
					others = true
				}
			}
			for _, j := range macs {
				drop[j] = others
			}
		}
		i = end
	}
	var out strings.Builder
	for i, l := range lines {
		if !drop[i] {
			out.WriteString(l)
		}
	}
	return out.String()
}

var addressForm = regexp.MustCompile(`(?m)^\s*(?:(?:IPADDR\d*|Address|address\d*|address1)\s*=\s*['"]?|address\s+|-\s*['"]?)((?:\d{1,3}\.){3}\d{1,3})`)

// hasAddress reports whether network configuration gives a fixed IPv4 address,
// not of the loopback device.
func hasAddress(_ *survey, text string) bool {
	for _, m := range addressForm.FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(m[1], "127.") {
			return true
		}
	}
	return false
}

var userName = regexp.MustCompile(`^[a-z_][a-z0-9_.-]*\$?$`)

// sudoRule returns the users of a line of sudoers(5) that is a rule for plain
// users; ok is false for everything else: comments, includes, Defaults,
// aliases, groups, numbers, names of a directory.
func sudoRule(line string) (users []string, ok bool) {
	line = strings.TrimSpace(line)
	if line == "" || strings.ContainsAny(line[:1], "#@%+!\"") || strings.HasSuffix(line, `\`) || !strings.Contains(line, "=") {
		return nil, false
	}
	f := strings.Fields(line)
	list := f[0]
	for i := 1; i < len(f) && strings.HasSuffix(list, ","); i++ {
		list += f[i]
	}
	for u := range strings.SplitSeq(list, ",") {
		u = strings.ReplaceAll(u, `\`, "")
		if !userName.MatchString(u) {
			return nil, false
		}
		users = append(users, u)
	}
	return users, true
}

// withoutGoneSudoers removes the rules that name nobody but accounts that are
// gone.
func withoutGoneSudoers(s *survey, text string) string {
	continued := false
	next := keepLines(text, func(line string) bool {
		part := continued
		continued = strings.HasSuffix(line, `\`)
		users, ok := sudoRule(line)
		return part || !ok || slices.ContainsFunc(users, func(u string) bool { return !s.gone(u) })
	})
	if next != text && !hasLines(s, next) {
		return ""
	}
	return next
}

// goneSudoers reports whether a rule names an account that is gone, other than
// those that are removed.
func goneSudoers(s *survey, text string) bool {
	continued := false
	for line := range strings.Lines(text) {
		part := continued
		continued = strings.HasSuffix(strings.TrimSpace(line), `\`)
		users, ok := sudoRule(line)
		if ok && !part && slices.ContainsFunc(users, s.gone) {
			return true
		}
	}
	return false
}
