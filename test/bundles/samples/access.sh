#!/bin/sh
# Access: restores access to a machine, with the protected settings that VMAccess
# for Linux documents: username, password, ssh_key, expiration, remove_prior_keys,
# reset_ssh and remove_user.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Access
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
umask 077
rule=/etc/sudoers.d/waagent
done=

# fail MESSAGE ends the command. Nothing of the settings is in the message.
fail() {
	report error 53 "$1"
	log "$1"
	echo "$1" >&2
	exit 53
}

# member KEY prints a text, number or switch of the JSON object in $document.
member() {
	printf '%s' "$document" | LC_ALL=C awk -v key="$1" -f "$base/bin/member.awk"
}

# judge NAME says whether an account may be changed: one of a person.
judge() {
	printf '%s' "$1" | LC_ALL=C grep -Eqx '[a-z_][a-z0-9_-]{0,31}' || fail "the user name is not allowed"
	uid=$(id -u "$1" 2>/dev/null) || return 0
	{ [ "$uid" -ge 1000 ] && [ "$uid" -lt 65534 ]; } || fail "the account belongs to the system"
}

# sudoers NAME on|off changes the line of an account, in a copy that is checked.
sudoers() {
	new="$base/sudoers.new"
	{ [ ! -f "$rule" ] || grep -v "^$1 " "$rule"; } >"$new"
	[ "$2" = off ] || echo "$1 ALL=(ALL) $([ -n "$password" ] && echo ALL || echo NOPASSWD:ALL)" >>"$new"
	if command -v visudo >/dev/null 2>&1; then
		visudo -cqf "$new" || fail "the rule for sudo is refused"
	fi
	{ chmod 440 "$new" && mv -f "$new" "$rule"; } || fail "the rule for sudo could not be written"
}

# sshd_config KEY VALUE sets a keyword for all connections.
sshd_config() {
	new="$base/sshd_config.new"
	{ echo "$1 $2" && sed "/^[ 	]*$1[ 	]/d" /etc/ssh/sshd_config; } >"$new" && adopt
}

# adopt replaces the configuration of sshd if sshd accepts the new one.
adopt() {
	"$(command -v sshd || echo /usr/sbin/sshd)" -t -f "$new" || fail "sshd refuses the new configuration"
	[ -f "$base/sshd_config.old" ] || cp -p /etc/ssh/sshd_config "$base/sshd_config.old"
	{ chmod 644 "$new" && mv -f "$new" /etc/ssh/sshd_config; } || fail "the configuration of sshd could not be written"
	if [ -d /run/systemd/system ]; then
		systemctl reload-or-restart ssh || systemctl reload-or-restart sshd
	elif [ -f /run/sshd.pid ]; then
		kill -HUP "$(cat /run/sshd.pid)"
	fi
}

# public_key prints ssh_key as a line of authorized_keys; it may also be PEM.
public_key() {
	printf '%s\n' "$key" >key.in
	case $key in
	*"BEGIN CERTIFICATE"*) openssl x509 -noout -pubkey -in key.in >key.pub && ssh-keygen -i -m PKCS8 -f key.pub ;;
	*"BEGIN PUBLIC KEY"*) ssh-keygen -i -m PKCS8 -f key.in ;;
	*"BEGIN SSH2"*) ssh-keygen -i -f key.in ;;
	*) [ "$(wc -l <key.in)" = 1 ] && ssh-keygen -l -f key.in >/dev/null && cat key.in ;;
	esac
	code=$?
	rm -f key.in key.pub
	return $code
}

# add_key writes it as the user does, whose home may have links in it.
add_key() {
	line=$(public_key 2>/dev/null) || fail "the key is not a public key"
	prior=$(member remove_prior_keys)
	# shellcheck disable=SC2016 # for the user's shell
	printf '%s\n' "$line" | setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups --reset-env sh -c '
umask 077; mkdir -p ~/.ssh && chmod 700 ~/.ssh && cd ~/.ssh || exit
if [ "$1" = true ]; then cat >authorized_keys; else cat >>authorized_keys; fi && chmod 600 authorized_keys' sh "$prior" ||
		fail "the key could not be written"
	done="$done, key added"
}

enable_account() {
	judge "$user"
	if ! id -u "$user" >/dev/null 2>&1; then
		useradd -m -s /bin/bash "$user" || fail "the account could not be created"
		done="$done, account created"
	fi
	expires=$(member expiration)
	if [ -n "$expires" ]; then
		{ printf '%s' "$expires" | grep -Eqx '[0-9]{4}-[0-9]{2}-[0-9]{2}' && usermod -e "$expires" "$user"; } || fail "the expiration is not a date"
		done="$done, expires $expires"
	fi
	if [ -n "$password" ]; then
		printf '%s:%s\n' "$user" "$password" | chpasswd || fail "the password is refused"
		sshd_config PasswordAuthentication yes
		done="$done, password set"
	fi
	[ -z "$key" ] || add_key
	sudoers "$user" on
}

remove_account() {
	judge "$gone"
	if id -u "$gone" >/dev/null 2>&1; then
		userdel -f -r "$gone" >/dev/null 2>&1 || ! id -u "$gone" >/dev/null 2>&1 || fail "the account could not be removed"
		done="$done, account removed"
	fi
	sudoers "$gone" off
}

log "$1 seq=$seq"
[ "$1" = enable ] || exit 0
if [ -f mrseq ] && [ "$(cat mrseq)" = "$seq" ] && [ -f "$status/$seq.status" ]; then
	exit 0
fi
report transitioning 0 "working"
document=$(secrets 2>/dev/null) || fail "the protected settings are missing or could not be decrypted"
{ user=$(member username) && password=$(member password) && key=$(member ssh_key) && reset=$(member reset_ssh) && gone=$(member remove_user); } ||
	fail "the protected settings are not a JSON object of texts"
case $password in *"
"*) fail "the password has a line break" ;; esac
[ -n "$user$reset$gone" ] || fail "the protected settings ask for nothing"
if [ "$reset" = true ] || [ "$reset" = True ]; then
	new="$base/sshd_config.new"
	cp /usr/share/openssh/sshd_config "$new" 2>/dev/null || printf 'UsePAM yes\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n' >"$new"
	adopt
	done="$done, configuration of sshd reset"
fi
[ -z "$gone" ] || remove_account
[ -z "$user" ] || enable_account
report success 0 "access restored: ${done#, }"
echo "$seq" >mrseq
