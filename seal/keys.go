package seal

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrUnknownKey is a key id that [Keys] does not know. Messages with such a key are retried and
// then parked.
var ErrUnknownKey = errors.New("unknown key")

// Keys are one key to protect messages with, and all those with which messages that come may
// be protected. It is safe for concurrent use. Its errors are temporary: they
// postpone messages, except for those that wrap [ErrUnknownKey].
type Keys interface {
	// Current returns the key to protect messages with.
	Current(ctx context.Context) (*Key, error)
	// Key returns the key with this id. The id comes from the message and is not verified.
	Key(ctx context.Context, id string) (*Key, error)
}

// Key is a key with its id. Printing it does not show the key.
type Key struct {
	id     string
	kind   string
	check  [checkSize]byte
	public ed25519.PublicKey // of an Ed25519 key
	// hidden returns what must not be printed. fmt prints the fields of a struct inside
	// another one whatever methods they have, but of a function only its address.
	hidden func() *material
}

// material is the secret part of a key.
type material struct {
	cipher  *xaes              // of a secret key
	mac     []byte             // of a secret key
	private ed25519.PrivateKey // of an Ed25519 key that signs
}

// NewKey makes a key for sealing, and for signing with HMAC-SHA256, of 32 random bytes. The
// id can be read in every message.
func NewKey(id string, secret []byte) (*Key, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	if len(secret) != secretSize {
		return nil, fmt.Errorf("seal: key %q has %d bytes and needs %d random ones", id, len(secret), secretSize)
	}
	cipher, err := newXAES(secret)
	if err != nil {
		return nil, fmt.Errorf("seal: key %q: %w", id, err)
	}
	mac, err := hkdf.Expand(sha256.New, secret, "harebus signature 1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("seal: key %q: %w", id, err)
	}
	m := &material{cipher: cipher, mac: mac}
	return &Key{id: id, kind: kindSecret, check: checkOf(secret), hidden: func() *material { return m }}, nil
}

// NewSigningKey makes a key that signs and verifies with Ed25519.
func NewSigningKey(id string, private ed25519.PrivateKey) (*Key, error) {
	if len(private) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("seal: the private key %q has %d bytes and not %d", id, len(private), ed25519.PrivateKeySize)
	}
	key, err := NewVerifyingKey(id, ed25519.PublicKey(private[ed25519.SeedSize:]))
	if err != nil {
		return nil, err
	}
	m := &material{private: private}
	key.kind, key.hidden = kindPrivate, func() *material { return m }
	return key, nil
}

// NewVerifyingKey makes a key that verifies what its private key has signed.
func NewVerifyingKey(id string, public ed25519.PublicKey) (*Key, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	if len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("seal: the public key %q has %d bytes and not %d", id, len(public), ed25519.PublicKeySize)
	}
	return &Key{id: id, kind: kindPublic, check: checkOf(public), public: public}, nil
}

// ID returns the id of the key.
func (k Key) ID() string { return k.id }

// Kind returns "secret", "ed25519" or "ed25519-public".
func (k Key) Kind() string { return k.kind }

// Fingerprint is equal for equal keys and tells nothing about them otherwise. An Ed25519 key
// has that of its public half.
func (k Key) Fingerprint() string { return hex.EncodeToString(k.check[:]) }

// String returns id, kind and fingerprint.
func (k Key) String() string { return fmt.Sprintf("%s %s %s", k.id, k.kind, k.Fingerprint()) }

// Format prints String, whatever the verb is.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// seals says whether messages are sealed with keys of this kind.
func (k *Key) seals() bool { return k.kind == kindSecret }

func (k *Key) signs() bool { return k.kind != kindPublic }

func (k *Key) alg() string {
	if k.kind == kindSecret {
		return "hmac-sha256"
	}
	return "ed25519"
}

// sign returns the proof for bound. The key must be one that signs.
func (k *Key) sign(bound []byte) []byte {
	m := k.hidden()
	if k.kind == kindPrivate {
		return ed25519.Sign(m.private, bound)
	}
	h := hmac.New(sha256.New, m.mac)
	h.Write(bound)
	return h.Sum(nil)
}

func (k *Key) verify(bound, proof []byte) bool {
	if k.kind != kindSecret {
		return len(proof) == ed25519.SignatureSize && ed25519.Verify(k.public, bound, proof)
	}
	return hmac.Equal(k.sign(bound), proof)
}

// checkOf is a public mark of a key, which it cannot be computed from.
func checkOf(key []byte) [checkSize]byte {
	sum := sha256.Sum256(key)
	return [checkSize]byte(sum[:checkSize])
}

func validID(id string) error {
	if id == "" || len(id) > maxKeyID || !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl) {
		return fmt.Errorf("seal: a key id has 1 to %d bytes of printable text", maxKeyID)
	}
	return nil
}

// Keyring holds keys in memory.
type Keyring struct {
	current *Key
	keys    []*Key
	byID    map[string]*Key
}

// NewKeyring returns Keys that protect with current and accept it and the others. current may
// be nil for a program that sends nothing.
func NewKeyring(current *Key, accepted ...*Key) (*Keyring, error) {
	r := &Keyring{current: current, byID: map[string]*Key{}}
	if current != nil {
		r.keys = append(r.keys, current)
	}
	r.keys = append(r.keys, accepted...)
	for _, key := range r.keys {
		if key == nil {
			return nil, errors.New("seal: make a key ring: an accepted key is nil")
		}
		if r.byID[key.id] != nil {
			return nil, fmt.Errorf("seal: make a key ring: two keys have the id %q", key.id)
		}
		r.byID[key.id] = key
	}
	return r, nil
}

// Keys returns all keys, the current one first if there is one.
func (r *Keyring) Keys() []*Key { return append([]*Key(nil), r.keys...) }

// Current returns the current key, or an error that matches [ErrUnknownKey] if there is none: such a keyring only opens.
func (r *Keyring) Current(context.Context) (*Key, error) {
	if r.current == nil {
		return nil, fmt.Errorf("there is no current key: %w", ErrUnknownKey)
	}
	return r.current, nil
}

// Key returns the key with this id.
func (r *Keyring) Key(_ context.Context, id string) (*Key, error) {
	if key := r.byID[id]; key != nil {
		return key, nil
	}
	return nil, fmt.Errorf("%w %.64q", ErrUnknownKey, id)
}
