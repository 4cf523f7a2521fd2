# Functions shared by the sample handlers. This is all that an extension in shell
# needs: its folders, the current settings, and a function that reports a status.

base=$(cd "$(dirname "$0")/.." && pwd)
cd "$base" || exit 51

# environment KEY prints a value of HandlerEnvironment.json.
environment() {
	tr -d '\r\n' <HandlerEnvironment.json | sed -n 's/.*"'"$1"'"[ 	]*:[ 	]*"\([^"]*\)".*/\1/p'
}

config=$(environment configFolder)
status=$(environment statusFolder)
logs=$(environment logFolder)

# The agent sets the sequence number to use; older agents do not.
seq=${ConfigSequenceNumber:-}
if [ -z "$seq" ]; then
	seq=$(ls "$config" 2>/dev/null | sed -n 's/^\([0-9][0-9]*\)\.settings$/\1/p' | sort -n | tail -n 1)
fi
seq=${seq:-0}
prefix=
[ -n "${ConfigExtensionName:-}" ] && prefix="$ConfigExtensionName."
settings="$config/$prefix$seq.settings"

# log TEXT…
log() {
	mkdir -p "$logs" && echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $*" >>"$logs/handler.log"
}

# public KEY prints a string or number of publicSettings.
public() {
	[ -s "$settings" ] || return 0
	tr -d '\r\n' <"$settings" |
		sed -n 's/.*"'"$1"'"[ 	]*:[ 	]*"\{0,1\}\([^",}]*\).*/\1/p' |
		sed 's/[ 	]*$//'
}

# field KEY prints a string of handlerSettings.
field() {
	[ -s "$settings" ] || return 0
	tr -d '\r\n' <"$settings" | sed -n 's/.*"'"$1"'"[ 	]*:[ 	]*"\([^"]*\)".*/\1/p'
}

# secrets decrypts protectedSettings to standard output, with the certificate that
# the agent has stored two levels above the config folder.
secrets() {
	thumbprint=$(field protectedSettingsCertThumbprint)
	encrypted=$(field protectedSettings)
	[ -n "$encrypted" ] && [ -n "$thumbprint" ] || return 2
	command -v openssl >/dev/null 2>&1 || return 3
	lib=$(cd "$config/../.." && pwd)
	echo "$encrypted" | openssl base64 -d -A |
		openssl cms -inform DER -decrypt -recip "$lib/$thumbprint.crt" -inkey "$lib/$thumbprint.prv"
}

# escape quotes text for a JSON string.
escape() {
	printf '%s' "$1" | tr '\n\t\r' '   ' | sed 's/\\/\\\\/g; s/"/\\"/g'
}

# report STATE CODE MESSAGE [SUBSTATUS] writes the status file; a handler with other
# substatuses puts their JSON into the variable SUBSTATUS. The parent folder
# is not created: a late report must not recreate the directory of a handler that
# was removed meanwhile.
report() {
	now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
	sub=
	[ -n "${4:-}" ] && sub=", \"substatus\": [{\"name\": \"Secrets\", \"status\": \"success\", \"code\": 0, \"formattedMessage\": {\"lang\": \"en-US\", \"message\": \"$(escape "$4")\"}}]"
	[ -n "${SUBSTATUS:-}" ] && sub=", \"substatus\": [$SUBSTATUS]"
	[ -d "$status" ] || mkdir "$status" || return 1
	file="$status/$prefix$seq.status"
	cat >"$file.tmp" <<END
[{"version": 1.0, "timestampUTC": "$now", "status": {"name": "$(escape "${HANDLER:-sample}")", "operation": "${OPERATION:-Enable}", "configurationAppliedTime": "$now", "status": "$1", "code": $2, "formattedMessage": {"lang": "en-US", "message": "$(escape "$3")"}$sub}}]
END
	mv -f "$file.tmp" "$file"
}
