package generalize

// Act is what is done with data that belongs to one machine.
type Act string

const (
	Drop  Act = "remove" // it is made again, or nothing needs it
	Blank Act = "empty"  // the file stays, with owner and mode
	Amend Act = "edit"   // some lines of it are removed or replaced
	Keep  Act = "keep"   // an administrator has configured it, or only its own tool can remove it: it is only reported
)

// Harm is what happens if the data gets into an image. Stale is a note of
// [Verify], the others are faults of the image.
type Harm string

const (
	Secret Harm = "secret" // everybody who gets the image can read it
	Shared Harm = "shared" // the machines made from the image can't be told apart
	Breaks Harm = "breaks" // a machine made from the image may not start, or can't be reached
	Stale  Harm = "stale"  // it describes another machine, without consequences
)

// Group is a heading of the plan.
type Group string

const (
	Accounts      Group = "Accounts"
	Identity      Group = "Machine"
	Network       Group = "Network"
	Keys          Group = "SSH, TLS and Kerberos"
	Logs          Group = "Logs and caches"
	Storage       Group = "Storage"
	Subscriptions Group = "Subscriptions"
	Agents        Group = "Agents"
	Credentials   Group = "Credentials of users"
	Services      Group = "Services"
)

// An Entry is one kind of data that belongs to one machine and must not get
// into an image. [Table] has all of them.
type Entry struct {
	Name  string // stable: the code of a finding
	Group Group
	Act   Act
	// Paths are patterns of path.Match. "~/" is the home of root and of each
	// account of a person. {lib}, {log}, {ssh}, {sudoers} and {shadow} are paths
	// of the configuration.
	Paths []string
	Where string // in words, what find looks for
	// Tools are commands that remove the data. They are run before it is removed
	// here: the first that is installed and succeeds.
	Tools [][]string
	// Maker lists the units and programs that make the data again. If none of
	// them is installed, the data is kept and reported.
	Maker   []string
	Harm    Harm
	Returns bool   // running programs may write it again until the machine is off
	Why     string // why it must not get into an image
	Fix     string // what the author of the image can do, if it is kept
	Source  string // where this is documented, or who else does the same

	// match returns whether the content of a file is of this kind. nil: any.
	match func(s *survey, text string) bool
	// edit is the new content of a file (Amend). A file without anything but
	// comments is removed if the old one had more.
	edit func(s *survey, text string) string
	// find looks for data that has no fixed path, besides Paths.
	find func(s *survey) []item
}

// An item is one file, or one other thing, that a find function has found.
type item struct {
	path    string
	kind    Kind   // "": by Act
	keep    bool   // reported only
	content string // for Write
	why     string // "": of the entry
}

// Table is everything that is known to belong to one machine, in the order in
// which it is removed. Plan, Verify and provisioning/SPEC.md §14.2 are made of
// it.
func Table() []Entry {
	return concat(accountEntries(), machineEntries(), networkEntries(), keyEntries(), storageEntries(),
		subscriptionEntries(), agentEntries(), credentialEntries(), serviceEntries(), logEntries())
}

