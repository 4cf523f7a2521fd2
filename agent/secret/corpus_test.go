package secret_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/test/peak"
)

// The secrets of the corpus are generated, so that none of them is in the
// repository: code hosts search for the same forms. In a sample, {a40} is forty
// random letters and digits, {h32} hex, {b44} base64, {u36} upper case and
// digits, {d10} digits, {o20} letters of octal-free base32; {w}, {l} and {s}
// are passwords of people: a word with a digit, letters only, with signs.
const (
	alnum  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	hexa   = "0123456789abcdef"
	base   = alnum + "+/"
	capit  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	digits = "0123456789"
	lowers = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var slot = regexp.MustCompile(`\{([ahbudo])(\d+)\}|\{[wlsBUJ]\}`)

// fill puts secrets into a sample and returns them.
func fill(rng *rand.Rand, sample string) (text string, secrets []string) {
	random := func(from string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = from[rng.IntN(len(from))]
		}
		return string(b)
	}
	text = slot.ReplaceAllStringFunc(sample, func(m string) string {
		var s string
		switch m[1] {
		case 'w':
			s = "hunter" + random(digits, 2)
		case 'l':
			s = "correcthorse" + random("abcdefgh", 4)
		case 's':
			s = "p@ss,w0rd!#" + random(alnum, 4)
		case 'B': // user and password
			s = base64.StdEncoding.EncodeToString([]byte("joe:" + random(alnum, 14)))
		case 'J': // the part of a token of JSON
			s = base64.RawURLEncoding.EncodeToString([]byte(`{"a":"` + random(alnum, 30) + `"}`))
		default:
			n, err := strconv.Atoi(m[2 : len(m)-1])
			if err != nil {
				panic(err)
			}
			s = random(map[byte]string{'a': alnum, 'h': hexa, 'b': base, 'u': capit, 'd': digits, 'o': lowers}[m[1]], n)
		}
		secrets = append(secrets, s)
		return s
	})
	return text, secrets
}

// leaks reports whether six consecutive bytes of a secret are left.
func leaks(text, s string) bool {
	const n = 6
	for i := 0; i+n <= len(s); i++ {
		if strings.Contains(text, s[i:i+n]) {
			return true
		}
	}
	return len(s) < n && strings.Contains(text, s)
}

