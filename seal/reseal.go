package seal

import (
	"context"
	"fmt"
	"time"

	"github.com/harebus/harebus"
)

// Reseal protects a message that lies in a queue again, with the current key: a sealed message is
// opened with the key that it names and sealed, a signed one is verified and signed. It is for
// tools, as "harebus redrive -reseal": for messages whose key is to be taken out of use, and for
// those that Policy.MaxAge refuses, because a message is as old as its last sealing.
//
// id and p are as [harebus.Guard.Admit] gets them in the service that consumes from id.Queue;
// p is replaced. A command that was sent to another queue is refused, unless the policy has
// AnyDestination: then it is bound to id.Queue. Of the policy only Headers and AnyDestination
// count. A message that is neither sealed nor signed is left as it is: Reseal returns false, and
// nothing has verified that message.
func Reseal(ctx context.Context, keys Keys, policy Policy, id *harebus.Identity, p *harebus.Payload) (bool, error) {
	if p.ContentType != ContentType && p.Signature == "" {
		return false, nil
	}
	policy.Types, policy.MaxAge = []string{"*"}, 0
	r := newRules(keys, policy)
	again := *p
	to := *id
	if p.Signature != "" { // Sign stands behind New, so it signs what is sealed
		if err := r.unsign(ctx, id, &again, &to); err != nil {
			return false, err
		}
	}
	if again.ContentType == ContentType {
		if err := r.reseal(ctx, id, &again, &to); err != nil {
			return false, err
		}
	}
	if p.Signature != "" {
		again.Signature = ""
		if err := (&signer{r}).Protect(ctx, &to, &again); err != nil {
			return false, err
		}
	}
	again.Confidential, again.DueAt = p.Confidential, p.DueAt
	*p = again
	return true, nil
}

// unsign verifies a signature, and notes in to where the message was sent.
func (r *rules) unsign(ctx context.Context, id *harebus.Identity, p *harebus.Payload, to *harebus.Identity) error {
	if err := (&signer{r}).Admit(ctx, id, p); err != nil {
		return err
	}
	sig, err := parseSignature(p.Signature)
	if err != nil {
		return err
	}
	key, err := r.keys.Current(ctx)
	if err != nil {
		return err
	}
	if key.alg() != sig.alg {
		return fmt.Errorf("seal: the message is signed with %s, and the current key %q is for %s; make a key current that its receivers verify with", sig.alg, key.id, key.alg())
	}
	r.bindAgain(to, sig.exchange, sig.key, sig.notBefore)
	return nil
}

// reseal opens a message and seals it.
func (r *rules) reseal(ctx context.Context, id *harebus.Identity, p *harebus.Payload, to *harebus.Identity) error {
	s, sealed := &sealer{r}, p.Body
	if err := s.Admit(ctx, id, p); err != nil {
		return err
	}
	f, err := parseFrame(sealed)
	if err != nil {
		return err
	}
	r.bindAgain(to, string(f.exchange), string(f.key), f.notBefore)
	return s.Protect(ctx, to, p)
}

// bindAgain sets the destination and the time of a message that is sealed again: where it was
// sent, and now.
func (r *rules) bindAgain(to *harebus.Identity, exchange, key string, notBefore int64) {
	to.NotBefore = time.Now()
	if due := moment(notBefore); due.After(to.NotBefore) {
		to.NotBefore = due
	}
	if exchange != "" {
		to.Exchange, to.RoutingKey, to.Queue = exchange, key, ""
		return
	}
	to.Exchange, to.RoutingKey = "", key
	if !r.AnyDestination {
		to.Queue = key
	}
}
