package generalize

// The part of the table about software that is not part of the system: what
// has registered this machine somewhere, or holds a key of its own.

func subscriptionEntries() []Entry {
	return []Entry{
		{
			Name: "rhsm", Group: Subscriptions, Act: Drop, Harm: Shared,
			Tools: [][]string{{"subscription-manager", "clean"}},
			Paths: []string{"/etc/pki/consumer/*", "/etc/pki/entitlement/*", "/var/lib/rhsm/facts/*", "/var/lib/rhsm/cache/*", "/etc/rhsm/facts/*.identity"},
			Why:   "registration of this VM at Red Hat", Source: "virt-sysprep rh-subscription-manager",
		},
		{
			Name: "insights", Group: Subscriptions, Act: Drop, Harm: Shared,
			Paths: []string{"/etc/insights-client/machine-id", "/etc/insights-client/.registered", "/etc/insights-client/.unregistered", "/var/lib/insights/*"},
			Why:   "registration of this VM at Red Hat", Source: "insights-client(8)",
		},
		{
			Name: "rhc", Group: Subscriptions, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/yggdrasil/client-id", "/var/lib/yggdrasil/*/client-id", "/var/lib/rhcd/client-id", "/etc/sysconfig/rhn/osad-auth.conf"},
			Why: "registration of this VM", Fix: "rhc disconnect", Source: "rhc(1)",
		},
		{
			Name: "rhn", Group: Subscriptions, Act: Drop, Harm: Shared, Paths: []string{"/etc/sysconfig/rhn/systemid", "/etc/sysconfig/rhn/up2date-uuid"},
			Why: "registration of this VM", Source: "virt-sysprep rhn-systemid",
		},
		{
			Name: "suse", Group: Subscriptions, Act: Drop, Harm: Shared,
			Tools: [][]string{{"registercloudguest", "--clean"}, {"SUSEConnect", "--cleanup"}},
			Paths: []string{"/etc/zypp/credentials.d/SCCcredentials", "/etc/zypp/credentials.d/SMT-*", "/etc/zypp/credentials.d/*susecloud*", "/var/cache/cloudregister/*", "/var/lib/cloudregister/*", "/etc/SUSEConnect"},
			Why:   "registration of this VM at SUSE", Source: "registercloudguest(1), cloud-regionsrv-client issue 54, connect-ng issue 242",
		},
		{
			Name: "suse-hosts", Group: Subscriptions, Act: Keep, Harm: Stale, match: lineMatches(`^[^#]*susecloud\.net`), Paths: []string{"/etc/hosts"},
			Why: "update server of this region", Fix: "registercloudguest --clean", Source: "registercloudguest(1)",
		},
		{
			Name: "zypp-id", Group: Subscriptions, Act: Drop, Harm: Stale, Paths: []string{"/var/lib/zypp/AnonymousUniqueId", "/var/lib/yum/uuid", "/var/lib/dnf/repos/*/countme", "/etc/smolt/hw-uuid", "/etc/sysconfig/hw-uuid"},
			Why: "machines are counted by it", Source: "virt-sysprep yum-uuid, smolt-uuid",
		},
		{
			Name: "repository-password", Group: Subscriptions, Act: Keep, Harm: Secret, match: lineMatches(`(?i)^\s*(machine\s.*password\s+\S|password\s*[=\s]\s*\S|sslclientkey_password\s*=)`),
			Paths: []string{"/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*", "/etc/yum.repos.d/*.repo", "/etc/zypp/credentials.d/*"},
			Why:   "password of a repository", Fix: "remove it", Source: "apt_auth.conf(5), dnf.conf(5)",
		},
		{
			Name: "ubuntu-pro", Group: Subscriptions, Act: Drop, Harm: Shared,
			Paths: []string{
				"/var/lib/ubuntu-advantage/private/*", "/var/lib/ubuntu-advantage/machine-token.json", "/var/lib/ubuntu-advantage/machine-id", "/var/lib/ubuntu-advantage/machine-access-*.json",
				"/var/lib/ubuntu-pro/private/*", "/etc/apt/auth.conf.d/90ubuntu-advantage",
			},
			Why: "registration of this VM at Canonical", Source: "ubuntu-pro-client issues 1158 and 2176",
		},
		{
			Name: "landscape", Group: Subscriptions, Act: Drop, Harm: Shared, Returns: true, Paths: []string{"/var/lib/landscape/client/*"},
			Why: "registration of this VM at Landscape", Source: "landscape-client(1)",
		},
		{
			Name: "landscape-key", Group: Subscriptions, Act: Keep, Harm: Secret, match: lineMatches(`^\s*(registration_key|computer_title)\s*=\s*\S`), Paths: []string{"/etc/landscape/client.conf"},
			Why: "name and key of the registration", Fix: "landscape-config at first boot", Source: "landscape-config(1)",
		},
		{
			Name: "snapd", Group: Subscriptions, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/snapd/device/private-keys-v1/*", "/root/snap/*/common/.snap/auth.json", "~/.snap/auth.json"},
			Why: "device key and login of this VM in the snap store", Fix: "take the image before snapd registers", Source: "ubuntu-core-docs issue 127",
		},
		{
			Name: "livepatch", Group: Subscriptions, Act: Keep, Harm: Shared, Paths: []string{"/var/snap/canonical-livepatch/common/machine-token", "/var/snap/canonical-livepatch/current/*token*", "/etc/uptrack/uptrack.conf", "/etc/sysconfig/kcare/systemid"},
			Why: "registration of this VM for patches of the kernel", Fix: "disable it, and enable it at first boot", Source: "canonical-livepatch, uptrack, kcarectl",
		},
		{
			Name: "survey-id", Group: Subscriptions, Act: Drop, Harm: Stale,
			Paths: []string{"/var/lib/whoopsie/whoopsie-id", "~/.cache/ubuntu-report/*", "/var/cache/pollinate/*", "/var/lib/fwupd/pki/*", "/var/lib/fwupd/pending.db"},
			Why:   "machines are counted by it", Source: "whoopsie(8), pollinate(1)",
		},
		{
			Name: "popularity-contest", Group: Subscriptions, Act: Amend, Harm: Stale, edit: dropKeys("MY_HOSTID"), Paths: []string{"/etc/popularity-contest.conf"},
			Why: "machines are counted by it", Source: "popularity-contest(8)",
		},
	}
}

