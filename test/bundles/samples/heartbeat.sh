#!/bin/sh
# Heartbeat: reports its own health in the heartbeat file. publicSettings.health
# is ready (default) or notready; "none" writes no file.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Heartbeat
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
log "$1 seq=$seq"
case "$1" in
enable)
	health=$(public health)
	health=${health:-ready}
	if [ "$health" != none ]; then
		cat >"$(environment heartbeatFile)" <<END
[{"version": 1.0, "heartbeat": {"status": "$health", "code": 0, "formattedMessage": {"lang": "en-US", "message": "heart is $health"}}}]
END
	fi
	report success 0 "heartbeat written"
	;;
esac
exit 0
