// Package s3 keeps the large bodies of package claim in a bucket of Amazon S3, or of another
// server that speaks its protocol. It is a module of its own, so that a service that does not use
// it does not depend on the client of AWS.
//
//	client := awss3.NewFromConfig(cfg) // of github.com/aws/aws-sdk-go-v2/service/s3
//	store, err := s3.New(s3.Config{Client: client, Bucket: "bodies", Prefix: "orders/"})
//	…
//	guard, err := claim.New(claim.Config{Store: store})
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/claim"
)

// Config says where the bodies are.
type Config struct {
	// Client has the address of the server, the credentials, and how often a request is tried.
	Client *s3.Client
	// Bucket must exist.
	Bucket string
	// Prefix starts the keys of all bodies, as "orders/". Default: none.
	Prefix string
}

// Store keeps bodies in a bucket. It needs the permissions s3:PutObject and s3:GetObject, and
// s3:DeleteObject for claim.Config.DeleteHandled. It deletes nothing by itself: give the bucket a
// lifecycle rule, with an age above the longest time that a message can wait, in the error queue
// too.
type Store struct{ Config }

var (
	_ claim.Store   = (*Store)(nil)
	_ claim.Keeper  = (*Store)(nil)
	_ claim.Deleter = (*Store)(nil)
)

// New returns a store. It asks the server nothing.
func New(c Config) (*Store, error) {
	switch {
	case c.Client == nil:
		return nil, errors.New("claim: Config.Client of the S3 store is nil")
	case c.Bucket == "":
		return nil, errors.New("claim: Config.Bucket of the S3 store is empty")
	case strings.HasPrefix(c.Prefix, "/"):
		return nil, fmt.Errorf("claim: Config.Prefix %q of the S3 store begins with a slash, as no key does", c.Prefix)
	}
	return &Store{c}, nil
}

// compatible leaves out checksums that the protocol does not require, because other servers than
// that of AWS refuse them. A guard compares every body with the SHA-256 in its message.
func compatible(o *s3.Options) {
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
}

const contentType = "application/octet-stream"

func (s *Store) key(key string) *string { return aws.String(s.Prefix + key) }

// Put stores an object.
func (s *Store) Put(ctx context.Context, key string, body []byte) error {
	_, err := s.Client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.Bucket, Key: s.key(key), Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))), ContentType: aws.String(contentType),
	}, compatible)
	return err
}

// Get reads an object.
func (s *Store) Get(ctx context.Context, key string, limit int) (body []byte, err error) {
	out, err := s.Client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.Bucket, Key: s.key(key)}, compatible)
	if err != nil {
		return nil, told(err)
	}
	defer func() {
		if closed := out.Body.Close(); err == nil && closed != nil {
			body, err = nil, closed
		}
	}()
	size := aws.ToInt64(out.ContentLength)
	if size > int64(limit) {
		return nil, harebus.ErrBodyTooLarge
	}
	whole := bytes.NewBuffer(make([]byte, 0, max(size, 0)+bytes.MinRead))
	if _, err := whole.ReadFrom(io.LimitReader(out.Body, int64(limit)+1)); err != nil {
		return nil, err
	}
	if whole.Len() > limit {
		return nil, harebus.ErrBodyTooLarge
	}
	return whole.Bytes(), nil
}

// Keep copies an object onto itself, so that a lifecycle rule counts its age from now. In a bucket
// with versions the old one stays until its own rule removes it.
func (s *Store) Keep(ctx context.Context, key string) error {
	source := url.URL{Path: s.Bucket + "/" + s.Prefix + key}
	_, err := s.Client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &s.Bucket, Key: s.key(key), CopySource: aws.String(source.EscapedPath()),
		MetadataDirective: types.MetadataDirectiveReplace, ContentType: aws.String(contentType),
	}, compatible)
	return told(err)
}

// Delete deletes an object, if it is there.
func (s *Store) Delete(ctx context.Context, key string) error {
	_, err := s.Client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.Bucket, Key: s.key(key)}, compatible)
	if errors.Is(told(err), claim.ErrNotFound) {
		return nil
	}
	return err
}

// told says of an error that the object is not there, if that is so.
func told(err error) error {
	var answer smithy.APIError
	if errors.As(err, &answer) && (answer.ErrorCode() == "NoSuchKey" || answer.ErrorCode() == "NotFound") {
		return fmt.Errorf("%w: %w", claim.ErrNotFound, err)
	}
	return err
}
