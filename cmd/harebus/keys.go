package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/seal"
)

const keysExplanation = `Makes and shows files with keys for package seal.

harebus keys new FILE adds a new key to FILE, as one that is accepted; with -current it is the
one that messages are sealed with, and the one before is accepted from then on. If there is no
FILE, it is made, with one current key. Only its owner can read it.

harebus keys list FILE prints the keys, the current one first: id, kind, and a fingerprint that is
equal for equal keys. It prints no key.

A secret is for sealing, and for signatures that everybody with the secret can make. An
ed25519 key signs; its public half, which new prints as a line for the files of the
receivers, only verifies.

To change keys: add the new one to the file of every service and restart them; then make it the
current one everywhere, with the words at the start of the lines, and restart them; take the old one
out when no queue holds a message with its id, the error queue and deferred messages included.

Exit codes: 0 done, 1 not so, 2 the command line is wrong.`

// newKey is what a new key is to be.
type newKey struct {
	id, kind string
	current  bool
}

// sealedFlags say how sealed messages are opened.
type sealedFlags struct {
	keys    string
	headers headersFlag
}

// headersFlag collects -bound.
type headersFlag []string

func (h *headersFlag) String() string { return strings.Join(*h, ",") }

// Set adds one header.
func (h *headersFlag) Set(name string) error {
	if name == "" {
		return errors.New("the name is empty")
	}
	*h = append(*h, name)
	return nil
}

// guards open sealed messages and verify signed ones. They protect nothing that is sent.
func (f *sealedFlags) guards() ([]harebus.Guard, error) {
	if f.keys == "" {
		return nil, nil
	}
	keys, err := seal.ReadKeys(f.keys)
	if err != nil {
		return nil, err
	}
	policy := seal.Policy{Headers: f.headers, AnyDestination: true, Details: true}
	return []harebus.Guard{seal.New(keys, policy), seal.Sign(keys, policy)}, nil
}

// reseal protects messages of the error queue again. elsewhere says that they go to another queue
// than they came from.
func (f *sealedFlags) reseal(elsewhere bool) (func(context.Context, *harebus.Identity, *harebus.Payload) (bool, error), error) {
	keys, err := seal.ReadKeys(f.keys)
	if err != nil {
		return nil, err
	}
	policy := seal.Policy{Headers: f.headers, AnyDestination: elsewhere}
	return func(ctx context.Context, id *harebus.Identity, p *harebus.Payload) (bool, error) {
		return seal.Reseal(ctx, keys, policy, id, p)
	}, nil
}

// runKeys is the command keys.
func runKeys(ctx context.Context, args []string, std stdio) int {
	flags := newFlags("keys new|list [flags] FILE", keysExplanation)
	var k newKey
	flags.StringVar(&k.id, "id", "", "new: `name` of the key, which every message shows (default: the date and four random digits)")
	flags.StringVar(&k.kind, "kind", "secret", "new: `kind` of the key, secret or ed25519")
	flags.BoolVar(&k.current, "current", false, "new: seal or sign with it from now on")
	var task string
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		task, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	switch {
	case task != "new" && task != "list":
		return std.misuse(flags, "want new or list after keys")
	case flags.NArg() != 1:
		return std.misuse(flags, fmt.Sprintf("want one file after the flags, got %s", arguments(flags)))
	case k.kind != "secret" && k.kind != "ed25519":
		return std.misuse(flags, fmt.Sprintf("-kind %q is neither secret nor ed25519", k.kind))
	case task == "list" && flags.NFlag() > 0:
		return std.misuse(flags, "the flags are those of keys new")
	}
	if task == "new" {
		return k.add(flags, flags.Arg(0), std)
	}
	return listKeys(ctx, flags.Arg(0), std)
}

func listKeys(ctx context.Context, name string, std stdio) int {
	keys, err := seal.ReadKeys(name)
	if err != nil {
		return std.fail(fmt.Errorf("harebus: keys: %w", err))
	}
	current, err := keys.Current(ctx)
	if err != nil {
		current = nil // a service that only receives needs none
	}
	for _, key := range keys.Keys() {
		state := "accepted"
		if key == current {
			state = "current "
		}
		if _, err := fmt.Fprintln(std.out, state, key); err != nil {
			return std.fail(fmt.Errorf("harebus: keys: print: %w", err))
		}
	}
	return exitOK
}

// add adds the key to the file.
func (k *newKey) add(flags *flag.FlagSet, name string, std stdio) int {
	if k.id == "" {
		random := make([]byte, 2)
		_, _ = rand.Read(random) // never fails: it ends the process instead
		k.id = time.Now().Format(time.DateOnly) + "-" + hex.EncodeToString(random)
	}
	if len(k.id) > 255 || strings.ContainsAny(k.id, " \t\r\n#") {
		return std.misuse(flags, fmt.Sprintf("-id %q is longer than 255 bytes, or has a space or #", k.id))
	}
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	old, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.current = true
	case err != nil:
		return std.fail(fmt.Errorf("harebus: keys: %w", err))
	default:
		if _, err := seal.ReadKeys(name); err != nil {
			return std.fail(fmt.Errorf("harebus: keys: %w", err))
		}
	}
	line, public := k.line()
	if err := replaceKeys(name, k.insert(string(old), line)); err != nil {
		return std.fail(fmt.Errorf("harebus: keys: %w", err))
	}
	if public != "" {
		if _, err := fmt.Fprintln(std.out, public); err != nil {
			return std.fail(fmt.Errorf("harebus: keys: print: %w", err))
		}
	}
	fmt.Fprintf(std.err, "harebus: keys: added key %s to %s\n", k.id, name)
	return exitOK
}

// line makes a key. It returns its line, and the one with the public half if there is one.
func (k *newKey) line() (line, public string) {
	key := make([]byte, 32) // a secret, or the seed of an ed25519 key
	_, _ = rand.Read(key)   // never fails: it ends the process instead
	state := "accepted"
	if k.current {
		state = "current"
	}
	if k.kind == "ed25519" {
		half := ed25519.NewKeyFromSeed(key).Public().(ed25519.PublicKey)
		public = fmt.Sprintf("accepted %s ed25519-public %s", k.id, base64.StdEncoding.EncodeToString(half))
	}
	return fmt.Sprintf("%s %s %s %s\n", state, k.id, k.kind, base64.StdEncoding.EncodeToString(key)), public
}

// insert puts a line at the end of the text. If its key is current, no other one is.
func (k *newKey) insert(text, line string) string {
	lines := strings.SplitAfter(strings.TrimPrefix(text, "\ufeff"), "\n") // an editor of Windows has begun with that
	for i, l := range lines {
		if words := strings.Fields(l); k.current && len(words) > 0 && words[0] == "current" {
			lines[i] = strings.Replace(l, "current", "accepted", 1)
		}
	}
	text = strings.Join(lines, "")
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + line
}

// replaceKeys writes the file as a whole or not at all.
func replaceKeys(name, text string) (err error) {
	temporary := name + ".new"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there: another run of this command is at work, or one was interrupted; then remove it", temporary)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if _, err = seal.ReadKeys(temporary); err != nil {
		return err
	}
	if info, statErr := os.Stat(name); statErr == nil {
		if err = os.Chmod(temporary, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return os.Rename(temporary, name)
}
