package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"sync/atomic"
)

const (
	secretSize = 32
	nonceSize  = 24
	tagSize    = 16
	halfNonce  = nonceSize / 2
)

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): the first half of a nonce of 192 bits derives a
// key for AES-256-GCM, the second half is the nonce of that. The second half is the one that
// cipher.NewGCMWithRandomNonce makes, which Go allows in its FIPS mode.
//
// A derived key seals a batch of messages, because deriving one costs a third of sealing a small
// message. Two nonces can be equal only within a batch, or if two batches have the same half: one
// key is good for 2^56 messages, and then the chance of two equal nonces is 2^-33.
type xaes struct {
	block cipher.Block
	mask  [aes.BlockSize]byte // K1 of CMAC
	out   atomic.Pointer[batch]
	in    [16]atomic.Pointer[batch] // the last batches of the senders, by the first byte of half
}

// batch is what messages share whose nonces begin with the same half.
type batch struct {
	half [halfNonce]byte
	aead cipher.AEAD
	left atomic.Int32 // how many more may be sealed
}

// batchSize is how many messages one derived key seals.
const batchSize = 256

func newXAES(secret []byte) (*xaes, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	x := &xaes{block: block}
	block.Encrypt(x.mask[:], x.mask[:])
	var carry byte
	for i := len(x.mask) - 1; i >= 0; i-- {
		carry, x.mask[i] = x.mask[i]>>7, x.mask[i]<<1|carry
	}
	x.mask[len(x.mask)-1] ^= byte(subtle.ConstantTimeSelect(int(carry), 0x87, 0))
	return x, nil
}

// derive returns the key of the messages whose nonces begin with half.
func (x *xaes) derive(half []byte) []byte {
	key := make([]byte, secretSize)
	for i := range 2 {
		block := key[i*aes.BlockSize:][:aes.BlockSize]
		copy(block, []byte{0, byte(i + 1), 'X', 0})
		copy(block[4:], half)
		subtle.XORBytes(block, block, x.mask[:])
		x.block.Encrypt(block, block)
	}
	return key
}

// batch derives the key of the messages whose nonces begin with half.
func (x *xaes) batch(half []byte) (*batch, error) {
	block, err := aes.NewCipher(x.derive(half))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &batch{half: [halfNonce]byte(half), aead: aead}, err
}

// current is the batch of the next message.
func (x *xaes) current() (*batch, error) {
	if b := x.out.Load(); b != nil && b.left.Add(-1) >= 0 {
		return b, nil
	}
	half := make([]byte, halfNonce)
	_, _ = rand.Read(half) // never fails: it ends the process instead
	b, err := x.batch(half)
	if err != nil {
		return nil, err
	}
	b.left.Store(batchSize - 1)
	x.out.Store(b)
	return b, nil
}

// seal appends nonce, ciphertext and tag to dst.
func (x *xaes) seal(dst, body, bound []byte) ([]byte, error) {
	b, err := x.current()
	if err != nil {
		return nil, err
	}
	return b.aead.Seal(append(dst, b.half[:]...), nil, body, bound), nil //nolint:gosec // this AEAD makes the nonce itself and puts it in front
}

// open decrypts what seal has appended.
func (x *xaes) open(sealed, bound []byte) ([]byte, error) {
	half, rest := sealed[:halfNonce], sealed[halfNonce:]
	known := &x.in[half[0]%byte(len(x.in))]
	b := known.Load()
	if b == nil || string(b.half[:]) != string(half) {
		var err error
		if b, err = x.batch(half); err != nil {
			return nil, err
		}
		known.Store(b)
	}
	return b.aead.Open(nil, nil, rest, bound)
}
