package host

import "os"

// BaseEnvironment is what every program that the agent starts finds in its
// environment: handlers, custom data, tools of the machine. It does not depend
// on how the agent was started; under a service manager the agent itself has
// none of the variables of a log-in. PATH names the sbin directories, where
// account tools and handlers' tools are. HOME, USER, LOGNAME and SHELL are
// those of the agent's account (environ(7)), as sudo and cron set them:
// scripts with "set -u", and programs that write below $HOME, fail without
// them.
func (r Root) BaseEnvironment() []string {
	me := Account{Name: "root", Home: "/root", Shell: "/bin/sh"}
	if all, err := r.Accounts(); err == nil {
		for _, a := range all {
			if a.UID == os.Geteuid() { // the first one, as getpwuid(3)
				me = a
				break
			}
		}
	}
	if me.Home == "" {
		me.Home = "/"
	}
	if me.Shell == "" {
		me.Shell = "/bin/sh" // passwd(5)
	}
	return []string{
		"PATH=" + DefaultPath, "LANG=C.UTF-8",
		"HOME=" + me.Home, "USER=" + me.Name, "LOGNAME=" + me.Name, "SHELL=" + me.Shell,
	}
}