func concat(lists ...[]Entry) (out []Entry) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func accountEntries() []Entry {
	return []Entry{
		{
			Name: "provisioned-account", Where: "the provisioned accounts with their homes; with them `{sudoers}/90-cloud-init-users`, `azure-init-user` and `zzzz-azguest`", Group: Accounts, Act: Drop, Harm: Shared, find: provisionedAccounts,
			Why: "provisioned account", Source: "WALinuxAgent deprovision+user",
		},
		{
			Name: "sudo-rule", Group: Accounts, Act: Amend, Harm: Shared, edit: withoutGoneSudoers,
			Paths: []string{"{sudoers}/90-azguest-users", "{sudoers}/90-cloud-init-users", "{sudoers}/azure-init-user", "{sudoers}/waagent", "{sudoers}/zzzz-azguest"},
			Why:   "sudo rights of an account that does not exist", Source: "WALinuxAgent issue 631",
		},
		{
			Name: "sudo-rule-unknown", Where: "rules for plain names in `/etc/sudoers` and `{sudoers}/*`", Group: Accounts, Act: Keep, Harm: Shared, find: unknownSudoers,
			Why: "sudo rights of an account that does not exist: whoever gets the name has them", Fix: "remove the rule with visudo",
			Source: "WALinuxAgent issue 631",
		},
		{
			Name: "root-password", Where: "root in `{shadow}`, with `Provisioning.DeleteRootPassword=y`", Group: Accounts, Act: Drop, Harm: Shared, find: rootPassword,
			Why: "not used for logins", Source: "WALinuxAgent Provisioning.DeleteRootPassword",
		},
		{
			Name: "shadow-backup", Group: Accounts, Act: Drop, Harm: Secret, match: hasHash, find: afterDeletion("{shadow}-", "/etc/gshadow-"),
			Paths: []string{"{shadow}-", "/etc/gshadow-", "/var/backups/shadow.bak*", "/var/backups/gshadow.bak*"},
			Why:   "password hashes of removed accounts", Source: "virt-sysprep passwd-backups",
		},
		{
			Name: "account-backup", Group: Accounts, Act: Drop, Harm: Stale, find: afterDeletion("/etc/passwd-", "/etc/group-", "/etc/subuid-", "/etc/subgid-"),
			Paths: []string{"/etc/passwd-", "/etc/group-", "/etc/subuid-", "/etc/subgid-", "/var/backups/passwd.bak*", "/var/backups/group.bak*"},
			Why:   "entries of removed accounts", Source: "virt-sysprep passwd-backups",
		},
		{
			Name: "gone-account-state", Where: "`/var/lib/systemd/linger/*`, `/var/lib/AccountsService/users/*` and `icons/*` of such names", Group: Accounts, Act: Drop, Harm: Stale, find: stateOfGone,
			Why: "settings of an account that does not exist", Source: "loginctl(1), AccountsService",
		},
		{
			Name: "history", Group: Accounts, Act: Drop, Harm: Secret, Returns: true,
			Paths: []string{
				"~/.bash_history", "~/.zsh_history", "~/.ash_history", "~/.sh_history", "~/.ksh_history", "~/.history", "~/.histfile",
				"~/.local/share/fish/fish_history", "~/.local/share/powershell/PSReadLine/*", "~/.python_history", "~/.local/state/python_history",
				"~/.mysql_history", "~/.mariadb_history", "~/.psql_history", "~/.sqlite_history", "~/.rediscli_history", "~/.dbshell", "~/.mongosh/*history*",
				"~/.node_repl_history", "~/.irb_history", "~/.lesshst", "~/.viminfo", "~/.local/state/nvim/shada/*", "~/.wget-hsts", "~/.local/share/nano/*_history",
				"~/.local/state/bash_history", "~/.local/state/*/history", "~/.local/share/atuin/history.db*", "~/.local/share/mc/history",
			},
			Why: "history", Source: "virt-sysprep bash-history, zsh-history",
		},
		{
			Name: "login-failures", Group: Accounts, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/lib/faillock/*", "/var/log/tallylog", "/var/lib/pam_tally2/*", "/var/lib/sudo/ts/*", "/var/db/sudo/ts/*", "/var/lib/lastlog/lastlog2.db", "/var/lib/wtmpdb/wtmp.db"},
			Why:   "logins on this VM; an old record may lock an account", Source: "virt-sysprep pam-data, utmp",
		},
		{
			Name: "login-records", Group: Accounts, Act: Blank, Harm: Stale, Returns: true,
			Paths: []string{"/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog", "/var/log/faillog"},
			Why:   "logins on this VM; an old record may lock an account", Source: "virt-sysprep utmp, pam_lastlog(8)",
		},
		{
			Name: "nologin", Group: Accounts, Act: Keep, Harm: Breaks, Paths: []string{"/etc/nologin"},
			Why: "only root can log in", Fix: "rm /etc/nologin", Source: "pam_nologin(8)",
		},
		{
			Name: "jobs", Group: Accounts, Act: Keep, Harm: Stale, match: hasLines,
			Paths: []string{"/var/spool/cron/*", "/var/spool/cron/crontabs/*", "/var/spool/cron/tabs/*", "/var/spool/at/a*", "/var/spool/cron/atjobs/a*", "/var/spool/atjobs/a*"},
			Why:   "jobs that run on every VM of the image", Fix: "crontab -r -u NAME, atrm", Source: "virt-sysprep cron-spool",
		},
		{
			Name: "job-stamps", Group: Accounts, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/spool/anacron/*", "/var/lib/systemd/timers/stamp-*", "/var/lib/apt/periodic/*-stamp"},
			Why:   "when jobs ran on this VM", Source: "systemd.timer(5), anacron(8)",
		},
		{
			Name: "mail", Group: Accounts, Act: Keep, Harm: Stale, match: notBlank,
			Paths: []string{"/var/mail/*", "/var/spool/mail/*"},
			Why:   "mail of this VM", Fix: "delete it", Source: "virt-sysprep mail-spool",
		},
		{
			Name: "mail-queue", Group: Accounts, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/spool/postfix/maildrop/*", "/var/spool/postfix/deferred/*/*", "/var/spool/postfix/incoming/*", "/var/spool/postfix/active/*", "/var/spool/exim4/input/*", "/var/spool/exim4/msglog/*"},
			Why:   "every VM of the image would send it", Source: "virt-sysprep mail-spool",
		},
		{
			Name: "homed-key", Group: Accounts, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/systemd/home/local.private"},
			Why: "signs the home directories of every VM of the image", Fix: "without homed accounts: rm /var/lib/systemd/home/local.*", Source: "systemd-homed.service(8)",
		},
	}
}

func machineEntries() []Entry {
	return []Entry{
		{
			Name: "machine-id", Group: Identity, Act: Blank, Harm: Shared, match: isMachineID, Paths: []string{"/etc/machine-id"},
			Why: "must be different in each VM", Source: "machine-id(5), virt-sysprep machine-id",
		},
		{
			Name: "dbus-machine-id", Group: Identity, Act: Drop, Harm: Shared, find: dbusMachineID, Where: "`/var/lib/dbus/machine-id` if it is a regular file",
			Why: "must be different in each VM", Source: "systemd: Building Images Safely",
		},
		{
			Name: "random-seed", Group: Identity, Act: Drop, Harm: Shared, Returns: true,
			Paths: []string{
				"/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed", "/var/lib/random-seed", "/var/lib/seedrng/*",
				"/boot/loader/random-seed", "/efi/loader/random-seed", "/boot/efi/loader/random-seed",
			},
			Why: "must be different in each VM", Source: "systemd issue 4513, systemd: Building Images Safely, virt-sysprep random-seed",
		},
		{
			Name: "credential-secret", Group: Identity, Act: Drop, Harm: Shared, Paths: []string{"/var/lib/systemd/credential.secret"},
			Why: "must be different in each VM", Source: "systemd issue 23167",
		},
		{
			Name: "encrypted-credentials", Group: Identity, Act: Keep, Harm: Breaks, Paths: []string{"/etc/credstore.encrypted/*"},
			Why: "encrypted with a key of this VM, which its clones don't have", Fix: "deliver it at first boot", Source: "systemd-creds(1)",
		},
		{
			// Before the name: the lines are found by it.
			Name: "hosts-own-name", Group: Identity, Act: Amend, Harm: Shared, edit: withoutOwnName, Paths: []string{"/etc/hosts"},
			Why: "host name of this VM", Source: "hosts(5), Debian Reference 5.1.1",
		},
		{
			Name: "hosts-other", Group: Identity, Act: Keep, Harm: Shared, match: otherOwnHost, Paths: []string{"/etc/hosts"},
			Why: "a name for 127.0.1.1, which is the address of the machine's own name", Fix: "remove the line", Source: "Debian Reference 5.1.1",
		},
		{
			Name: "hostname", Where: "`/etc/hostname` and `/etc/HOSTNAME` become `localhost.localdomain`", Group: Identity, Act: Drop, Harm: Shared, find: hostNames,
			Why: "host name of this VM", Source: "WALinuxAgent deprovision, virt-sysprep net-hostname",
		},
		{
			Name: "hostname-setting", Group: Identity, Act: Amend, Harm: Shared,
			Paths: []string{"/etc/sysconfig/network", "/etc/conf.d/hostname", "/etc/machine-info"}, edit: dropKeys("HOSTNAME", "hostname", "PRETTY_HOSTNAME"),
			Why: "host name of this VM", Source: "virt-sysprep net-hostname, machine-info(5)",
		},
		{
			Name: "mail-name", Group: Identity, Act: Keep, Harm: Stale, match: hasOwnName,
			Paths: []string{"/etc/mailname", "/etc/postfix/main.cf", "/etc/exim4/update-exim4.conf.conf", "/etc/mail/local-host-names"},
			Why:   "mail is sent in the name of this VM", Fix: "set it at first boot", Source: "mailname(5)",
		},
		{
			Name: "host-id", Group: Identity, Act: Keep, Harm: Shared, Paths: []string{"/etc/hostid"},
			Why: "ZFS tells machines apart by it", Fix: "rm /etc/hostid; run zgenhostid at first boot", Source: "zgenhostid(8)",
		},
		{
			Name: "zpool-cache", Group: Identity, Act: Keep, Harm: Stale, Paths: []string{"/etc/zfs/zpool.cache"},
			Why: "pools of this VM", Fix: "zpool export, except the pool of the system", Source: "zpool(8)",
		},
		{
			Name: "boot-entries", Where: "`/boot/loader/entries/ID-*.conf` with a machine ID", Group: Identity, Act: Keep, Harm: Stale, find: oldBootEntries, Paths: []string{"/etc/kernel/entry-token"},
			Why: "named after the machine ID of this VM; updates of the kernel don't remove it", Fix: "kernel-install with a fixed entry token (kernel-install(8))", Source: "kernel-install(8)",
		},
		{
			Name: "boot-once", Group: Identity, Act: Keep, Harm: Breaks, match: lineMatches(`^next_entry=.+`),
			Paths: []string{"/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/efi/EFI/*/grubenv"},
			Why:   "the first boot of every VM takes another boot entry", Fix: "grub-editenv - unset next_entry", Source: "GRUB manual, grub-reboot",
		},
		{
			Name: "tpm", Group: Identity, Act: Keep, Harm: Breaks, match: notBlank,
			Paths: []string{"/var/lib/systemd/pcrlock.json", "/var/lib/systemd/tpm2-srk-public-key.*", "/etc/clevis/*.jwe"},
			Why:   "bound to the TPM of this VM", Fix: "enroll at first boot", Source: "systemd-pcrlock(8), systemd-cryptenroll(1)",
		},
		{
			Name: "memory-dumps", Group: Identity, Act: Drop, Harm: Secret, Returns: true,
			Paths: []string{
				"/var/lib/systemd/coredump/*", "/var/lib/systemd/pstore/*", "/var/crash/*", "/var/spool/abrt/*", "/var/tmp/abrt/*", "/var/lib/apport/coredump/*", "/core", "/core.[0-9]*",
			},
			Why: "memory of programs of this VM", Source: "virt-sysprep abrt-data, crash-data",
		},
		{
			Name: "swap-file", Group: Identity, Act: Keep, Harm: Secret, Paths: []string{"/swapfile*", "/swap.img", "/.swapfile", "/swap/swapfile*", "/var/swap", "/var/swapfile"},
			Why: "memory of programs of this VM", Fix: "swapoff, remove it and its line in /etc/fstab; the agent makes one on the resource disk (ResourceDisk.EnableSwap)", Source: "swapon(8)",
		},
		{
			Name: "agent-state", Group: Identity, Act: Drop, Harm: Secret, Returns: true, Paths: []string{"{lib}/*", "{lib}/.[!.]*", "/run/azguest/*"},
			Why: "state of this VM", Source: "WALinuxAgent deprovision",
		},
		{
			Name: "agent-sshd-settings", Where: "the agent's lines", Group: Identity, Act: Drop, Harm: Shared, find: sshdTraces,
			Why: "password authentication of this VM", Source: "provisioning/SPEC.md §7.9",
		},
		{
			Name: "kvp", Group: Identity, Act: Blank, Harm: Shared, Paths: []string{"/var/lib/hyperv/.kvp_pool_*"},
			Why: "KVP data of this VM", Source: "hv_kvp_daemon(8)",
		},
		{
			Name: "ignition-result", Group: Identity, Act: Drop, Harm: Breaks,
			Paths: []string{"/etc/.ignition-result.json", "/etc/ignition-machine-config-encapsulated.json*"},
			Why:   "a clone takes it as its own: nobody would provision it", Source: "Ignition, provisioning/SPEC.md §3.5",
		},
		{
			Name: "azure-init", Group: Identity, Act: Drop, Harm: Shared, Paths: []string{"/var/lib/azure-init/*"},
			Why: "marker of azure-init", Source: "azure-init",
		},
		{
			Name: "cloud-init", Where: "`/var/lib/cloud/` instance, instances, data, sem, handlers; `/var/log/cloud-init*.log`", Group: Identity, Act: Drop, Harm: Breaks, find: cloudInitState,
			Tools: [][]string{{"cloud-init", "clean", "--logs", "--configs", "all"}, {"cloud-init", "clean", "--logs"}},
			Why:   "state of cloud-init: it would not run on a new VM", Source: "cloud-init clean, WALinuxAgent issue 721",
		},
		{
			Name: "cloud-init-sshd", Group: Identity, Act: Drop, Harm: Shared, Paths: []string{"{ssh}/sshd_config.d/50-cloud-init.conf"},
			Why: "cloud-init's sshd settings for this VM", Source: "cloud-init clean --configs ssh_config",
		},
		{
			Name: "cloud-init-seed", Group: Identity, Act: Keep, Harm: Breaks, Paths: []string{"/var/lib/cloud/seed/*/*"},
			Why: "cloud-init takes it instead of the platform's data", Fix: "cloud-init clean --seed", Source: "cloud-init clean --seed",
		},
		{
			Name: "installer-config", Group: Identity, Act: Keep, Harm: Breaks,
			Paths: []string{"/etc/cloud/cloud.cfg.d/99-installer.cfg", "/etc/cloud/cloud.cfg.d/90-installer-network.cfg"},
			Why:   "the installer's account and network, and no data source: a clone is not provisioned", Fix: "remove the file", Source: "subiquity",
		},
		{
			Name: "cloud-config-password", Group: Identity, Act: Keep, Harm: Secret, match: hasHash,
			Paths: []string{"/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg"},
			Why:   "a password that every VM of the image has", Fix: "remove it", Source: "cloud-init users module",
		},
		{
			Name: "installer-logs", Group: Identity, Act: Drop, Harm: Secret,
			Paths: []string{"/root/anaconda-ks.cfg", "/root/original-ks.cfg", "/root/initial-setup-ks.cfg", "/root/autoinst.xml", "/root/inst-sys", "/var/log/anaconda", "/var/log/installer", "/var/log/YaST2/*", "/var/adm/autoinstall/*"},
			Why:   "the installer's answers, with passwords", Source: "virt-sysprep kickstart, logfiles",
		},
		{
			Name: "debconf-passwords", Group: Identity, Act: Keep, Harm: Secret, match: lineMatches(`^Value: .+`),
			Paths: []string{"/var/cache/debconf/passwords.dat"},
			Why:   "passwords of package configuration", Fix: "debconf-communicate purge, or truncate the file", Source: "debconf(7)",
		},
		{
			Name: "classic-agent-units", Group: Identity, Act: Drop, Harm: Stale,
			Paths: []string{
				"/etc/systemd/system/waagent-network-setup.service", "/usr/lib/systemd/system/waagent-network-setup.service", "/lib/systemd/system/waagent-network-setup.service",
				"/etc/systemd/system/azure-vmextensions*.slice", "/etc/systemd/system/*.service.d/11-Slice.conf", "/lib/systemd/system/*.service.d/11-Slice.conf",
			},
			Why: "units and limits that the classic agent has made on this VM", Source: "WALinuxAgent",
		},
	}
}

