package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

const completionExplanation = `Prints a script that makes a shell complete commands, tasks and flags of harebus. Put a line
into the file that the shell reads at its start:

	bash   source <(harebus completion bash)               in ~/.bashrc
	zsh    source <(harebus completion zsh)                in ~/.zshrc, behind compinit
	fish   harebus completion fish | source                in ~/.config/fish/config.fish`

// runCompletion is the command completion.
func runCompletion(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("completion bash|zsh|fish", completionExplanation)
	if code, done := parse(flags, args, std); done {
		return code
	}
	scripts := map[string]func([]shape) string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}
	script := scripts[flags.Arg(0)]
	if script == nil || flags.NArg() != 1 {
		return std.misuse(flags, "want bash, zsh or fish, got "+arguments(flags))
	}
	if _, err := io.WriteString(std.out, script(shapes(ctx))); err != nil {
		return std.fail(fmt.Errorf("harebus: completion: %w", err))
	}
	return exitOK
}

// shape is what a shell knows of a command.
type shape struct {
	name, summary string
	tasks         []string
	flags         []*flag.Flag
}

// shapes are those of all commands. A command tells its own: with collect it ends where it would read its arguments.
func shapes(ctx context.Context) []shape {
	all := make([]shape, 0, len(commands))
	for _, c := range table() {
		s := shape{name: c.name, summary: c.summary}
		std := stdio{in: strings.NewReader(""), out: io.Discard, err: io.Discard, collect: s.add}
		c.run(ctx, nil, std)
		for _, task := range s.tasks {
			c.run(ctx, []string{task}, std)
		}
		all = append(all, s)
	}
	return all
}

// add adds what a command, or one of its tasks, has.
func (s *shape) add(flags *flag.FlagSet) {
	if s.flags == nil {
		s.tasks = tasks(flags)
	}
	flags.VisitAll(func(f *flag.Flag) {
		if !slices.ContainsFunc(s.flags, func(known *flag.Flag) bool { return known.Name == f.Name }) {
			s.flags = append(s.flags, f)
		}
	})
}

var (
	usageLine = regexp.MustCompile(`(?m)^(?:usage:|      ) harebus \S+ (\S+)`)
	taskNames = regexp.MustCompile(`^[a-z]+(\|[a-z]+)*$`)
)

// tasks are the words that may follow the name of a command, as its usage has them.
func tasks(flags *flag.FlagSet) (names []string) {
	var text bytes.Buffer
	flags.SetOutput(&text)
	flags.Usage()
	usage, _, _ := strings.Cut(text.String(), "\n\n")
	for _, m := range usageLine.FindAllStringSubmatch(usage, -1) {
		word := strings.Trim(m[1], "[]")
		if word == "flags" || !taskNames.MatchString(word) {
			continue
		}
		for name := range strings.SplitSeq(word, "|") {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// words are the flags as they are typed.
func (s *shape) words() string {
	var words []string
	for _, f := range s.flags {
		words = append(words, "-"+f.Name)
	}
	return strings.Join(words, " ")
}

// explained is a flag's explanation up to the first clause, for one line of a shell.
func explained(f *flag.Flag) string {
	_, usage := flag.UnquoteUsage(f)
	for _, end := range []string{";", ": ", " (", ". "} {
		usage, _, _ = strings.Cut(usage, end)
	}
	return usage
}

// quoted is text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

func bashScript(all []shape) string {
	var b strings.Builder
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	fmt.Fprintf(&b, `_harebus() {
    local word=${COMP_WORDS[COMP_CWORD]} words=
    case $COMP_CWORD,${COMP_WORDS[1]},$word in
    1,*) words=%s ;;
`, quoted(strings.Join(names, " ")))
	for _, s := range all {
		fmt.Fprintf(&b, "    *,%s,-*) words=%s ;;\n", s.name, quoted(s.words()))
		if len(s.tasks) > 0 {
			fmt.Fprintf(&b, "    2,%s,*) words=%s ;;\n", s.name, quoted(strings.Join(s.tasks, " ")))
		}
	}
	b.WriteString(`    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _harebus harebus
`)
	return b.String()
}

func zshScript(all []shape) string {
	var b strings.Builder
	b.WriteString("#compdef harebus\n_harebus() {\n    local -a items\n    if (( CURRENT == 2 )); then\n        items=(")
	for _, s := range all {
		fmt.Fprintf(&b, "\n            %s", quoted(s.name+":"+s.summary))
	}
	b.WriteString(")\n        _describe command items\n        return\n    fi\n    case $words[2] in\n")
	for _, s := range all {
		fmt.Fprintf(&b, "    %s)\n        if [[ $PREFIX == -* ]]; then\n            items=(", s.name)
		for _, f := range s.flags {
			fmt.Fprintf(&b, "\n                %s", quoted("-"+f.Name+":"+explained(f)))
		}
		b.WriteString(")\n            _describe -o flag items\n            return\n        fi\n")
		if len(s.tasks) > 0 {
			fmt.Fprintf(&b, "        if (( CURRENT == 3 )); then\n            items=(%s)\n            _describe task items\n            return\n        fi\n", strings.Join(s.tasks, " "))
		}
		b.WriteString("        ;;\n")
	}
	b.WriteString("    esac\n    _files\n}\ncompdef _harebus harebus\n")
	return b.String()
}

func fishScript(all []shape) string {
	var b strings.Builder
	b.WriteString(`function __harebus_words
    set -l words (commandline -opc)
    test (count $words) -eq $argv[1]; and test "$words[2]" = "$argv[2]"
end
function __harebus_is
    set -l words (commandline -opc)
    test "$words[2]" = "$argv[1]"
end
`)
	for _, s := range all {
		fmt.Fprintf(&b, "complete -c harebus -f -n '__harebus_words 1 \"\"' -a %s -d %s\n", s.name, quoted(s.summary))
		if len(s.tasks) > 0 {
			fmt.Fprintf(&b, "complete -c harebus -f -n '__harebus_words 2 %s' -a %s\n", s.name, quoted(strings.Join(s.tasks, " ")))
		}
		for _, f := range s.flags {
			needs := " -r"
			if value, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && value.IsBoolFlag() {
				needs = ""
			}
			fmt.Fprintf(&b, "complete -c harebus -n '__harebus_is %s' -o %s%s -d %s\n", s.name, f.Name, needs, quoted(explained(f)))
		}
	}
	return b.String()
}