// secretSamples have secrets in all their slots; the text around them may stay.
var secretSamples = []string{
	// Headers.
	`Authorization: Basic {B}`,
	`curl -H "Authorization: Basic {B}" https://api.example/v1`,
	`> authorization: Basic {B}`,
	`{"headers":{"Authorization":"Basic {B}"}}`,
	`"{\"headers\":{\"authorization\":\"Bearer {a40}\"}}"`,
	`Proxy-Authorization: Basic {B}`,
	`request failed, sent Basic {B} to proxy`,
	`Authorization: Bearer {a40}`,
	`Authorization: {a40}`,
	`authorization = token {a40}`,
	`Authorization: SharedKey account:{b44}`,
	`Authorization: Negotiate {b60}`,
	`WWW: Digest username="joe", realm="r", nonce="abc", uri="/", response="{h32}", opaque="{h32}"`,
	`Authorization: AWS4-HMAC-SHA256 Credential=AKIA{u16}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature={h64}`,
	`x-functions-key: {a52}==`,
	`X-Api-Key: {a32}`,
	`Ocp-Apim-Subscription-Key: {h32}`,
	`X-Vault-Token: hvs.{a40}`,
	`PRIVATE-TOKEN: {a20}`,
	`X-Auth-Token: {h32}`,
	`X-Amz-Security-Token: {b60}`,
	`Set-Cookie: session={a32}; Path=/; HttpOnly`,
	`Cookie: SID={a24}; csrf={h16}`,
	`{"Cookie":"auth={a32}"}`,

	// URLs.
	`git clone https://joe:{w}@git.example/r.git`,
	`https://{a40}@github.example/r.git`,
	`postgres://app:{s}@db.example:5432/app`,
	`amqp://guest:{w}@mq:5672/%2f`,
	`mongodb+srv://root:{a20}@cluster0.example.net/test`,
	`redis://:{a24}@cache:6379/0`,
	`ftp://anonymous:{w}@ftp.example/`,
	`jdbc:mysql://db/app?user=root&password={w}`,
	`https://app.azurewebsites.net/api/f?code={a44}==`,
	`POST https://fn.example/api/run?name=x&code={a52}%3D%3D returned 401`,
	`https://b.blob.core.windows.net/c/x?sv=2024-01-01&sr=b&sig={a43}%3D`,
	`https://s3.example/x?X-Amz-Credential=ASIA{u16}%2F20260101&X-Amz-Signature={h64}`,
	`https://storage.googleapis.com/b/o?X-Goog-Signature={h64}`,
	`https://api.example/v1?api_key={a32}&page=2`,
	`https://api.example/v1?access_token={a40}`,
	`GET /login?user=joe&password={w}&next=/ HTTP/1.1`,
	`to=https%3A%2F%2Fa.example%2F%3Fclient_secret%3D{a32}%26x%3D1`,
	`https://hooks.slack.com/services/T{u8}/B{u8}/{a24}`,
	`https://x.webhook.office.com/webhookb2/{h8}@{h8}/IncomingWebhook/{h32}/{h8}`,
	`https://discord.com/api/webhooks/{d18}/{a68}`,
	`https://api.telegram.org/bot{d10}:AA{a33}/sendMessage`,
	`proxy http://joe:{w}@proxy:3128`,

	// Names with values: environment, INI, YAML, JSON, XML, SQL.
	`password={w}`,
	`password={l}`,
	`password={s}`,
	`Password = {s}`,
	`password: {w}`,
	`password: "{s}"`,
	`  password: {l}`,
	`PGPASSWORD={w} psql -h db`,
	`export PGPASSWORD='{s}'`,
	`+ MYSQL_PWD={w}`,
	`DB_PASS={a16}`,
	`dbPass = "{w}"`,
	`LDAP_BIND_PW={w}`,
	`SSHPASS={w} sshpass -e ssh h`,
	`ENV ADMIN_PASSWORD_2={w}`,
	`client_secret={a40}`,
	`client_secret: {a40}`,
	`clientSecret: '{a34}'`,
	`AZURE_CLIENT_SECRET={a3}8Q~{a34}`,
	`using secret {a3}8Q~{a34} of the application`,
	`aws_secret_access_key = {b40}`,
	`AWS_SECRET_ACCESS_KEY={b40}`,
	`aws_access_key_id=AKIA{u16}`,
	`{"password":"{s}","user":"joe"}`,
	`{"password": 12345678, "u": 1}`,
	`{"adminPassword":{"value":"{s}"}}`,
	`{"name":"DB_PASSWORD","value":"{w}"}`,
	`- name: DB_PASSWORD` + "\n" + `  value: {w}`,
	`{"passwords":["{w}","{s}"]}`,
	`"{\"user\":\"joe\",\"password\":\"{w}\"}"`,
	`"\"{\\\"password\\\":\\\"{w}\\\"}\""`,
	`{'user': 'joe', 'password': '{w}'}`,
	`{:password=>"{w}"}`,
	`{User:joe Password:{w} Host:db}`,
	`map[password:{w} user:joe]`,
	`<Password>{w}</Password>`,
	`<ns:Password xsi:type="xsd:string">{s}</ns:Password>`,
	`&lt;Password&gt;{w}&lt;/Password&gt;`,
	`<add key="Password" value="{w}"/>`,
	`<user name="joe" password="{w}"/>`,
	`<UserPassword><![CDATA[{s}]]></UserPassword>`,
	`&quot;password&quot;:&quot;{w}&quot;`,
	"password: |\n  {w}\n  {a20}\nuser: joe",
	"\"password\":\n    \"{w}\"",
	"tool --password \\\n  {w} --verbose",
	`password := "{w}"`,
	`$config['password'] = '{w}';`,
	`setPassword("{w}")`,
	`ALTER ROLE joe WITH PASSWORD '{w}';`,
	`CREATE USER 'joe'@'%' IDENTIFIED BY '{w}';`,
	`SET PASSWORD FOR 'joe' = PASSWORD('{w}');`,
	`Server=tcp:db;User ID=joe;Password={s};Encrypt=True`,
	`Driver={x};Uid=joe;Pwd={w};`,
	`DefaultEndpointsProtocol=https;AccountName=a;AccountKey={b86}==;EndpointSuffix=x`,
	`Endpoint=sb://b/;SharedAccessKeyName=k;SharedAccessKey={b43}=`,
	`storage key is {b76}+ASt{b6}==`,
	`function key: {a44}AzFu{a6}==`,
	`InstrumentationKey={h8}-{h8}`,
	`BlobEndpoint=https://b/;SharedAccessSignature=sv=2024&sig={a43}%3D`,
	`WorkspaceKey: {b86}==`,
	`"primaryKey": "{b86}=="`,
	`"protectedSettings": "MIIB{b60}"`,
	`{"protectedSettings": {"commandToExecute": "run {w}", "x": ["{l}"]}, "a": 1}`,
	`{'protected_settings': {'script': '{a40}', 'n': {'user': '{w}'}}}`,
	`protected settings: {"connection": "it's {l}"}`,
	`"protectedSettings":{"commandToExecute":"run {w}`,
	`"{\"protectedSettings\":{\"commandToExecute\":\"run {w}\"}}"`,
	`api_key: {a32}`,
	`apikey="{h32}"`,
	`X_TOKEN = {a40}`,
	`"access_token":"{a40}"`,
	`"refresh_token": "{a60}"`,
	`registration token={a26}`,
	`kubeadm join 10.0.0.1:6443 --token {o6}.{o16}`,
	`//registry.npmjs.org/:_authToken={a36}`,
	`{"auths":{"r.example":{"auth":"{B}"}}}`,
	`wifi psk="{w}"`,
	`passphrase: '{s}'`,
	`the password is {w}`,
	`new password is "{l}"`,
	`password for joe: “{w}”`,
	`password: „{w}“`,
	`password：{w}`,
	`passwort={w}`,
	`contraseña: {w}`,
	`b'password': b'{w}'`,
	`mount -t cifs //s/x /m -o username=joe,password={w},vers=3.0`,
	`credentials: "{a24}"`,

	// Command lines.
	`mytool --password {w} --user joe`,
	`mytool --password={s}`,
	`mytool --password '{s}'`,
	`mytool -password {w}`,
	`['mytool', '--password', '{w}']`,
	`["mytool","--token","{a32}"]`,
	`mytool --token={a32}`,
	`mytool --client-secret {a34}`,
	`az login --service-principal -u app -p {a34} --tenant t`,
	`docker login -u joe -p {w} r.example`,
	`curl -u joe:{w} https://a.example/`,
	`curl -sS --user 'joe:{s}' https://a.example/`,
	`curl -k -U joe:{w} -x proxy:3128 http://a/`,
	`sshpass -p {w} ssh joe@h`,
	`sshpass -p'{s}' scp a b`,
	`mysql -uroot -p{w} -e 'select 1'`,
	`mysqldump --user=root --password={w} app`,
	`openssl pkcs12 -in a.p12 -passin pass:{w} -nodes`,
	`redis-cli -h c -a {a24} ping`,
	`ldapsearch -x -D cn=admin -w {w} -b dc=x`,
	`sqlcmd -S db -U sa -P {s}`,
	`7z x -p{w} a.7z`,
	`keytool -list -storepass {w} -keystore k`,
	`smbclient //s/x -U joe%{w}`,
	`echo 'joe:{s}' | chpasswd`,
	`echo "joe:{w}" | sudo chpasswd`,
	`echo {w} | passwd --stdin joe`,
	`echo '{s}' | docker login -u joe --password-stdin`,
	`kubectl create secret generic s --from-literal=password={w}`,
	`docker run -e MYSQL_ROOT_PASSWORD={w} mysql`,
	`machine h.example login joe password {w}`,
	"machine h.example\nlogin joe password {w}",
	`db.example:5432:app:joe:{w}`,
	`*:*:*:postgres:{w}`,

	// Hashes of passwords.
	`joe:$1$saltsalt${a22}:19000:0:99999:7:::`,
	`joe:$5$saltsalt${a43}:19000::::::`,
	`joe:$6$saltsalt${a86}:19000:0:99999:7:::`,
	`joe:$y$j9T$abcdefgh${a43}:19000::::::`,
	`$2b$12${a53}`,
	`$2y$10${a53}`,
	`$argon2id$v=19$m=65536,t=3,p=4${a22}${a43}`,
	`$apr1$abcdefgh${a22}`,
	`userPassword: {SSHA}{b32}`,
	`{SHA512}{b86}==`,
	`pbkdf2_sha256$260000$abcdef${b43}=`,
	`SCRAM-SHA-256$4096:{b22}==${b43}=:{b43}=`,
	`Administrator:500:aad3b435b51404eeaad3b435b51404ee:{h32}:::`,

	// Tokens of services.
	"gh" + `p_{a36}`,
	"github" + `_pat_{a22}_{a59}`,
	"remote: gh" + `s_{a36} expired`,
	"gl" + `pat-{a20}`,
	"xo" + `xb-{d12}-{d12}-{a24}`,
	"xap" + `p-1-A{u10}-{d13}-{h64}`,
	"sk" + `_live_{a24}`,
	"rk" + `_test_{a24}`,
	"npm" + `_{a36}`,
	"pypi-" + `AgEIcHlwaS5vcmc{a60}`,
	"SG" + `.{a22}.{a43}`,
	"SK" + `{h32}`,
	"AIza" + `{a35}`,
	"ya29" + `.{a60}`,
	"GOCSPX-" + `{a28}`,
	"dckr" + `_pat_{a27}`,
	"hvs" + `.{a90}`,
	"{a14}.atlas" + `v1.{a67}`,
	"dop_" + `v1_{h64}`,
	"shpat" + `_{h32}`,
	"dapi" + `{h32}`,
	"glsa" + `_{a32}_{h8}`,
	"hf" + `_{a34}`,
	"sk-" + `proj-{a48}`,
	"sk-" + `ant-api03-{a60}`,
	"AGE-SECRET-KEY-" + `1{u58}`,
	"sha256" + `~{a43}`,
	"oy2" + `{o43}`,
	"key-" + `{h32}`,
	"{h32}-us12",
	"PMAK-" + `{h24}-{h34}`,
	"tskey-" + `auth-{a16}-{a30}`,
	`{J}.{J}.{a43}`,
	`Cookie jar: token {J}.{J}.{a43} stored`,

	// Private keys.
	"-----BEGIN RSA PRIVATE KEY-----\n{b64}\n{b64}\n-----END RSA PRIVATE KEY-----",
	`"-----BEGIN PRIVATE KEY-----\n{b64}\n{b64}\n-----END PRIVATE KEY-----\n"`,
	"-----BEGIN OPENSSH PRIVATE KEY-----\n{b70}\n{b40}\n-----END OPENSSH PRIVATE KEY-----",
	"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{h32}\n\n{b64}\n-----END EC PRIVATE KEY-----",
	"-----BEGIN ENCRYPTED PRIVATE KEY----- {b64} {b64} -----END ENCRYPTED PRIVATE KEY-----",
	"-----BEGIN PGP PRIVATE KEY BLOCK-----\nComment: joe <joe@example.org>\n\n{b64}\n={b4}\n-----END PGP PRIVATE KEY BLOCK-----",
	"  key: |\n    -----BEGIN PRIVATE KEY-----\n    {b64}\n    {b64}\n    -----END PRIVATE KEY-----",
	"-----BEGIN PRIVATE KEY-----\n{b64}\n{b64}",
	"{b64}\n{b64}\n-----END PRIVATE KEY-----",
	`{"type":"service_account","private_key":"-----BEGIN PRIVATE KEY-----\n{b64}\n-----END PRIVATE KEY-----\n"}`,
	"PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 2\n{b64}\n{b20}\nPrivate-MAC: 00",

	// Short ones, in other languages, in prose, with other quotes.
	`--password X{w}`,
	`{"password":"ab\"{w}","x":1}`,
	`"{\"password\":\"ab\\\"{w}\",\"x\":1}"`,
	`password='it''s {w}'`,
	`secret_key_base: {h40}`,
	`https://user:p@{w}@host/x`,
	`smb://dom;user:{w}@h/s`,
	`curl -ujoe:{w} x`,
	`curl -d '{"password":"{w}"}' x`,
	`chpasswd <<< "joe:{w}"`,
	"chpasswd <<EOF\njoe:{w}\nEOF",
	`usermod -p {w} joe`,
	`<property name="password">{w}</property>`,
	`password\u003d{w}\u0026user`,
	`password%3D{w}%26user%3Djoe`,
	`-Djavax.net.ssl.keyStorePassword={w}`,
	`requirepass {w}`,
	`bindpw {w}`,
	`user admin password {w}`,
	`Passwort: {w}`,
	`mot de passe : {w}`,
	`пароль: {w}`,
	`密码: {w}`,
	`パスワード：{w}`,
	`$env:PASSWORD="{w}"`,
	`db.password.value={w}`,
	`password[0]={w}`,
	`password:{w};user:joe`,
	`pass-phrase={w}`,
	`pw={w}`,
	`"pw":"{w}"`,
	"Authorization: Basic\n {B}",
	`{"name":"Authorization","value":"Basic {B}"}`,
	`["Authorization","Bearer {a30}"]`,
	`Authorization=Basic%20{B}`,
	`A temporary password is generated for root@localhost: {w}!x`,
	`Generated password for root: {w}`,
	`Your new password is: {w}`,
	`Password set to {w}`,
	`"keys":[{"keyName":"key1","value":"{b86}=="}]`,
	`listKeys: {"primaryMasterKey":"{b86}=="}`,
	`grant_type=client_credentials&client_id=a&client_secret={a30}%7Ea&scope=x`,
	`"sasToken":"sv=2020-01-01&ss=b&sig={a43}%3D"`,
	"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n{b64}\n---- END SSH2 ENCRYPTED PRIVATE KEY ----",
	`-----BEGIN RSA PRIVATE KEY-----\r\n{b64}\r\n-----END RSA PRIVATE KEY-----`,
}

