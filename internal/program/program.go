// Package program says what this program and the modules in it are called.
package program

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// The modules whose versions are shown.
const (
	Library = "github.com/harebus/harebus"
	Client  = "github.com/rabbitmq/amqp091-go"
)

// Name is the name of the program.
func Name() string {
	if len(os.Args) == 0 {
		return "harebus"
	}
	return filepath.Base(os.Args[0])
}

// Connection is the name of a connection: that of the program, and of what it is for. It has at most so many bytes.
func Connection(of string, most int) string {
	name := strings.TrimSpace(Name() + " " + of)
	if len(name) <= most {
		return name
	}
	const more = "…"
	return strings.ToValidUTF8(name[:most-len(more)], "") + more
}

// Version is that of a module that this program is made of.
func Version(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range append(info.Deps, &info.Main) {
			if dep.Path == module && dep.Version != "" {
				return dep.Version
			}
		}
	}
	return "(devel)"
}
