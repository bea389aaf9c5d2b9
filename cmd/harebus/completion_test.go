package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestShapes: each command tells a shell its tasks, and each flag that its -h explains.
func TestShapes(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"topology": "plan apply prune export migrate", "deferred": "list cancel restore", "parked": "list retry discard", "outbox": "schema sql", "claims": "sweep",
		"schedule": "ls run pause resume rm", "keys": "new list", "new": "service", "completion": "bash zsh fish",
		"errors": "discard edit export groups import journal list redirect restore retry show test watch",
	}
	all := shapes(t.Context())
	if len(all) != len(table()) {
		t.Errorf("%d commands, want %d", len(all), len(table()))
	}
	for _, s := range all {
		if tasks, ok := want[s.name]; ok && strings.Join(s.tasks, " ") != tasks {
			t.Errorf("%s has the tasks %v, want %s", s.name, s.tasks, tasks)
		}
		for line := range strings.Lines(execute(t, "", s.name, "-h").out) {
			name, _, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " ")
			known := slices.ContainsFunc(s.flags, func(f *flag.Flag) bool { return "-"+f.Name == name })
			if strings.HasPrefix(line, "  -") && !known {
				t.Errorf("%s does not tell its flag %s", s.name, name)
			}
		}
	}
}

// TestPagesShowCommands: the commands, tasks and flags that the pages show are there.
func TestPagesShowCommands(t *testing.T) {
	t.Parallel()
	all := map[string]shape{}
	for _, s := range shapes(t.Context()) {
		all[s.name] = s
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(?m)(?:`|^\\$ |^    )harebus ([a-z]+)(?: +([a-z]+)\\b)?([^`\n|#]*)")
	found := 0
	for _, page := range append(pages, "../../README.md", "../../CHANGELOG.md", "../../CONTRIBUTING.md", "../../DESIGN.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			found++
			s, ok := all[m[1]]
			if !ok {
				t.Errorf("%s: %s: no such command", page, m[0])
			}
			if len(s.tasks) > 0 && m[2] != "" && !slices.Contains(s.tasks, m[2]) {
				t.Errorf("%s: %s: no such task", page, m[0])
			}
			for _, name := range regexp.MustCompile(` -([a-z][a-z-]*)`).FindAllStringSubmatch(m[3], -1) {
				if name[1] != "h" && !slices.ContainsFunc(s.flags, func(f *flag.Flag) bool { return f.Name == name[1] }) {
					t.Errorf("%s: %s: no such flag as -%s", page, m[0], name[1])
				}
			}
		}
	}
	if found < 200 {
		t.Errorf("the pages show %d commands", found)
	}
}

// TestMigrateFlags: a task with flags of its own tells them.
func TestMigrateFlags(t *testing.T) {
	t.Parallel()
	for _, s := range shapes(t.Context()) {
		if s.name == "topology" && !strings.Contains(s.words(), "-settle") {
			t.Errorf("topology has the flags %s", s.words())
		}
	}
}

// TestBashCompletes has a bash complete.
func TestBashCompletes(t *testing.T) {
	t.Parallel()
	script := execute(t, "", "completion", "bash")
	script.check(t, exitOK, "")
	for _, test := range []struct{ name, line, want string }{
		{"commands", "d", "doctor deferred"},
		{"tasks", "errors re", "redirect restore retry"},
		{"flags", "send -to", ""},
		{"flag", "send -type", "-type"},
		{"task-flags", "errors retry -ra", "-rate"},
		{"no-task-twice", "errors retry re", ""},
		{"unknown", "nonsense -", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			words := strings.Fields("harebus " + test.line)
			command := script.out + "\nCOMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1))\n_harebus\necho \"${COMPREPLY[@]}\""
			out, err := exec.Command("bash", append([]string{"-c", command, "bash"}, words...)...).CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != test.want {
				t.Errorf("%q completes to %q, want %q; %v", test.line, got, test.want, err)
			}
		})
	}
}

// TestScriptsQuote: an explanation cannot end the word that it stands in.
func TestScriptsQuote(t *testing.T) {
	t.Parallel()
	flags := flag.NewFlagSet("x", flag.ContinueOnError)
	flags.Bool("it", false, "the broker's $(id) `word`")
	all := []shape{{name: "x", summary: "y's", flags: []*flag.Flag{flags.Lookup("it")}}}
	for name, script := range map[string]string{"zsh": zshScript(all), "fish": fishScript(all)} {
		if !strings.Contains(script, `y'\''s`) || !strings.Contains(script, `broker'\''s $(id) word'`) {
			t.Errorf("%s:\n%s", name, script)
		}
	}
}

// TestNewServiceNames: no name makes a service that cannot work.
func TestNewServiceNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, why := range map[string]string{"error": "failed messages", "rabbitmq": "the broker in", "Orders": "small letters"} {
		execute(t, "", "new", "service", name).check(t, exitUsage, why)
	}
	for _, name := range []string{"listener", "true", "null"} {
		execute(t, "", "new", "service", name).check(t, exitOK, "")
		for file, want := range map[string]string{"docker-compose.yml": "\n  \"" + name + "\":\n", "service.go": "= \"" + name + "\"\n"} {
			if made, err := os.ReadFile(filepath.Join(name, file)); err != nil || !strings.Contains(string(made), want) {
				t.Errorf("%s of %s: %s, %v", file, name, made, err)
			}
		}
	}
	tests, err := os.ReadFile("listener/service_test.go")
	if second := regexp.MustCompile(`Queue: "(.*?)"`).FindSubmatch(tests); err != nil || second == nil || serviceName.Match(second[1]) {
		t.Errorf("the second queue of the test can be that of a service: %s, %v", second, err)
	}
}

// TestNewService: what is made builds, its tests pass, vet and gofmt have nothing to say, and it is not made over what is there.
func TestNewService(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	r := execute(t, "", "new", "service", "-replace", root, "night-orders")
	r.check(t, exitOK, "")
	for _, name := range []string{"Dockerfile", "docker-compose.yml", "go.mod", "main.go", "service.go", "service_test.go", "settings.go"} {
		if !strings.Contains(r.out, name) {
			t.Errorf("no %s was made: %s", name, r.out)
		}
	}
	in := func(name string, args ...string) string {
		t.Helper()
		command := exec.Command(name, args...)
		command.Dir = "night-orders"
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	in("go", "mod", "tidy")
	in("go", "test", "-count=1", "./...") // which vets, too
	if out := in("gofmt", "-l", "."); out != "" {
		t.Errorf("gofmt would change %s", out)
	}
	if out := in("go", "run", ".", "-topology"); !strings.Contains(out, `"night-orders"`) {
		t.Errorf("the topology is %s", out)
	}
	made, err := os.ReadFile("night-orders/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	execute(t, "", "new", "service", "night-orders").check(t, exitFailed, "nothing in it is changed")
	if now, err := os.ReadFile("night-orders/go.mod"); string(now) != string(made) || err != nil {
		t.Errorf("go.mod is now %s, %v", now, err)
	}
}

// TestGoVersion: a made service needs the Go that harebus needs.
func TestGoVersion(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.GoVersion}}").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != goVersion {
		t.Errorf("go.mod has Go %s, made services %s; %v", got, goVersion, err)
	}
}
