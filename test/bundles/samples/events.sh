#!/bin/sh
# Events: writes a telemetry event to its events folder.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Events
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
case "$1" in
enable)
	folder=$(environment eventsFolder)
	if [ -n "$folder" ]; then
		cat >"$folder/$(date +%s).json" <<END
{"Version": "1.0.0.0", "Timestamp": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "TaskName": "enable", "EventLevel": "Informational", "Message": "hello telemetry", "EventPid": "$$", "EventTid": "1", "OperationId": "00000000-0000-4000-8000-000000000000"}
END
		report success 0 "event written"
	else
		report warning 0 "no events folder"
	fi
	;;
esac
exit 0
