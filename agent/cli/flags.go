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
		if name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); unknown {
			var known []string
			f.VisitAll(func(d *flag.Flag) { known = append(known, "--"+d.Name) })
			err = OneOf("flag", "--"+name, known...)
		}
		fmt.Fprintf(errs, "azguest: %v\nSee 'azguest help'.\n", err)
		return ExitUsage, false
	}
	return 0, true
}
