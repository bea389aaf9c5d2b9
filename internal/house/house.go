package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const client = `"github.com/rabbitmq/amqp091-go"`

// A house is a package, parsed, without its tests.
type house struct {
	set    *token.FileSet
	source []source
	goSum  int // lines of go.sum
}

type source struct {
	name  string
	lines int
	file  *ast.File
}

// read parses the Go files of a folder, and counts the lines of its go.sum.
func read(root string) (*house, error) {
	h := &house{set: token.NewFileSet()}
	paths, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		if err := h.add(path); err != nil {
			return nil, err
		}
	}
	if len(h.source) == 0 {
		return nil, fmt.Errorf("find Go files in %s: there are none; run it in the root of the repository", root)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum")) //nolint:gosec // whoever runs it says where
	if err != nil {
		return nil, fmt.Errorf("count lines: %w", err)
	}
	h.goSum = bytes.Count(sums, []byte("\n"))
	return h, nil
}

func (h *house) add(path string) error {
	text, err := os.ReadFile(path) //nolint:gosec // likewise
	if err != nil {
		return fmt.Errorf("measure: %w", err)
	}
	file, err := parser.ParseFile(h.set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("measure: %w", err)
	}
	h.source = append(h.source, source{filepath.Base(path), bytes.Count(text, []byte("\n")), file})
	return nil
}

func (h *house) files() (int, []string) { return len(h.source), nil }

// lines counts in hundreds, rounded up: a better comment is no reason to fail.
func (h *house) lines() (int, []string) {
	const unit = 100
	sum := 0
	for _, s := range h.source {
		sum += s.lines
	}
	return (sum + unit - 1) / unit, nil
}

// fields counts the exported fields of Config.
func (h *house) fields() (int, []string) {
	var names []string
	for _, s := range h.source {
		ast.Inspect(s.file, func(n ast.Node) bool {
			t, ok := n.(*ast.TypeSpec)
			if !ok || t.Name.Name != "Config" {
				return true
			}
			for _, f := range t.Type.(*ast.StructType).Fields.List { //nolint:forcetypeassert // Config is a struct
				for _, name := range f.Names {
					if name.IsExported() {
						names = append(names, name.Name)
					}
				}
			}
			return false
		})
	}
	return len(names), names
}

func (h *house) sums() (int, []string) { return h.goSum, nil }

// where counts the files with a node that a function accepts.
func (h *house) where(accept func(ast.Node) bool) (int, []string) {
	var names []string
	for _, s := range h.source {
		if contains(s.file, accept) {
			names = append(names, s.name)
		}
	}
	return len(names), names
}

func contains(file *ast.File, accept func(ast.Node) bool) bool {
	found := false
	ast.Inspect(file, func(n ast.Node) bool {
		found = found || n != nil && accept(n)
		return !found
	})
	return found
}

func (h *house) importClient() (int, []string) {
	return h.where(func(n ast.Node) bool {
		spec, ok := n.(*ast.ImportSpec)
		return ok && spec.Path.Value == client
	})
}

func (h *house) holdSetup() (int, []string) {
	return h.where(func(n ast.Node) bool {
		star, ok := n.(*ast.StarExpr)
		return ok && named(star.X, "Setup")
	})
}

// readQueue counts the files that read the field Queue of a Config: of a variable or field cfg, or in a method of Config.
func (h *house) readQueue() (int, []string) {
	return h.where(func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			return n.Sel.Name == "Queue" && isConfig(n.X)
		case *ast.FuncDecl:
			return n.Body != nil && readsOwnQueue(n)
		}
		return false
	})
}

func isConfig(x ast.Expr) bool {
	if s, ok := x.(*ast.SelectorExpr); ok {
		return s.Sel.Name == "cfg"
	}
	return named(x, "cfg")
}

// readsOwnQueue tells whether a method of Config reads the field of its receiver.
func readsOwnQueue(f *ast.FuncDecl) bool {
	if receiver(f) != "Config" || len(f.Recv.List[0].Names) == 0 {
		return false
	}
	self, found := f.Recv.List[0].Names[0].Name, false
	ast.Inspect(f.Body, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		found = found || ok && s.Sel.Name == "Queue" && named(s.X, self)
		return !found
	})
	return found
}

// receiver returns the name of a method's type, or nothing for a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	x := f.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	switch generic := x.(type) {
	case *ast.IndexExpr:
		x = generic.X
	case *ast.IndexListExpr:
		x = generic.X
	}
	if name, ok := x.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

func named(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name
}

// A function is the name of one, with its file, and the number of lines in its body.
type function struct {
	name   string
	height int
}

func (h *house) functions() []function {
	var found []function
	for _, s := range h.source {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				found = append(found, function{s.name + " " + f.Name.Name, h.height(f.Body)})
			}
		}
	}
	return found
}

// height is the number of lines between the braces, and 1 where they stand in one line.
func (h *house) height(body *ast.BlockStmt) int {
	first, last := h.set.Position(body.Lbrace).Line, h.set.Position(body.Rbrace).Line
	return max(1, last-first-1)
}

func (h *house) median() (int, []string) { return h.percentile(50), nil }
func (h *house) ninety() (int, []string) { return h.percentile(90), nil }

// percentile is the height that so many of a hundred functions do not exceed.
func (h *house) percentile(percent int) int {
	var heights []int
	for _, f := range h.functions() {
		heights = append(heights, f.height)
	}
	if len(heights) == 0 {
		return 0
	}
	slices.Sort(heights)
	return heights[((len(heights)-1)*percent+50)/100]
}

func (h *house) long() (int, []string) {
	const most = 60
	var names []string
	for _, f := range h.functions() {
		if f.height > most {
			names = append(names, fmt.Sprintf("%s has %d", f.name, f.height))
		}
	}
	return len(names), names
}
