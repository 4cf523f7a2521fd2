#!/bin/sh
# Slow: enable takes publicSettings.seconds (default 20) and reports progress.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Slow
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
log "$1 seq=$seq"
case "$1" in
enable)
	seconds=$(public seconds)
	seconds=${seconds:-20}
	n=0
	while [ "$n" -lt "$seconds" ]; do
		report transitioning 0 "$n of $seconds seconds"
		sleep 1
		n=$((n + 1))
	done
	report success 0 "slept $seconds seconds"
	;;
esac
exit 0