// innocentSamples are lines that must stay as they are; {…} is filled in the
// same way.
var innocentSamples = []string{
	// Package managers.
	`Get:1 http://archive.ubuntu.com/ubuntu jammy/main amd64 passwd amd64 1:4.8.1-2ubuntu2 [804 kB]`,
	`Setting up libsecret-1-0:amd64 (0.20.5-2) ...`,
	`Unpacking libpam-pwquality:amd64 (1.4.4-1build2) over (1.4.4-1) ...`,
	`Selecting previously unselected package python3-keyring.`,
	`(Reading database ... 61234 files and directories currently installed.)`,
	`Fetched 12.3 MB in 2s (6,123 kB/s)`,
	`The following NEW packages will be installed: gnome-keyring apg passwordsafe`,
	`W: http://x/dists/stable/InRelease: Key is stored in legacy trusted.gpg keyring (/etc/apt/trusted.gpg), see the DEPRECATION section in apt-key(8) for details.`,
	`gpg: key {h16}: public key "Microsoft (Release signing) <gpgsecurity@microsoft.com>" imported`,
	`Importing GPG key 0xBE1229CF:`,
	` Fingerprint: BC52 8686 B50D 79E3 39D3 721C EB3E 94AD BE12 29CF`,
	`warning: /var/cache/yum/x.rpm: Header V4 RSA/SHA256 Signature, key ID be1229cf: NOKEY`,
	`Installed: openssl-1:3.0.7-27.el9.x86_64 passwd-0.80-12.el9.x86_64`,
	`libsecret-0.20.4-4.el9.x86_64.rpm   |  161 kB  00:00`,
	`Dependencies resolved.`,
	`debconf: delaying package configuration, since apt-utils is not installed`,
	`update-alternatives: using /usr/bin/pinentry-curses to provide /usr/bin/pinentry (pinentry) in auto mode`,
	`Processing triggers for libc-bin (2.35-0ubuntu3.8) ...`,
	`npm WARN deprecated request-promise-native@1.0.9: see token-types`,
	`added 312 packages, and audited 313 packages in 9s`,
	`"integrity": "sha512-{b86}=="`,
	`Successfully installed PyJWT-2.8.0 tokenize-rt-5.2.0 secretstorage-3.3.3`,
	`pip: Collecting azure-keyvault-secrets==4.7.0`,
	`Collecting keyring>=23 (from -r requirements.txt)`,

	// Digests, ids, certificates.
	`sha256:{h64}`,
	`SHA256 ({h8}.tar.gz) = {h64}`,
	`{h64}  ./usr/bin/passwd`,
	`Digest: sha256:{h64}`,
	`Status: Downloaded newer image for nginx@sha256:{h64}`,
	`commit {h40}`,
	`HEAD is now at {h8} fix token parsing`,
	`From https://github.com/a/b * branch main -> FETCH_HEAD {h40}`,
	`index {h7}..{h7} 100644`,
	`{h8}-{h4}-{h4}-{h4}-{h12}`,
	`correlation id: {h8}-{h4}-{h4}-{h4}-{h12}`,
	`subscription {h8}-{h4}-{h4}-{h4}-{h12} resourceGroup rg-1`,
	`/subscriptions/{h8}-{h4}-{h4}-{h4}-{h12}/resourceGroups/rg/providers/Microsoft.KeyVault/vaults/kv`,
	`thumbprint: {h40}`,
	`ETag: "0x8D{h12}"`,
	`Content-MD5: {b22}==`,
	`x-ms-request-id: {h8}-{h4}-{h4}-{h4}-{h12}`,
	"-----BEGIN CERTIFICATE-----\n{b64}\n{b64}\n-----END CERTIFICATE-----",
	"-----BEGIN PUBLIC KEY-----\n{b64}\n-----END PUBLIC KEY-----",
	"-----BEGIN PGP SIGNATURE-----\n\n{b64}\n={b4}\n-----END PGP SIGNATURE-----",
	`ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{b43} joe@host`,
	`ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ{b90} joe`,
	`{b64}`,
	`SHA256:{b43} root@vm (ED25519)`,
	`256 SHA256:{b43} /etc/ssh/ssh_host_ed25519_key.pub (ED25519)`,
	`generating host key: /etc/ssh/ssh_host_rsa_key`,
	`MAC address 00:0d:3a:12:34:56, inet6 fe80::20d:3aff:fe12:3456`,
	`layer {h12}: Pull complete`,
	`public_key: {b43}=`,
	`key fingerprint is {h40}`,
	`Key-Type: RSA`,
	`primary key: id`,
	`foreign_key=user_id`,
	`key=value`,
	`sort key: 3,5`,

	// Lines about passwords without one.
	`passwd: password updated successfully`,
	`passwd: password expiry information changed.`,
	`Failed password for invalid user admin from 203.0.113.9 port 51122 ssh2`,
	`Accepted password for joe from 203.0.113.9 port 51122 ssh2`,
	`pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.9`,
	`sudo: a password is required`,
	`sudo: 3 incorrect password attempts ; TTY=pts/0 ; PWD=/home/joe ; USER=root ; COMMAND=/bin/ls`,
	`PasswordAuthentication no`,
	`PermitRootLogin prohibit-password`,
	`password requisite pam_pwquality.so retry=3`,
	`auth required pam_env.so`,
	`%wheel ALL=(ALL) NOPASSWD: ALL`,
	`Enter password: `,
	`Password: `,
	`password: required`,
	`password: expired`,
	`password is required`,
	`the password is incorrect`,
	`password=`,
	`password=****`,
	`password: ********`,
	`password=<hidden>`,
	`password=<redacted>`,
	`"password":"[redacted]"`,
	`"password": null`,
	`"password": ""`,
	`"disablePasswordAuthentication": true`,
	`password=$PASSWORD`,
	`password="${DB_PASSWORD}"`,
	`PGPASSWORD=$(cat /run/secrets/pg)`,
	`password={{ vault_password }}`,
	`password_file=/etc/app/password`,
	`POSTGRES_PASSWORD_FILE=/run/secrets/pg`,
	`--password-file /etc/app/password`,
	`      --password string   Password of the registry`,
	`  -p, --password PASSWORD  the password`,
	`usage: login --password <PASSWORD>`,
	`password = getpass.getpass()`,
	`password = args.password`,
	`minimum password length: 8`,
	`password_encryption = scram-sha-256`,
	`chage: Maximum number of days between password change: 99999`,
	`root:x:0:0:root:/root:/bin/bash`,
	`joe:*:19000:0:99999:7:::`,
	`joe:!:19000:0:99999:7:::`,
	`PWD=/root`,
	`OLDPWD=/var/lib/waagent`,
	`PASS: tests/run.sh`,
	`tests pass=12 fail=0 skip=3`,
	`ok 3 - password is masked`,
	`User must change password at next login`,
	`The password does not meet the complexity requirements`,
	`compass: north`,
	`bypass=true`,

	// Lines about tokens, keys, secrets, cookies without one.
	`token expired, refreshing`,
	`invalid token: unexpected end of input`,
	`error: unexpected token '<' at line 3`,
	`max_tokens=4096`,
	`token_type=Bearer`,
	`token: expired`,
	`secret "db-creds" created`,
	`Error from server (NotFound): secrets "db-creds" not found`,
	`secretName: my-tls-cert`,
	`secret: my-db-creds`,
	`UserSecretsId={h8}-{h4}-{h4}-{h4}-{h12}`,
	`https://kv.vault.azure.net/secrets/db-password/{h32}`,
	`arn:aws:secretsmanager:us-east-1:123456789012:secret:db`,
	`keyVault secret https://kv.vault.azure.net/secrets/x fetched`,
	`Bearer authorization_uri="https://login.example/t", resource="https://m"`,
	`WWW-Authenticate: Bearer realm="example"`,
	`Basic authentication is disabled`,
	`basic configuration complete`,
	`using basic auth`,
	`Authorization header missing`,
	`authorization: none`,
	`cookies are disabled`,
	`cookie: not set`,
	`?code=404&x=1`,
	`exit code=137 signal=9`,
	`https://x.example/cb?error=access_denied&code=insufficient_permissions`,
	`https://x.example/cb?state=1`,
	`https://a.example:8080/b@c`,
	`ssh://git@github.com/a/b.git`,
	`git@github.com:a/b.git`,
	`curl -u joe https://a.example/`,
	`curl -o /dev/null -sS https://a.example:443/x`,
	`mysql -u root -p app`,
	`mkdir -p /var/lib/app`,
	`ps -p 1234`,
	`tar -xpzf a.tar.gz`,
	`docker run -p 8080:80 nginx`,
	`cp -pr /a /b`,
	`ssh -p 2222 joe@h`,
	`costs $5 and $6$ more, $1`,
	`awk '{print $1$2}'`,
	`echo "$HOME:$USER" | tee x`,
	`12:34:56 file.c:12:34: error: expected ';' before 'token'`,
	`main.go:10:5:error:undefined`,
	`keyboard-interactive/pam`,
	`api-version=2024-03-01`,
	`author: joe`,
	`authority: example.org`,
	`Author=Joe`,
	`asia-southeast1 region selected`,
	`risk-assessment-of-the-long-name-of-something done`,
	`2026-11-25T19:14:00Z INFO ExtHandler ProcessExtensionsGoalState completed [incarnation_2 143 ms]`,
	`{"status":"success","code":0,"formattedMessage":{"lang":"en-US","message":"Enable succeeded"}}`,
	`Command execution finished, but failed because it returned a non-zero exit code of: '1'`,
	`systemd[1]: Started Session 3 of User joe.`,
	`kernel: Key type dns_resolver registered`,
	`kernel: integrity: Loaded X.509 cert 'Build time autogenerated kernel key: {h40}'`,
	`sshd[812]: Server listening on 0.0.0.0 port 22.`,
	`Created symlink /etc/systemd/system/multi-user.target.wants/systemd-ask-password.service`,

	// More of the same, and code.
	`passwd is already the newest version (1:4.8.1-2ubuntu2.2).`,
	`Package password-store is not available`,
	`dpkg: warning: files list file for package 'passwd' missing`,
	`Changing password for user joe.`,
	`New password: Retype new password: passwd: all authentication tokens updated successfully.`,
	`BAD PASSWORD: The password is shorter than 8 characters`,
	`BAD PASSWORD: it is based on a dictionary word`,
	`chpasswd: (user joe) pam_chauthtok() failed, error:`,
	`chage -l joe | grep "Password expires"`,
	`Password expires					: never`,
	`Last password change					: Nov 20, 2026`,
	`Password inactive: never`,
	`usermod: no changes`,
	`useradd -m -s /bin/bash joe`,
	`groupadd: group 'docker' already exists`,
	`error: password: token is too long`,
	`tokenizer: vocab size: 32000`,
	`tokens: 1234, prompt tokens: 55`,
	`"usage":{"prompt_tokens":55,"completion_tokens":123456}`,
	`csrf token missing or incorrect`,
	`JWT token has expired at 2026-11-29T10:00:00Z`,
	`Got token from IMDS, expires in 86399 s`,
	`Fetching token for resource https://management.azure.com/`,
	`token endpoint: https://login.microsoftonline.com/x/oauth2/token`,
	`managed identity token request returned 400`,
	`Secret Manager agent 1.2.3 started`,
	`secrets: inherit`,
	`secretRef: db-creds`,
	`  secretKeyRef:`,
	`    name: db-creds`,
	`    key: password`,
	`kind: Secret`,
	`type: Opaque`,
	`secret/db-creds configured`,
	`Mounting secret volume "default-token-abcde"`,
	`default-token-x7k2p   kubernetes.io/service-account-token   3      12d`,
	`Key Vault: kv-prod, secret name: db-password, version: 0123456789abcdef0123456789abcdef`,
	`az keyvault secret show --name db-password --vault-name kv`,
	`ssh-keygen -t ed25519 -f id`,
	`The key's randomart image is:`,
	`Your public key has been saved in /root/.ssh/id.pub`,
	`Your identification has been saved in /root/.ssh/id_ed25519`,
	`key_name=mykey`,
	`KeyName: mykey`,
	`keyId=projects/x/keyRings/y`,
	`key: value`,
	`keys: 12`,
	`cache key: build-linux-amd64-3f786850e387550fdab836ed7e6dc881de23001b`,
	`Cache restored from key: Linux-node-3f786850e387550fdab836ed7e6dc881de23001b`,
	`registry key HKLM\Software\X`,
	`hotkey=ctrl+c`,
	`monkey=1`,
	`turkey: istanbul`,
	`api key required`,
	`error: API key not valid. Please pass a valid API key.`,
	`--api-key string   the key`,
	`access_key_id: none`,
	`accessKeyId=abc`,
	`auth: none`,
	`auth=basic`,
	`auth_mode: login`,
	`oauth2: enabled`,
	`author="Joe Smith"`,
	`authenticated: true`,
	`authType: Password`,
	`authenticationType: sshPublicKey`,
	`AuthorizedKeysFile .ssh/authorized_keys`,
	`credentials: none found`,
	`credential helper: store`,
	`Credentials saved to file: [/root/.config/gcloud/x.json]`,
	`GOOGLE_APPLICATION_CREDENTIALS=/etc/gcp/key.json`,
	`credential.helper=cache`,
	`cookie: none`,
	`set-cookie: removed`,
	`Content-Security-Policy: default-src 'self'`,
	`Strict-Transport-Security: max-age=31536000`,
	`psk mode: off`,
	`wpa_supplicant: WPA: Key negotiation completed with 00:11:22:33:44:55 [PTK=CCMP GTK=CCMP]`,
	`The passphrase for your key is needed`,
	`passphrase: none`,
	`pass --help`,
	`pass 1 of 3`,
	`first pass: 12 files`,
	`pass: 3/5`,
	`PASS`,
	`--- PASS: TestFoo (0.00s)`,
	`PASS: TestFoo`,
	`test result: ok. 12 passed; 0 failed`,
	`passed=12`,
	`bypass: on`,
	`compass=1`,
	`password_policy: strong`,
	`password.minLength=8`,
	`passwordHash: sha512`,
	`password_hash_algorithm=bcrypt`,
	`hash_password(user, cost=12)`,
	`def check_password(self, password: str) -> bool:`,
	`def f(token: Optional[str] = None, secret: bytes = b""):`,
	`func Login(user, password string) error {`,
	`var password string`,
	`String password = request.getParameter("password");`,
	`if (password == null) {`,
	`password = None`,
	`password: Field(..., description="x")`,
	`const token = await getToken();`,
	`token := os.Getenv("TOKEN")`,
	`$password = $env:PASSWORD`,
	`read -s -p "Password: " password`,
	`read -rsp 'Enter token: ' TOKEN`,
	`echo "password: $password"`,
	`echo "$PASSWORD" | docker login -u joe --password-stdin`,
	`docker login -u joe --password-stdin`,
	`WARNING! Using --password via the CLI is insecure. Use --password-stdin.`,
	`mysql: [Warning] Using a password on the command line interface can be insecure.`,
	`ERROR 1045 (28000): Access denied for user 'root'@'localhost' (using password: YES)`,
	`FATAL:  password authentication failed for user "postgres"`,
	`fe_sendauth: no password supplied`,
	`psql: error: connection to server at "db" (10.0.0.4), port 5432 failed`,
	`remote: Support for password authentication was removed on August 13, 2021.`,
	`Permission denied (publickey,password).`,
	`debug1: Next authentication method: password`,
	`debug1: Authentications that can continue: publickey,password`,
	`User password: SET`,
	`PasswordProfile: forceChangePasswordNextSignIn`,
	`admin_password (sensitive value)`,
	`random_password.db: Creation complete after 0s [id=none]`,
	`+ admin_password = (sensitive value)`,
	`azurerm_key_vault_secret.db: Refreshing state... [id=https://kv.vault.azure.net/secrets/db/0123456789abcdef0123456789abcdef]`,
	`Output: password = <sensitive>`,
	`password: (hidden)`,
	`ansible: TASK [set password] ok: [h] => (item=None) censored`,
	`TASK [users : Set password for joe] ****`,
	`no_log: true`,
	`password: !vault |`,
	`password: ENC[AES256_GCM,data:x]`,
	`mailto:joe@example.org`,
	`joe@example.org:22`,
	`scp a joe@host:/x`,
	`rsync://mirror.example/x`,
	`http://[::1]:8080/x@y`,
	`http://example.org/a:b@c`,
	`curl -X POST -u "$USER:$PASS" https://x`,
	`curl -u "${USER}:${PASS}" https://x`,
	`wget -q https://a.example/x.tar.gz -O x`,
	`mysql -h db -u root`,
	`mysqldump -u root -p --all-databases`,
	`mysql-server-8.0 (8.0.39-0ubuntu0.22.04.1) ...`,
	`mysql  Ver 8.0.39 -port`,
	`helm upgrade -p x`,
	`zip -r a.zip b`,
	`unzip -o a.zip -d /tmp`,
	`7z x a.7z`,
	`ldapsearch -x -b dc=x`,
	`redis-cli -h c ping`,
	`useradd: user 'joe' already exists`,
	`ps aux | grep sshd -p`,
	`sk-SK locale generated`,
	`risk-based-authentication-of-the-customer-accounts`,
	`task-0123456789abcdef0123456789abcdef`,
	`disk-0123456789abcdef0123456789abcdef01234567`,
	`mask-abcdefghijklmnopqrstuvwxyz0123456789`,
	`npm_config_registry=https://registry.npmjs.org/`,
	`npm_package_name=x`,
	`hf_transfer enabled`,
	`glc_version`,
	`AKIAIOSFODNN is short`,
	`SKU Standard_D2s_v5`,
	`SG.1 table`,
	`key-value store`,
	`api-0123 pod started`,
	`API-Version: 2024-03-01`,
	`EAAccess`,
	`s.a.b.c`,
	`a:b:c:d`,
	`eyJ is the beginning`,
	`basic-auth enabled`,
	`Basic dGVzdA== is not a pair`,
	`digest algorithm`,
	`Digest: SHA-256=abcdefghijklmnopqrstuvwxyz`,
	`{sha256} placeholder`,
	`checksum $1 $2 $3`,
	`price is $2a month`,
	`$5$ and $6$`,
	`sha1$ prefix`,
	`sig=ok`,
	`design=0123456789abcdef`,
	`signature=valid`,
	`Signature: ok`,
	`X-Request-Signature=none`,
	`code=0`,
	`code=ERR_MODULE_NOT_FOUND_ERROR`,
	`errorCode=ExtensionProvisioningFailed123`,
	`status_code=200 reason_code=VMExtensionProvisioningError`,
	`postcode=12345`,
	`encode=utf8`,
	`hooks.slack.com is down`,
	`xapp-1 started`,
	`Reading package lists... Done`,
	`1:4.8.1-2ubuntu2 passwd`,
	`perl-base:amd64 (5.34.0-3ubuntu1.3) `,
	`python3-secretstorage/jammy,now 3.3.1-1 all [installed,automatic]`,
	`libtoken-perl 1.0`,
	`gnupg: key 0123456789ABCDEF: "x" not changed`,
	`rpm: RSA/SHA256, Mon 01 Jan 2026, Key ID 0123456789abcdef`,
	`key: 9DC858229FC7DD38854AE2D88D81803C0EBFCD88`,
	`keyserver: hkps://keys.openpgp.org`,
	`Signed-By: /usr/share/keyrings/x.gpg`,
}

