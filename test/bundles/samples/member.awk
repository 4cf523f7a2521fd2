# Prints the member key of the outermost JSON object: a text, without its quotes
# and escapes, or a number or switch as it is. A member that is absent or null is
# empty. Ends with 1 if the input is no such object, or the member is none of these.
# The locale must be C, in which a character is a byte.
BEGIN { RS = "\001"; ORS = "" }
{ text = text $0 }
END {
	n = length(text); depth = 0; at = 1; value = ""; bad = 1
	while (at <= n) {
		c = substr(text, at, 1)
		if (c == "\"") {
			s = string()
			if (depth == 1 && !after && peek() == ":") {
				name = s
			} else if (depth == 1 && after && name == key) {
				value = s
			}
			if (depth == 1) after = 0
			continue
		}
		if (c == "{" || c == "[") {
			if (depth == 0 && c == "[") exit 1
			if (depth == 1 && after && name == key) exit 1
			depth++; bad = 0
			if (depth > 1) after = 0
		} else if (c == "}" || c == "]") {
			depth--
			if (depth < 0) exit 1
		} else if (c == ":" && depth == 1) {
			after = 1
		} else if (c == "," && depth == 1) {
			after = 0
		} else if (depth == 1 && after && c ~ /[-0-9a-z]/) {
			match(substr(text, at), /^[-+.0-9a-zA-Z]+/)
			word = substr(text, at, RLENGTH); at += RLENGTH; after = 0
			if (name == key && word != "null") value = word
			continue
		}
		at++
	}
	if (bad || depth != 0) exit 1
	print value
}
# peek returns the next character that is not blank.
function peek(  i) {
	for (i = at; i <= n && substr(text, i, 1) ~ /[ \t\r\n]/; i++) ;
	return substr(text, i, 1)
}
# string reads a string, and moves behind it.
function string(  out, c) {
	out = ""
	for (at++; at <= n; at++) {
		c = substr(text, at, 1)
		if (c == "\"") { at++; return out }
		if (c != "\\") { out = out c; continue }
		c = substr(text, ++at, 1)
		if (c == "n") out = out "\n"
		else if (c == "t") out = out "\t"
		else if (c == "r") out = out "\r"
		else if (c == "b") out = out "\b"
		else if (c == "f") out = out "\f"
		else if (c == "u") { out = out utf8(hex(substr(text, at + 1, 4))); at += 4 }
		else out = out c
	}
	exit 1
}
function hex(s,  i, v, d) {
	v = 0
	for (i = 1; i <= 4; i++) {
		d = index("0123456789abcdef", tolower(substr(s, i, 1)))
		if (d == 0) exit 1
		v = v * 16 + d - 1
	}
	return v
}
# utf8 encodes a character. Those beyond 16 bits have two escapes, and are refused,
# and so is NUL.
function utf8(v) {
	if (v == 0 || v >= 55296 && v < 57344) exit 1
	if (v < 128) return sprintf("%c", v)
	if (v < 2048) return sprintf("%c%c", 192 + int(v / 64), 128 + v % 64)
	return sprintf("%c%c%c", 224 + int(v / 4096), 128 + int(v / 64) % 64, 128 + v % 64)
}
