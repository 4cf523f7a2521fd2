package arch

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documents whose sections comments cite.
var specs = []string{"protocol/SPEC.md", "extensions/SPEC.md", "provisioning/SPEC.md"}

var (
	// section is one cited section, or several of the same document.
	section = regexp.MustCompile(`§§? ?(\d+(?:\.\d+)*)((?:(?:,| and| or| to|–|-) ?§? ?\d+(?:\.\d+)*)*)`)
	number  = regexp.MustCompile(`\d+(?:\.\d+)*`)
	heading = regexp.MustCompile(`(?m)^#{2,} (\d+(?:\.\d+)*)\.? `)
	// cited is the document before a section number: one of this repository, or
	// a published standard.
	cited = regexp.MustCompile(`(?:[\w-]+/)*SPEC\.md\b|\bRFC \d+|\bECMA-\d+|\bISO(?:/IEC)? \d+|\bOSTA\b|\bUDF \d|\bAPPNOTE\b|\bX\.\d{3}\b|\bPKCS ?#\d+|\bIEEE \d+|\bFIPS \d+|\bSP 800-\d+|\bPOSIX\b|\bTIS\b|\bPE/COFF\b|https?://`)
	// private matches references to documents outside this repository, as they
	// were once written.
	private  = regexp.MustCompile(`\bspec/\w+|\basks? [USC]\d|\bfaults?\.md\b|\((?:[USC]\d{1,2}(?:, ?)?)+\)|\b[U]\d{2}\b[^+]`)
	decision = regexp.MustCompile(`\b[Dd]ecisions? (\d+)((?:(?:,| and| to|–) ?\d+)*)`)
)

// documents returns the text files of the repository, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	top := root(t)
	out := map[string]string{}
	err := filepath.WalkDir(top, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != top && skipped(d) {
			return filepath.SkipDir
		}
		rel, err := filepath.Rel(top, name)
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch filepath.Ext(rel) {
		case ".go", ".md", ".sh", ".service", ".socket", ".slice", ".conf", ".yml", ".yaml", "":
		default:
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(b), "\x7fELF") {
			out[rel] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCitations: everything that a text cites is in this repository or
// published. A section must exist in the document that is named before its
// number, decisions must exist, and nothing may refer to private documents.
func TestCitations(t *testing.T) {
	t.Parallel()
	all := documents(t)
	sections := map[string][]string{}
	for _, s := range specs {
		for _, m := range heading.FindAllStringSubmatch(all[s], -1) {
			sections[s] = append(sections[s], m[1])
		}
		if len(sections[s]) < 20 {
			t.Errorf("%s has %d numbered sections: has its form changed?", s, len(sections[s]))
		}
	}
	decisions := regexp.MustCompile(`(?m)^(\d+)\. \*\*`).FindAllStringSubmatch(all["DESIGN.md"], -1)
	parsed := map[string]*ast.File{}
	for _, f := range sources(t, true) {
		parsed[f.name] = f.ast
	}
	count := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name == "test/arch/cite_test.go" {
			continue
		}
		for i, block := range blocks(parsed[name], all[name]) {
			if m := private.FindString(block); m != "" {
				t.Errorf("%s: %q cites a document that is not in the repository: ...%s...", name, m, around(block, m))
			}
			for _, m := range section.FindAllStringSubmatchIndex(block, -1) {
				count++
				doc := citedBefore(block[:m[0]])
				if doc == "" && slices.Contains(specs, name) {
					doc = name
				}
				if doc == "" {
					t.Errorf("%s (block %d): no document is named before %q: ...%s...", name, i, block[m[0]:m[1]], around(block, block[m[0]:m[1]]))
					continue
				}
				if !strings.HasSuffix(doc, ".md") {
					continue
				}
				have, ok := sections[doc]
				if !ok {
					t.Errorf("%s cites a section of %s, which has no numbered sections (write the path from the top of the repository)", name, doc)
				}
				for _, n := range number.FindAllString(block[m[0]:m[1]], -1) {
					if ok && !slices.Contains(have, n) {
						t.Errorf("%s cites %s §%s, which does not exist", name, doc, n)
					}
				}
			}
			for _, m := range decision.FindAllString(block, -1) {
				for _, n := range number.FindAllString(m, -1) {
					if !slices.ContainsFunc(decisions, func(d []string) bool { return d[1] == n }) && name != "CHANGELOG.md" {
						t.Errorf("%s cites decision %s, which DESIGN.md does not have", name, n)
					}
				}
			}
		}
	}
	if count < 300 {
		t.Errorf("only %d sections are cited: has the form changed?", count)
	}
}

// blocks splits a file into the parts in which a citation's document must be
// named before its section: a comment group or a string in Go, a line
// elsewhere.
func blocks(f *ast.File, text string) []string {
	if f == nil {
		return strings.Split(text, "\n")
	}
	var out []string
	for _, c := range f.Comments {
		out = append(out, strings.Join(strings.Fields(c.Text()), " "))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			out = append(out, l.Value)
		}
		return true
	})
	return out
}