// TestSEC11CorpusInJSON: the output of a handler becomes a string of a status
// document, of a record of the log, or of a document in one of them.
func TestSEC11CorpusInJSON(t *testing.T) {
	t.Parallel()
	wrap := func(text string) string {
		b, err := json.Marshal(map[string]any{"level": "info", "message": text, "code": 1})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rng := rand.New(rand.NewPCG(12, 26)) //nolint:gosec // repeatable test data from a seed
	missed, masked := 0, 0
	for _, sample := range secretSamples {
		text, secrets := fill(rng, sample)
		for _, doc := range []string{wrap(text), wrap(wrap(text))} {
			got := secret.Redact(doc)
			if !json.Valid([]byte(got)) {
				t.Errorf("no JSON any more: %s\n  became %s", doc, got)
			}
			if slices.ContainsFunc(secrets, func(s string) bool { return leaks(got, s) }) {
				missed++
				t.Errorf("missed: %s\n  became %s", doc, got)
			}
		}
	}
	for _, sample := range innocentSamples {
		text, _ := fill(rng, sample)
		for _, doc := range []string{wrap(text), wrap(wrap(text))} {
			if got := secret.Redact(doc); got != doc {
				masked++
				t.Errorf("changed: %s\n  became %s", doc, got)
			}
		}
	}
	t.Logf("of %d documents with secrets %d were missed; of %d without %d were changed", 2*len(secretSamples), missed, 2*len(innocentSamples), masked)
}

func TestSEC11Corpus(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(11, 26)) //nolint:gosec // repeatable test data from a seed
	if n := len(secretSamples) + len(innocentSamples); len(secretSamples) < 200 || len(innocentSamples) < 100 {
		t.Errorf("%d samples, %d of them innocent", n, len(innocentSamples))
	}
	var missed, masked []string
	for _, sample := range secretSamples {
		for range 5 { // with other random secrets each time
			text, secrets := fill(rng, sample)
			if len(secrets) == 0 && !strings.Contains(sample, "12345678") {
				t.Fatalf("no secret in %q", sample)
			}
			got := secret.Redact(text)
			bad := len(secrets) == 0 && got == text
			for _, s := range secrets {
				bad = bad || leaks(got, s)
			}
			if bad {
				missed = append(missed, fmt.Sprintf("%q\n  became %q", text, got))
				break
			}
			if again := secret.Redact(got); again != got {
				t.Errorf("a second look changes %q to %q", got, again)
			}
		}
	}
	for _, sample := range innocentSamples {
		for range 5 {
			text, _ := fill(rng, sample)
			if got := secret.Redact(text); got != text {
				masked = append(masked, fmt.Sprintf("%q\n  became %q", text, got))
				break
			}
		}
	}
	t.Logf("of %d texts with secrets %d were missed; of %d without %d were changed", len(secretSamples), len(missed), len(innocentSamples), len(masked))
	for _, m := range missed {
		t.Errorf("missed: %s", m)
	}
	for _, m := range masked {
		t.Errorf("changed: %s", m)
	}
}

// FuzzRedact: any output of a handler can be redacted, and grows only by the
// marks.
func FuzzRedact(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // repeatable test data from a seed
	for _, s := range append(slices.Clone(secretSamples), innocentSamples...) {
		text, _ := fill(rng, s)
		f.Add(text)
	}
	f.Fuzz(peak.Target(func(t *testing.T, s string) {
		if got := secret.Redact(s); len(got) > 16*len(s) {
			t.Errorf("%d bytes became %d", len(s), len(got))
		}
	}))
}

// BenchmarkRedactWorst: the time for texts that are made to take long grows
// with their length, not with its square.
func BenchmarkRedactWorst(b *testing.B) {
	for name, line := range map[string]string{
		"begin": "-----BEGIN PRIVATE KEY-----", "end": "abcdefgh-----END PRIVATE KEY-----", "quotes": `password="`, "sentence": `token:“ `, "open": "password:“$( ", "curl": "curl -u ",
		"escape": `\\\\password`, "address": "://a:", "login": "login a password ", "element": "<password x ",
	} {
		for _, n := range []int{1 << 14, 1 << 17} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				text := strings.Repeat(line, n/len(line))
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					secret.Redact(text)
				}
			})
		}
	}
}