func agentEntries() []Entry {
	return []Entry{
		{
			Name: "agent-log", Group: Agents, Act: Drop, Harm: Secret, Paths: []string{"{log}/*", "/var/log/waagent.log*"},
			Why: "log", Source: "WALinuxAgent deprovision",
		},
		{
			Name: "monitor-agent", Group: Agents, Act: Keep, Harm: Shared,
			Paths: []string{
				"/etc/opt/microsoft/azuremonitoragent/config-cache/*", "/var/opt/microsoft/azuremonitoragent/*", "/etc/opt/microsoft/dependency-agent/config/*", "/var/opt/microsoft/dependency-agent/storage/*",
				"/etc/opt/microsoft/omsagent/*/certs/*.key", "/etc/opt/microsoft/omsagent/conf/omsadmin.conf", "/etc/mdsd.d/*", "/etc/azsec/*.key",
			},
			Why: "registration of this VM by an extension", Fix: "remove the extension before the image is taken", Source: "Azure Monitor agent, OMS agent",
		},
		{
			Name: "omi", Group: Agents, Act: Drop, Harm: Shared, Maker: []string{"/opt/omi/bin/omiserver", "/opt/microsoft/scx/bin/tools/scxsslconfig"},
			Paths: []string{"/etc/opt/omi/ssl/omi*.pem", "/etc/opt/omi/ssl/omikey*", "/etc/opt/microsoft/scx/ssl/scx*.pem", "/etc/opt/omi/creds/*"},
			Why:   "certificate of this VM", Fix: "scxsslconfig -f at first boot", Source: "OMI",
		},
		{
			Name: "defender", Group: Agents, Act: Keep, Harm: Shared, Paths: []string{"/etc/opt/microsoft/mdatp/mdatp_onboard.json", "/var/opt/microsoft/mdatp/*.db", "/var/opt/microsoft/mdatp/machine_guid*"},
			Why: "registration of this VM", Fix: "offboard it; onboard at first boot", Source: "Defender for Endpoint: non-persistent VDI",
		},
		{
			Name: "arc", Group: Agents, Act: Keep, Harm: Shared, Paths: []string{"/var/opt/azcmagent/agentconfig.json", "/var/opt/azcmagent/certs/*", "/var/opt/azcmagent/tokens/*", "/var/lib/GuestConfig/*"},
			Why: "registration of this VM", Fix: "azcmagent disconnect --force-local-only", Source: "azcmagent",
		},
		{
			Name: "proxy-agent", Group: Agents, Act: Drop, Harm: Shared, Returns: true, Paths: []string{"/var/lib/azure-proxy-agent/keys/*", "/var/lib/azure-proxy-agent/*.key"},
			Why: "key of this VM for the platform", Source: "GuestProxyAgent",
		},
		{
			Name: "directory-login", Group: Agents, Act: Keep, Harm: Secret, Paths: []string{"/var/cache/himmelblaud/*", "/var/cache/himmelblau-policies/*", "/etc/aadpasswd", "/var/lib/aad/*"},
			Why: "cached logins", Fix: "stop the service and remove them", Source: "himmelblau, aad-auth",
		},
		{
			Name: "other-cloud", Group: Agents, Act: Keep, Harm: Shared,
			Paths: []string{"/var/lib/amazon/ssm/Vault/*", "/var/lib/amazon/ssm/registration", "/var/lib/amazon/ssm/i-*", "/var/lib/amazon/ssm/mi-*", "/etc/boto.cfg", "/etc/default/instance_configs.cfg", "/var/lib/google/*"},
			Why:   "registration of this VM in another cloud", Fix: "remove its agent", Source: "amazon-ssm-agent, google-guest-agent",
		},
		{
			Name: "security-agent", Group: Agents, Act: Keep, Harm: Shared,
			Paths: []string{
				"/opt/CrowdStrike/falconstore", "/opt/sentinelone/configuration/*", "/var/opt/ds_agent/dsa_core/*.crt", "/opt/ds_agent/ds_agent.config", "/etc/qualys/hostid", "/etc/tenable_tag",
				"/var/ossec/etc/client.keys", "/var/osquery/osquery.db", "/etc/osquery/*secret*", "/opt/rapid7/ir_agent/components/bootstrap/common/bootstrap.cfg", "/var/lib/teamviewer/*",
				"/var/lib/teleport/host_uuid", "/var/lib/teleport/proc/sqlite.db", "/opt/Tanium/TaniumClient/client.db", "/var/opt/BESClient/besclient.config", "/opt/nessus_agent/var/nessus/agent.db",
			},
			Why: "registration of this VM", Fix: "its maker's command for images (falconctl -d -f --aid, nessuscli prepare-image, …)", Source: "manuals of CrowdStrike, Tenable, Qualys, Wazuh, Rapid7, Teleport, Tanium, BigFix",
		},
		{
			Name: "monitoring", Group: Agents, Act: Keep, Harm: Shared,
			Paths: []string{
				"/etc/datadog-agent/auth_token", "/opt/splunkforwarder/etc/instance.cfg", "/opt/splunk/etc/instance.cfg", "/opt/Elastic/Agent/fleet.enc", "/etc/elastic-agent/fleet.enc",
				"/var/lib/elastic-agent/fleet.enc", "/var/lib/dynatrace/oneagent/agent/config/ruxithost.id", "/var/lib/filebeat/meta.json", "/var/lib/filebeat/registry/filebeat/meta.json", "/var/lib/metricbeat/meta.json",
			},
			Why: "machines are told apart by it", Fix: "stop the service and remove it", Source: "manuals of Datadog, Splunk, Elastic, Dynatrace",
		},
		{
			Name: "netdata", Group: Agents, Act: Drop, Harm: Shared, Returns: true, Paths: []string{"/var/lib/netdata/registry/netdata.public.unique.id", "/var/lib/netdata/cloud.d/*"},
			Why: "machines are told apart by it", Source: "netdata: machine GUID",
		},
	}
}

