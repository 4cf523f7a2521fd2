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

// Codes is the table, sorted by area as written here.
func Codes() []Code {
	return []Code{
		// The process.
		{"AZ-AGENT-DOWN", "The agent is not running.", "It was stopped, it crashed, or it was never started.", "systemctl start azguest; journalctl -u azguest -b shows why it ended"},
		{"AZ-AGENT-HUNG", "The agent's process lives but has not written its status for three minutes, or a part of it did not come round and it was started again.", "A file system that does not answer (NFS, a failing disk), a stopped process, or a defect of ours.", "systemctl restart azguest (extensions go on running); please report it with: agentctl doctor --output json"},
		{"AZ-AGENT-CRASHLOOP", "The agent was restarted several times since boot.", "It ends by itself soon after each start.", "journalctl -u azguest -b; a package upgrade or AutoUpdate.Mode=distro brings back a version that worked"},
		{"AZ-AGENT-MASKED", "The unit of the agent is masked, so it cannot start.", "Somebody linked azguest.service to /dev/null.", "systemctl unmask azguest && systemctl start azguest"},
		{"AZ-AGENT-DISABLED", "The agent was told to do nothing on this machine.", "The file disable_agent is in Lib.Dir; cloud-init's documentation and some images make it.", "remove <Lib.Dir>/disable_agent and restart azguest"},
		{"AZ-AGENT-OLDBINARY", "The running agent is not the one on the disk.", "The package was upgraded and the agent not restarted, or an extension runs and the restart waits for it.", "systemctl restart azguest"},
		{"AZ-AGENT-OTHER", "Another guest agent runs or is enabled on this machine.", "WALinuxAgent is still installed. Two agents overwrite each other's reports and run extensions twice.", "systemctl disable --now walinuxagent waagent, or remove that package"},
		{"AZ-AGENT-TWICE", "A second agent was started while one is running.", "The lock file is held by another process.", "use the one that runs; agentctl status shows its process id"},
		{"AZ-AGENT-FAULT", "One piece of work met a defect of the agent; the rest goes on.", "A document or an extension that nobody had thought of.", "please report it with the stack in /var/log/waagent.log; a newer version may know better"},
		{"AZ-AGENT-PART", "One part of the agent does not run; the others go on, and it is tried again at least once a minute.", "A file or a directory that it needs is missing, of another kind or not to be used, or a defect of ours.", "agentctl status names the part and the reason; agentctl doctor"},
		{"AZ-AGENT-STATE", "A file of the agent's own state could not be used and was set aside.", "A failing disk, a power cut, or somebody else's hand. The agent goes on as if there were none.", "look at the file that agentctl status names, then remove it"},
		{"AZ-AGENT-SNAPSHOT", "The status file cannot be read.", "It is damaged, belongs to a newer version, or the directory is not readable.", "upgrade agentctl together with azguest; systemctl restart azguest writes the file anew"},

		// Provisioning.
		{"AZ-PROV-CLOUDINIT", "Another provisioner did not finish.", "cloud-init, azure-init or Ignition crashed or ended without provisioning.", "cloud-init status --long; cloud-init collect-logs"},
		{"AZ-PROV-MEDIA", "The provisioning medium was not found or cannot be read.", "No DVD is attached, the kernel knows neither udf nor iso9660 and the reader found no valid file system, or the drive is broken.", "agentctl logs; set Provisioning.Media to the device or a directory; for images without provisioning set Provisioning.Agent=disabled"},
		{"AZ-PROV-INPUT", "The provisioning document is not valid.", "ovf-env.xml is damaged, lacks something it must have, or contradicts itself.", "agentctl status names the element; create the machine again"},
		{"AZ-PROV-ID", "The id of the machine cannot be read.", "/sys/class/dmi/id/product_uuid is missing or not readable.", "ls -l /sys/class/dmi/id/product_uuid; in a container, mount /sys"},
		{"AZ-PROV-STATE", "The agent's own state could not be written.", "Lib.Dir is full, read-only or not a directory.", "agentctl doctor"},
		{"AZ-PROV-READONLY", "/etc cannot be written.", "An immutable image, or the file system was remounted read-only after an error.", "dmesg; on immutable images let cloud-init or ignition provision (Provisioning.Agent)"},
		{"AZ-PROV-USERNAME", "The user name is not allowed.", "It is reserved, too long, or holds characters that Linux does not take.", "create the machine with another name"},
		{"AZ-PROV-KEYPAIR", "A key pair of the provisioning document could not be installed.", "Its certificate was not delivered, or the path is not writable.", "agentctl certs"},
		{"AZ-PROV-ROOT", "The password of root could not be locked.", "usermod failed or /etc/shadow is not writable.", "passwd -l root"},
		{"AZ-PROV-COPY", "The redacted copy of the provisioning document could not be written.", "Lib.Dir is full or read-only.", "agentctl doctor; nothing else depends on it"},
		{"AZ-PROV-MARKER", "The marker that provisioning is done could not be written.", "Lib.Dir is full or read-only. Without it, the next boot provisions again.", "agentctl doctor"},
		{"AZ-PROV-OWNER", "Another program is responsible for provisioning and failed or never came.", "cloud-init, azure-init or ignition is enabled, and ended with an error or was not started.", "cloud-init status --long; Provisioning.Agent=waagent lets this agent do it"},
		{"AZ-PROV-PPS", "The machine waited in a pool and could not be handed over.", "The pre-provisioning service did not send the final document.", "agentctl logs; create the machine again"},
		{"AZ-PROV-INTERNAL", "Provisioning failed for a reason that has no code of its own.", "Usually a defect of ours.", "agentctl logs; please report it"},
		{"AZ-PROV-USER", "The user could not be created or changed.", "The name is reserved, belongs to a system account, or useradd failed.", "agentctl logs shows the answer of useradd; for system accounts see Provisioning.AllowResetSysUser"},
		{"AZ-PROV-PASSWORD", "The password could not be set.", "chpasswd or PAM refused it, or /etc/shadow is not writable.", "agentctl logs; use the control plane to reset the password"},
		{"AZ-PROV-SUDO", "The sudo rule was not accepted.", "visudo found an error in the drop-in, or OS.SudoersDir is not included by /etc/sudoers.", "visudo -c"},
		{"AZ-PROV-KEYS", "The ssh keys could not be installed.", "A key is not valid, or the home directory is not writable.", "agentctl logs names the key"},
		{"AZ-PROV-SSHD", "The configuration of sshd was rolled back.", "sshd -t refused it with our change.", "sshd -t; usually the file was broken before"},
		{"AZ-PROV-HOSTKEYS", "New ssh host keys could not be made.", "ssh-keygen failed or the type in Provisioning.SshHostKeyPairType is not supported here.", "set Provisioning.SshHostKeyPairType=auto"},
		{"AZ-PROV-HOSTNAME", "The host name could not be set.", "The name is not valid or /etc/hostname is not writable.", "agentctl logs"},
		{"AZ-PROV-PROXYAGENT", "The guest proxy agent does not work.", "The order for this VM has it, and the image has no azure-proxy-agent or it does not start.", "systemctl status azure-proxy-agent; use an image that has it"},
		{"AZ-PROV-CUSTOMDATA", "Custom data could not be stored or run.", "It does not decode, or the script ended with an error.", "look at <Lib.Dir>/CustomData and agentctl logs"},
		{"AZ-PROV-DISK", "The temporary disk or its swap could not be prepared.", "It is missing, it holds data that is not ours to destroy, or mkfs or mount failed; ResourceDisk.Filesystem may not be supported by the kernel.", "agentctl status says which; set ResourceDisk.Filesystem=ext4; a disk with data stays as it is: mount it by /etc/fstab"},
		{"AZ-PROV-TIMEOUT", "Provisioning took longer than the platform waits.", "A step or the medium was slow.", "agentctl status shows how long each step took"},
		{"AZ-VM-CLONED", "The machine was provisioned under another VM id.", "The disk was copied from another machine without deprovisioning.", "waagent -deprovision+user before taking an image; on this machine the next start provisions again"},

		// The way to the platform.
		{"AZ-NET-NOROUTE", "There is no route to the platform's address.", "No interface is up, or DHCP gave no default route.", "ip route get 168.63.129.16; networkctl status"},
		{"AZ-NET-WIRESERVER", "The WireServer (168.63.129.16:80) does not answer.", "A firewall rule on this machine drops the traffic, a proxy catches it, or the host is busy.", "nft list ruleset and iptables -t security -S as root; let root reach 168.63.129.16 on ports 80 and 32526"},
		{"AZ-NET-HOSTPLUGIN", "The HostGAPlugin (168.63.129.16:32526) does not answer, the WireServer does.", "A firewall rule lets only port 80 through.", "let root reach 168.63.129.16 on port 32526"},
		{"AZ-NET-IMDS", "The metadata service (169.254.169.254) does not answer.", "A firewall rule or a proxy setting; a route for 169.254.0.0/16 to somewhere else.", "ip route get 169.254.169.254"},
		{"AZ-NET-STORAGE", "Storage can be reached neither directly nor through the host.", "No outbound connection, and the host channel failed as well.", "agentctl status shows both errors; Download.Order=host needs no outbound connection"},
		{"AZ-NET-PROXY", "A proxy is set that does not work.", "HttpProxy.Host or the environment names a proxy that refuses or is not there.", "agentctl config show --origin; the platform's own addresses are never sent to a proxy"},
		{"AZ-NET-TLS", "The certificate of a server is not trusted.", "Something on the way opens TLS connections, or the list of authorities is old.", "install the authority of the proxy, or update ca-certificates"},
		{"AZ-NET-DNS", "Names cannot be resolved.", "/etc/resolv.conf is empty or the server in it does not answer.", "resolvectl status; the host channel needs no DNS"},
		{"AZ-NET-LEASE", "The machine lost its address when its DHCP lease was renewed.", "The DHCP server did not answer, or gave another address and the manager of the interface has not set it.", "networkctl status or nmcli device show; Provisioning.MonitorHostName=n leaves the lease alone"},
		{"AZ-NET-BUSY", "A service of the platform answers, but with errors.", "The host is busy, under maintenance, or this machine was moved.", "nothing on this machine: it is asked again; if it stays, redeploy the machine"},
		{"AZ-NET-ENDPOINT", "The endpoint from DHCP is not a platform.", "Option 245 names a machine that does not speak the protocol.", "the fixed address is tried next; Protocol.EndpointDiscovery=static skips DHCP"},

		// What the platform says.
		{"AZ-PLAT-REJECTED", "The platform did not accept our status report.", "It answered with a 4xx: the status blob's address is stale or the report is not valid.", "agentctl status shows the answer; it is sent again with the next goal state"},
		{"AZ-PLAT-GOALSTATE", "The goal state cannot be read.", "The platform sent a document we do not understand, or parts of it are missing.", "agentctl logs names the document; it is fetched again by itself"},
		{"AZ-PLAT-FEATURE", "The platform requires a feature this agent does not have.", "The goal state lists a required feature we do not know; it is answered with error 2001.", "upgrade azguest"},

		// Extensions.
		{"AZ-EXT-DOWNLOAD", "The package of an extension could not be downloaded.", "All addresses in the goal state failed (platform code 1001).", "agentctl logs EXTENSION; agentctl retry EXTENSION"},
		{"AZ-EXT-PACKAGE", "The package of an extension is not valid.", "It is not a zip, it is too large, or it names files outside its directory.", "tell its publisher; agentctl retry EXTENSION downloads it again"},
		{"AZ-EXT-MANIFEST", "HandlerManifest.json is missing or not valid.", "A defect of the package (platform codes 1002, 1003).", "tell its publisher"},
		{"AZ-EXT-EXIT", "A command of the extension ended with an error.", "Its exit code is not zero (platform codes 1007 to 1010).", "agentctl logs EXTENSION"},
		{"AZ-EXT-TIMEOUT", "A command of the extension did not end in time and was killed.", "Platform code 1011.", "agentctl logs EXTENSION shows the last output; agentctl retry EXTENSION"},
		{"AZ-EXT-OVERDUE", "A command of the extension did not end in time, nor did its supervisor end it.", "The command or somebody else has stopped, frozen or killed the supervisor; the agent ends both some seconds after the deadline (platform code 1011).", "agentctl logs EXTENSION; ask its publisher what the command does to other processes"},
		{"AZ-EXT-CANCELLED", "An operator has cancelled what the extension did or waited for.", "agentctl ext cancel.", "agentctl retry EXTENSION"},
		{"AZ-EXT-SIGNAL", "A command of the extension was killed by a signal.", "Out of memory (signal 9), or somebody killed it.", "journalctl -k | grep -i oom"},
		{"AZ-EXT-REPORTED", "The extension itself says that it failed.", "Its status file says error; the message is the extension's own.", "agentctl ext show EXTENSION; agentctl logs EXTENSION"},
		{"AZ-EXT-STATUS", "The extension's status file is not valid.", "It is not JSON or lacks what it must have (platform code 1012).", "tell its publisher; the file is in the extension's status directory"},
		{"AZ-EXT-LIMBO", "The extension says transitioning, but nobody of it runs any more.", "Its process ended without writing a final status.", "agentctl logs EXTENSION; agentctl retry EXTENSION"},
		{"AZ-EXT-UNRESPONSIVE", "The extension's heartbeat is old.", "The handler promised a heartbeat and has not written one for ten minutes.", "agentctl logs EXTENSION"},
		{"AZ-EXT-BLOCKED", "The extension waits for another one that failed.", "It depends on an extension that did not succeed.", "mend the other one first: agentctl status"},
		{"AZ-EXT-SETTINGS", "The settings of the extension that the platform sent cannot be used.", "They are missing, ambiguous or for another version; the message says which.", "write the extension again through the control plane"},
		{"AZ-EXT-DISABLED", "Extensions are switched off on this machine.", "Extensions.Enabled=n or Extensions.Mode is off.", "agentctl config show --origin Extensions"},
		{"AZ-EXT-LOGDIR", "Others can write in the log folder of an extension, so the agent keeps its own lines about it elsewhere.", "The extension gave the folder to its service account, or /var/log/azure is not root's alone.", "agentctl logs EXTENSION shows them; chown root: and chmod go-w what should be root's"},
		{"AZ-EXT-OOM", "The kernel killed a command of the extension because memory ran out.", "The machine is too small, or a limit is too low.", "journalctl -k | grep -i oom; agentctl ext show EXTENSION shows its limits"},
		{"AZ-EXT-LOST", "A command of the extension was interrupted, and how it ended is not known.", "A reboot or a kill while it ran.", "agentctl retry EXTENSION"},
		{"AZ-EXT-NOTSTARTED", "A command of the extension could not be started.", "The system refused: no memory, no processes left, or no permission.", "agentctl ext show EXTENSION"},
		{"AZ-EXT-NOFILE", "The package has no file of the name its manifest gives.", "A defect of the package.", "tell its publisher"},
		{"AZ-EXT-NOEXEC", "Extensions are unpacked on a file system mounted noexec.", "A hardened image mounts /var or /var/lib with noexec.", "set Extensions.ExecDir=/opt/azguest in /etc/waagent.conf.d/exec.conf and restart azguest"},
		{"AZ-EXT-ARCH", "A program of the extension is for another kind of processor.", "The package has no build for this machine.", "ask its publisher for one, or use a machine of the other architecture"},
		{"AZ-EXT-CRLF", "A script of the extension has Windows line ends.", "The first line ends in a carriage return, so its interpreter is not found.", "tell its publisher; if the script is yours: dos2unix"},
		{"AZ-EXT-INTERPRETER", "The extension needs an interpreter that is not installed.", "Usually python3 or bash is missing.", "install what agentctl ext show EXTENSION names"},
		{"AZ-EXT-NOTEXEC", "A command of the extension may not be executed.", "No execute permission, exit code 126.", "agentctl logs EXTENSION"},
		{"AZ-EXT-NOTFOUND", "A command that the extension calls is not installed.", "Exit code 127.", "install what agentctl logs EXTENSION names"},
		{"AZ-EXT-LIBRARY", "A program of the extension lacks a shared library.", "The distribution is older, newer or smaller than the publisher expected.", "install what agentctl ext show EXTENSION names"},
		{"AZ-EXT-DISK", "The disk was full while the extension ran.", "No space left on device.", "df -h; then agentctl retry EXTENSION"},
		{"AZ-EXT-PKGLOCK", "The package manager was busy while the extension ran.", "cloud-init, unattended-upgrades or another extension held its lock.", "agentctl retry EXTENSION; Extensions.After=final waits for cloud-init"},
		{"AZ-EXT-SELINUX", "SELinux probably kept the extension from running.", "The mode is enforcing and a program was refused.", "ausearch -m avc -ts recent"},
		{"AZ-EXT-UNSUPPORTED", "The extension says that it does not support this system.", "Exit code 51.", "see its documentation for supported distributions"},
		{"AZ-EXT-DEPENDENCY", "The extension says that something it needs is missing.", "Exit code 52.", "agentctl logs EXTENSION names it"},
		{"AZ-EXEC-NOEXEC", "Extensions are unpacked on a file system mounted noexec.", "A hardened image mounts /var or /var/lib with noexec.", "set Extensions.ExecDir=/opt/azguest in /etc/waagent.conf.d/exec.conf and restart azguest"},

		// Policy, certificates, firewall.
		{"AZ-POL-DENIED", "The policy does not allow an extension.", "It is not in the list of Policy.PolicyFilePath.", "add it to the policy file, or remove the extension through the control plane"},
		{"AZ-POL-INVALID", "The policy file is not valid; nothing is allowed until it is.", "Not JSON, or of a version we do not know.", "agentctl logs names the line"},
		{"AZ-POL-OFF", "There is an extension policy, and it is not enforced.", "Extensions.PolicyMode or Debug.EnableExtensionPolicy says so.", "agentctl config show --origin Policy; take the line away, or the file"},
		{"AZ-POL-NOFILE", "The extension policy that the configuration asks for does not exist; every extension is allowed.", "The file was not put there, or Policy.PolicyFilePath names another.", "put the policy in place, or correct Policy.PolicyFilePath"},
		{"AZ-POL-SIGNATURE", "A package is not signed as the policy wants.", "No signature, a damaged package, or a signer whose authority is not known here.", "agentctl policy explain EXTENSION; put the publisher's authority into /etc/azguest/trust.d if you trust it, else tell the publisher"},
		{"AZ-CERT-MISSING", "A certificate that the goal state names was not delivered.", "The platform sent no certificate with this thumbprint.", "agentctl certs; check the Key Vault reference of the machine"},
		{"AZ-CERT-NOKEY", "A certificate came without its private key.", "The vault holds the certificate only.", "agentctl certs; import it with its key"},
		{"AZ-CERT-FETCH", "The certificates could not be had from the platform.", "It answered with an error, or not at all; the error is shown beside the code.", "nothing on this machine: they are asked for again; agentctl doctor if it stays"},
		{"AZ-CERT-DECRYPT", "The certificates cannot be decrypted.", "They were made for another transport certificate, or with a cipher we do not know.", "systemctl restart azguest makes a new transport certificate"},
		{"AZ-FW-APPLY", "The firewall rules could not be set.", "The kernel has no nf_tables, or we may not change it (container).", "agentctl status shows the answer; OS.EnableFirewall=n switches it off"},
		{"AZ-FW-OFF", "The firewall is off: every local user can reach the platform's address and read the machine's secrets.", "OS.EnableFirewall=n.", "take OS.EnableFirewall=n out of the configuration and restart azguest"},
		{"AZ-FW-REVERTED", "The firewall rules kept the agent itself from the platform and were taken back.", "The agent's own connections are not root's to the kernel (a user namespace), or another rule works with ours.", "agentctl doctor network; OS.EnableFirewall=n switches the rules off"},
		{"AZ-FW-SELFTEST", "Ordinary users can reach the platform's address although the rules are set.", "Another rule comes first.", "nft list ruleset"},
		{"AZ-FW-DRIFT", "Somebody removed or changed our firewall rules.", "Another firewall manager reloaded its rules; ours are put back.", "nft list table ip azguest"},
		{"AZ-FW-BLOCKED", "A rule on this machine keeps root from the platform.", "An administrator's rule, or one left by another agent; also drops of INVALID packets.", "iptables -t security -S; nft list ruleset"},

		// The machine.
		{"AZ-DISK-LOW", "Little room is left on the disk.", "The file system of the agent has less than 5 % or 64 MiB free.", "agentctl disk --free frees what the agent can spare; else make room"},
		{"AZ-DISK-FULL", "The disk is full.", "Less than 4 MiB are free for the agent.", "agentctl disk --free, then make room; status reporting goes on"},
		{"AZ-DISK-INODES", "The file system has no inodes left.", "Very many small files.", "df -i; remove files"},
		{"AZ-DISK-READONLY", "The agent's directory is on a read-only file system.", "The kernel remounted it after an error, or the image is immutable.", "dmesg; set Lib.Dir to a writable place on immutable images"},
		{"AZ-DISK-BUDGET", "The agent's own files are over their budget.", "Active extensions keep large files.", "agentctl disk"},
		{"AZ-DISK-PERM", "The agent's directory can be changed by others.", "It does not belong to root or is writable for group or world.", "chown root:root DIR && chmod go-w DIR"},
		{"AZ-CG-MISSING", "There are no control groups; extensions run without limits.", "A container, or a kernel without them.", "nothing to do: limits are a luxury"},
		{"AZ-CG-THROTTLED", "The CPU limit of the extension kept a command of it waiting.", "Its publisher set resourceLimits in the manifest, or somebody a CPUQuota on its slice.", "agentctl ext show EXTENSION shows the limit and the time lost; it is no fault, unless the command ran into its deadline"},
		{"AZ-CLOCK-SKEW", "The clock differs from the platform's by more than five minutes.", "No time source; a machine that slept.", "chronyc makestep, or timedatectl set-ntp true"},
		{"AZ-CLOCK-BACK", "The clock was set back: the status comes from the future.", "A wrong hardware clock, or a restored machine.", "timedatectl"},
		{"AZ-CONF-UNKNOWN", "The configuration has a key nobody knows, or a line without effect.", "A typing error, or an option of another agent.", "agentctl config check"},
		{"AZ-CONF-VALUE", "A value in the configuration is not valid; the default is used.", "A typing error.", "agentctl config check"},
		{"AZ-CONF-READ", "A configuration file cannot be read.", "Permissions, or it is not a file.", "agentctl config check"},

		// fabric ext, for authors of extensions.
		{"AZ-LAB-ROOT", "A sandbox needs root, and this is not one, or one without root's rights.", "A container without privileges.", "sudo, or docker run --privileged"},
		{"AZ-LAB-USERNS", "Without root a sandbox needs user namespaces, and this machine does not let users have them.", "A sysctl, AppArmor (Ubuntu 24.04), or the seccomp filter of a container; the message names it.", "do what the message says, or run it with sudo"},
		{"AZ-LAB-OVERLAY", "The kernel gives no overlay of the root in a user namespace.", "Linux before 5.11, AppArmor, or a container that hides parts of /proc.", "do what the message says, or run it with sudo"},

		// The agent about itself.
		{"AZ-UPD-ROLLBACK", "An update of the agent was rolled back.", "The new version did not report in time.", "nothing to do: it is not tried again before a newer version"},
		{"AZ-UPD-FAILED", "An update of the agent could not be prepared.", "Download or check failed.", "agentctl status"},
		{"AZ-UPD-FOREIGN", "A package for an update of the agent is not this agent.", "The platform's agent family offers another agent, or the package is damaged.", "nothing to do; AutoUpdate.Mode=distro stops looking"},
		{"AZ-UPD-REFUSED", "A requested version of the agent is not used.", "It is older than the installed one, the request is incomplete, or the package holds another version.", "agentctl status says which; AutoUpdate.Mode and AutoUpdate.Pin decide what is followed"},
		{"AZ-UPD-UNSIGNED", "An update of the agent was refused because of its signature.", "It has no signature, nobody trusted signed it, or it was changed.", "AutoUpdate.TrustRoots names who may sign; AutoUpdate.Mode=distro leaves updates to the package manager"},
		{"AZ-TEL-DROPPED", "Events were thrown away.", "The platform did not take them and the spool was full.", "nothing to do if the platform answers again"},
		{"AZ-CTL-DENIED", "Only root may change what the agent does.", "The control socket was used by another user.", "sudo agentctl …"},
		{"AZ-CTL-UNKNOWN", "The agent does not know this request or this extension.", "agentctl and azguest are of different versions, or the name is wrong.", "agentctl ext list"},
	}
}
