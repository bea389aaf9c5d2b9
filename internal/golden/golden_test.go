package golden_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/claim"
	"github.com/harebus/harebus/internal/golden"
	"github.com/harebus/harebus/seal"
)

var policy = seal.Policy{Types: []string{"*"}, Headers: []string{"tenant"}}

// service is a key service that turns the bits of keys.
type service struct{}

func (service) Wrap(_ context.Context, key []byte) ([]byte, error) { return turned(key), nil }

func (service) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) { return turned(wrapped), nil }

func turned(key []byte) []byte {
	out := bytes.Clone(key)
	for i := range out {
		out[i] ^= 0x5a
	}
	return out
}

func keys(t *testing.T, key *seal.Key, err error) seal.Keys {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func guarded(guards ...harebus.Guard) func(*harebus.Config) {
	return func(cfg *harebus.Config) { cfg.Payload.Guards = guards }
}

// compressed is with gzip before the guards.
func compressed(guards ...harebus.Guard) func(*harebus.Config) {
	return func(cfg *harebus.Config) {
		cfg.Payload.Guards = guards
		cfg.Payload.Compress = harebus.CompressConfig{With: harebus.Gzip{}, From: 100}
	}
}

// stored is with a claim check behind the guards.
func stored(t *testing.T, store claim.Store, guards ...harebus.Guard) func(*harebus.Config) {
	t.Helper()
	g, err := claim.New(claim.Config{Store: store, From: 1024})
	if err != nil {
		t.Fatal(err)
	}
	return func(cfg *harebus.Config) {
		cfg.Payload.Guards = guards
		g.Use(cfg)
	}
}

// TestForms: messages of every form that an earlier version has sent are handled, and are still sent in the same form.
func TestForms(t *testing.T) {
	t.Parallel()
	secret, err := seal.NewKey("2026-11", bytes.Repeat([]byte{1}, 32))
	ring := keys(t, secret, err)
	private, err := seal.NewSigningKey("2026-sign", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize)))
	signing := keys(t, private, err)
	claimed, sealedClaimed := &golden.Store{}, &golden.Store{}
	for _, f := range []golden.Form{
		{Name: "plain", Configure: func(*harebus.Config) {}, Same: true},
		{Name: "gzip", Configure: compressed()}, // another version of Go may write other bytes
		{Name: "signed-hmac", Configure: guarded(seal.Sign(ring, policy)), Same: true},
		{Name: "signed-ed25519", Configure: guarded(seal.Sign(signing, policy)), Same: true},
		{Name: "sealed", Configure: guarded(seal.New(ring, policy))},
		{Name: "sealed-envelope", Configure: func(cfg *harebus.Config) { guarded(seal.New(seal.Envelope(service{}), policy))(cfg) }},
		{Name: "sealed-signed", Configure: guarded(seal.New(ring, policy), seal.Sign(signing, policy))},
		{Name: "sealed-gzip", Configure: compressed(seal.New(ring, policy))},
		{Name: "claimed", Configure: stored(t, claimed), Store: claimed},
		{Name: "claimed-sealed", Configure: stored(t, sealedClaimed, seal.New(ring, policy)), Store: sealedClaimed},
	} {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			golden.Test(t, f)
		})
	}
}
