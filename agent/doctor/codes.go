package doctor

import (
	"slices"
	"strings"
)

// A Code is what `agentctl explain` prints.
type Code struct {
	Code    string `json:"code"`
	Meaning string `json:"meaning"` // one sentence
	Cause   string `json:"cause"`
	Fix     string `json:"fix"`
}

// Lookup finds a code; case and the leading AZ- do not matter.
func Lookup(code string) (Code, bool) {
	code = strings.ToUpper(strings.TrimSpace(code))
	if !strings.HasPrefix(code, "AZ-") {
		code = "AZ-" + code
	}
	all := Codes()
	if i := slices.IndexFunc(all, func(c Code) bool { return c.Code == code }); i >= 0 {
		return all[i], true
	}
	return Code{}, false
}

// Codes returns the table of all codes, by area.
func Codes() []Code {
	return []Code{
		// The process.
		{"AZ-AGENT-DOWN", "The agent is not running.", "It was stopped, crashed or was never started.", "systemctl start azguest; journalctl -u azguest -b shows why it stopped"},
		{"AZ-AGENT-HUNG", "The agent process runs but has not written its status for three minutes, or it was restarted because a part of it did not respond.", "A file system that does not respond (NFS, a failing disk), a stopped process, or a bug in the agent.", "systemctl restart azguest (extensions keep running); report it with the output of: agentctl doctor --output json"},
		{"AZ-AGENT-CRASHLOOP", "The agent has restarted several times since boot.", "It exits soon after each start.", "journalctl -u azguest -b; upgrade the package, or set AutoUpdate.Mode=distro to return to the packaged version"},
		{"AZ-AGENT-MASKED", "The agent's unit is masked, so it cannot start.", "azguest.service is linked to /dev/null (systemctl mask).", "systemctl unmask azguest && systemctl start azguest"},
		{"AZ-AGENT-DISABLED", "The agent is disabled on this machine.", "The file disable_agent exists in Lib.Dir; some images create it, and so does a VM created without an agent.", "remove <Lib.Dir>/disable_agent, then: systemctl restart azguest"},
		{"AZ-AGENT-OLDBINARY", "The running agent is not the version on disk.", "The package was upgraded and the agent was not restarted yet, for example because an extension is running.", "systemctl restart azguest"},
		{"AZ-AGENT-OTHER", "Another guest agent runs or is enabled on this machine.", "WALinuxAgent is still installed. Two agents overwrite each other's status and run extensions twice.", "systemctl disable --now walinuxagent waagent, or remove the package"},
		{"AZ-AGENT-TWICE", "A second agent was started while one is running.", "Another process holds the lock file.", "no action needed; agentctl status shows the process id of the running agent"},
		{"AZ-AGENT-FAULT", "An operation of the agent failed because of a bug; the rest of the agent keeps running.", "Unexpected input triggered a bug.", "report it with the stack trace in /var/log/waagent.log; upgrade azguest if a newer version is available"},
		{"AZ-AGENT-PART", "A part of the agent does not run; it is restarted at least once a minute, and the other parts keep running.", "A file or directory that it needs is missing, has the wrong type or cannot be used, or there is a bug in the agent.", "agentctl status shows the part and the reason; agentctl doctor"},
		{"AZ-AGENT-STATE", "A state file of the agent could not be used and was set aside.", "A failing disk, a power failure, or a change by another program. The agent continues as if the file did not exist.", "check the file that agentctl status names, then remove it"},
		{"AZ-AGENT-SNAPSHOT", "The status file cannot be read.", "It is damaged, was written by a newer version, or its directory is not readable.", "install the same version of agentctl and azguest; systemctl restart azguest writes the file again"},

		// Provisioning.
		{"AZ-PROV-CLOUDINIT", "Another provisioning agent did not finish.", "cloud-init, azure-init or Ignition crashed or exited without provisioning.", "cloud-init status --long; cloud-init collect-logs"},
		{"AZ-PROV-MEDIA", "The provisioning medium was not found or cannot be read.", "No DVD is attached, the medium has no valid UDF or ISO 9660 file system, or the drive is faulty.", "agentctl logs; set Provisioning.Media to the device or to a directory; set Provisioning.Agent=disabled for images without provisioning"},
		{"AZ-PROV-INPUT", "The provisioning document is not valid.", "ovf-env.xml is damaged, incomplete or contradictory.", "agentctl status shows the element; create the VM again"},
		{"AZ-PROV-NOUSER", "The provisioning document names no account that a person can log in to.", "ovf-env.xml has no UserName, or neither a password nor a key for it, and the instance metadata do not have them either.", "agentctl logs; create the VM with a user name and a password or SSH key; for machines without an account set Provisioning.Mode=ready-only"},
		{"AZ-PROV-ID", "The VM ID cannot be read.", "/sys/class/dmi/id/product_uuid is missing or not readable.", "ls -l /sys/class/dmi/id/product_uuid; in a container, mount /sys"},
		{"AZ-PROV-STATE", "The agent's state could not be written.", "Lib.Dir is full, read-only or not a directory.", "agentctl doctor"},
		{"AZ-PROV-READONLY", "/etc cannot be written.", "The image is immutable, or the file system was remounted read-only after an error.", "dmesg; on immutable images provision with cloud-init or Ignition (Provisioning.Agent)"},
		{"AZ-PROV-USERNAME", "The user name is not allowed.", "It is reserved, too long, or contains characters that are not allowed on Linux.", "create the VM with another user name"},
		{"AZ-PROV-KEYPAIR", "A key pair of the provisioning document could not be installed.", "Its certificate was not delivered, or the path is not writable.", "agentctl certs"},
		{"AZ-PROV-ROOT", "The root password could not be locked.", "/etc/shadow is not writable, or another program held its lock (/etc/.pwd.lock) for 15 s.", "passwd -l root"},
		{"AZ-PROV-COPY", "The redacted copy of the provisioning document could not be written.", "Lib.Dir is full or read-only.", "agentctl doctor; provisioning is not affected"},
		{"AZ-PROV-MARKER", "The marker for completed provisioning could not be written.", "Lib.Dir is full or read-only. Without it, the next boot provisions again.", "agentctl doctor"},
		{"AZ-PROV-OWNER", "Another program is responsible for provisioning and failed or did not start.", "cloud-init, azure-init or Ignition is enabled, but exited with an error or was not started.", "cloud-init status --long; set Provisioning.Agent=waagent to provision with this agent"},
		{"AZ-PROV-PPS", "The pre-provisioned VM could not be provisioned for its owner.", "The pre-provisioning service did not send the final provisioning document.", "agentctl logs; create the VM again"},
		{"AZ-PROV-INTERNAL", "Provisioning failed for a reason without a specific code.", "Usually a bug in the agent.", "agentctl logs; report it with the log"},
		{"AZ-PROV-USER", "The user could not be created or changed.", "The name is reserved, belongs to a system account, or useradd failed.", "agentctl logs shows the output of useradd; for system accounts see Provisioning.AllowResetSysUser"},
		{"AZ-PROV-PASSWORD", "The password could not be set.", "chpasswd or PAM rejected it, or /etc/shadow is not writable.", "agentctl logs; reset the password through the control plane"},
		{"AZ-PROV-SUDO", "The sudo rule was rejected.", "visudo found an error in the drop-in, or OS.SudoersDir is not included by /etc/sudoers.", "visudo -c"},
		{"AZ-PROV-KEYS", "The SSH keys could not be installed.", "A key is not valid, or the home directory is not writable.", "agentctl logs shows the key"},
		{"AZ-PROV-SSHD", "The change to the sshd configuration was rolled back.", "sshd -T rejected the configuration with the agent's change.", "sshd -t shows the error; usually the file already had an error"},
		{"AZ-PROV-HOSTKEYS", "New SSH host keys could not be generated.", "OS.SshDir is not writable, or the type in Provisioning.SshHostKeyPairType is not supported.", "set Provisioning.SshHostKeyPairType=auto"},
		{"AZ-PROV-HOSTNAME", "The host name could not be set.", "The name is not valid or /etc/hostname is not writable.", "agentctl logs"},
		{"AZ-PROV-PROXYAGENT", "The guest proxy agent does not work.", "The VM is configured to use it, but azure-proxy-agent is not installed or does not start.", "systemctl status azure-proxy-agent; use an image that includes it"},
		{"AZ-PROV-CUSTOMDATA", "Custom data could not be stored or run.", "It cannot be decoded, the script failed, or it is a cloud-config or a MIME message and UserData.Apply=n.", "check <Lib.Dir>/CustomData and: agentctl logs; agentctl data check <Lib.Dir>/CustomData says whether UserData.Apply=y could carry it out"},
		{"AZ-PROV-DISK", "The temporary disk or its swap could not be prepared.", "It is missing, it contains data that the agent must not delete, or mkfs or mount failed; the kernel may not support ResourceDisk.Filesystem.", "agentctl status shows which; set ResourceDisk.Filesystem=ext4; a disk with data is not changed: mount it with /etc/fstab"},
		{"AZ-PROV-TIMEOUT", "Provisioning took longer than the platform allows.", "A step or the provisioning medium was slow.", "agentctl status shows how long each step took"},
		// What user data and vendor data say (package userdata).
		{"AZ-DATA-FORM", "The user data or vendor data has a form that is not supported.", "A form that only cloud-init knows (#include, #cloud-boothook, a template), a part of an unknown type, or a first line that is misspelt. Nothing was run, or the vendor's document was left out.", "agentctl data status shows the part; agentctl data check FILE before creating the VM again"},
		{"AZ-DATA-SYNTAX", "The user data or vendor data is damaged.", "It is not valid YAML, MIME, gzip or base64, or was cut off.", "agentctl data status shows the part and line; agentctl data check FILE"},
		{"AZ-DATA-LIMIT", "The user data or vendor data is too large or too deeply nested.", "A document of more than 4 MiB, one that unpacks to more than 8 MiB, or aliases that multiply.", "agentctl data status; make it smaller, or fetch large files in a script"},
		{"AZ-DATA-KEY", "The cloud-config has a key that is not supported.", "Only a subset of cloud-config is supported, and everything else is refused before anything runs.", "agentctl data status shows every key and line; provision with cloud-init (Provisioning.Agent), or use a script"},
		{"AZ-DATA-VALUE", "The cloud-config has a value that is not allowed.", "A wrong type, a name that is not valid, or a value that must be in quotes.", "agentctl data status shows the line and the reason; agentctl data check FILE"},
		{"AZ-DATA-FETCH", "User data or vendor data could not be read.", "The metadata service did not answer, or a file in /usr/lib/azguest/vendor-data.d is not readable, or others than root can change it.", "agentctl data status names the file; agentctl doctor network. A service that did not answer is asked again at the next start of the agent"},
		{"AZ-DATA-SCRIPT", "A script or commands of the user data failed.", "It ended with an exit code other than 0, ran out of time (UserData.ScriptTimeout), or was interrupted by a reboot; it is not run again.", "agentctl data status shows where its output is"},
		{"AZ-DATA-STATE", "The state of the user data could not be read or written.", "Lib.Dir is full or read-only, or its files were changed.", "agentctl doctor"},
		{"AZ-DATA-STEP", "A part of the user data could not be carried out.", "The program that does it on this machine failed.", "agentctl data status shows the reason"},
		{"AZ-DATA-FILE", "A file of write_files could not be written.", "Its owner or group does not exist (yet), its directory cannot be written, or its path goes through a link that a user could have made.", "agentctl data status shows the file; for files of users that the same data makes, set defer: true"},
		{"AZ-DATA-HOSTNAME", "The host name of the user data could not be set, or /etc/hosts not written.", "The name is not valid, or /etc/hostname or /etc/hosts is not writable.", "agentctl data status; correct hostname or fqdn"},
		{"AZ-DATA-MOUNT", "A mount of the user data could not be added or mounted.", "The device does not exist, has no file system of this type, or is in /etc/fstab already.", "agentctl data status shows the entry; lsblk -f; findmnt --verify"},
		{"AZ-DATA-GROUP", "A group could not be made, or a member not added.", "The name is not valid for groupadd, or the member does not exist: groups are made before users.", "name the group in groups of the user instead; agentctl data status"},
		{"AZ-DATA-USER", "A user of the user data could not be made or changed as it says.", "The name or uid is taken, useradd failed, or the account exists already and keeps its settings.", "agentctl data status shows the user and the reason"},
		{"AZ-DATA-SUDO", "The sudo rule of a user was not written.", "visudo rejected it, or the user does not exist.", "agentctl data status; correct sudo of the user (sudoers(5), without the name)"},
		{"AZ-DATA-KEYS", "Keys of ssh_authorized_keys could not be installed.", "A key is not valid, or the user does not exist or has no home directory.", "agentctl data status shows the key by its number"},
		{"AZ-DATA-TIMEZONE", "The time zone could not be set.", "It is not in /usr/share/zoneinfo (package tzdata), or /etc/localtime is not writable.", "timedatectl list-timezones; install tzdata"},
		{"AZ-DATA-NTP", "The program that keeps the time could not be configured.", "It is not installed and could not be, or its configuration was not accepted.", "agentctl data status; systemctl status chrony systemd-timesyncd"},
		{"AZ-DATA-PACKAGES", "Packages could not be installed, updated or upgraded.", "A package does not exist, no repository can be reached, or another program held the lock of the package manager.", "agentctl data status shows the output; the same command can be run by hand"},
		{"AZ-VM-CLONED", "The machine was provisioned with another VM ID.", "The disk was copied from another machine without deprovisioning.", "run waagent -deprovision+user before capturing an image; a machine that has a provisioning medium is provisioned again at the next start of the agent"},

		// Whether the person for whom the machine was made can get in.
		{"AZ-LOGIN-NAME", "The name of the machine's user is no account, or means two.", "/etc/nsswitch.conf does not read /etc/passwd, or a directory service has the same name.", "getent passwd USER; put files first in the line passwd: of /etc/nsswitch.conf"},
		{"AZ-LOGIN-ACCOUNT", "The account has expired or is closed.", "The image sets a date of expiry or closes accounts with old passwords.", "chage -E -1 -I -1 USER"},
		{"AZ-LOGIN-CHANGE", "The password must be changed before a log-in, now or soon.", "The image sets an age of passwords, which also applies to users who log in with a key and have none.", "chage -d \"$(date +%F)\" USER, and for a user without a password: chage -M -1 USER"},
		{"AZ-LOGIN-LOCKED", "The account is locked, or no password matches.", "It was locked in the image or after failures (faillock), or it has no password.", "passwd USER, usermod -p '*' USER or faillock --user USER --reset; agentctl status has the one that helps"},
		{"AZ-LOGIN-SHELL", "The user's shell does not run a command.", "It is nologin or false, was removed, or a start-up file ends it.", "usermod -s /bin/sh USER; or mend ~/.bashrc, /etc/bash.bashrc"},
		{"AZ-LOGIN-DENIED", "The SSH server does not let this user in.", "AllowUsers, AllowGroups, DenyUsers, DenyGroups or PermitRootLogin of the image; or /etc/hosts.deny.", "agentctl status names the line; usermod -aG GROUP USER, or change it"},
		{"AZ-LOGIN-METHOD", "The SSH server does not accept the way of logging in that the VM was made with.", "PubkeyAuthentication, PasswordAuthentication or AuthenticationMethods of the image, perhaps in a Match block.", "sshd -T -C user=USER,host=h,addr=203.0.113.1,laddr=10.0.0.4,lport=22 shows the values"},
		{"AZ-LOGIN-KEYTYPE", "The SSH server does not accept this kind of key.", "PubkeyAcceptedAlgorithms, RequiredRSASize or a policy of cryptography (FIPS).", "create the VM with another key: ssh-keygen -t ecdsa"},
		{"AZ-LOGIN-KEYFILE", "The SSH server does not find the key, or refuses its file.", "AuthorizedKeysFile names another file, the user cannot read it, or others can write to it or to the home (StrictModes).", "agentctl status names the file and what is wrong with it"},
		{"AZ-LOGIN-REVOKED", "The key is revoked, or the list of revoked keys is missing or damaged, so that keys are refused.", "RevokedKeys names a file that the image does not have, that is no list, or that has the key.", "for a missing file: install -m 600 /dev/null FILE; for a revoked key: another key"},
		{"AZ-LOGIN-SESSION", "A log-in gets no shell, or not as usual.", "ForceCommand, ChrootDirectory, PermitTTY, MaxSessions, or command= in front of the key.", "agentctl status names the setting"},
		{"AZ-LOGIN-PAM", "A module of PAM refuses log-ins, or may.", "access.conf, a list of users, a second factor or a module that is missing.", "agentctl status names the line"},
		{"AZ-LOGIN-NOLOGIN", "The machine refuses all users but root.", "/etc/nologin was left in the image, or the boot has not come to systemd-user-sessions.service.", "rm /etc/nologin; systemctl list-jobs"},
		{"AZ-LOGIN-ROOT", "The user cannot become root.", "sudo is missing, is not setuid, does not read the rule, or another rule decides.", "as root: sudo -l -U USER; visudo -c"},
		{"AZ-LOGIN-SERVER", "No SSH server listens, or it closes every connection.", "It is not installed, not enabled, masked or does not start; or no host key fits HostKeyAlgorithms.", "systemctl enable --now ssh.service or sshd.service; journalctl -u ssh -u sshd"},
		{"AZ-LOGIN-SSHD", "The SSH server refuses its configuration.", "A line of sshd_config is not valid; the running server may still use an older one.", "sshd -t"},
		{"AZ-LOGIN-REFUSED", "The SSH server refuses the user's key, for a reason that is not known.", "An option of the key, a list of revoked keys or a policy.", "set LogLevel DEBUG1 in sshd_config, reload sshd, try again; journalctl -u ssh -u sshd"},
		{"AZ-LOGIN-NONE", "Nobody can log in with what the VM was made with.", "Every way is shut; the other findings say why.", "reset the access with VMAccess, or use run-command or the serial console"},

		// The connection to the platform.
		{"AZ-NET-NOROUTE", "There is no route to the platform address.", "No interface is up, or DHCP gave no default route.", "ip route get 168.63.129.16; networkctl status"},
		{"AZ-NET-WIRESERVER", "The WireServer (168.63.129.16:80) does not answer.", "A firewall rule on this machine drops the traffic, a proxy intercepts it, or the host is busy.", "run nft list ruleset and iptables -t security -S as root; allow root to connect to 168.63.129.16 on ports 80 and 32526"},
		{"AZ-NET-HOSTPLUGIN", "The HostGAPlugin (168.63.129.16:32526) does not answer, but the WireServer does.", "A firewall rule allows only port 80.", "allow root to connect to 168.63.129.16 on port 32526"},
		{"AZ-NET-IMDS", "The metadata service (169.254.169.254) does not answer.", "A firewall rule, a proxy setting, or a wrong route for 169.254.0.0/16.", "ip route get 169.254.169.254"},
		{"AZ-META-FILE", "The instance metadata could not be written for other programs.", "/run is full or read-only, or something else has the name of the file.", "ls -l /run/azguest; agentctl metadata asks the service itself and still works"},
		{"AZ-NET-STORAGE", "Storage cannot be reached directly or through the host.", "There is no outbound connection, and the host channel failed too.", "agentctl status shows both errors; set Download.Order=host to work without an outbound connection"},
		{"AZ-NET-PROXY", "The configured proxy does not work.", "HttpProxy.Host or the environment names a proxy that refuses connections or does not exist.", "agentctl config show --origin HttpProxy; the platform addresses never use a proxy"},
		{"AZ-NET-TLS", "The certificate of a server is not trusted on this machine.", "A proxy intercepts TLS connections, or the list of certificate authorities is outdated.", "install the CA certificate of the proxy, or update the package ca-certificates"},
		{"AZ-NET-DNS", "Names cannot be resolved.", "/etc/resolv.conf is empty, or its name server does not answer.", "resolvectl status; downloads through the host (Download.Order=host) need no DNS"},
		{"AZ-NET-LEASE", "The machine lost its address when its DHCP lease was renewed.", "The DHCP server did not answer, or it assigned another address and the network manager did not apply it.", "networkctl status or nmcli device show; set Provisioning.MonitorHostName=n to never renew the lease"},
		{"AZ-NET-BUSY", "A platform service answers with errors.", "The host is busy or under maintenance, or this VM was moved.", "no action needed, the agent retries; if it persists, redeploy the VM"},
		{"AZ-NET-ENDPOINT", "The endpoint from DHCP is not a WireServer.", "DHCP option 245 names a machine that does not speak the WireServer protocol.", "no action needed, the agent tries the other addresses as well; set Protocol.EndpointDiscovery=static to send no DHCP request"},

		// Answers of the platform.
		{"AZ-PLAT-REJECTED", "The platform did not accept the status report.", "It answered with a 4xx status: the URL of the status blob is outdated, or the report is not valid.", "agentctl status shows the answer; the report is sent again with the next goal state"},
		{"AZ-PLAT-GOALSTATE", "The goal state cannot be read.", "The platform sent a document that the agent does not understand, or parts of it are missing.", "agentctl logs shows the document; the agent fetches it again"},
		{"AZ-PLAT-FEATURE", "The platform requires a feature that this agent does not support.", "The goal state lists an unknown required feature; the agent reports error 2001.", "upgrade azguest"},

		// Extensions.
		{"AZ-EXT-DOWNLOAD", "The package of an extension could not be downloaded.", "All URLs in the goal state failed (platform code 1001).", "agentctl logs EXTENSION; agentctl retry EXTENSION"},
		{"AZ-EXT-PACKAGE", "The package of an extension is not valid.", "It is not a zip file, it is too large, or it contains paths outside its directory.", "agentctl retry EXTENSION downloads it again; if it persists, contact the publisher"},
		{"AZ-EXT-MANIFEST", "HandlerManifest.json is missing or not valid.", "The package is faulty (platform codes 1002, 1003).", "contact the publisher of the extension"},
		{"AZ-EXT-EXIT", "A command of the extension failed.", "It exited with a non-zero exit code (platform codes 1007 to 1010).", "agentctl logs EXTENSION"},
		{"AZ-EXT-TIMEOUT", "A command of the extension timed out and was killed.", "It ran longer than its timeout (platform code 1011).", "agentctl logs EXTENSION shows the last output; agentctl retry EXTENSION"},
		{"AZ-EXT-OVERDUE", "A command of the extension timed out, and its supervisor did not kill it.", "The command or another program stopped, froze or killed the supervisor; the agent kills both some seconds after the deadline (platform code 1011).", "agentctl logs EXTENSION; ask the publisher which other processes the command stops or kills"},
		{"AZ-EXT-CANCELLED", "An operator cancelled the extension.", "Someone ran agentctl ext cancel.", "agentctl retry EXTENSION"},
		{"AZ-EXT-SIGNAL", "A command of the extension was killed by a signal.", "The machine ran out of memory (signal 9), or a user or program killed it.", "journalctl -k | grep -i oom"},
		{"AZ-EXT-REPORTED", "The extension reported that it failed.", "The status in its status file is error; the message comes from the extension.", "agentctl ext show EXTENSION; agentctl logs EXTENSION"},
		{"AZ-EXT-STATUS", "The extension's status file is not valid.", "It is not JSON, or required fields are missing (platform code 1012).", "check the file in the extension's status directory; contact the publisher"},
		{"AZ-EXT-LIMBO", "The extension reports no final status, and none of its processes runs.", "Its process exited without writing a final status, or wrote none within 30 minutes. The error goes away when it writes one.", "agentctl logs EXTENSION; agentctl retry EXTENSION"},
		{"AZ-EXT-UNRESPONSIVE", "The extension's heartbeat is overdue.", "The handler's manifest declares a heartbeat, but it has not written one for ten minutes.", "agentctl logs EXTENSION"},
		{"AZ-EXT-BLOCKED", "The extension waits for another extension that failed.", "It depends on that extension.", "agentctl status shows the failed extension; fix that one first"},
		{"AZ-EXT-SETTINGS", "The settings that the platform sent for the extension cannot be used.", "They are missing, ambiguous or for another version; the message has the details.", "deploy the extension again through the control plane"},
		{"AZ-EXT-DISABLED", "Extensions are disabled on this machine.", "Extensions.Enabled=n, or Extensions.Mode is not on.", "agentctl config show --origin Extensions"},
		{"AZ-EXT-LOGDIR", "Users other than root can write to the log folder of an extension, so the agent writes its own log lines elsewhere.", "The extension gave the folder to its service account, or /var/log/azure is not owned by root.", "agentctl logs EXTENSION shows the lines; chown root: FOLDER && chmod go-w FOLDER if the extension does not need write access"},
		{"AZ-EXT-OOM", "The kernel killed a command of the extension because the machine or its memory limit ran out of memory.", "The machine has too little memory, or a limit is too low.", "journalctl -k | grep -i oom; agentctl ext show EXTENSION shows its limits"},
		{"AZ-EXT-LOST", "A command of the extension was interrupted, and its result is unknown.", "The machine rebooted or the command was killed while it ran.", "agentctl retry EXTENSION"},
		{"AZ-EXT-NOTSTARTED", "A command of the extension could not be started.", "The system had no memory or process slots left, or denied permission.", "agentctl ext show EXTENSION"},
		{"AZ-EXT-NOFILE", "A command in the manifest names a file that the package does not contain.", "The package is faulty.", "contact the publisher of the extension"},
		{"AZ-EXT-NOEXEC", "Extensions are unpacked on a file system mounted noexec.", "A hardened image mounts /var or /var/lib with noexec.", "set Extensions.ExecDir=/opt/azguest in /etc/waagent.conf.d/exec.conf, then: systemctl restart azguest"},
		{"AZ-EXT-ARCH", "A program of the extension is built for another CPU architecture.", "The package has no build for this architecture.", "ask the publisher for a build, or use a VM with a supported architecture"},
		{"AZ-EXT-CRLF", "A script of the extension has Windows line endings.", "The first line ends with a carriage return, so the interpreter is not found.", "contact the publisher; for your own script, run: dos2unix FILE"},
		{"AZ-EXT-INTERPRETER", "The extension needs an interpreter that is not installed.", "Usually python3 or bash is not installed.", "agentctl ext show EXTENSION names what to install"},
		{"AZ-EXT-NOTEXEC", "A command of the extension is not executable.", "The file has no execute permission (exit code 126).", "agentctl logs EXTENSION"},
		{"AZ-EXT-NOTFOUND", "A command that the extension calls is not installed.", "The shell did not find the command (exit code 127).", "agentctl logs EXTENSION names what to install"},
		{"AZ-EXT-LIBRARY", "A program of the extension needs a shared library that is not installed.", "The publisher did not build it for this distribution or version.", "agentctl ext show EXTENSION names what to install"},
		{"AZ-EXT-DISK", "The disk was full while the extension ran.", "A command failed with: no space left on device.", "free disk space (df -h), then: agentctl retry EXTENSION"},
		{"AZ-EXT-PKGLOCK", "The package manager was locked while the extension ran.", "cloud-init, unattended-upgrades or another extension held the lock.", "agentctl retry EXTENSION; set Extensions.After=final to wait for cloud-init"},
		{"AZ-EXT-SELINUX", "SELinux probably prevented the extension from running.", "SELinux is enforcing and denied the execution of a program.", "ausearch -m avc -ts recent"},
		{"AZ-EXT-UNSUPPORTED", "The extension reported that it does not support this system.", "It exited with code 51.", "check the extension's documentation for supported distributions"},
		{"AZ-EXT-DEPENDENCY", "The extension reported that a dependency is missing.", "It exited with code 52.", "agentctl logs EXTENSION shows the missing dependency"},
		{"AZ-EXEC-NOEXEC", "Extensions are unpacked on a file system mounted noexec.", "A hardened image mounts /var or /var/lib with noexec.", "set Extensions.ExecDir=/opt/azguest in /etc/waagent.conf.d/exec.conf, then: systemctl restart azguest"},

		// Policy, certificates, firewall.
		{"AZ-POL-DENIED", "The extension policy does not allow an extension.", "It is not in the policy file (Policy.PolicyFilePath), or a rule denies it.", "agentctl policy explain EXTENSION; add it to the policy file, or remove the extension through the control plane"},
		{"AZ-POL-INVALID", "The policy file is not valid; no extension is allowed until it is fixed.", "It is not JSON, or has an unsupported version.", "agentctl logs shows the error"},
		{"AZ-POL-OFF", "An extension policy exists but is not enforced.", "Extensions.PolicyMode or Debug.EnableExtensionPolicy disables it.", "agentctl config show --origin; remove that setting or the policy file"},
		{"AZ-POL-NOFILE", "The configured extension policy does not exist; every extension is allowed.", "The file was not created, or Policy.PolicyFilePath names the wrong file.", "create the policy file, or correct Policy.PolicyFilePath"},
		{"AZ-POL-SIGNATURE", "A package does not have the signature that the policy requires.", "It has no signature, it is damaged, or the authority of its signer is not trusted on this machine.", "agentctl policy explain EXTENSION; if you trust the publisher, add its CA certificate to /etc/azguest/trust.d"},
		{"AZ-CERT-MISSING", "A certificate that the goal state references was not delivered.", "The platform sent no certificate with this thumbprint.", "agentctl certs; check the Key Vault reference of the VM"},
		{"AZ-CERT-NOKEY", "A certificate came without its private key.", "The key vault contains only the certificate.", "agentctl certs; import the certificate with its key"},
		{"AZ-CERT-FETCH", "The certificates could not be fetched from the platform.", "The platform answered with an error or did not answer; the error is shown with the code.", "no action needed, the agent retries; if it persists: agentctl doctor"},
		{"AZ-CERT-DECRYPT", "The certificates cannot be decrypted.", "They were encrypted for another transport certificate, or with an unknown cipher.", "systemctl restart azguest creates a new transport certificate"},
		{"AZ-FW-APPLY", "The firewall rules could not be set.", "The kernel has no nf_tables, or the agent is not allowed to change it (container).", "agentctl status shows the error; set OS.EnableFirewall=n to disable the firewall"},
		{"AZ-FW-OFF", "The firewall is disabled: every local user can reach the platform address and read the VM's secrets.", "OS.EnableFirewall=n is set.", "remove OS.EnableFirewall=n from the configuration, then: systemctl restart azguest"},
		{"AZ-FW-REVERTED", "The firewall rules blocked the agent's own connections and were removed.", "The kernel does not attribute the agent's connections to root (user namespace), or another rule interferes.", "agentctl doctor network; set OS.EnableFirewall=n to disable the rules"},
		{"AZ-FW-SELFTEST", "Unprivileged users can reach the platform address although the firewall rules are set.", "Another rule takes precedence.", "nft list ruleset"},
		{"AZ-FW-DRIFT", "The agent's firewall rules were removed or changed.", "Another firewall manager reloaded its rules; the agent restored its own.", "nft list table ip azguest"},
		{"AZ-FW-BLOCKED", "A firewall rule on this machine blocks root's connections to the platform.", "A rule of the administrator or of another agent, such as one that drops INVALID packets.", "iptables -t security -S; nft list ruleset"},

		// The machine.
		{"AZ-DISK-LOW", "The disk is almost full.", "The agent's file system has less than 64 MiB free, or less than 5% and 2 GiB.", "agentctl disk --free deletes expendable files of the agent; otherwise free disk space"},
		{"AZ-DISK-FULL", "The disk is full.", "Less than 4 MiB are free for the agent's files.", "agentctl disk --free, then free disk space; the agent keeps reporting status"},
		{"AZ-DISK-INODES", "The file system has few or no inodes left.", "There are too many small files.", "df -i; delete files"},
		{"AZ-DISK-READONLY", "The agent's directory is on a read-only file system.", "The kernel remounted it read-only after an error, or the image is immutable.", "dmesg; on immutable images set Lib.Dir to a writable directory"},
		{"AZ-DISK-BUDGET", "The agent's files exceed their disk budget.", "Active extensions have large files.", "agentctl disk"},
		{"AZ-DISK-PERM", "Users other than root can change the agent's directory.", "It is not owned by root, or it is writable by group or others.", "chown root:root DIR && chmod go-w DIR"},
		{"AZ-CG-MISSING", "Control groups are not available; extensions run without resource limits.", "The machine is a container, or the kernel does not support them.", "no action needed; resource limits are not enforced"},
		{"AZ-CG-THROTTLED", "A command of the extension was throttled by its CPU limit.", "The manifest of the extension sets resourceLimits, or its slice has a CPUQuota.", "agentctl ext show EXTENSION shows the limit and the throttled time; no action needed unless the command timed out"},
		{"AZ-CLOCK-SKEW", "The clock differs from the platform's by more than five minutes.", "There is no time source, or the machine was suspended.", "chronyc makestep, or timedatectl set-ntp true"},
		{"AZ-CLOCK-BACK", "The clock was set back: the last status has a time in the future.", "The hardware clock is wrong, or the machine was restored from a snapshot.", "timedatectl"},
		{"AZ-CONF-UNKNOWN", "The configuration has an unknown key or a line without effect.", "A typo, or an option of another agent.", "agentctl config check"},
		{"AZ-CONF-VALUE", "A value in the configuration is not valid; the default is used.", "A typo.", "agentctl config check"},
		{"AZ-CONF-READ", "A configuration file cannot be read.", "Its permissions do not allow it, or it is not a regular file.", "agentctl config check"},

		// fabric ext, for authors of extensions.
		{"AZ-LAB-ROOT", "The sandbox needs root privileges.", "The user is not root, or the container is not privileged.", "run it with sudo, or the container with docker run --privileged"},
		{"AZ-LAB-USERNS", "The sandbox needs root or user namespaces, and this machine does not allow unprivileged user namespaces.", "A sysctl, AppArmor (Ubuntu 24.04) or the seccomp filter of a container forbids them; the message says which.", "follow the message, or run it with sudo"},
		{"AZ-LAB-OVERLAY", "The kernel does not allow an overlay mount of the root file system in a user namespace.", "Linux is older than 5.11, AppArmor forbids it, or a container hides parts of /proc.", "follow the message, or run it with sudo"},

		// Scripts for events.
		{"AZ-HOOK-FILE", "A script in /etc/azguest/hooks.d was not run, because it is not safe to run it.", "The file or a directory above it can be changed by users other than root, the file is not a regular one, its name has unusual characters, or there are too many files.", "azguest hooks list shows the reason; chown root: FILE && chmod go-w FILE, or rename or remove it"},
		{"AZ-HOOK-FAILED", "A script for an event failed, was ended at its time limit, or could not be started.", "The script exited with a status other than 0, took longer than Hooks.Timeout, or the event began before.", "agentctl events show RUN shows its output; azguest hooks run HOOK tries it"},
		{"AZ-HOOK-LOST", "A script for an event was interrupted; its result is not known, and it is not repeated.", "The machine was restarted, or the script and its supervisor were killed while it ran.", "agentctl events show RUN shows its output so far; azguest hooks run HOOK runs it again"},
		{"AZ-HOOK-UNIT", "Shutdown scripts will not be run.", "azguest-shutdown.service could not be started: the agent was not installed as a package, or the unit is masked.", "systemctl status azguest-shutdown; systemctl unmask azguest-shutdown"},
		{"AZ-EVENT-SERVICE", "Scheduled events of the platform cannot be read.", "The metadata service does not answer, has no scheduled events, or its answer is not valid. Scripts for them are not run.", "agentctl doctor network; set Hooks.Enabled=n if the platform has no scheduled events"},
		{"AZ-EVENT-DOCUMENT", "A part of the platform's scheduled events cannot be used; the other events count.", "An event has no valid id, type or status, or there are too many.", "agentctl status shows what is wrong"},
		{"AZ-EVENT-ACK", "A scheduled event could not be acknowledged; it starts at its own time.", "The metadata service refused the request, or did not answer.", "agentctl events; agentctl events approve EVENT"},

		// Updates, telemetry and control of the agent.
		{"AZ-UPD-ROLLBACK", "An update of the agent was rolled back.", "The new version did not report status in time.", "no action needed; this version is not tried again"},
		{"AZ-UPD-FAILED", "An update of the agent could not be prepared.", "The download or a check of the package failed.", "agentctl status"},
		{"AZ-UPD-FOREIGN", "An update package is not a package of this agent.", "The platform offers another agent in this agent family, or the package is damaged.", "no action needed; set AutoUpdate.Mode=distro to stop checking for updates"},
		{"AZ-UPD-REFUSED", "A requested version of the agent was refused.", "It is older than the installed version, the request is incomplete, or the package contains another version.", "agentctl status shows the reason; check AutoUpdate.Mode and AutoUpdate.Pin"},
		{"AZ-UPD-UNSIGNED", "An update of the agent was refused because of its signature.", "The package has no signature, its signer is not trusted, or it was changed.", "check the certificates in AutoUpdate.TrustRoots; set AutoUpdate.Mode=distro to leave updates to the package manager"},
		{"AZ-TEL-DROPPED", "Telemetry events were dropped.", "The platform did not accept them, and the spool was full.", "no action needed; if the platform does not answer: agentctl doctor network"},
		{"AZ-CTL-DENIED", "Only root may use this command.", "A user other than root used the control socket.", "sudo agentctl …"},
		{"AZ-CTL-UNKNOWN", "The agent does not know this request or this extension.", "agentctl and azguest have different versions, or the name is wrong.", "agentctl ext list"},
	}
}
