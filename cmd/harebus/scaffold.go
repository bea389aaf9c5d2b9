package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
)

const newExplanation = `Makes the folder NAME with a service: a handler, settings from the environment, probes for an
orchestrator, tests on a broker in their process, a Dockerfile and a compose file with a RabbitMQ.
It builds, and its tests pass, before you change anything:

	harebus new service orders
	cd orders && go mod tidy && go test ./...

NAME is also the queue of the service. What exists is not overwritten.`

//go:embed scaffold/*.tmpl
var scaffold embed.FS

// serviceName is a name for a folder, a queue, a topic and a service of Docker.
var serviceName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

const longestServiceName = 60

// taken are names that fit and are those of something else.
var taken = map[string]string{
	"error":    "the queue of failed messages has this name",
	"rabbitmq": "the broker in docker-compose.yml has this name",
}

// blank is what the templates of a service say.
type blank struct {
	Name, Module     string
	Go               string // the version of Go that harebus needs
	Version, Replace string // of harebus
}

// goVersion is that of go.mod.
const goVersion = "1.26"

// runNew is the command new.
func runNew(_ context.Context, args []string, std stdio) int {
	flags := newFlags("new service [flags] NAME", newExplanation)
	module := flags.String("module", "", "`path` of the module (default example.org/NAME)")
	replace := flags.String("replace", "", "build with the harebus in this `folder`, not with a released one")
	kind := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		kind, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	if kind != "service" || flags.NArg() != 1 {
		return std.misuse(flags, fmt.Sprintf("want service and one name, got %q and %s", kind, arguments(flags)))
	}
	b := blank{Name: flags.Arg(0), Module: *module, Go: goVersion}
	if err := b.complete(*replace); err != nil {
		return std.misuse(flags, err.Error())
	}
	names, err := b.write()
	if err != nil {
		return std.fail(fmt.Errorf("harebus: new service: %w", err))
	}
	fmt.Fprintf(std.out, "made %s: %s\nnext: cd %s && go mod tidy && go test ./...\n", b.Name, strings.Join(names, ", "), b.Name)
	if b.Replace != "" {
		fmt.Fprintln(std.out, "the Dockerfile needs a released harebus: remove the replace line of go.mod before docker compose up --build")
	}
	return exitOK
}

// complete fills in what was not given, and refuses what cannot be.
func (b *blank) complete(replace string) error {
	if !serviceName.MatchString(b.Name) || len(b.Name) > longestServiceName {
		return fmt.Errorf("%q is no name for a service: want at most %d small letters, digits and single hyphens, a letter first", b.Name, longestServiceName)
	}
	if why := taken[b.Name]; why != "" {
		return fmt.Errorf("%q is no name for a service: %s", b.Name, why)
	}
	if b.Module == "" {
		b.Module = "example.org/" + b.Name
	}
	if !regexp.MustCompile(`^[\w.~-]+(/[\w.~-]+)*$`).MatchString(b.Module) {
		return fmt.Errorf("-module %q is not the path of a module", b.Module)
	}
	if version, _ := versions(); regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(version) {
		b.Version = version
	}
	if replace == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(replace, "brokertest")); err != nil {
		return fmt.Errorf("-replace %q is not a folder with harebus: %w", replace, err)
	}
	whole, err := filepath.Abs(replace)
	if err != nil {
		return fmt.Errorf("-replace: %w", err)
	}
	b.Replace, b.Version = fmt.Sprintf("%q", filepath.ToSlash(whole)), "v0.0.0"
	return nil
}

// write makes the folder and its files, and returns their names. The folder must not exist.
func (b *blank) write() (names []string, err error) {
	templates, err := template.ParseFS(scaffold, "scaffold/*.tmpl")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(b.Name, 0o750); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%q exists here, and nothing in it is changed: choose another name", b.Name)
	} else if err != nil {
		return nil, err
	}
	for _, t := range templates.Templates() {
		var content bytes.Buffer
		if err := t.Execute(&content, b); err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(t.Name(), ".tmpl")
		if err := os.WriteFile(filepath.Join(b.Name, name), content.Bytes(), 0o600); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}
