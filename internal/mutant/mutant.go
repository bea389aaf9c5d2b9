// Package mutant breaks the library on purpose, for one build, to show that the
// proof notices it. It uses an overlay of the go command, so the library needs no
// hook for it.
package mutant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Mutant is one mistake: a piece of the library's source and the text that replaces
// it.
type Mutant struct {
	Name string
	// File is relative to the root of the module.
	File     string
	Old, New string
	// Breaks is the invariant that must be reported, or the test that must fail.
	Breaks string
}

// Run tests the mutant: it runs go in dir, with args, on the broken source. dir
// must be in the module at root or have it by a replace directive. It returns nil
// when the tests fail for the reason that the mutant names.
func (m Mutant) Run(ctx context.Context, root, dir string, args ...string) error {
	folder, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return fmt.Errorf("mutant: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	overlay, err := m.overlay(root, folder)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-overlay", overlay}, args...)...) //nolint:gosec // arguments of our own
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return fmt.Errorf("mutant: nothing was noticed:\n%s", head(string(out)))
	}
	if !strings.Contains(string(out), m.Breaks+" ") && !strings.Contains(string(out), m.Breaks+":") {
		return fmt.Errorf("mutant: noticed, but not as a violation of %s:\n%s", m.Breaks, head(string(out)))
	}
	return nil
}

// Fit returns an error unless the library has the text that each mutant replaces
// exactly once.
func Fit(root string, mutants []Mutant) error {
	var faults []error
	for _, m := range mutants {
		_, err := m.source(root)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// source reads the file to change.
func (m Mutant) source(root string) (string, error) {
	source, err := os.ReadFile(filepath.Join(root, m.File)) //nolint:gosec // a file of ours
	if err != nil {
		return "", fmt.Errorf("mutant: %w", err)
	}
	if n := strings.Count(string(source), m.Old); n != 1 {
		return "", fmt.Errorf("mutant %q: %s has changed: the text to replace occurs %d times", m.Name, m.File, n)
	}
	return string(source), nil
}

// overlay writes a copy of the file with the change, and a list that puts it in
// the place of the original.
func (m Mutant) overlay(root, folder string) (string, error) {
	source, err := m.source(root)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, m.File)
	changed := filepath.Join(folder, filepath.Base(m.File))
	if err := os.WriteFile(changed, []byte(strings.Replace(source, m.Old, m.New, 1)), 0o600); err != nil { //nolint:gosec // a folder of ours
		return "", fmt.Errorf("mutant: %w", err)
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		return "", fmt.Errorf("mutant: %w", err)
	}
	name := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(name, list, 0o600); err != nil {
		return "", fmt.Errorf("mutant: %w", err)
	}
	return name, nil
}

func head(s string) string { return s[:min(len(s), 3000)] }