func networkEntries() []Entry {
	return []Entry{
		{
			Name: "dhcp-lease", Group: Network, Act: Drop, Harm: Shared, Returns: true,
			Paths: []string{
				"/var/lib/dhclient/*", "/var/lib/dhcp/*", "/var/lib/dhcpcd/*", "/var/db/dhclient.leases.*", "/var/lib/NetworkManager/*.lease",
				"/run/systemd/netif/leases/*", "/var/lib/systemd/network/*", "/var/lib/wicked/*", "/var/lib/dhcpv6/*",
			},
			Why: "DHCP lease", Source: "virt-sysprep dhcp-client-state",
		},
		{
			Name: "dhcp-identity", Group: Network, Act: Drop, Harm: Shared, Returns: true,
			Paths: []string{"/var/lib/NetworkManager/secret_key", "/etc/dhcpcd.duid", "/etc/dhcpcd.secret"},
			Why:   "DHCP identity of this VM", Source: "NetworkManager.conf(5) connection.stable-id, dhcpcd(8)",
		},
		{
			Name: "dhcp-identity-fixed", Group: Network, Act: Keep, Harm: Shared, match: lineMatches(`^\s*(DUIDRawData|IAID)\s*=\s*\S`),
			Paths: []string{"/etc/systemd/networkd.conf", "/etc/systemd/networkd.conf.d/*.conf", "/etc/systemd/network/*.network"},
			Why:   "two machines with this DHCP identity get one address", Fix: "remove the setting", Source: "networkd.conf(5)",
		},
		{
			Name: "dhcp-host-name", Group: Network, Act: Keep, Harm: Stale, match: lineMatches(`^\s*(send|supersede)\s+host-name\s+"`),
			Paths: []string{"/etc/dhcp/dhclient.conf", "/etc/dhclient.conf", "/etc/dhclient-*.conf", "/etc/dhcp/dhclient-*.conf"},
			Why:   "name servers get the name of this VM", Fix: "use gethostname()", Source: "dhclient.conf(5)",
		},
		{
			Name: "network-manager-state", Group: Network, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/lib/NetworkManager/timestamps", "/var/lib/NetworkManager/seen-bssids", "/var/lib/NetworkManager/NetworkManager.state", "/var/lib/bluetooth/*"},
			Why:   "connections of this VM", Source: "NetworkManager(8)",
		},
		{
			// 75-persistent-net-generator.rules and 80-net-setup-link.rules stay:
			// guides tell to mask the generator with a link to /dev/null.
			Name: "interface-names", Group: Network, Act: Drop, Harm: Breaks,
			Paths: []string{"/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/70-persistent-cd.rules", "/etc/udev/rules.d/85-persistent-net-cloud-init.rules"},
			Why:   "network interface names of this VM", Source: "virt-sysprep udev-persistent-net",
		},
		{
			Name: "cloud-init-network", Where: "netplan, NetworkManager, networkd and interfaces files of cloud-init, if it makes them again", Group: Network, Act: Drop, Harm: Breaks, find: cloudInitNetwork,
			Why: "cloud-init's network configuration for this VM", Source: "cloud-init clean --configs network, image-builder issue 645",
		},
		{
			Name: "ifcfg-mac", Group: Network, Act: Amend, Harm: Breaks, edit: dropKeys("HWADDR"),
			Paths: []string{"/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*"},
			Why:   "hardware address of this VM: a clone has no network", Source: "virt-sysprep net-hwaddr, WALinuxAgent issue 1065",
		},
		{
			Name: "ifcfg-host-name", Group: Network, Act: Amend, Harm: Shared, edit: dropKeys("DHCP_HOSTNAME", "DHCLIENT_HOSTNAME_OPTION_FIXED"),
			Paths: []string{"/etc/sysconfig/network-scripts/ifcfg-*"},
			Why:   "host name of this VM", Source: "WALinuxAgent set_dhcp_hostname",
		},
		{
			Name: "nmconnection-mac", Group: Network, Act: Amend, Harm: Breaks, edit: dropKeys("mac-address"),
			Paths: []string{"/etc/NetworkManager/system-connections/*.nmconnection", "/etc/NetworkManager/system-connections/[!.]*"},
			Why:   "hardware address of this VM: a clone has no network", Source: "virt-sysprep net-nmconn",
		},
		{
			Name: "networkd-mac", Group: Network, Act: Amend, Harm: Breaks, edit: withoutMatchMAC, Paths: []string{"/etc/systemd/network/*.network"},
			Why: "hardware address of this VM: a clone has no network", Source: "systemd.network(5)",
		},
		{
			Name: "network-mac", Group: Network, Act: Keep, Harm: Breaks, match: macStays,
			Paths: []string{
				"/etc/netplan/*.yaml", "/etc/netplan/*.yml", "/etc/systemd/network/*.network", "/etc/systemd/network/*.link", "/etc/systemd/network/*.netdev",
				"/etc/NetworkManager/system-connections/*", "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*",
				"/etc/network/interfaces", "/etc/network/interfaces.d/*", "/etc/iftab", "/etc/wicked/*.xml", "/etc/conf.d/net", "/etc/udev/rules.d/*net*.rules",
			},
			Why: "hardware address of one machine", Fix: "match by driver (hv_netvsc) or name", Source: "virt-sysprep net-hwaddr, netplan(5)",
		},
		{
			Name: "network-address", Group: Network, Act: Keep, Harm: Stale, match: hasAddress,
			Paths: []string{
				"/etc/netplan/*.yaml", "/etc/systemd/network/*.network", "/etc/NetworkManager/system-connections/*",
				"/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*", "/etc/network/interfaces", "/etc/network/interfaces.d/*",
			},
			Why: "fixed address: two clones can't be in one network", Fix: "use DHCP", Source: "virt-sysprep net-nmconn",
		},
		{
			Name: "network-secret", Group: Network, Act: Keep, Harm: Secret, match: lineMatches(`^\s*(psk|password|wep-key\d|leap-password|private-key-password|secret)\s*=\s*\S`),
			Paths: []string{"/etc/NetworkManager/system-connections/*", "/etc/wpa_supplicant/*.conf", "/etc/wpa_supplicant.conf"},
			Why:   "password of a network", Fix: "remove it", Source: "nm-settings-keyfile(5)",
		},
		{
			Name: "ppp-secret", Group: Network, Act: Keep, Harm: Secret, match: hasLines, Paths: []string{"/etc/ppp/*-secrets"},
			Why: "password of a network", Fix: "remove it", Source: "pppd(8)",
		},
		{
			Name: "proxy-password", Group: Network, Act: Keep, Harm: Secret, match: lineMatches(`^[^#]*://[^/\s:@'"]+:[^/\s@'"$]+@`),
			Paths: []string{
				"/etc/environment", "/etc/profile.d/*", "/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*", "/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/yum.conf", "/etc/yum.repos.d/*.repo",
				"/etc/dnf/dnf.conf", "/etc/zypp/repos.d/*.repo", "/etc/wgetrc", "/etc/curlrc", "/etc/pip.conf", "/etc/apk/repositories", "/etc/systemd/system/*.service.d/*.conf", "/etc/waagent.conf", "/etc/waagent.conf.d/*.conf",
				"~/.config/pip/pip.conf", "~/.pip/pip.conf", "~/.condarc", "~/.bundle/config", "~/.gitconfig", "~/.config/git/config", "/etc/gitconfig",
			},
			Why: "a password in an address", Fix: "remove it", Source: "environment(5), apt.conf(5)",
		},
		{
			Name: "resolv-conf", Where: "`/etc/resolv.conf` if it is a regular file", Group: Network, Act: Blank, Harm: Shared, Returns: true, find: resolvConf,
			Why: "name servers of this network", Source: "WALinuxAgent deprovision",
		},
		{
			Name: "bans", Group: Network, Act: Drop, Harm: Stale, Returns: true, Paths: []string{"/var/lib/fail2ban/fail2ban.sqlite3", "/var/db/sshguard/*"},
			Why: "addresses banned in this network", Source: "fail2ban-server(1)",
		},
		{
			Name: "dhcp-server", Group: Network, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/lib/dhcpd/*.leases", "/var/lib/kea/*.leases*", "/var/lib/misc/dnsmasq.leases", "/var/lib/dnsmasq/*.leases"},
			Why:   "leases that this VM has given", Source: "virt-sysprep dhcp-server-state",
		},
		{
			Name: "vpn-node", Group: Network, Act: Drop, Harm: Shared, Returns: true,
			Paths: []string{"/var/lib/tailscale/tailscaled.state*", "/var/lib/zerotier-one/identity.*", "/var/lib/zerotier-one/authtoken.secret"},
			Why:   "clones with one identity disconnect each other", Source: "tailscale issue 506, ZeroTier manual",
		},
		{
			Name: "vpn-key", Group: Network, Act: Keep, Harm: Secret,
			Paths: []string{
				"/etc/wireguard/*.conf", "/etc/wireguard/*.key", "/etc/openvpn/*.key", "/etc/openvpn/*/*.key", "/etc/ipsec.d/private/*", "/etc/swanctl/private/*", "/etc/swanctl/rsa/*", "/etc/swanctl/pkcs8/*",
				"/etc/netbird/config.json", "/var/lib/netbird/*.json", "/etc/cloudflared/*.json", "~/.cloudflared/*.json", "~/.cloudflared/cert.pem", "/etc/nebula/*.key", "/var/lib/cloudflare-warp/reg.json", "/etc/netclient/*",
			},
			Why: "key of this VM in a private network", Fix: "deliver it at first boot", Source: "wg(8), swanctl(8), openvpn(8)",
		},
		{
			Name: "ipsec-secret", Group: Network, Act: Keep, Harm: Secret, match: lineMatches(`^[^#\s][^#]*:\s*(PSK|RSA|ECDSA|EAP|XAUTH|PIN|P12)\b`),
			Paths: []string{"/etc/ipsec.secrets", "/etc/ipsec.d/*.secrets"},
			Why:   "secret of a private network", Fix: "deliver it at first boot", Source: "ipsec.secrets(5)",
		},
	}
}

func keyEntries() []Entry {
	return []Entry{
		{
			Name: "ssh-host-key", Returns: true, Where: "and what `HostKey` and `HostCertificate` name", Group: Keys, Act: Drop, Harm: Shared, Paths: []string{"{ssh}/ssh_host_*key*"}, find: hostKeysElsewhere,
			Why: "host key, must be different in each VM", Source: "sshd(8), WALinuxAgent Provisioning.RegenerateSshHostKeyPair",
		},
		{
			Name: "dropbear-host-key", Group: Keys, Act: Drop, Harm: Shared,
			Paths: []string{"/etc/dropbear/dropbear_*_host_key*", "/etc/tinyssh/sshkeydir/*"},
			Why:   "host key, must be different in each VM", Source: "dropbear(8), tinysshd-makekey(1)",
		},
		{
			Name: "initrd-host-key", Group: Keys, Act: Keep, Harm: Shared,
			Paths: []string{"/etc/dropbear-initramfs/*_host_key", "/etc/dropbear/initramfs/*_host_key", "/etc/ssh/dracut_ssh_host_*key"},
			Why:   "host key, must be different in each VM; the initrd has a copy of it", Fix: "remove it and rebuild the initrd, at first boot", Source: "dropbear-initramfs, dracut-sshd",
		},
		{
			Name: "authorized-keys", Where: "and what `AuthorizedKeysFile` names", Group: Keys, Act: Keep, Harm: Shared, match: hasLines, find: sharedKeyFiles,
			Paths: []string{"~/.ssh/authorized_keys", "~/.ssh/authorized_keys2", "{ssh}/authorized_keys", "{ssh}/authorized_keys.d/*", "{ssh}/authorized_keys/*", "{ssh}/keys/*", "/etc/skel/.ssh/authorized_keys", "/etc/dropbear/initramfs/authorized_keys", "/etc/dropbear/authorized_keys"},
			Why:   "allows logins to every VM of this image", Fix: "remove the keys", Source: "virt-sysprep ssh-userdir, AWS: shared Linux AMIs",
		},
		{
			Name: "ssh-user-key", Group: Keys, Act: Keep, Harm: Secret, match: func(_ *survey, text string) bool { return looksSecret([]byte(text)) },
			Paths: []string{"~/.ssh/*", "/etc/skel/.ssh/*"},
			Why:   "contains a private key", Fix: "remove it", Source: "virt-sysprep ssh-userdir",
		},
		{
			Name: "known-hosts", Group: Keys, Act: Drop, Harm: Stale, Paths: []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts.old"},
			Why: "hosts that were used from this VM", Source: "virt-sysprep ssh-userdir",
		},
		{
			Name: "snakeoil", Group: Keys, Act: Drop, Harm: Shared, Maker: []string{"/usr/lib/systemd/system/ssl-cert.service", "/lib/systemd/system/ssl-cert.service"},
			Paths: []string{"/etc/ssl/private/ssl-cert-snakeoil.key", "/etc/ssl/certs/ssl-cert-snakeoil.pem"},
			Why:   "certificate of this VM", Fix: "at first boot: make-ssl-cert generate-default-snakeoil --force-overwrite", Source: "make-ssl-cert(8)",
		},
		{
			Name: "httpd-localhost", Group: Keys, Act: Drop, Harm: Shared, Maker: []string{"/usr/lib/systemd/system/httpd-init.service"},
			Paths: []string{"/etc/pki/tls/private/localhost.key", "/etc/pki/tls/certs/localhost.crt"},
			Why:   "certificate of this VM", Fix: "make it at first boot (sscg)", Source: "httpd-init.service(8)",
		},
		{
			Name: "cockpit-certificate", Group: Keys, Act: Drop, Harm: Shared, Paths: []string{"/etc/cockpit/ws-certs.d/0-self-signed*"},
			Why: "certificate of this VM", Source: "cockpit-tls(8)",
		},
		{
			Name: "mail-certificate", Group: Keys, Act: Drop, Harm: Shared, Maker: []string{"/usr/lib/systemd/system/dovecot-init.service"},
			Paths: []string{"/etc/pki/dovecot/private/dovecot.pem", "/etc/pki/dovecot/certs/dovecot.pem"},
			Why:   "certificate of this VM", Fix: "make it at first boot", Source: "virt-sysprep dovecot-data",
		},
		{
			Name: "service-certificate", Group: Keys, Act: Keep, Harm: Shared,
			Paths: []string{"/etc/pki/tls/private/postfix.key", "/etc/dovecot/private/dovecot.pem", "/etc/webmin/miniserv.pem"},
			Why:   "certificate of this VM", Fix: "make it at first boot", Source: "virt-sysprep dovecot-data",
		},
		{
			Name: "acme", Group: Keys, Act: Keep, Harm: Secret,
			Paths: []string{"/etc/letsencrypt/accounts/*", "/etc/letsencrypt/live/*/*", "/etc/letsencrypt/archive/*", "~/.acme.sh/*/*.key", "~/.acme.sh/account.conf", "/var/lib/caddy/.local/share/caddy/acme/*", "/var/lib/caddy/.local/share/caddy/certificates/*"},
			Why:   "account and certificates of this VM", Fix: "certbot delete; register at first boot", Source: "certbot(1)",
		},
		{
			Name: "kerberos-cache", Group: Keys, Act: Drop, Harm: Secret, Returns: true, Paths: []string{"/tmp/krb5cc_*", "/var/lib/gssproxy/clients/*", "/var/lib/gssproxy/rcache/*"},
			Why: "tickets of users", Source: "virt-sysprep kerberos-data",
		},
		{
			Name: "keytab", Group: Keys, Act: Keep, Harm: Secret,
			Paths: []string{"/etc/*.keytab", "/etc/*/*.keytab", "/var/kerberos/krb5/user/*/*.keytab", "/var/lib/samba/private/*.keytab"},
			Why:   "key of this machine in a realm", Fix: "realm leave, or remove it", Source: "virt-sysprep kerberos-hostkeytab",
		},
		{
			Name: "sssd-cache", Group: Keys, Act: Drop, Harm: Secret, Returns: true,
			Paths: []string{"/var/lib/sss/db/*", "/var/lib/sss/mc/*", "/var/lib/sss/secrets/*", "/var/lib/sss/gpo_cache/*"},
			Why:   "cached accounts, with password hashes", Source: "virt-sysprep sssd-db-log",
		},
		{
			Name: "sssd-password", Group: Keys, Act: Keep, Harm: Secret, match: lineMatches(`^\s*ldap_default_authtok\s*=\s*\S`), Paths: []string{"/etc/sssd/sssd.conf", "/etc/sssd/conf.d/*.conf"},
			Why: "password of a directory", Fix: "deliver it at first boot", Source: "sssd-ldap(5)",
		},
		{
			Name: "samba-membership", Group: Keys, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/samba/private/secrets.tdb", "/var/lib/samba/private/*.ldb", "/etc/samba/*.SID"},
			Why: "account of this machine in a domain", Fix: "realm leave, or net ads leave", Source: "virt-sysprep samba-db-log",
		},
		{
			Name: "ipa-membership", Group: Keys, Act: Keep, Harm: Shared, Paths: []string{"/etc/ipa/default.conf", "/var/lib/ipa-client/sysrestore/*"},
			Why: "account of this machine in a domain", Fix: "ipa-client-install --uninstall", Source: "virt-sysprep ipa-client",
		},
		{
			Name: "certmonger", Group: Keys, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/certmonger/requests/*"},
			Why: "certificates of this machine", Fix: "getcert stop-tracking", Source: "getcert(1)",
		},
		{
			Name: "gnupg", Group: Keys, Act: Keep, Harm: Secret, Paths: []string{"~/.gnupg/private-keys-v1.d/*", "~/.gnupg/secring.gpg", "/etc/pacman.d/gnupg/private-keys-v1.d/*"},
			Why: "private keys", Fix: "remove them", Source: "gpg(1)",
		},
		{
			Name: "gnupg-seed", Group: Keys, Act: Drop, Harm: Shared, Paths: []string{"~/.gnupg/random_seed"},
			Why: "must be different in each VM", Source: "gpg(1)",
		},
	}
}

func storageEntries() []Entry {
	return []Entry{
		{
			Name: "fstab-cloud-init", Group: Storage, Act: Amend, Harm: Breaks, edit: withoutCloudConfig, Paths: []string{"/etc/fstab"},
			Why: "cloud-init's line for a disk of this VM", Source: "cloud-init mounts module, issues 2705 and 2892",
		},
		{
			Name: "fstab-user-data", Group: Storage, Act: Amend, Harm: Breaks, edit: withoutDataMounts, Paths: []string{"/etc/fstab"},
			Why: "mounts of this VM's user data", Source: "DESIGN.md, decision 142",
		},
		{
			Name: "fstab-disk", Group: Storage, Act: Keep, Harm: Breaks, match: needsDisk, Paths: []string{"/etc/fstab"},
			Why: "a disk that a clone does not have: it stops in emergency mode", Fix: "remove the line, or add nofail", Source: "fstab(5), systemd.mount(5)",
		},
		{
			Name: "crypttab", Group: Storage, Act: Keep, Harm: Breaks, match: lineMatches(`^\s*[^#\s]+\s+(UUID=|/dev/disk/azure/|\S+\s+\S+\s+\S*tpm2-device=)`), Paths: []string{"/etc/crypttab"},
			Why: "a disk or TPM that a clone does not have", Fix: "remove the line, or add nofail", Source: "crypttab(5)",
		},
		{
			Name: "disk-key", Group: Storage, Act: Keep, Harm: Secret, Paths: []string{"/etc/cryptsetup-keys.d/*", "/etc/ceph/*.keyring", "/var/lib/ceph/osd/*/keyring"},
			Why: "key of a disk", Fix: "remove it", Source: "crypttab(5), ceph-authtool(8)",
		},
		{
			Name: "lvm-devices", Group: Storage, Act: Drop, Harm: Breaks, Paths: []string{"/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*"},
			Why: "disks of this VM: a clone does not find its volumes", Source: "lvmdevices(8), virt-sysprep lvm-system-devices",
		},
		{
			Name: "lvm-archive", Group: Storage, Act: Drop, Harm: Stale, Paths: []string{"/etc/lvm/archive/*", "/etc/lvm/cache/*"},
			Why: "history of the volumes of this VM", Source: "vgcfgbackup(8)",
		},
		{
			Name: "multipath", Group: Storage, Act: Drop, Harm: Shared, Paths: []string{"/etc/multipath/wwids", "/etc/multipath/bindings", "/etc/multipath/prkeys"},
			Why: "disks of this VM", Source: "multipath(8)",
		},
		{
			Name: "iscsi-initiator", Where: "`/etc/iscsi/initiatorname.iscsi`; becomes `GenerateName=yes` where Debian's start script makes a name", Group: Storage, Act: Drop, Harm: Shared, find: iscsiInitiator,
			Why: "iSCSI initiator name: a target can't tell the clones apart, and disks get corrupted", Source: "iscsi-iname(8), open-iscsi README",
		},
		{
			Name: "iscsi-target", Group: Storage, Act: Keep, Harm: Breaks,
			Paths: []string{"/var/lib/iscsi/nodes/*", "/var/lib/iscsi/send_targets/*", "/etc/iscsi/nodes/*", "/etc/iscsi/send_targets/*"},
			Why:   "disks that every clone connects to", Fix: "iscsiadm -m node -o delete", Source: "iscsiadm(8)",
		},
		{
			Name: "iscsi-password", Group: Storage, Act: Keep, Harm: Secret, match: lineMatches(`^\s*\S*\.auth\.password\S*\s*=\s*\S`), Paths: []string{"/etc/iscsi/iscsid.conf"},
			Why: "password of a disk", Fix: "remove it", Source: "iscsid(8)",
		},
		{
			Name: "nvme-host-id", Group: Storage, Act: Drop, Harm: Shared,
			Paths: []string{"/etc/nvme/hostnqn", "/etc/nvme/hostid", "/usr/etc/nvme/hostnqn", "/usr/etc/nvme/hostid"},
			Why:   "NVMe host identity: a target can't tell the clones apart", Source: "nvme-gen-hostnqn(1), metal-images issue 359, agama issue 2174",
		},
		{
			Name: "nvme-config", Group: Storage, Act: Keep, Harm: Shared, match: lineMatches(`hostnqn|hostid|dhchap_key|-q\s|-I\s`), Paths: []string{"/etc/nvme/config.json", "/etc/nvme/discovery.conf"},
			Why: "NVMe host identity or key", Fix: "remove it", Source: "nvme-connect-all(1)",
		},
		{
			Name: "mdadm", Group: Storage, Act: Keep, Harm: Stale, match: lineMatches(`^\s*(ARRAY\s|HOMEHOST\s+[^<\s])`), Paths: []string{"/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"},
			Why: "arrays of this VM", Fix: "remove the lines and rebuild the initrd", Source: "mdadm.conf(5)",
		},
		{
			Name: "blkid-cache", Group: Storage, Act: Drop, Harm: Stale, Paths: []string{"/etc/blkid.tab", "/etc/blkid.tab.old"},
			Why: "disks of this VM", Source: "virt-sysprep blkid-tab",
		},
		{
			Name: "nfs-state", Group: Storage, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/lib/nfs/statd/sm/*", "/var/lib/nfs/statd/sm.bak/*", "/var/lib/nfs/sm/*", "/var/lib/nfs/v4recovery/*"},
			Why:   "NFS servers and clients of this VM", Source: "rpc.statd(8)",
		},
		{
			Name: "nfs-client-id", Group: Storage, Act: Keep, Harm: Shared, match: lineMatches(`^[^#]*nfs4_unique_id=\S`), Paths: []string{"/etc/modprobe.d/*.conf"},
			Why: "a server takes the clones for one client", Fix: "set it at first boot", Source: "kernel.org: NFSv4 client identifier",
		},
		{
			Name: "share-credentials", Group: Storage, Act: Keep, Harm: Secret, match: lineMatches(`(?i)^\s*pass(word)?\s*=\s*\S`),
			Paths: []string{"/etc/smbcredentials/*", "/etc/samba/*cred*", "/etc/cifs*", "~/.smbcredentials", "/etc/davfs2/secrets"},
			Why:   "password of a file share", Fix: "deliver it at first boot", Source: "mount.cifs(8)",
		},
		{
			Name: "resume", Group: Storage, Act: Keep, Harm: Stale, match: lineMatches(`^\s*RESUME=(UUID=|/dev/)`), Paths: []string{"/etc/initramfs-tools/conf.d/resume"},
			Why: "swap of this VM: a clone waits for it at boot", Fix: "RESUME=none, and rebuild the initrd", Source: "initramfs.conf(5)",
		},
	}
}
