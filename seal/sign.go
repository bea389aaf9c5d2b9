package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/harebus/harebus"
)

// Sign returns a guard that signs messages and leaves their bodies readable, for receivers that
// know nothing of signatures. The signature is HMAC-SHA256 with a secret key, which
// everybody who can verify can also make, or Ed25519. It travels in the header
// PikaBus.Signature. Sign panics if keys is nil or the policy is impossible.
func Sign(keys Keys, p Policy) harebus.Guard { return &signer{newRules(keys, p)} }

type signer struct{ *rules }

// Protect signs a message whose type the policy names.
func (s *signer) Protect(ctx context.Context, id *harebus.Identity, p *harebus.Payload) error {
	switch {
	case !s.covers(id.Type):
		return nil
	case p.Signature != "":
		return errors.New("seal: the message is signed already; name its type in the policy of one guard that signs")
	}
	key, err := s.keys.Current(ctx)
	if err != nil {
		return s.troubled(fmt.Errorf("current key: %w", err))
	}
	s.untroubled()
	if !key.signs() {
		return fmt.Errorf("seal: the current key %q can only verify; sign with a private or secret key", key.id)
	}
	sig := signature{alg: key.alg(), keyID: key.id, notBefore: micros(id.NotBefore)}
	sig.exchange, sig.key = destination(id)
	bound, err := sig.binds(s.binding, id, p)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	sig.proof = key.sign(bound)
	p.Signature = sig.String()
	return nil
}

// Admit verifies a signature, and refuses a message without one whose type the policy names.
func (s *signer) Admit(ctx context.Context, id *harebus.Identity, p *harebus.Payload) error {
	if p.Signature == "" {
		if s.covers(id.Type) {
			return reject("in-the-clear", "the message is not signed")
		}
		return nil
	}
	sig, err := parseSignature(p.Signature)
	switch {
	case errors.Is(err, errNewer):
		return err
	case err != nil:
		return reject("tampered", "%w", err)
	}
	key, err := s.keys.Key(ctx, sig.keyID)
	if err != nil {
		return s.troubled(fmt.Errorf("key of the message: %w", err))
	}
	s.untroubled()
	if sig.alg != key.alg() {
		return reject("wrong-key", "the key %q is not for %q", key.id, sig.alg)
	}
	bound, err := sig.binds(s.binding, id, p)
	if err != nil {
		return reject("tampered", "%w", err)
	}
	if !key.verify(bound, sig.proof) {
		return reject("tampered", "the message was changed after it was signed, was signed with another key, or sender and receiver bind different headers")
	}
	if err := s.arrived(id, []byte(sig.exchange), []byte(sig.key), sig.notBefore); err != nil {
		return err
	}
	p.DueAt = moment(sig.notBefore)
	return nil
}

// signature is what the header PikaBus.Signature says:
//
//	v=1; alg=hmac-sha256; kid=2026-11; nb=0; to=/orders; sig=BASE64URL
//
// kid and both parts of to, exchange and routing key, are percent-encoded. nb is the time
// before which the message is not due, in microseconds since 1970.
type signature struct {
	alg, keyID    string
	notBefore     int64
	exchange, key string
	proof         []byte
}

// binds returns the bytes that are signed.
func (s *signature) binds(b binding, id *harebus.Identity, p *harebus.Payload) ([]byte, error) {
	bound := make([]byte, 0, 128+b.size(id)+len(p.ContentType)+len(p.ContentEncoding)+len(p.Body))
	for _, text := range [...]string{"harebus signature 1", s.alg, s.keyID, s.exchange, s.key} {
		bound = appendText(bound, text)
	}
	bound = binary.BigEndian.AppendUint64(bound, uint64(s.notBefore))
	bound, err := b.append(bound, id)
	if err != nil {
		return nil, err
	}
	bound = append(bound, 0) // no header's name is empty, so the headers end here
	bound = appendText(bound, p.ContentType)
	bound = appendText(bound, p.ContentEncoding)
	return append(bound, p.Body...), nil
}

// String is the signature as the header has it.
func (s *signature) String() string {
	return fmt.Sprintf("v=1; alg=%s; kid=%s; nb=%d; to=%s/%s; sig=%s", s.alg, url.PathEscape(s.keyID), s.notBefore,
		url.PathEscape(s.exchange), url.PathEscape(s.key), base64.RawURLEncoding.EncodeToString(s.proof))
}

// parseSignature reads the header. It accepts exactly what String returns.
func parseSignature(text string) (*signature, error) {
	const most = 8 << 10
	wrong := errors.New("the signature cannot be read")
	if len(text) > most {
		return nil, wrong
	}
	if version, _, _ := strings.Cut(text, ";"); strings.HasPrefix(version, "v=") && version != "v=1" {
		return nil, errNewer
	}
	var values [6]string
	parts := strings.Split(text, "; ")
	if len(parts) != len(values) {
		return nil, wrong
	}
	for i, name := range [...]string{"v=", "alg=", "kid=", "nb=", "to=", "sig="} {
		value, ok := strings.CutPrefix(parts[i], name)
		if !ok {
			return nil, wrong
		}
		values[i] = value
	}
	exchange, key, ok := strings.Cut(values[4], "/")
	s := &signature{alg: values[1]}
	var errs [5]error
	s.keyID, errs[0] = url.PathUnescape(values[2])
	s.notBefore, errs[1] = strconv.ParseInt(values[3], 10, 64)
	s.exchange, errs[2] = url.PathUnescape(exchange)
	s.key, errs[3] = url.PathUnescape(key)
	s.proof, errs[4] = base64.RawURLEncoding.DecodeString(values[5])
	if !ok || errors.Join(errs[:]...) != nil || !bytes.Equal([]byte(s.String()), []byte(text)) {
		return nil, wrong
	}
	return s, nil
}