func credentialEntries() []Entry {
	return []Entry{
		{
			Name: "cloud-login", Group: Credentials, Act: Keep, Harm: Secret,
			Paths: []string{
				"~/.azure/msal_token_cache*", "~/.azure/accessTokens.json", "~/.azure/service_principal_entries*", "~/.azure/azureProfile.json", "~/.azure/AzureRmContext.json", "~/.Azure/AzureRmContext.json", "~/.azure/TokenCache.dat",
				"~/.azcopy/plans", "~/.aws/credentials", "~/.aws/sso/cache/*", "~/.aws/cli/cache/*", "~/.config/gcloud/credentials.db", "~/.config/gcloud/access_tokens.db", "~/.config/gcloud/application_default_credentials.json", "~/.config/gcloud/legacy_credentials",
				"~/.oci/config", "~/.oci/*.pem", "~/.config/doctl/config.yaml", "~/.config/hcloud/cli.toml", "~/.config/openstack/clouds.yaml", "~/.bluemix/config.json", "~/.config/rclone/rclone.conf",
				"~/.terraform.d/credentials.tfrc.json", "~/.terraformrc", "~/.vault-token", "~/.config/op/config", "~/.pulumi/credentials.json",
			},
			Why: "login of a user at a cloud", Fix: "az logout, az account clear; remove it", Source: "Azure CLI, and the manuals of the others",
		},
		{
			Name: "container-login", Group: Credentials, Act: Keep, Harm: Secret,
			Paths: []string{"~/.kube/config", "~/.kube/cache/*", "~/.docker/config.json", "~/.dockercfg", "~/.config/containers/auth.json", "/etc/containers/auth.json", "/var/lib/kubelet/config.json", "~/.config/argocd/config", "/run/containers/*/auth.json", "~/.config/helm/registry/config.json"},
			Why:   "login of a user at a registry or cluster", Fix: "docker logout; remove it", Source: "docker-login(1), kubectl(1)",
		},
		{
			Name: "source-login", Group: Credentials, Act: Keep, Harm: Secret,
			Paths: []string{
				"~/.netrc", "~/.git-credentials", "~/.config/git/credentials", "~/.config/gh/hosts.yml", "~/.config/glab-cli/config.yml", "~/.pypirc", "~/.cargo/credentials*", "~/.m2/settings.xml", "~/.m2/settings-security.xml",
				"~/.gradle/gradle.properties", "~/.gem/credentials", "~/.composer/auth.json", "~/.config/composer/auth.json", "~/.nuget/NuGet/NuGet.Config", "~/.config/NuGet/NuGet.Config", "~/.config/hub",
				"~/.cache/huggingface/token", "~/.huggingface/token", "~/.kaggle/kaggle.json", "~/.ansible/galaxy_token", "~/.jfrog/jfrog-cli.conf*", "~/.sbt/.credentials", "~/.ivy2/.credentials",
			},
			Why: "login of a user at a source or package server", Fix: "remove it", Source: "netrc(5), git-credential-store(1)",
		},
		{
			Name: "npm-login", Group: Credentials, Act: Keep, Harm: Secret, match: lineMatches(`(?i)(_authToken|_auth|_password|npmAuthToken|npmAuthIdent)`), Paths: []string{"~/.npmrc", "~/.yarnrc", "~/.yarnrc.yml", "/etc/npmrc"},
			Why: "login of a user at a package server", Fix: "npm logout", Source: "npmrc(5)",
		},
		{
			Name: "mail-login", Group: Credentials, Act: Keep, Harm: Secret, match: hasLines,
			Paths: []string{"/etc/postfix/sasl_passwd*", "/etc/postfix/sasl/sasl_passwd*", "/etc/exim4/passwd.client", "/etc/mail/authinfo*"},
			Why:   "login of this VM at a mail server", Fix: "deliver it at first boot", Source: "postfix: SASL_README, exim4-config_files(5)",
		},
		{
			Name: "service-login", Group: Credentials, Act: Keep, Harm: Secret,
			Paths: []string{"~/.pgpass", "~/.my.cnf", "~/.mylogin.cnf", "~/.s3cfg", "~/.boto", "~/.fetchmailrc", "~/.msmtprc", "~/.davfs2/secrets", "~/.mongorc.js", "~/.config/msmtp/config", "~/.ldaprc", "~/.config/ngrok/ngrok.yml", "~/.ansible_vault_pass*", "~/.vault_pass*"},
			Why:   "login of a user at a service", Fix: "remove it", Source: "manuals of PostgreSQL, MySQL and others",
		},
		{
			Name: "user-keyring", Group: Credentials, Act: Keep, Harm: Secret, Paths: []string{"~/.local/share/keyrings/*", "~/.password-store/*", "~/.config/sops/age/*", "~/.mozilla/firefox/*/logins.json", "~/.mozilla/firefox/*/key4.db", "~/.config/google-chrome/*/Login Data"},
			Why: "passwords of a user", Fix: "remove it", Source: "gnome-keyring, pass(1)",
		},
		{
			Name: "user-session", Group: Credentials, Act: Keep, Harm: Stale, Paths: []string{"~/.vscode-server", "~/.cursor-server", "~/.ansible/tmp/*", "~/.ansible/cp/*"},
			Why: "sessions of a user", Fix: "remove it", Source: "VS Code Remote",
		},
		{
			Name: "time-key", Group: Credentials, Act: Keep, Harm: Secret, match: hasLines, Paths: []string{"/etc/chrony.keys", "/etc/chrony/chrony.keys", "/etc/ntp/keys", "/etc/ntp.keys"},
			Why: "key of time servers", Fix: "deliver it at first boot", Source: "chrony.conf(5)",
		},
		{
			Name: "snmp", Group: Credentials, Act: Keep, Harm: Shared, match: lineMatches(`^\s*(oldEngineID|engineID|usmUser|createUser)\s+\S`), Paths: []string{"/var/lib/net-snmp/snmpd.conf", "/var/lib/snmp/snmpd.conf", "/var/lib/snmp/snmptrapd.conf", "/etc/snmp/snmpd.conf"},
			Why: "engine ID and users of this VM", Fix: "stop snmpd and remove the lines", Source: "snmpd.conf(5)",
		},
		{
			Name: "service-key", Group: Credentials, Act: Keep, Harm: Secret,
			Paths: []string{"/etc/corosync/authkey", "/etc/munge/munge.key", "/etc/pacemaker/authkey", "/var/lib/pcsd/pcsd.key", "/var/lib/pcsd/known-hosts", "/etc/ddclient.conf", "/etc/bind/rndc.key", "/etc/rndc.key", "/etc/pam_radius_auth.conf", "/etc/freeradius/*/clients.conf", "/etc/zabbix/*.psk", "/var/lib/icinga2/certs/*.key"},
			Why:   "key of a service", Fix: "make it at first boot", Source: "rndc-confgen(8), corosync-keygen(8), munge(7)",
		},
	}
}

