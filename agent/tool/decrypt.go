package tool

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol/cms"
)

// maxSettings is the largest size of a settings file in bytes; the platform's
// own limit is far lower.
const maxSettings = 4 << 20

var thumbprint = regexp.MustCompile(`^[0-9A-Fa-f]{40,64}$`)

// Decrypt is the command "azguest decrypt FILE": it prints decrypted protected
// settings, for handlers that would have to call openssl otherwise. It makes no
// further check: whoever can read the private key may decrypt the settings.
func (t *Tool) Decrypt(args []string) int {
	f := flag.NewFlagSet("azguest decrypt", flag.ContinueOnError)
	cert := f.String("cert", "", "thumbprint of the certificate; FILE then contains only the base64 text")
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return code
	}
	if f.NArg() != 1 {
		fmt.Fprintln(t.Err, "usage: azguest decrypt [-cert THUMBPRINT] FILE")
		return cli.ExitUsage
	}
	if *cert != "" && !thumbprint.MatchString(*cert) {
		return t.usage(fmt.Errorf("%q is not a thumbprint", *cert))
	}
	in := t.In
	if name := f.Arg(0); name != "-" {
		file, err := os.Open(name) //nolint:forbidigo // the caller names the file, and it may be a pipe
		if err != nil {
			return t.end(err)
		}
		defer file.Close() // read only
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSettings+1))
	switch {
	case err != nil:
		return t.end(fmt.Errorf("read settings: %w", err))
	case len(data) > maxSettings:
		return t.end(fmt.Errorf("read settings: larger than %d bytes", maxSettings))
	}
	found := []sealed{{*cert, secret.New(string(data))}}
	if *cert == "" {
		if found, err = sealedIn(data); err != nil {
			return t.end(err)
		}
	}
	for _, s := range found {
		text, err := t.open(s)
		if err != nil {
			return t.end(err)
		}
		fmt.Fprintln(t.Out, text.Reveal())
	}
	return exitOK
}

// sealed is one set of protected settings and the certificate it is for.
type sealed struct {
	thumbprint string
	text       secret.Secret
}

func sealedIn(data []byte) ([]sealed, error) {
	var doc struct {
		RuntimeSettings []struct {
			HandlerSettings struct {
				Protected  string `json:"protectedSettings"`
				Thumbprint string `json:"protectedSettingsCertThumbprint"`
			} `json:"handlerSettings"`
		} `json:"runtimeSettings"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, errors.New("read settings: not a settings file; use -cert for a file with only the base64 text") // the error could quote it
	}
	var out []sealed
	for _, r := range doc.RuntimeSettings {
		if h := r.HandlerSettings; h.Protected != "" {
			out = append(out, sealed{h.Thumbprint, secret.New(h.Protected)})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("read settings: no protected settings")
	}
	return out, nil
}

func (t *Tool) open(s sealed) (secret.Secret, error) {
	if !thumbprint.MatchString(s.thumbprint) {
		return secret.Secret{}, fmt.Errorf("open protected settings: %q is not a thumbprint", s.thumbprint)
	}
	base := path.Join(t.Config.Paths.Lib, strings.ToUpper(s.thumbprint))
	cert, err := t.Root.ReadFile(base + ".crt")
	var key []byte
	if err == nil {
		key, err = t.Root.ReadFile(base + ".prv")
	}
	if err != nil {
		return secret.Secret{}, fmt.Errorf("open protected settings: certificate %s: %w", s.thumbprint, err)
	}
	return cms.DecryptSettings(s.text, cert, key)
}
