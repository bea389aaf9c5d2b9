package seal

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unicode/utf8"
)

const (
	kindSecret  = "secret"
	kindPrivate = "ed25519"
	kindPublic  = "ed25519-public"

	stateCurrent  = "current"
	stateAccepted = "accepted"

	maxKeyFile = 1 << 20
)

// ReadKeys reads keys from a file. Each line is a key:
//
//	current  2026-11 secret         BASE64
//	accepted 2026-08 secret         BASE64
//	accepted partner ed25519-public BASE64
//
// that is, whether messages are protected with it or only accepted, its id, its kind and the key.
// Of a secret the key is 32 random bytes, of an ed25519 key the seed. At most one is
// current. Empty lines and those that begin with # are left out. The command "harebus keys
// new" makes such a file.
//
// A file that others than its owner can change, or than its owner and its group can read, is refused. The
// file is read once: restart the program to give it other keys.
func ReadKeys(name string) (*Keyring, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("seal: read keys: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("seal: read keys: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("seal: read keys: %s is no file", name)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o027 != 0:
		return nil, fmt.Errorf("seal: read keys: %s has the mode %#o, which gives others the keys; chmod 600 %s", name, info.Mode().Perm(), name)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("seal: read keys: %w", err)
	}
	ring, err := parseKeys(string(text))
	if err != nil {
		return nil, fmt.Errorf("seal: read keys: %s: %w", name, err)
	}
	return ring, nil
}

// EnvKeys reads keys from an environment variable that holds what a file for [ReadKeys] holds.
func EnvKeys(variable string) (*Keyring, error) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return nil, fmt.Errorf("seal: read keys: the environment has no %s", variable)
	}
	ring, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("seal: read keys: %s: %w", variable, err)
	}
	return ring, nil
}

// parseKeys reads the lines. No error quotes a key.
func parseKeys(text string) (*Keyring, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("more than %d bytes", maxKeyFile)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("it is no UTF-8; save it as UTF-8")
	}
	text = strings.TrimPrefix(text, "\ufeff") // of editors of Windows
	var current *Key
	var accepted []*Key
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		state, key, err := parseKey(line)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		case state == stateAccepted:
			accepted = append(accepted, key)
		case current != nil:
			return nil, fmt.Errorf("line %d: %q is current, and %q too; write accepted for all but one", n+1, key.id, current.id)
		default:
			current = key
		}
	}
	if current == nil && accepted == nil {
		return nil, errors.New("no key")
	}
	return NewKeyring(current, accepted...)
}

func parseKey(line string) (state string, key *Key, err error) {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return "", nil, fmt.Errorf("%d words; a key has four: current or accepted, id, kind, key", len(fields))
	}
	state = fields[0]
	if state != stateCurrent && state != stateAccepted {
		return "", nil, errors.New("the first word is neither current nor accepted")
	}
	bytes, err := base64.StdEncoding.Strict().DecodeString(fields[3])
	if err != nil {
		return "", nil, fmt.Errorf("the key %q is not base64", fields[1])
	}
	switch fields[2] {
	case kindSecret:
		key, err = NewKey(fields[1], bytes)
	case kindPrivate:
		if len(bytes) != ed25519.SeedSize {
			return "", nil, fmt.Errorf("the seed of key %q has %d bytes and not %d", fields[1], len(bytes), ed25519.SeedSize)
		}
		key, err = NewSigningKey(fields[1], ed25519.NewKeyFromSeed(bytes))
	case kindPublic:
		key, err = NewVerifyingKey(fields[1], bytes)
	default:
		err = fmt.Errorf("the kind of key %q is none of %s, %s, %s", fields[1], kindSecret, kindPrivate, kindPublic)
	}
	return state, key, err
}