func serviceEntries() []Entry {
	return []Entry{
		{
			Name: "docker-id", Group: Services, Act: Drop, Harm: Shared, Returns: true, Paths: []string{"/etc/docker/key.json", "/var/lib/docker/engine-id", "/var/lib/containerd/io.containerd.grpc.v1.introspection/uuid"},
			Why: "machines are told apart by it", Source: "moby issue 13278",
		},
		{
			Name: "docker-swarm", Group: Services, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/docker/swarm/certificates/*", "/var/lib/docker/swarm/docker-state.json"},
			Why: "membership of this VM in a cluster", Fix: "docker swarm leave", Source: "docker-swarm-leave(1)",
		},
		{
			Name: "container-network", Group: Services, Act: Drop, Harm: Stale, Returns: true, Paths: []string{"/var/lib/cni/networks/*/*", "/var/lib/cni/results/*", "/var/lib/cni/cache/*"},
			Why: "addresses of containers", Source: "CNI host-local",
		},
		{
			Name: "kubernetes", Group: Services, Act: Keep, Harm: Shared,
			Paths: []string{
				"/etc/kubernetes/pki/*", "/etc/kubernetes/*.conf", "/etc/kubernetes/azure.json", "/var/lib/kubelet/pki/*", "/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/bootstrap-kubeconfig", "/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state", "/var/lib/etcd/member", "/etc/rancher/node/password",
				"/var/lib/rancher/k3s/server", "/var/lib/rancher/k3s/agent/*.key", "/var/lib/rancher/rke2/server", "/etc/rancher/agent/*", "/var/lib/rancher/agent/*", "/var/snap/microk8s/current/certs/*", "/var/snap/microk8s/current/credentials/*",
			},
			Why: "membership of this VM in a cluster", Fix: "kubeadm reset, k3s-killall.sh; join at first boot", Source: "kubeadm reset, rancher issue 8785",
		},
		{
			Name: "orchestration", Group: Services, Act: Keep, Harm: Shared,
			Paths: []string{
				"/var/lib/nomad/client/client-id", "/opt/nomad/*/client/client-id", "/var/lib/consul/node-id", "/opt/consul/node-id", "/var/lib/consul/serf/*", "/opt/vault/data/*",
			},
			Why: "membership of this VM in a cluster", Fix: "stop the service and remove it", Source: "Consul and Nomad manuals",
		},
		{
			Name: "configuration-management", Group: Services, Act: Keep, Harm: Shared,
			Paths: []string{
				"/etc/puppetlabs/puppet/ssl/private_keys/*", "/etc/puppetlabs/puppet/ssl/certs/*", "/var/lib/puppet/ssl/private_keys/*", "/etc/chef/client.pem", "/etc/chef/validation.pem", "/etc/cinc/client.pem",
				"/etc/salt/pki/minion/*", "/etc/salt/minion_id", "/var/cfengine/ppkeys/localhost.*", "/opt/rudder/etc/uuid.hive", "/etc/venv-salt-minion/pki/minion/*", "/etc/venv-salt-minion/minion_id",
			},
			Why: "identity of this VM at its configuration server", Fix: "remove it; the client registers at first boot", Source: "virt-sysprep puppet-data-log, Salt: minion ID",
		},
		{
			Name: "mysql-uuid", Group: Services, Act: Drop, Harm: Shared, Returns: true, Paths: []string{"/var/lib/mysql/auto.cnf", "/var/lib/mysql/data/auto.cnf", "/var/lib/mysql-files/auto.cnf"},
			Why: "servers with one UUID can't replicate", Source: "MySQL manual 19.1.6",
		},
		{
			Name: "database", Group: Services, Act: Keep, Harm: Shared,
			Paths: []string{
				"/var/lib/pgsql/*/data/global/pg_control", "/var/lib/pgsql/data/global/pg_control", "/var/lib/postgresql/*/*/global/pg_control", "/var/lib/mongo/WiredTiger", "/var/lib/mongodb/WiredTiger",
				"/var/lib/redis/nodes.conf", "/var/lib/redis/nodes-*.conf", "/var/lib/valkey/nodes.conf", "/var/lib/elasticsearch/nodes", "/var/lib/elasticsearch/_state", "/var/lib/opensearch/nodes",
				"/var/lib/cassandra/data/system/local-*", "/var/lib/kafka/*/meta.properties", "/var/lib/kafka-logs/meta.properties", "/var/lib/zookeeper/myid", "/var/lib/influxdb/meta/*", "/var/lib/minio/.minio.sys/format.json", "/var/lib/couchdb/*.couch",
			},
			Why: "data and identity of a database", Fix: "create it at first boot", Source: "manuals of the databases",
		},
		{
			Name: "erlang-cookie", Group: Services, Act: Keep, Harm: Shared, Paths: []string{"/var/lib/rabbitmq/.erlang.cookie", "/var/lib/rabbitmq/mnesia/*", "/var/lib/ejabberd/.erlang.cookie", "/opt/couchdb/.erlang.cookie"},
			Why: "whoever has the cookie controls the service on every VM of the image", Fix: "stop the service and remove it", Source: "RabbitMQ: clustering guide",
		},
		{
			Name: "build-agent", Group: Services, Act: Keep, Harm: Secret,
			Paths: []string{
				"/var/lib/jenkins/secrets/*", "/var/lib/jenkins/identity.key.enc", "/etc/gitlab-runner/config.toml", "/home/*/actions-runner/.credentials*", "/opt/actions-runner/.credentials*", "/opt/vsts-agent/.credentials*", "/home/*/vsts-agent/.credentials*",
				"~/.gitlab-runner/config.toml", "/etc/buildkite-agent/buildkite-agent.cfg", "/azp/.credentials*", "/azp/agent/.credentials*",
			},
			Why: "registration of this VM", Fix: "unregister it; register at first boot", Source: "manuals of the build services",
		},
		{
			Name: "virtual-machines", Group: Services, Act: Keep, Harm: Stale, Paths: []string{"/etc/libvirt/qemu/*.xml", "/etc/libvirt/secrets/*", "/var/lib/libvirt/secrets/*", "/var/lib/incus/server.key", "/var/snap/lxd/common/lxd/server.key", "/var/lib/lxd/server.key"},
			Why: "machines and keys with fixed identities", Fix: "remove it", Source: "libvirt, Incus",
		},
		{
			Name: "device-rules", Group: Services, Act: Keep, Harm: Stale, match: hasLines, Paths: []string{"/etc/usbguard/rules.conf"},
			Why: "devices of this VM", Fix: "usbguard generate-policy at first boot", Source: "usbguard-rules.conf(5)",
		},
		{
			Name: "file-integrity", Group: Services, Act: Keep, Harm: Stale, Paths: []string{"/var/lib/aide/aide.db*", "/etc/tripwire/*.key", "/var/lib/tripwire/*.twd", "/var/lib/rkhunter/db/rkhunter.dat"},
			Why: "state of the files of this VM", Fix: "initialize it at first boot", Source: "aide(1)",
		},
	}
}

