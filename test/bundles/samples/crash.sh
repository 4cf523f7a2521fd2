#!/bin/sh
# Crash: the command in publicSettings.when (default enable) exits with
# publicSettings.code (default 52), without a status. For commands that run before
# there are settings, use a file named "crash" in the package.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Crash
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
when=$(public when)
code=$(public code)
[ -f crash ] && when=$(cat crash)
log "$1 seq=$seq when=${when:-enable}"
if [ "$1" = "${when:-enable}" ]; then
	echo "about to fail on purpose" >&2
	[ "$code" = signal ] && kill -9 $$
	exit "${code:-52}"
fi
[ "$1" = enable ] && report success 0 "did not crash"
exit 0
