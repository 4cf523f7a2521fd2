package secret

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// In texts from elsewhere, URLs are often escaped: by JSON (& as \u0026, / as
// \/, both perhaps with more backslashes), by XML (&amp;) or as a part of
// another URL (%3D, %253D).
const (
	slash = `(?:\\*/)`
	query = `(?:[^\s"'<>\\]|\\+/|\\+u00[0-9a-f]{2})*` // not the backslash before a quote
	equal = `(?:=|%(?:25)*3d|\\*u003d|\\*x3d|&#(?:61|x3d);)`
	value = `(?:[A-Za-z0-9%+/=_~.-]|\\+/|\\*u00(?:2b|2f|3d)|&#(?:43|47|61);){8,}`
	// What may surround a word on a command line, also in JSON.
	quote = `\\*["']?`
	arg   = `([^\s"'\\|;<>]+)`
)

// expressions find secrets by their form. The forms are those in the rule sets
// of secret scanners (gitleaks, detect-secrets, trufflehog) and those of the
// platform.
var expressions = []expression{
	// The query of an http(s) URL that has one of the parameters of a shared
	// access signature (protocol/SPEC.md §9.4). Plain http is covered too:
	// emulators and private clouds use it.
	{
		words: []string{"sv=", "st=", "se=", "sr=", "sp=", "sip=", "spr=", "sig="},
		and:   "?",
		find:  once(`(?i)https?:` + slash + slash + `[^\s"'<>?]+\?((?:` + query + `(?:&(?:amp;)?|\\+u0026))?(?:sv|st|se|sr|sp|sip|spr|sig)=` + query + `)`),
		keep:  done,
	},
	// A signature outside of a URL, or in a URL that is a parameter of another.
	{words: []string{"sig=", "sig%", `sig\`, "sig&"}, find: once(`(?i)(?:^|[^a-z])sig` + equal + `(` + value + `)`)},
	// The key of a storage account or of a bus, as in a connection string.
	{words: []string{"key=", "key%", `key\`, "key&"}, find: once(`(?i)(?:account|access)_?key` + equal + `(` + value + `)`)},
	// Credentials in a URL; without a colon they are a token.
	{words: []string{"://", `:\/`, `:\\`}, and: "@", find: once(`(?i)https?:` + slash + slash + `([^\s/"'<>\\]+)@`), keep: done},
	{words: []string{"://", `:\/`, `:\\`}, and: "@", find: once(`:` + slash + slash + `([^\s/:@"'<>\\]*:[^\s/"'<>\\]+)@`), keep: done},
	{words: []string{"proxy"}, and: "@", find: once(`(?i)proxy[a-z_.]{0,12}["']?\s*[:=]\s*["']?([^\s/:@"'<>\\]+:[^\s/@"'<>\\]+)@`)},
	// Secrets in the query of a URL whose names do not say so.
	{words: []string{"code=", "code%3d"}, find: once(`(?i)\bcode` + equal + `([A-Za-z0-9%/+=_~.-]{16,})`), keep: func(_, s string) bool { return !mixed(s) }},
	{words: []string{"signature=", "signature%", "credential="}, find: once(`(?i)(?:[?&;, ]|^)(?:x-(?:amz|goog)-)?(?:signature|credential)` + equal + `([A-Za-z0-9%/+=_~.-]{16,})`), keep: plain},
	{
		words: []string{"hooks.slack.com", "webhookb2", "/webhooks/", "/workflows/"},
		find:  once(`(?i)(?:hooks\.slack\.com/(?:services|workflows|triggers)/|/webhookb2/|/api/webhooks/)([A-Za-z0-9/@_-]{20,})`),
	},

	// Headers. After "Authorization" anything is a secret; Bearer and Basic
	// alone are common words.
	{
		words: []string{"authorization"},
		find:  once(`(?i)authorization` + quote + `\s*[:=]\s*` + quote + `(?:(?:bearer|basic|negotiate|ntlm|token|key|apikey|api-key|sharedkey|sharedkeylite|sharedaccesssignature)\s+)?([^\s,;"'<>&\\}\]]+)`),
		keep:  header,
	},
	{
		words: []string{"authorization"},
		find:  once(`(?i)authorization\\*["']\s*,\s*\\*["'](?:value\\*["']\s*[:=]\s*\\*["'])?(?:[a-z]+\s+)?([^\s"'\\]+)`),
		keep:  header,
	},
	{words: []string{"authorization"}, block: true, find: once(`(?i)authorization:[ \t]*(?:basic|bearer|negotiate)?[ \t]*\r?\n[ \t]+(?:(?:basic|bearer|negotiate)[ \t]+)?([A-Za-z0-9+/=._~-]{8,})`), keep: header},
	{words: []string{"bearer"}, find: once(`(?i)\bbearer\s+([A-Za-z0-9._~+/=-]{16,})`), keep: func(_, s string) bool { return parameter(s) }},
	{words: []string{"basic"}, find: once(`(?i)\bbasic\s+([A-Za-z0-9+/]{4,}={0,2})`), keep: func(_, s string) bool { return !userAndPassword(s) }},
	{words: []string{"digest "}, find: once(`(?i)\bdigest\s[^\n]*?\b(?:response|opaque|cnonce)=` + quote + `([A-Za-z0-9+/=_-]{8,})(?:[^\n]*?\b(?:response|opaque|cnonce)=` + quote + `([A-Za-z0-9+/=_-]{8,}))?(?:[^\n]*?\b(?:response|opaque|cnonce)=` + quote + `([A-Za-z0-9+/=_-]{8,}))?`)},
	{words: []string{"cookie"}, find: once(`(?i)\bcookie2?` + quote + `\s*:\s*` + quote + `([^\s"'<>\\;=]{1,100}=[^"'<>\\\r\n]+)`)},

	{words: []string{"eyj"}, find: once(`\b(eyJ[A-Za-z0-9_-]{8,}\.(?:eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?|[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{8,})|eyJrIjoi[A-Za-z0-9]{40,}={0,2})`)},
	{words: []string{"zxlk"}, find: once(`\b(ZXlK[A-Za-z0-9+/_-]{60,}={0,2})`)},

	// Hashes of passwords, as in /etc/shadow, a directory, a database.
	{
		words: []string{"$1$", "$2$", "$2a$", "$2b$", "$2x$", "$2y$", "$5$", "$6$", "$7$", "$y$", "$gy$", "$argon2", "$apr1$", "$md5", "$sha1", "$scrypt", "$pbkdf2", "$bcrypt"},
		find:  once(`(\$(?:1|2[abxy]?|5|6|7|y|gy|apr1|md5|sha1|argon2(?:id|i|d)|scrypt|pbkdf2[a-z0-9-]*|bcrypt-sha256)\$[./A-Za-z0-9$,=+-]{20,})`),
	},
	{words: []string{"sha}", "sha256}", "sha384}", "sha512}", "md5}", "{crypt}", "{argon2}", "{pbkdf2"}, find: once(`(?i)\{(?:s?sha(?:256|384|512)?|s?md5|crypt|argon2|pbkdf2[a-z0-9-]*)\}([A-Za-z0-9+/=.$,]{12,})`)},
	{words: []string{"sha256$", "sha1$", "sha-256$", "argon2$", "scrypt$"}, find: once(`\b((?:pbkdf2_sha(?:1|256)|bcrypt_sha256|argon2|scrypt|SCRAM-SHA-256)\$[A-Za-z0-9$./+,=:-]{20,})`)},
	{words: []string{"aad3b435"}, find: once(`(?i)\baad3b435[0-9a-f]{24}:([0-9a-f]{32})\b`)},

	// Tokens with a characteristic prefix.
	{
		words: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "glffct-", "gr1348941"},
		find:  once(`\b(gh[pousr]_[A-Za-z0-9]{10,}|github_pat_[A-Za-z0-9_]{20,}|gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_.-]{16,}|GR1348941[A-Za-z0-9_-]{16,})`),
	},
	{words: []string{"xoxa", "xoxb", "xoxc", "xoxd", "xoxe", "xoxo", "xoxp", "xoxr", "xoxs", "xapp-"}, find: once(`\b(xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9%-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,})`)},
	{words: []string{"k_live_", "k_test_", "k_prod_", "whsec_"}, find: once(`\b((?:sk|rk)_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{16,})`)},
	{words: []string{"akia", "asia", "abia", "acca", "a3t"}, find: once(`\b((?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})\b`)},
	{words: []string{"aiza", "ya29.", "gocspx-"}, find: once(`\b(AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})`)},
	// Keys of the platform: those of applications, and those that carry the
	// mark of their service, for storage, functions, buses and so on.
	{words: []string{"0q~", "1q~", "2q~", "3q~", "4q~", "5q~", "6q~", "7q~", "8q~", "9q~"}, find: once(`(?:^|[^A-Za-z0-9_~.-])([A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34})`)},
	{
		words: []string{"+ast", "+aba", "+amc", "+aeh", "+asb", "+arm", "azfu", "azse", "azca", "acdb", "apim", "azea", "azdo", "jqqj99"},
		find:  once(`(?:^|[^A-Za-z0-9+/])([A-Za-z0-9+/_-]{30,90}(?:\+ASt|\+ABa|\+AMC|\+AEh|\+ASb|\+ARm|AzFu|AzSe|AzCa|AzEa|ACDb|APIM|AZDO|JQQJ99)[A-Za-z0-9+/_-]{4,40}={0,2})`),
		keep:  func(_, s string) bool { return !mixed(s) },
	},
	{
		words: []string{"npm_", "pypi-", "sg.", "hvs.", "hvb.", "hvr.", "atlasv1", "dckr_", "shpat_", "shpca_", "shppa_", "shpss_", "sq0", "dop_v1_", "doo_v1_", "dor_v1_", "dapi", "glsa_", "glc_", "lin_api_", "rubygems_", "pul-", "pmak-", "nrak-", "rdme_", "sntry", "dp.pt.", "dt0c01.", "ops_eyj", "hrku-", "tskey-"},
		find: once(`\b(npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{40,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|hv[sbr]\.[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{40,}|` +
			`dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{20,}|do[opr]_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}(?:-[0-9])?|` +
			`gl(?:sa|c)_[A-Za-z0-9_=+/]{30,}|lin_api_[A-Za-z0-9]{30,}|rubygems_[0-9a-f]{40,}|pul-[0-9a-f]{40}|PMAK-[0-9a-f]{20,}-[0-9a-f]{30,}|NRAK-[A-Z0-9]{20,}|rdme_[a-z0-9]{50,}|` +
			`sntry[su]_[A-Za-z0-9+/=_]{40,}|dp\.pt\.[A-Za-z0-9]{30,}|dt0c01\.[A-Z0-9]{20,}\.[A-Z0-9]{50,}|ops_eyJ[A-Za-z0-9+/]{50,}={0,2}|HRKU-[A-Za-z0-9_-]{30,}|tskey-[a-z]+-[A-Za-z0-9-]{20,})`),
	},
	{
		words: []string{"sk-", "hf_", "gsk_", "nvapi-", "pplx-", "xai-", "ltai", "akcp", "cmvmd", "atatt3", "atbb", "atctt3", "clojars_", "pscale_", "xkeysib-", "key-", "-us", "sha256~", "oy2", "age-secret-key-", "avns_", "ezak", "flwseck", "fio-u-", "duffel_", "shippo_", "sgp_", "ntn_", "pnu_", "fo1_", "fm2_", "a3-", "api-", "eaa", "figd_", "bkua_", "_mmk", "v1.0-"},
		find: once(`\b(sk-(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9]{32,}|hf_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{40,}|nvapi-[A-Za-z0-9_-]{40,}|pplx-[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{60,}|LTAI[A-Za-z0-9]{16,20}|` +
			`AKCp[A-Za-z0-9]{60,}|cmVmd[A-Za-z0-9]{55,}|AT(?:ATT|CTT)3[A-Za-z0-9_=-]{40,}|ATBB[A-Za-z0-9]{24,}|CLOJARS_[A-Za-z0-9]{50,}|pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{30,}|xkeysib-[0-9a-f]{60,}-[A-Za-z0-9]{16}|` +
			`key-[0-9a-f]{32}|[0-9a-f]{32}-us[0-9]{1,2}|sha256~[A-Za-z0-9_-]{40,}|oy2[a-z0-9]{43}|AGE-SECRET-KEY-1[A-Z0-9]{40,}|AVNS_[A-Za-z0-9_-]{16,}|EZ[AT]K[A-Za-z0-9]{50,}|FLWSECK[A-Z_]*-[A-Za-z0-9]{12,}|fio-u-[A-Za-z0-9_=-]{50,}|` +
			`duffel_(?:test|live)_[A-Za-z0-9_=-]{40,}|shippo_(?:live|test)_[0-9a-fA-F]{40}|sgp_[A-Za-z0-9_]{40,}|ntn_[0-9]{11}[A-Za-z0-9]{30,}|pnu_[A-Za-z0-9]{36}|fo1_[A-Za-z0-9_-]{40,}|fm2_[A-Za-z0-9+/]{80,}={0,2}|` +
			`A3-[A-Z0-9]{6}-[A-Z0-9]{5,11}-[A-Z0-9-]{15,}|API-[A-Z0-9]{26}\b|EAA[A-Z][A-Za-z0-9_-]{40,}|figd_[A-Za-z0-9_-]{30,}|bkua_[0-9a-z]{40}|[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk|v1\.0-[0-9a-f]{24}-[0-9a-f]{100,})`),
	},
	{words: []string{":aa"}, find: once(`(?:^|[^0-9A-Za-z])(?:bot)?([0-9]{8,10}:AA[A-Za-z0-9_-]{30,})`)},
	{words: []string{"twilio", "sk0", "sk1", "sk2", "sk3", "sk4", "sk5", "sk6", "sk7", "sk8", "sk9", "ska", "skb", "skc", "skd", "ske", "skf"}, find: once(`\b(SK[0-9a-f]{32})\b`)},

	// Command lines.
	{words: []string{"curl", "wget"}, and: ":", find: once(`(?i)\b(?:curl|wget)\b[^\n]*?\s` + quote + `(?:-[a-z]*u|--(?:proxy-)?user)(?:=|` + quote + `,?\s*)` + quote + `[^\s"':\\]*:([^\s"'\\]+)`), keep: placeholderOf},
	{words: []string{"sshpass"}, find: once(`(?i)\bsshpass` + quote + `,?\s+` + quote + `-p` + quote + `,?\s*` + quote + arg), keep: placeholderOf},
	{words: []string{"mysql", "mariadb"}, and: "-p", find: once(`\b(?:mysql|mariadb)[a-z_-]*\b[^\n|;]*?\s` + quote + `-p` + `([^\s"'\\|;<>]+)`), keep: func(_, s string) bool { return placeholder(s) || s == "ort" || s == "rint" }},
	{words: []string{" login", `"login`}, and: "-p", find: once(`(?i)\b(?:docker|podman|nerdctl|buildah|skopeo|helm|oc|az|cf|registry)\b[^\n]*?\blogin\b[^\n]*?\s` + quote + `-p` + quote + `,?\s*` + quote + arg), keep: placeholderOf},
	{words: []string{"pass:"}, find: once(`(?i)-(?:pass|passin|passout|k)` + quote + `,?\s+` + quote + `pass:` + arg), keep: placeholderOf},
	{
		words: []string{"redis-cli", "ldap", "sqlcmd", "bcp ", "ipmitool", "unzip", "zip ", "isql", "7z ", "7za", "smbclient", "rpcclient", "xfreerdp", "snmp", "mongo", "htpasswd", "useradd", "usermod"},
		find: once(`(?:\bredis-cli\b[^\n|;]*?\s(?:-a|--pass)\s*|\bldap[a-z]+\b[^\n|;]*?\s-w\s*|\b(?:sqlcmd|bcp|ipmitool|unzip|zip|isql)\b[^\n|;]*?\s-P\s*|\b7z[arz]?\b[^\n|;]*?\s-p|` +
			`\b(?:smbclient|rpcclient)\b[^\n|;]*?\s-U\s*[^\s%]+%|\bxfreerdp\b[^\n|;]*?\s/p:|\bsnmp[a-z]+\b[^\n|;]*?\s-[AX]\s*|\bmongo[a-z]*\b[^\n|;]*?\s-p\s*|\bhtpasswd\b[^\n|;]*?\s-[a-zA-Z]*b[a-zA-Z]*\s+\S+\s+\S+\s+|` +
			`\buser(?:add|mod)\b[^\n|;]*?\s-p\s*)["']?([^\s"'|;<>]+)`),
		keep: placeholderOf,
	},
	{words: []string{"chpasswd"}, find: once(`(?i)\b(?:echo|printf)\s+(?:-\S+\s+)?["']?[^\s:"'|]+:([^"'|\n]+?)["']?\s*\|\s*(?:sudo\s+)?(?:/usr/sbin/)?chpasswd`), keep: placeholderOf},
	{words: []string{"--stdin", "-stdin", "sudo -s"}, find: once(`(?i)\b(?:echo|printf)\s+(?:-\S+\s+)?["']?([^"'|\n]+?)["']?\s*\|[^\n|]*(?:--stdin|--password-stdin|--passphrase-fd|sudo\s+-S)`), keep: placeholderOf},
	{words: []string{"identified "}, find: once(`(?i)\bidentified\s+(?:with\s+\S+\s+)?(?:by|as)\s+(?:password\s+)?\\*["']([^"'\\]+)`), keep: placeholderOf},
	{words: []string{"chpasswd"}, block: true, find: once(`(?i)\bchpasswd\b[^\n]*<<(?:<\s*["']?|-?\s*["']?[a-z_]+["']?\s*\n)[^\s:"']+:([^"'\n]+)`), keep: placeholderOf},
	{words: []string{"requirepass", "masterauth", "bindpw", "rootpw", "sudoers_bindpw"}, find: once(`(?i)\b(?:requirepass|masterauth|bindpw|rootpw|sudoers_bindpw)\s+([^\s"']+)`), keep: placeholderOf},
	{words: []string{"login"}, block: true, find: once(`(?i)\blogin\s+\S+\s+(?:account\s+\S+\s+)?password\s+([^\s"'\\]+)`), keep: placeholderOf},
	// Private keys without the usual marks, see keys for the others.
	{words: []string{"private-lines:"}, block: true, find: once(`Private-Lines:\s*[0-9]+\s+((?:[A-Za-z0-9+/=]+\s+)+)`)},
	{words: []string{"begin ssh2"}, block: true, find: once(`---- BEGIN SSH2 (?:[A-Z0-9]+ )*PRIVATE KEY ----((?s:.*?))---- END SSH2 `)},
	// A line of .pgpass: host, port, database, user, password.
	{words: []string{":*:", ":5432:", ":5433:", ":6432:"}, find: once(`(?:^|[\s"'])[^\s:"']+:(?:[1-9][0-9]{3,4}|\*):[^\s:"']+:[^\s:"']+:((?:[^\s:"'\\]|\\[:\\])+)(?:[\s"']|$)`)},
}

// done keeps text that was already redacted, so that redacting twice changes
// nothing.
func done(_, s string) bool { return s == redacted }

// plain keeps values without digits, such as "code=insufficient_permissions".
func plain(_, s string) bool { return !strings.ContainsAny(s, "0123456789") || s == redacted }

// parameter reports whether s is a parameter and not a token, as in "Bearer
// authorization_uri=…".
func parameter(s string) bool {
	name, _, ok := strings.Cut(s, "=")
	return ok && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// header keeps the name of a scheme that is followed by something else: other
// expressions find its values, or it is prose.
func header(_, s string) bool {
	switch strings.ToLower(s) {
	case "bearer", "basic", "digest", "negotiate", "ntlm", "token", "sharedkey", "aws4-hmac-sha256", "header", "headers", "code":
		return true
	}
	return placeholder(s) || ordinary(s)
}

func placeholderOf(_, s string) bool { return placeholder(s) }

// userAndPassword reports whether s is the value of a Basic header: base64 of
// user and password.
func userAndPassword(s string) bool {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil || !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if r < ' ' {
			return false
		}
	}
	i := strings.IndexByte(string(b), ':')
	return i >= 0 && i < len(b)-1
}

// mixed reports whether s has letters of both cases and digits, as random
// values have.
func mixed(s string) bool {
	return strings.ContainsAny(s, "0123456789") && strings.ToLower(s) != s && strings.ToUpper(s) != s
}
