#!/bin/sh
# Clamav: installs Debian's clamav, scans publicSettings.path, and reports each
# infected file as a substatus. It goes on in the background, scans again every
# publicSettings.period seconds, and says in the heartbeat whether that works. From
# version 1.1.0 on, publicSettings.action=quarantine moves infected files away.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Clamav
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
version=$(cat version)
# data outlives this version of the handler.
data=/var/lib/azguest-clamav
export DEBIAN_FRONTEND=noninteractive

# heartbeat STATUS MESSAGE
heartbeat() {
	file=$(environment heartbeatFile)
	cat >"$file.tmp" <<END && mv -f "$file.tmp" "$file"
[{"version": 1.0, "heartbeat": {"status": "$1", "code": 0, "formattedMessage": {"lang": "en-US", "message": "$(escape "$2")"}}}]
END
}

# found NAME STATUS MESSAGE adds a substatus.
found() {
	SUBSTATUS="$SUBSTATUS${SUBSTATUS:+, }{\"name\": \"$(escape "$1")\", \"status\": \"$2\", \"code\": 0, \"formattedMessage\": {\"lang\": \"en-US\", \"message\": \"$(escape "$3")\"}}"
}

# quarantine FILE NAME moves a file away. A user may exchange the directories on
# the way to a file at any time, so its own is entered, and judged where it is.
quarantine() (
	dir=$(dirname "$1") file=$(basename "$1")
	cd -P -- "$dir" && [ "$(pwd -P)" = "$dir" ] && [ -f "./$file" ] && [ ! -L "./$file" ] || exit 1
	mkdir -p "$data/quarantine" && chmod 700 "$data/quarantine" &&
		n=$(($(wc -l <"$data/quarantine.list" 2>/dev/null || echo 0) + 1)) &&
		mv -- "./$file" "$data/quarantine/$n" && chmod 000 "$data/quarantine/$n" &&
		echo "$2 $1" >>"$data/quarantine.list"
)

# scan scans once, and reports what has changed.
reported=
scan() {
	path=$(public path)
	path=$(cd -P -- "${path:-/home}" && pwd -P) || { report error 2 "there is no directory ${path:-/home}"; return 1; }
	action=$(public action)
	case $version in 1.0.*) action=report ;; esac
	out=$(clamscan --recursive --no-summary --infected --stdout --database="$base/signatures.hsb" "$path" 2>>"$logs/scan.log")
	code=$?
	if [ "$code" -gt 1 ]; then
		report error "$code" "clamscan ended with $code: $out"
		reported=
		heartbeat notready "the last scan failed"
		return 1
	fi
	SUBSTATUS='' infected=0
	while IFS= read -r line; do
		case $line in *": "*" FOUND") ;; *) continue ;; esac
		name=${line##*: } name=${name% FOUND} name=${name%.UNOFFICIAL}
		file=${line%: *}
		if [ "$action" = quarantine ] && quarantine "$file" "$name"; then continue; fi
		infected=$((infected + 1))
		found "$name" error "$name found in $file"
	done <<END
$out
END
	moved=0
	if [ -f "$data/quarantine.list" ]; then
		while read -r name file; do
			moved=$((moved + 1))
			found "$name" success "$name was in $file, moved to quarantine"
		done <"$data/quarantine.list"
	fi
	text="infected files in $path: $infected, in quarantine: $moved ($(clamscan --version | cut -d/ -f1))"
	if [ "$text$SUBSTATUS" != "$reported" ]; then
		report success 0 "$text" && reported=$text$SUBSTATUS
	fi
	heartbeat ready "scanned at $(date -u +%H:%M:%S): $infected infected"
	log "$text"
}

# stop ends the background process, if it is ours.
stop() {
	pid=$(cat "$data/watch.pid" 2>/dev/null) || return 0
	case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in
	*"handler.sh watch "*) kill "$pid" ;;
	esac
	rm -f "$data/watch.pid"
}

log "$1 version=$version seq=$seq"
case "$1" in
install)
	mkdir -p "$data" || exit 51
	if ! command -v clamscan >/dev/null 2>&1; then
		# Packages that came with the handler are complete, and need no network.
		if [ -d debs ]; then
			dpkg -i debs/*.deb </dev/null || exit 52
		else
			apt-get install -y -q --no-install-recommends clamav </dev/null || exit 52
		fi
		touch "$data/owned"
	fi
	clamscan --version
	;;
enable)
	stop
	report transitioning 0 "scanning"
	scan || exit 53
	nohup "$base/bin/handler.sh" watch </dev/null >>"$logs/watch.log" 2>&1 &
	;;
watch)
	echo $$ >"$data/watch.pid"
	period=$(public period)
	while sleep "${period:-60}" && [ "$(cat "$data/watch.pid" 2>/dev/null)" = $$ ]; do
		scan
	done
	;;
disable) stop ;;
update)
	# The old version is uninstalled next: what it has installed stays.
	touch "$data/updating"
	;;
uninstall)
	if [ -f "$data/updating" ]; then
		rm "$data/updating"
		exit 0
	fi
	stop
	if [ -f "$data/owned" ]; then
		apt-get purge -y -q --autoremove clamav clamav-base clamav-freshclam </dev/null || exit 52
	fi
	rm -rf "$data"
	;;
*) exit 64 ;;
esac
