package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/claim"
	"github.com/harebus/harebus/claim/s3"
)

const (
	bucket = "bodies"
	key    = "2026/11/29/0b0e7a56-6a5b-4c0a-9f0e-0123456789ab"
)

// server is an S3 server in this process.
type server struct {
	*httptest.Server

	clock  gofakes3.TimeSourceAdvancer
	client *awss3.Client
}

func newServer() (*server, error) {
	s := &server{clock: gofakes3.FixedTimeSource(time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC))}
	backend := s3mem.New(s3mem.WithTimeSource(s.clock))
	fake := gofakes3.New(backend, gofakes3.WithTimeSource(s.clock), gofakes3.WithTimeSkewLimit(0))
	s.Server = httptest.NewServer(fake.Server())
	s.client = awss3.New(awss3.Options{
		BaseEndpoint: aws.String(s.URL), UsePathStyle: true, Region: "eu-central-1", HTTPClient: s.Client(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "key", SecretAccessKey: "secret"}, nil
		}), RetryMaxAttempts: 1,
	})
	_, err := s.client.CreateBucket(context.Background(), &awss3.CreateBucketInput{Bucket: aws.String(bucket)})
	return s, err
}

func start(t *testing.T) (*server, *s3.Store) {
	t.Helper()
	s, err := newServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	store, err := s3.New(s3.Config{Client: s.client, Bucket: bucket, Prefix: "a b/é/"})
	if err != nil {
		t.Fatal(err)
	}
	return s, store
}

// TestStore: a body comes back as it was, and never more of it than asked for.
func TestStore(t *testing.T) {
	t.Parallel()
	_, store := start(t)
	ctx := t.Context()
	body := bytes.Repeat([]byte("body"), 100_000)
	if _, err := store.Get(ctx, key, 1<<20); !errors.Is(err, claim.ErrNotFound) {
		t.Errorf("before it is there: %v", err)
	}
	if err := store.Put(ctx, key, body); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{len(body), len(body) + 1, 1 << 20} {
		if got, err := store.Get(ctx, key, limit); err != nil || !bytes.Equal(got, body) {
			t.Errorf("limit %d: %d bytes, %v", limit, len(got), err)
		}
	}
	if got, err := store.Get(ctx, key, len(body)-1); !errors.Is(err, harebus.ErrBodyTooLarge) || got != nil {
		t.Errorf("one byte too many: %d bytes, %v", len(got), err)
	}
	for range 2 {
		if err := store.Delete(ctx, key); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := store.Get(ctx, key, 1<<20); !errors.Is(err, claim.ErrNotFound) {
		t.Errorf("after it was deleted: %v", err)
	}
	if err := store.Keep(ctx, key); !errors.Is(err, claim.ErrNotFound) {
		t.Errorf("keep what is not there: %v", err)
	}
}

// TestKeep: the age of a body that is kept counts anew, and the body is the same.
func TestKeep(t *testing.T) {
	t.Parallel()
	s, store := start(t)
	ctx := t.Context()
	if err := store.Put(ctx, key, []byte("body")); err != nil {
		t.Fatal(err)
	}
	s.clock.Advance(48 * time.Hour)
	if err := store.Keep(ctx, key); err != nil {
		t.Fatal(err)
	}
	head, err := s.client.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(store.Prefix + key)})
	if err != nil || !head.LastModified.Equal(s.clock.Now()) {
		t.Errorf("last modified %v, %v", head.LastModified, err)
	}
	if got, err := store.Get(ctx, key, 10); err != nil || string(got) != "body" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestAway: a server that is away, or without the bucket, is not one without the body.
func TestAway(t *testing.T) {
	t.Parallel()
	s, store := start(t)
	elsewhere, err := s3.New(s3.Config{Client: s.client, Bucket: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	try(t, "no bucket", elsewhere)
	s.Close()
	try(t, "away", store)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Put(ended, key, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func try(t *testing.T, name string, store *s3.Store) {
	t.Helper()
	ctx := t.Context()
	_, get := store.Get(ctx, key, 10)
	for what, err := range map[string]error{"put": store.Put(ctx, key, []byte("body")), "get": get, "keep": store.Keep(ctx, key), "delete": store.Delete(ctx, key)} {
		if err == nil || errors.Is(err, claim.ErrNotFound) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %s: %v", name, what, err)
		}
	}
}

// TestFaults: New names what is wrong.
func TestFaults(t *testing.T) {
	t.Parallel()
	client := awss3.New(awss3.Options{})
	for want, c := range map[string]s3.Config{
		"Client": {}, "Bucket": {Client: client}, "Prefix": {Client: client, Bucket: bucket, Prefix: "/a"},
	} {
		if _, err := s3.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

type photo struct{ Data string }

func (photo) MessageType() string { return "Photo" }

// TestOverTheBus: a large body goes through the bucket and is kept when its message is parked. While the server is away nothing is
// sent.
func TestOverTheBus(t *testing.T) {
	t.Parallel()
	s, store := start(t)
	broker := brokertest.New()
	t.Cleanup(broker.Close)
	guard, err := claim.New(claim.Config{Store: store, From: 1024})
	if err != nil {
		t.Fatal(err)
	}
	cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "photos"}
	cfg.Retry.MaxRetries = 1
	guard.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	harebus.Handle(setup, func(_ context.Context, _ *harebus.Bus, p photo) error {
		got <- p.Data
		return harebus.NoRetry(errors.New("no"))
	})
	if err := setup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = setup.Close() })
	large := photo{strings.Repeat("x", 5000)}
	if err := setup.Bus().Send(t.Context(), "photos", large); err != nil {
		t.Fatal(err)
	}
	if data := <-got; data != large.Data {
		t.Errorf("%d bytes", len(data))
	}
	parked(t, broker, 1)
	if stats := guard.Stats(); stats.Kept != 1 {
		t.Errorf("%+v", stats)
	}
	list, err := s.client.ListObjectsV2(t.Context(), &awss3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	if err != nil || len(list.Contents) != 1 || !strings.HasPrefix(*list.Contents[0].Key, store.Prefix) {
		t.Fatalf("the bucket has %v, %v", list, err)
	}
	s.Close()
	if err := setup.Bus().Send(t.Context(), "photos", large); err == nil || !strings.Contains(err.Error(), "store a body") {
		t.Errorf("without a server: %v", err)
	}
}

func parked(t *testing.T, broker *brokertest.Broker, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := broker.WaitQueue(ctx, "error", func(q brokertest.Queue) bool { return q.Ready == n }); err != nil {
		t.Fatal(err)
	}
}

// Large bodies go into a bucket.
func Example() {
	server, err := newServer() // in this process
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	broker := brokertest.New()
	defer broker.Close()
	store, err := s3.New(s3.Config{Client: server.client, Bucket: bucket, Prefix: "photos/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	large, err := claim.New(claim.Config{Store: store})
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "photos"}
	large.Use(&cfg)
	setup, err := harebus.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	harebus.Handle(setup, func(ctx context.Context, _ *harebus.Bus, p photo) error {
		fmt.Printf("a photo of %d bytes came as %s\n", len(p.Data), harebus.Incoming(ctx).Properties.ContentType)
		close(done)
		return nil
	})
	ctx := context.Background()
	if err := setup.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer setup.Close()
	if err := setup.Bus().Send(ctx, "photos", photo{strings.Repeat("x", 1<<20)}); err != nil {
		fmt.Println(err)
		return
	}
	<-done
	// Output: a photo of 1048576 bytes came as application/vnd.harebus.claim
}
