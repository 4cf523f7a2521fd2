#!/bin/sh
# Hello: reports a greeting, and whether the protected settings could be decrypted.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Hello
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
version=$(cat version)

log "$1 version=$version seq=$seq extension=${ConfigExtensionName:-}"
case "$1" in
install)
	echo installed "$version"
	date -u >installed
	;;
enable)
	[ -f installed ] || { report error 51 "enable before install"; exit 51; }
	# The same settings again, after a restart or reboot: there is nothing to do,
	# if the old status still exists.
	if [ -f mrseq ] && [ "$(cat mrseq)" = "$seq" ] && [ -f "$status/$prefix$seq.status" ]; then
		echo "already applied $seq"
		exit 0
	fi
	report transitioning 0 "working"
	greeting=$(public greeting)
	exit_code=$(public exitCode)
	secret=$(secrets 2>/dev/null)
	case $? in
	0) said="protected settings decrypted, ${#secret} bytes" ;;
	2) said="no protected settings" ;;
	3) said="no openssl" ;;
	*) said="protected settings could not be decrypted" ;;
	esac
	# Store the sequence number after the status: if this script is killed in
	# between, the work is repeated instead of skipped.
	if [ -n "$exit_code" ] && [ "$exit_code" != 0 ]; then
		report error "$exit_code" "told to fail with $exit_code"
		echo "$seq" >mrseq
		exit "$exit_code"
	fi
	report success 0 "${greeting:-hello} from $version; $said" "$said"
	echo "$seq" >mrseq
	echo "${greeting:-hello}"
	;;
disable) echo disabled ;;
update)
	echo "updating from ${AZURE_GUEST_AGENT_UPDATING_FROM_VERSION:-unknown} to ${VERSION:-unknown}"
	# According to the manifest of 2.0.0, no install follows.
	case $version in 2.*) date -u >installed ;; esac
	log "update from=${AZURE_GUEST_AGENT_UPDATING_FROM_VERSION:-} to=${VERSION:-} disable=${AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE:-}"
	;;
uninstall) echo uninstalled ;;
*) exit 64 ;;
esac
