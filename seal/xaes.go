package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
)

const (
	secretSize = 32
	nonceSize  = 24
	tagSize    = 16
	halfNonce  = nonceSize / 2
)

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): the first half of a random nonce of 192 bits
// derives a key for AES-256-GCM, the second half is the nonce of that. So one key is good for
// 2^80 messages. The second half is the one that cipher.NewGCMWithRandomNonce makes, which Go
// allows in its FIPS mode.
type xaes struct {
	block cipher.Block
	mask  [aes.BlockSize]byte // K1 of CMAC
}

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

// aead encrypts the messages whose nonces begin with half.
func (x *xaes) aead(half []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(x.derive(half))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal appends nonce, ciphertext and tag to dst.
func (x *xaes) seal(dst, body, bound []byte) ([]byte, error) {
	n := len(dst)
	dst = append(dst, make([]byte, halfNonce)...)
	_, _ = rand.Read(dst[n:]) // never fails: it ends the process instead
	aead, err := x.aead(dst[n:])
	if err != nil {
		return nil, err
	}
	return aead.Seal(dst, nil, body, bound), nil //nolint:gosec // this AEAD makes the nonce itself and puts it in front
}

// open decrypts what seal has appended.
func (x *xaes) open(sealed, bound []byte) ([]byte, error) {
	aead, err := x.aead(sealed[:halfNonce])
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed[halfNonce:], bound)
}
