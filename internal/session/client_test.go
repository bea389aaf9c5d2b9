package session_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestOneClient: no other package of the module opens connections. Tests and what helps them, the examples and modules
// of their own may.
func TestOneClient(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	found := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, foreign := os.Stat(filepath.Join(path, "go.mod"))
			if path != root && (foreign == nil || entry.Name() == "examples" || strings.HasPrefix(entry.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			dir := filepath.ToSlash(filepath.Dir(strings.TrimPrefix(path, root+string(filepath.Separator))))
			found[dir] = append(found[dir], dials(t, path)...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found["internal/session"]) == 0 {
		t.Error("internal/session opens no connection: the test does not see it")
	}
	delete(found, "internal/session")
	for dir, calls := range found {
		if len(calls) > 0 {
			t.Errorf("%s opens connections itself, which only internal/session may: %v", dir, calls)
		}
	}
}

// dials are the uses of functions of the AMQP client that open a connection.
func dials(t *testing.T, path string) (calls []string) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	client := ""
	for _, imported := range file.Imports {
		name, _ := strconv.Unquote(imported.Path.Value)
		if name == "testing" {
			return nil
		}
		if name == "github.com/rabbitmq/amqp091-go" {
			client = "amqp091"
			if imported.Name != nil {
				client = imported.Name.Name
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && client != "" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == client && (s.Sel.Name == "Open" || strings.HasPrefix(s.Sel.Name, "Dial")) {
				calls = append(calls, files.Position(s.Pos()).String())
			}
		}
		return true
	})
	return calls
}
