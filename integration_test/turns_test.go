package integration_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

// TestTurns: no test has one of the brokers that are bounded while its subtests wait for a turn. Tests that wait for such a
// broker may have all turns, and then nobody goes on.
func TestTurns(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			test, ok := d.(*ast.FuncDecl)
			if !ok || test.Body == nil || !calls(test.Body.List, false, "private") {
				continue
			}
			tests++
			if calls(test.Body.List, true, "Parallel", "eachType", "bothTypes") {
				t.Errorf("%s: %s has a private broker and parallel subtests: call hosted", name, test.Name.Name)
			}
		}
	}
	if tests < 10 {
		t.Errorf("only %d tests with a private broker were found", tests)
	}
}

// calls says whether statements call one of the functions, inside of function literals or outside of them. The functions that make
// parallel subtests count wherever they are called.
func calls(statements []ast.Stmt, inside bool, names ...string) bool {
	found := false
	var in func(n ast.Node, depth int)
	in = func(n ast.Node, depth int) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				in(n.Body, depth+1)
				return false
			case *ast.CallExpr:
				for _, name := range names {
					found = found || called(n) == name && (depth > 0 == inside || name != "Parallel" && inside)
				}
			}
			return true
		})
	}
	for _, s := range statements {
		in(s, 0)
	}
	return found
}

// called is the name of the function that is called.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}
