#!/bin/sh
# Multi: a handler with several instances, distinguished by ConfigExtensionName.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Multi
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
name=${ConfigExtensionName:-}
log "$1 extension=$name seq=$seq"
case "$1" in
enable)
	[ -n "$name" ] || { echo "no ConfigExtensionName" >&2; exit 53; }
	mkdir -p instances && echo "$seq" >"instances/$name"
	code=$(public exitCode)
	if [ -n "$code" ] && [ "$code" != 0 ]; then
		report error "$code" "$name was told to fail"
		exit "$code"
	fi
	greeting=$(public greeting)
	report success 0 "${greeting:-hello} from instance $name"
	;;
disable) rm -f "instances/$name" ;;
esac
exit 0