func logEntries() []Entry {
	return []Entry{
		{
			Name: "journal", Group: Logs, Act: Drop, Harm: Stale, Returns: true, Paths: []string{"/var/log/journal/*"},
			Why: "log", Source: "virt-sysprep logfiles",
		},
		{
			Name: "audit-log", Group: Logs, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/log/audit/*", "/var/log/sudo-io/*", "/var/log/sa/*", "/var/log/sysstat/*", "/var/account/pacct*", "/var/log/account/pacct*", "/var/log/sssd/*", "/var/log/samba/*", "/var/log/tuned/*", "/var/log/chrony/*"},
			Why:   "log", Source: "virt-sysprep logfiles, pacct-log",
		},
		{
			Name: "system-log", Group: Logs, Act: Blank, Harm: Stale, Returns: true,
			Paths: []string{
				"/var/log/syslog", "/var/log/messages", "/var/log/secure", "/var/log/auth.log", "/var/log/kern.log", "/var/log/daemon.log", "/var/log/user.log", "/var/log/debug", "/var/log/dmesg", "/var/log/boot.log",
				"/var/log/mail.log", "/var/log/mail.err", "/var/log/mail.info", "/var/log/mail.warn", "/var/log/maillog", "/var/log/cron", "/var/log/cron.log", "/var/log/spooler", "/var/log/ufw.log", "/var/log/firewalld", "/var/log/fail2ban.log", "/var/log/sudo.log",
			},
			Why: "log", Source: "virt-sysprep logfiles",
		},
		{
			Name: "old-log", Group: Logs, Act: Drop, Harm: Stale, Returns: true,
			Paths: []string{"/var/log/*.[0-9]", "/var/log/*.[0-9].gz", "/var/log/*.[0-9][0-9].gz", "/var/log/*-20[0-9][0-9][0-9][0-9][0-9][0-9]*", "/var/log/dmesg.old"},
			Why:   "log", Source: "virt-sysprep logfiles",
		},
		{
			Name: "package-cache", Group: Logs, Act: Drop, Harm: Stale,
			Paths: []string{"/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*", "/var/cache/dnf/*", "/var/cache/libdnf5/*", "/var/cache/yum/*", "/var/cache/zypp/packages/*", "/var/cache/PackageKit/*", "/var/cache/pacman/pkg/*", "/var/cache/apk/*", "/var/lib/rpm/__db.*"},
			Why:   "packages that are installed", Source: "virt-sysprep package-manager-cache, rpm-db",
		},
		{
			Name: "file-index", Group: Logs, Act: Drop, Harm: Stale, Paths: []string{"/var/lib/mlocate/mlocate.db", "/var/lib/plocate/plocate.db"},
			Why: "names of files of this VM", Source: "plocate(1)",
		},
		{
			Name: "clock-drift", Group: Logs, Act: Drop, Harm: Stale, Returns: true, Paths: []string{"/var/lib/chrony/drift", "/var/lib/chrony/chrony.drift", "/var/lib/ntp/ntp.drift", "/var/lib/ntp/drift", "/var/lib/ntpsec/ntp.drift"},
			Why: "clock of this VM", Source: "chrony.conf(5)",
		},
	}
}
