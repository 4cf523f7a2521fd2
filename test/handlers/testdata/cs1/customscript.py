# Like CustomScriptForLinux 1.5: "failed", codes as strings, versions as
# strings, the settings file that was written last, events of the old kind.
import glob, json, os, subprocess, sys, time
op = sys.argv[1].lstrip("-")
subprocess.call(["sh", "-c", ". ./seen.sh; seen cs1 " + op])
files = [f for f in os.listdir("config") if f.split(".")[0].isdigit()]
newest = max(files, key=lambda f: os.stat("config/" + f).st_mtime) if files else None
if newest is None or os.path.getsize("config/" + newest) == 0:
    sys.exit(1)
seq = newest.split(".")[0]
json.load(open("config/" + newest))["runtimeSettings"][0]["handlerSettings"]
os.makedirs("/var/lib/waagent/events", exist_ok=True)
with open("/var/lib/waagent/events/%d.tld" % time.time_ns(), "w") as f:
    f.write('{"eventId":1,"providerId":"69B669B9-4AF8-4C50-BDC4-6006FA76E975","parameters":[{"name":"Name","value":"cs1"},{"name":"Message","value":"x"}]}')
os.chmod("/var/log/azure", 0o700)
def say(name, status, code, message):
    with open("status/" + seq + ".status", "w") as f:
        json.dump([{"version": "1.0", "timestampUTC": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "status": {"name": "cs1", "operation": name, "status": status, "code": code, "formattedMessage": {"lang": "en-US", "message": message}}}], f)
if op == "enable":
    last = int(open("mrseq").read()) if os.path.exists("mrseq") else -1
    if int(seq) > last:
        with open("mrseq", "w") as f:
            f.write(seq)
        with open("/var/tmp/seen/cs1.runs", "a") as f:
            f.write("run " + seq + "\n")
        say("Daemon", "failed", "9", "script said \x01 no")
else:
    say(op.capitalize(), "success", "0", op + " succeeded")