func citedBefore(s string) string {
	all := cited.FindAllString(s, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

func around(s, part string) string {
	i := strings.Index(s, part)
	return s[max(0, i-60):min(len(s), i+len(part)+20)]
}

var link = regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`)

// TestLinks checks every link in README.md, DESIGN.md and the specifications:
// the file must exist, as must the heading after a #, and a name that is linked
// as code must be declared in the file.
func TestLinks(t *testing.T) {
	t.Parallel()
	all := documents(t)
	declared := map[string][]string{}
	for _, f := range sources(t, true) {
		declared[f.name] = append(declared[f.name], declarations(f.ast)...)
	}
	walks := 0
	for _, name := range append([]string{"README.md", "DESIGN.md"}, specs...) {
		for _, m := range link.FindAllStringSubmatch(all[name], -1) {
			label, to := m[1], m[2]
			if strings.Contains(to, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(to, "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join(root(t), target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, to)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
				t.Errorf("%s links to %s: no such heading", name, to)
			}
			id, code := strings.CutPrefix(label, "`")
			if id = strings.TrimSuffix(id, "`"); code && filepath.Ext(target) == ".go" {
				walks++
				if !slices.Contains(declared[target], id) {
					t.Errorf("%s says that %s is in %s, which declares no such name", name, id, target)
				}
			}
		}
	}
	if walks < 15 {
		t.Errorf("only %d links lead to code: has the form of DESIGN.md's map changed?", walks)
	}
}

// declarations returns the names that a file declares: "Name" and
// "Type.Method".
func declarations(f *ast.File) []string {
	var out []string
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						name = id.Name + "." + name
						return false
					}
					return true
				})
			}
			out = append(out, name)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					out = append(out, s.Name.Name)
				case *ast.ValueSpec:
					for _, n := range s.Names {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	return out
}

// anchors returns the fragments that GitHub generates for a document's
// headings.
func anchors(text string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		a := strings.ToLower(m[1])
		a = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(a, "")
		out = append(out, strings.ReplaceAll(a, " ", "-"))
	}
	return out
}

// TestFlatPackages: the documentation of a package of more than 20 files, tests
// aside, must say why it is flat.
func TestFlatPackages(t *testing.T) {
	t.Parallel()
	files, doc := map[string]int{}, map[string]string{}
	for _, f := range sources(t, false) {
		files[f.pkg]++
		if f.ast.Doc != nil {
			doc[f.pkg] += f.ast.Doc.Text()
		}
	}
	for pkg, n := range files {
		if n > 20 && !strings.Contains(doc[pkg], "flat") {
			t.Errorf("%s has %d files: split it, or say in its documentation why it is flat", pkg, n)
		}
	}
}
