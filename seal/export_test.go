package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"sync"
)

// XAESSeal encrypts with a given nonce, as the published vectors need it.
func XAESSeal(secret, nonce, body, bound []byte) ([]byte, error) {
	x, err := newXAES(secret)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(x.derive(nonce[:halfNonce]))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(nil, nonce[halfNonce:], body, bound), nil
}

// XAESOpen decrypts in the way of the guards.
func XAESOpen(secret, nonce, sealed, bound []byte) ([]byte, error) {
	x, err := newXAES(secret)
	if err != nil {
		return nil, err
	}
	return x.open(append(append([]byte(nil), nonce...), sealed...), bound)
}

// Nonces are those of n messages that several goroutines seal with one key.
func Nonces(secret []byte, n int) ([][]byte, error) {
	x, err := newXAES(secret)
	if err != nil {
		return nil, err
	}
	const lanes = 4
	nonces, errs := make([][]byte, n), make([]error, lanes)
	var group sync.WaitGroup
	for lane := range lanes {
		group.Go(func() {
			for i := lane; i < n; i += lanes {
				sealed, err := x.seal(nil, nil, nil)
				if err != nil {
					errs[lane] = err
					return
				}
				nonces[i] = sealed[:nonceSize]
			}
		})
	}
	group.Wait()
	return nonces, errors.Join(errs...)
}

// BatchSize is how many messages a derived key seals.
const BatchSize = batchSize

// Frame returns the parts of a frame, and the frame made of them again.
func Frame(body []byte) (parts [][]byte, again []byte, err error) {
	f, err := parseFrame(body)
	if err != nil {
		return nil, nil, err
	}
	key := &Key{id: string(f.keyID), check: [checkSize]byte(f.check)}
	h := header{key, f.notBefore, string(f.contentType), string(f.coding), string(f.exchange), string(f.key)}
	return [][]byte{f.keyID, f.contentType, f.coding, f.exchange, f.key}, append(h.append(nil), f.sealed...), nil
}

// Signature reads a signature and writes it again.
func Signature(text string) (string, error) {
	s, err := parseSignature(text)
	if err != nil {
		return "", err
	}
	return s.String(), nil
}

// ParseKeys reads the lines of a key file.
var ParseKeys = parseKeys
