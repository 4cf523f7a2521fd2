package bundles

import (
	"embed"
	"maps"
)

//go:embed samples/*.sh samples/*.awk
var scripts embed.FS //nolint:gochecknoglobals // the only form embedding has; never written

// script reads a sample script. A missing one is a bug of this package that its
// tests find.
func script(name string) string {
	return embedded(name + ".sh")
}

func embedded(name string) string {
	data, err := scripts.ReadFile("samples/" + name)
	if err != nil {
		panic("bundles: " + err.Error())
	}
	return string(data)
}

// sample returns a handler whose five commands are one script.
func sample(name, version, file string, flags map[string]any, odd Oddities) Bundle {
	command := "bin/handler.sh "
	return Bundle{
		Name: "Azguest.Samples." + name, Version: version,
		Install: command + "install", Enable: command + "enable", Disable: command + "disable",
		Update: command + "update", Uninstall: command + "uninstall",
		Flags: flags, Odd: odd,
		Files: map[string]string{
			"bin/handler.sh": script(file), "bin/lib.sh": script("lib"), "version": version + "\n",
			// For the publishing tools; agents ignore it.
			"manifest.xml": `<?xml version="1.0" encoding="utf-8"?>
<ExtensionImage xmlns="http://schemas.microsoft.com/windowsazure">
  <ProviderNameSpace>Azguest.Samples</ProviderNameSpace>
  <Type>` + name + `</Type>
  <Version>` + version + `</Version>
  <SupportedOS>Linux</SupportedOS>
</ExtensionImage>
`,
		},
	}
}

// Samples returns the sample handlers:
//
//	Hello       1.0.0, 1.0.1, 1.1.0, 2.0.0: greets with publicSettings.greeting,
//	            says whether protected settings could be decrypted, and exits
//	            with publicSettings.exitCode. 2.0.0 updates without install.
//	Slow        reports progress for publicSettings.seconds
//	Crash       exits without a status in the command publicSettings.when
//	CrashInstall, CrashUpdate  fail in these commands
//	Noisy       much output, some of it binary, and a long status
//	Background  continues after enable with its output still open
//	Multi       several instances; the flag is a string, as in published packages
//	Heartbeat   reports through the heartbeat file
//	Events      writes telemetry events
//	NoSettings  has only an enable command, and no status
//	Nested      manifest in a sub-folder, with a byte order mark
//	Clamav      1.0.0, 1.1.0: installs Debian's clamav, scans, reports infected
//	            files as substatuses and its health in the heartbeat; 1.1.0
//	            moves them to a quarantine. See WithDebs
//	Access      restores access, with the settings of VMAccess for Linux
func Samples() []Bundle {
	plain := Oddities{}
	hello := func(version string, flags map[string]any, odd Oddities) Bundle {
		return sample("Hello", version, "hello", flags, odd)
	}
	crashIn := func(name, command, version string) Bundle {
		b := sample(name, version, "crash", nil, plain)
		b.Files = maps.Clone(b.Files)
		b.Files["crash"] = command + "\n"
		return b
	}
	bare := Bundle{
		Name: "Azguest.Samples.NoSettings", Version: "1.0.0", Install: "/bin/run.sh install", Enable: "bin/run.sh  enable",
		Disable: "bin/run.sh disable", Update: "bin/run.sh update", Uninstall: "bin/run.sh uninstall",
		Files: map[string]string{"bin/run.sh": "#!/bin/sh\necho \"$1\"\n"},
		Odd:   Oddities{DirEntries: true},
	}
	return []Bundle{
		hello("1.0.0", nil, plain),
		hello("1.0.1", nil, Oddities{BOM: true, StringVersion: true}),
		hello("1.1.0", map[string]any{"updateMode": "UpdateWithInstall", "rebootAfterInstall": false}, Oddities{ExecBits: true, DirEntries: true}),
		hello("2.0.0", map[string]any{"updateMode": "UpdateWithoutInstall", "continueOnUpdateFailure": "true"}, plain),
		sample("Slow", "1.0.0", "slow", nil, plain),
		sample("Crash", "1.0.0", "crash", nil, plain),
		crashIn("CrashInstall", "install", "1.0.0"),
		sample("CrashUpdate", "1.0.0", "crash", nil, plain).with("crash", "never\n"),
		crashIn("CrashUpdate", "update", "1.1.0"),
		sample("Noisy", "1.0.0", "noisy", nil, plain),
		sample("Background", "1.0.0", "background", nil, plain),
		sample("Multi", "1.0.0", "multi", map[string]any{"supportsMultipleExtensions": "true"}, plain),
		sample("Multi", "1.1.0", "multi", map[string]any{"supportsMultipleExtensions": true}, plain),
		sample("Heartbeat", "1.0.0", "heartbeat", map[string]any{"reportHeartbeat": true}, plain),
		sample("Events", "1.0.0", "events", nil, plain),
		sample("Nested", "1.0.0", "hello", nil, Oddities{Nested: "meta", BOM: true}),
		bare,
		clamav("1.0.0"),
		clamav("1.1.0"),
		sample("Access", "1.0.0", "access", nil, plain).with("bin/member.awk", embedded("member.awk")),
	}
}

// eicar is the only signature that Clamav has: that of the public test file for
// virus scanners, as a line of a .hsb file (hash, size, name, least version).
const eicar = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f:68:Azguest.Test.EICAR:73\n"

func clamav(version string) Bundle {
	return sample("Clamav", version, "clamav", map[string]any{"reportHeartbeat": true, "updateMode": "UpdateWithInstall"}, Oddities{}).with("signatures.hsb", eicar)
}

// WithDebs returns a package that has Debian packages, by file name, so that the
// handler installs these, without a network.
func (b Bundle) WithDebs(debs map[string]string) Bundle {
	for name, data := range debs {
		b = b.with("debs/"+name, data)
	}
	b.Odd.Stored = true // they are compressed
	return b
}

func (b Bundle) with(name, content string) Bundle {
	b.Files = maps.Clone(b.Files)
	b.Files[name] = content
	return b
}
