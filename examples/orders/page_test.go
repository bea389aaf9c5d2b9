package main

import (
	"os"
	"strings"
	"testing"
)

// TestPage: the tutorial shows these files as they are.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"orders.go", "main.go", "orders_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(page), "```go\n"+string(text)+"```\n") {
			t.Errorf("docs/tutorial.md does not show %s as it is", name)
		}
	}
}
