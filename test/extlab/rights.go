package extlab

import (
	"fmt"
	"io"
	"regexp"

	"github.com/azguest/azguest/test/sandbox"
)

// Messages of failures that root of a user namespace may cause.
var (
	noMount  = regexp.MustCompile(`(?i)\bmount\b.*(permission denied|not permitted|failed|must be superuser)|losetup|/dev/loop|mknod.*not permitted`)
	noOthers = regexp.MustCompile(`(?i)(chown|chgrp|setuid|setgid|setresuid|setgroups|cannot set groups|initgroups|useradd|install: cannot change owner).*(invalid argument|not permitted|failure|failed)|cannot set groups|cannot change owner|EINVAL.*chown`)
	noRights = regexp.MustCompile(`(?i)operation not permitted|permission denied|EPERM|EACCES|must be owned by uid 0|must be run as root|sudo: `)
	noInit   = regexp.MustCompile(`(?i)systemctl|booted with systemd|failed to connect to bus`)
)

// aboutRights prints what root on the machine can't do.
func aboutRights(r sandbox.Rights, out io.Writer) {
	switch r {
	case sandbox.Root:
	case sandbox.Ranged:
		fmt.Fprintln(out, "without root: in the sandbox, root is your user, with the ids from /etc/subuid; if the handler needs more rights, use sudo")
	case sandbox.Single:
		fmt.Fprintln(out, "without root: in the sandbox, root is your user, and there are no other users; if the handler needs more rights, use sudo, or add a range for you to /etc/subuid and /etc/subgid and install uidmap")
	}
}

// hint returns how missing rights may have caused the failure of a command;
// empty if its output shows no sign of that.
func hint(r sandbox.Rights, output string) string {
	const sudo = "; run it with sudo"
	switch {
	case noInit.MatchString(output):
		return "there is no systemd in the sandbox, even with sudo"
	case r == sandbox.Root:
		return ""
	case noMount.MatchString(output):
		return "the handler needs root: without it, only file systems such as tmpfs can be mounted, and devices cannot be created" + sudo
	case r == sandbox.Single && noOthers.MatchString(output):
		return "the handler needs root: without it, there is only one user, and files cannot be given to another user" + sudo + ", or add a range for you to /etc/subuid and /etc/subgid and install uidmap"
	case noRights.MatchString(output):
		return "the handler may need root: without it, files of the machine's root outside /etc and /var can be replaced but not written to" + sudo
	}
	return ""
}
