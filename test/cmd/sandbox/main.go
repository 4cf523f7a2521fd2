// Command sandbox runs a command on a copy-on-write view of this machine, in a
// network of its own where 168.63.129.16 and 169.254.169.254 are local:
//
//	sandbox [flags] [command [argument ...]]
//
// Without a command it runs a shell. At its end all changes are discarded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/azguest/azguest/test/sandbox"
)

func main() {
	sandbox.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := 0
	err := sandbox.AsRoot(ctx, func(ctx context.Context) (err error) {
		code, err = run(ctx)
		return err
	})
	stop()
	if ended, ok := errors.AsType[sandbox.Ended](err); ok {
		os.Exit(int(ended))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(ctx context.Context) (int, error) {
	var o sandbox.Options
	flag.StringVar(&o.DVD, "dvd", "", "`image` to use as /dev/sr0")
	flag.BoolVar(&o.PlainDVD, "plain-dvd", false, "make /dev/sr0 a plain file instead of a loop device")
	flag.BoolVar(&o.CDROM, "cdrom", false, "show /dev/sr0 as a CD-ROM drive in sysfs")
	flag.BoolVar(&o.Fuse, "fuse", false, "create /dev/fuse")
	flag.StringVar(&o.Hostname, "hostname", "", "initial host `name`")
	vmid := flag.String("vmid", "", "show DMI data of the platform with this `uuid`")
	debs := flag.String("debs", "", "Debian `packages` to unpack over the root, separated by commas")
	var files []string
	flag.Func("install", "copy a file into the machine, as `file:path[:mode]`; repeatable", func(s string) error {
		files = append(files, s)
		return nil
	})
	flag.Parse()
	if *vmid != "" {
		o.DMI = sandbox.AzureDMI(*vmid)
	}
	if *debs != "" {
		layer, err := sandbox.DebianLayer(ctx, strings.Split(*debs, ",")...)
		if err != nil {
			return 1, err
		}
		o.Layers = []string{layer}
	}
	o.Log = os.Stderr
	s, err := sandbox.New(ctx, o)
	if err != nil {
		return 1, err
	}
	defer s.Close()
	for _, f := range files {
		if err := install(s, f); err != nil {
			return 1, err
		}
	}
	args := flag.Args()
	if len(args) == 0 {
		args = []string{"sh", "-i"}
	}
	p, err := s.Start(sandbox.Cmd{Args: args, Dir: "/", Env: []string{"TERM=" + os.Getenv("TERM")}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return 1, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return 130, errors.New("interrupted")
	}
	return p.Code(), nil
}

func install(s *sandbox.Sandbox, spec string) error {
	f := strings.Split(spec, ":")
	if len(f) < 2 || len(f) > 3 {
		return fmt.Errorf("-install %s: want file:path[:mode]", spec)
	}
	mode := fs.FileMode(0o644)
	if fi, err := os.Stat(f[0]); err == nil {
		mode = fi.Mode().Perm()
	}
	if len(f) == 3 {
		m, err := strconv.ParseUint(f[2], 8, 32)
		if err != nil {
			return fmt.Errorf("-install %s: %w", spec, err)
		}
		mode = fs.FileMode(m)
	}
	return s.Install(f[0], f[1], mode)
}
