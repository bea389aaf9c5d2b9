package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/harebus/harebus"
)

// New returns a guard that encrypts messages with XAES-256-GCM. It panics if keys is nil or
// the policy is impossible.
//
// Beside a guard of [Sign] both may name the same types, because the bus undoes in reverse order
// what its guards have done. If the guard that signs is the last one, the ciphertext is signed, so
// a receiver opens nothing whose signature is wrong.
func New(keys Keys, p Policy) harebus.Guard { return &sealer{newRules(keys, p)} }

type sealer struct{ *rules }

// Protect seals a message whose type the policy names.
func (s *sealer) Protect(ctx context.Context, id *harebus.Identity, p *harebus.Payload) error {
	switch {
	case !s.covers(id.Type):
		return nil
	case p.ContentType == ContentType:
		return errors.New("seal: the message is sealed already; name its type in the policy of one guard that seals")
	}
	key, err := s.keys.Current(ctx)
	if err != nil {
		return s.troubled(fmt.Errorf("current key: %w", err))
	}
	s.untroubled()
	if !key.seals() {
		return fmt.Errorf("seal: the current key %q is a key for signatures; seal with a secret key", key.id)
	}
	h := header{key: key, notBefore: micros(id.NotBefore), contentType: p.ContentType, coding: p.ContentEncoding}
	h.exchange, h.destination = destination(id)
	if err := h.valid(); err != nil {
		return err
	}
	head := h.append(make([]byte, 0, h.size()+nonceSize+len(p.Body)+tagSize))
	bound, err := s.binding.bind(head, id)
	defer boundBytes.Put(bound)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	body, err := key.hidden().cipher.seal(head, p.Body, *bound)
	if err != nil {
		return fmt.Errorf("seal: encrypt the body: %w", err)
	}
	p.Body, p.ContentType, p.ContentEncoding = body, ContentType, ""
	return nil
}

// Admit opens a sealed message, and refuses one in the clear whose type the policy names.
func (s *sealer) Admit(ctx context.Context, id *harebus.Identity, p *harebus.Payload) error {
	if p.ContentType != ContentType {
		if s.covers(id.Type) {
			return reject("in-the-clear", "the message is not sealed")
		}
		return nil
	}
	f, err := parseFrame(p.Body)
	switch {
	case errors.Is(err, errNewer):
		return err
	case err != nil:
		return reject("tampered", "%w", err)
	}
	key, err := s.keys.Key(ctx, string(f.keyID))
	if err != nil {
		return s.troubled(fmt.Errorf("key of the message: %w", err))
	}
	s.untroubled()
	if !key.seals() || string(f.check) != string(key.check[:]) {
		return reject("wrong-key", "the key %q is not the one that the sender has under this id", key.id)
	}
	bound, err := s.binding.bind(f.head, id)
	defer boundBytes.Put(bound)
	if err != nil {
		return reject("tampered", "%w", err)
	}
	body, err := key.hidden().cipher.open(f.sealed, *bound)
	if err != nil {
		return reject("tampered", "the message was changed after it was sealed, or sender and receiver bind different headers")
	}
	if err := s.arrived(id, f.exchange, f.key, f.notBefore); err != nil {
		return err
	}
	p.Body, p.ContentType, p.ContentEncoding = body, string(f.contentType), string(f.coding)
	p.Confidential, p.DueAt = !s.Details, moment(f.notBefore)
	return nil
}
