#!/usr/bin/env python3
# Like VMAccess 1.5: reads the file with the newest number it is told, decrypts
# with the literal path of the agent's folder, and scrubs its settings.
import json, os, re, subprocess, sys, time
subprocess.call(["sh", "-c", ". ./seen.sh; seen vma enable"])
env = json.load(open("./HandlerEnvironment.json"))
env = env[0] if isinstance(env, list) else env
name, version = env["name"], env["version"]
h = env["handlerEnvironment"]
h["logFolder"], h["heartbeatFile"]
seq = os.environ["ConfigSequenceNumber"]
path = h["configFolder"] + "/" + seq + ".settings"
text = open(path).read()
s = json.loads(text)["runtimeSettings"][0]["handlerSettings"]
secret = ""
if s["protectedSettings"] is not None:
    t = s["protectedSettingsCertThumbprint"]
    der = subprocess.run(["openssl", "base64", "-d", "-A"], input=s["protectedSettings"].encode(), stdout=subprocess.PIPE).stdout
    for tool in "cms", "smime":
        r = subprocess.run(["openssl", tool, "-inform", "DER", "-decrypt", "-recip", "/var/lib/waagent/%s.crt" % t, "-inkey", "/var/lib/waagent/%s.prv" % t], input=der, stdout=subprocess.PIPE)
        if r.returncode == 0:
            secret = json.loads(r.stdout)["secret"]
            break
    text = text.replace(s["protectedSettings"], "*** REDACTED ***").replace(t, "*** REDACTED ***")
    with open(path, "r+") as f:
        f.truncate(0)
        f.write(text)
with open("mrseq", "w") as f:
    f.write(seq)
with open("/var/tmp/seen/vma.runs", "a") as f:
    f.write("run %s %d\n" % (seq, len(secret)))
with open("status/" + seq + ".status", "w") as f:
    json.dump([{"version": "1.0", "timestampUTC": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "status": {"operation": "Enable", "status": "success" if secret else "error", "code": "0", "formattedMessage": {"lang": "en-US", "message": "secret of %d\x07 \ufffd" % len(secret)}}}], f, ensure_ascii=False)
