package main

import (
	"go/ast"
	"slices"
)

// undocumented counts the exported names without a comment: functions, methods of exported types, types, constants and
// variables. One comment may stand for a whole group of constants or variables.
func (h *house) undocumented() (int, []string) {
	var names []string
	for _, s := range h.source {
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if on := receiver(d); d.Doc == nil && d.Name.IsExported() && (on == "" || ast.IsExported(on)) {
					names = append(names, d.Name.Name)
				}
			case *ast.GenDecl:
				names = append(names, undocumentedSpecs(d)...)
			}
		}
	}
	slices.Sort(names)
	return len(names), names
}

func undocumentedSpecs(d *ast.GenDecl) []string {
	var names []string
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && (d.Doc == nil || len(d.Specs) > 1) {
				names = append(names, spec.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if name.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}
