package metadata

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// Bounds of variables. The kernel starts no program whose environment has a text
// of more than 128 KiB, or has more than 2 MiB together with the arguments: a
// unit that reads the file must start whatever the service says.
const (
	maxName        = 256
	maxUnitValue   = 16 << 10
	maxUnitPerFile = 256 << 10
)

// A Variable is one value of the document with the name that it has as a
// variable, such as AZ_COMPUTE_VMID.
type Variable struct{ Name, Value string }

// Variables returns all values of a part of the document, which Public has made,
// at the path that Find has returned; and why others are left out, one sentence
// each. Names are made of the path in upper case; what is not a letter, digit or
// underscore becomes an underscore. A tag also has the name that is made of its
// name: AZ_COMPUTE_TAGS_NAME. If two values would have the same name, neither has
// it: a script must not get the one that happens to come first.
func (n *Node) Variables(path []string) (vars []Variable, left []string) {
	c := &collector{seen: map[string]int{}}
	c.add(n, path)
	for _, v := range c.all {
		why := ""
		switch {
		case c.seen[v.Name] > 1:
			why = "several values would have this name"
			c.seen[v.Name] = -1 // said once
		case c.seen[v.Name] < 0:
			continue
		case len(v.Name) > maxName:
			why = "the name is too long"
			v.Name = v.Name[:maxName]
		case strings.ContainsRune(v.Value, 0):
			why = "the value has a NUL, which no variable can have"
		}
		if why != "" {
			left = append(left, v.Name+": "+why)
			continue
		}
		vars = append(vars, v)
	}
	return vars, left
}

// collector collects variables.
type collector struct {
	all  []Variable
	seen map[string]int // by name
}

func (c *collector) add(n *Node, path []string) {
	if n.Leaf() {
		name := VariableName(path)
		c.seen[name]++
		c.all = append(c.all, Variable{name, n.Value()})
		return
	}
	for i, m := range n.nodes {
		c.add(m, append(slices.Clip(path), n.name(i)))
	}
	for _, t := range n.tags() {
		c.add(t.value, append(slices.Clip(path), tagsText, t.name))
	}
}

// VariableName returns the name of the variable for a path.
func VariableName(path []string) string {
	return "AZ_" + strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, strings.Join(path, "_"))
}

// Shell writes variables as lines that a POSIX shell can source. Whatever the
// values are, nothing of them is executed.
func Shell(w io.Writer, vars []Variable) error {
	for _, v := range vars {
		if _, err := fmt.Fprintf(w, "%s='%s'\n", v.Name, strings.ReplaceAll(v.Value, "'", `'\''`)); err != nil {
			return err
		}
	}
	return nil
}

// Unit returns variables as a file for EnvironmentFile= of systemd, see
// systemd.exec(5), which a shell can source, too. Left out are values with
// control characters other than newline and tab, which not every version of
// systemd takes, those with what Unicode calls noncharacters, because of which
// systemd refuses the whole file, and those that are too long for the environment
// of a process.
func Unit(vars []Variable) []byte {
	var b strings.Builder
	b.WriteString("# Instance metadata, written by azguest (Metadata.EnvFile).\n")
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`)
	for _, v := range vars {
		if len(v.Value) > maxUnitValue || strings.ContainsFunc(v.Value, notForUnits) {
			continue
		}
		line := v.Name + `="` + escape.Replace(v.Value) + "\"\n"
		if b.Len()+len(line) <= maxUnitPerFile {
			b.WriteString(line)
		}
	}
	return []byte(b.String())
}

func notForUnits(r rune) bool {
	return r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Noncharacter_Code_Point, r)
}
