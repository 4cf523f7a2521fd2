# seen HANDLER OPERATION notes how a command of a look-alike was called.
seen() {
	printf '%s|%s|%s|seq=%s|ext=%s|cwd=%s|VERSION=%s|from=%s|un=%s|dis=%s|path=%s|fds=%s,%s,%s|settings=%s\n' \
		"$1" "${AZURE_GUEST_AGENT_EXTENSION_VERSION-unset}" "$2" "${ConfigSequenceNumber-unset}" "${ConfigExtensionName-unset}" \
		"$(pwd -P)" "${VERSION-unset}" "${AZURE_GUEST_AGENT_UPDATING_FROM_VERSION-unset}" \
		"${AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE-unset}" "${AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE-unset}" \
		"${AZURE_GUEST_AGENT_EXTENSION_PATH-unset}" \
		"$(readlink /proc/$$/fd/0)" "$(readlink /proc/$$/fd/1)" "$(readlink /proc/$$/fd/2)" \
		"$(cd config && echo *.settings)" >>/var/tmp/seen/calls
}
# value KEY FILE prints a string of a JSON file.
value() { sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p' "$2" 2>/dev/null; }
# decrypt FILE TOOL… prints the protected settings; the keys lie beside the handler.
decrypt() {
	file=$1
	shift
	thumb=$(value protectedSettingsCertThumbprint "$file")
	[ -n "$thumb" ] || return 0
	for tool in "$@"; do
		value protectedSettings "$file" | openssl base64 -d -A |
			openssl "$tool" -inform DER -decrypt -recip "config/../../$thumb.crt" -inkey "config/../../$thumb.prv" && return 0
	done 2>/dev/null
	return 1
}
