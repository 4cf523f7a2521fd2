package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// ParseFlags parses the flags of a command of azguest. It returns ok false, and
// the exit status, if they are wrong or ask for help. What is wrong is said in one
// sentence, with the flag that was probably meant.
func ParseFlags(f *flag.FlagSet, args []string, errs io.Writer) (code int, ok bool) {
	f.SetOutput(io.Discard)
	err := f.Parse(args)
	f.SetOutput(errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(errs, "Usage of %s:\n", f.Name())
		f.PrintDefaults()
		return 0, false
	case err != nil:
		if name := unknownFlag(f, args); name != "" {
			var known []string
			f.VisitAll(func(d *flag.Flag) { known = append(known, "--"+d.Name) })
			err = OneOf("flag", "--"+name, known...)
		}
		fmt.Fprintf(errs, "azguest: %v\nSee 'azguest help'.\n", err)
		return ExitUsage, false
	}
	return 0, true
}

// unknownFlag returns the first flag of the arguments that f does not have, "" if
// there is none. It reads them as package flag does.
func unknownFlag(f *flag.FlagSet, args []string) string {
	for i := 0; i < len(args) && len(args[i]) > 1 && args[i][0] == '-' && args[i] != "--"; i++ {
		name, _, given := strings.Cut(strings.TrimPrefix(args[i][1:], "-"), "=")
		d := f.Lookup(name)
		if d == nil {
			return name
		}
		if b, ok := d.Value.(interface{ IsBoolFlag() bool }); !given && !(ok && b.IsBoolFlag()) {
			i++ // its value
		}
	}
	return ""
}
