// Package seal encrypts and signs messages between services, with the standard library only.
//
// A guard of [New] encrypts the body of a message and binds it to the message: its ids, type,
// reply address, time, destination and the headers of the [Policy]. The broker, and whoever
// may read a queue, sees only ciphertext. A message that was changed, or moved to the queue of
// another service, is not handled: it goes to the error queue with a reason. A guard of [Sign]
// leaves the body readable and protects it against changes in the same way.
//
//	keys, err := seal.ReadKeys("/etc/orders/keys")
//	cfg.Payload.Guards = []harebus.Guard{seal.New(keys, seal.Policy{Types: []string{"*"}})}
//
// The reasons of messages that are refused ([harebus.RejectError]):
//
//	in-the-clear       the policy names the type, and the message is not sealed (or signed)
//	tampered           something that is bound has been changed
//	wrong-key          the key with this id is another one than the sender's
//	wrong-destination  a command was put into another queue than the one it was sent to
//	too-old            the message is older than Policy.MaxAge
//
// An unknown key id is an ordinary failure, which is retried: the keys may be on their way to
// this service. A key service that does not answer postpones messages and parks none.
package seal
