package zstd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	ks2 "github.com/klauspost/compress/s2"
	kzstd "github.com/klauspost/compress/zstd"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/brokertest"
	"github.com/harebus/harebus/zstd"
	"github.com/harebus/harebus/zstd/s2"
)

// order is like the body of a service.
func order(seed, lines int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	words := strings.Fields("red green blue small large heavy light box crate pallet bolt nut washer pipe valve pump motor cable plug switch")
	type line struct {
		SKU, Name string
		Quantity  int
		Price     float64
	}
	o := struct {
		Order, Customer, Currency string
		Lines                     []line
	}{fmt.Sprintf("%016x", r.Uint64()), fmt.Sprintf("%016x", r.Uint64()), "EUR", nil}
	for range lines {
		o.Lines = append(o.Lines, line{fmt.Sprintf("%08x", r.Uint32()), words[r.IntN(20)] + " " + words[r.IntN(20)], r.IntN(100), float64(r.IntN(10000)) / 100})
	}
	body, _ := json.Marshal(o) // it can be marshalled
	return body
}

func dictionary(t testing.TB, id uint32) []byte {
	t.Helper()
	var contents [][]byte
	for i := range 150 {
		contents = append(contents, order(1000+i, 4))
	}
	d, err := kzstd.BuildDict(kzstd.BuildDictOptions{ID: id, Contents: contents, History: bytes.Join(contents[:20], nil), Offsets: [3]int{1, 4, 8}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func coding(t testing.TB, c zstd.Config) *zstd.Coding {
	t.Helper()
	made, err := zstd.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func compress(t testing.TB, c harebus.Compression, body []byte) []byte {
	t.Helper()
	out, err := c.Compress(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRoundTrip: bodies of all sizes come back, and are never valid JSON on the way.
func TestRoundTrip(t *testing.T) {
	for name, c := range map[string]harebus.Compression{
		"zstd": coding(t, zstd.Config{}), "better": coding(t, zstd.Config{Better: true}),
		"dictionary": coding(t, zstd.Config{Dictionary: dictionary(t, 7)}), "s2": s2.Coding{},
	} {
		for _, lines := range []int{0, 1, 10, 60, 2000} {
			body := order(1, lines)
			small := compress(t, c, body)
			if json.Valid(small) {
				t.Errorf("%s: %d lines: the compressed body is JSON", name, lines)
			}
			back, err := c.Decompress(small, len(body))
			if err != nil || !bytes.Equal(back, body) {
				t.Errorf("%s: %d lines: %v", name, lines, err)
			}
			if _, err := c.Decompress(small, len(body)-1); !errors.Is(err, harebus.ErrBodyTooLarge) {
				t.Errorf("%s: %d lines: one byte too many: %v", name, lines, err)
			}
		}
	}
}

// TestRatio: a body of 4 KiB of JSON becomes less than a third as long, with a dictionary
// shorter still.
func TestRatio(t *testing.T) {
	body := order(1, 55)
	without, with := compress(t, coding(t, zstd.Config{}), body), compress(t, coding(t, zstd.Config{Dictionary: dictionary(t, 7)}), body)
	t.Logf("%d bytes: %d, with a dictionary %d, s2 %d", len(body), len(without), len(with), len(compress(t, s2.Coding{}, body)))
	if len(without)*10 > len(body)*3 || len(with) >= len(without) {
		t.Error("it compresses too little")
	}
}

// TestDictionaries: an unknown dictionary is told as such, and one that was replaced is
// still read.
func TestDictionaries(t *testing.T) {
	old, later := dictionary(t, 7), dictionary(t, 8)
	body := compress(t, coding(t, zstd.Config{Dictionary: old}), order(1, 4))
	if _, err := coding(t, zstd.Config{}).Decompress(body, 1<<20); !errors.Is(err, harebus.ErrNoDictionary) {
		t.Errorf("without the dictionary: %v", err)
	}
	if _, err := coding(t, zstd.Config{Dictionary: later, Accept: [][]byte{old}}).Decompress(body, 1<<20); err != nil {
		t.Errorf("with the old dictionary: %v", err)
	}
	for name, c := range map[string]zstd.Config{
		"no dictionary": {Dictionary: []byte("words words words")},
		"same number":   {Dictionary: old, Accept: [][]byte{old}},
	} {
		if _, err := zstd.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestBad: what is cut, changed or followed by something is refused, and nothing of it is
// returned.
func TestBad(t *testing.T) {
	for name, c := range map[string]harebus.Compression{"zstd": coding(t, zstd.Config{}), "s2": s2.Coding{}} {
		body := order(1, 60)
		good := compress(t, c, body)
		for cut := range good {
			if out, err := c.Decompress(good[:cut], 1<<20); err == nil && len(out) > 0 {
				t.Fatalf("%s: cut at %d of %d: accepted", name, cut, len(good))
			}
		}
		for i := range good {
			changed := bytes.Clone(good)
			changed[i] ^= 0x10
			if out, err := c.Decompress(changed, 1<<20); err == nil && !bytes.Equal(out, body) {
				t.Fatalf("%s: byte %d changed: accepted", name, i)
			}
		}
		if _, err := c.Decompress(append(bytes.Clone(good), 'x'), 1<<20); err == nil {
			t.Errorf("%s: followed by a byte: accepted", name)
		}
	}
	z := coding(t, zstd.Config{})
	twice := compress(t, z, order(1, 4))
	if _, err := z.Decompress(append(bytes.Clone(twice), twice...), 1<<20); err == nil {
		t.Error("two frames: accepted")
	}
}

// gibibyte is a frame of a gibibyte of zeros: 8,192 blocks of 128 KiB, each of which is one byte that is repeated (RFC 8878).
func gibibyte(head string) []byte {
	const blocks, size, repeated = 8192, 128 << 10, 1
	frame := []byte("\x28\xb5\x2f\xfd" + head)
	for i := range blocks {
		block := uint32(size<<3 | repeated<<1)
		if i == blocks-1 {
			block |= 1
		}
		frame = append(frame, byte(block), byte(block>>8), byte(block>>16), 0)
	}
	return frame
}

// streamOfZeros is a gibibyte of zeros as S2: a block of a mebibyte, again and again.
func streamOfZeros(t *testing.T) []byte {
	t.Helper()
	const magic = 10
	var one bytes.Buffer
	w := ks2.NewWriter(&one, ks2.WriterConcurrency(1), ks2.WriterBlockSize(1<<20))
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(one.Bytes()[:magic:magic], bytes.Repeat(one.Bytes()[magic:], 1024)...)
}

// TestBombs: a gibibyte of zeros is refused before it takes much time or memory.
func TestBombs(t *testing.T) {
	const limit, mostMemory = 16 << 20, 40 << 20
	const mostTime = 250 * time.Millisecond // 50 on a machine with nothing else to do
	z := coding(t, zstd.Config{})
	for name, bomb := range map[string]struct {
		coding harebus.Compression
		body   []byte
	}{
		"zstd":                {z, gibibyte("\xe0\x00\x00\x00\x40\x00\x00\x00\x00")},
		"zstd without length": {z, gibibyte("\x00\x68")},
		"s2":                  {s2.Coding{}, streamOfZeros(t)},
		"s2 that lies":        {s2.Coding{}, []byte("\xff\x06\x00\x00S2sTwO\x00\x08\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x07")},
	} {
		var before, after runtime.MemStats
		var err error
		runtime.ReadMemStats(&before)
		took := cpu(t, func() { _, err = bomb.coding.Decompress(bomb.body, limit) })
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d bytes, %v, %d KiB allocated: %v", name, len(bomb.body), took, used>>10, err)
		if err == nil || used > mostMemory || took > mostTime {
			t.Errorf("%s: %v, %v of a processor, %d MiB were allocated", name, err, took, used>>20)
		}
	}
}

// TestStreamed: a body that does not say how long it is can be read, up to the limit.
func TestStreamed(t *testing.T) {
	body := order(1, 2000)
	var streamed bytes.Buffer
	w, err := kzstd.NewWriter(&streamed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := coding(t, zstd.Config{})
	if out, err := z.Decompress(streamed.Bytes(), len(body)); err != nil || !bytes.Equal(out, body) {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if _, err := z.Decompress(streamed.Bytes(), len(body)-1); !errors.Is(err, harebus.ErrBodyTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := z.Decompress(append(streamed.Bytes(), streamed.Bytes()...), 1<<20); err == nil {
		t.Error("two frames: accepted")
	}
}

// TestOverTheBus: a service reads what another one has compressed, with gzip still read.
func TestOverTheBus(t *testing.T) {
	broker := brokertest.New()
	defer broker.Close()
	for _, c := range []harebus.Compression{coding(t, zstd.Config{}), s2.Coding{}} {
		cfg := harebus.Config{URL: broker.URL(), Dial: broker.Dial, Queue: "notes-" + c.Coding()}
		cfg.Payload.Compress.With = c
		s, err := harebus.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		harebus.Handle(s, func(ctx context.Context, _ *harebus.Bus, text string) error {
			got <- harebus.Incoming(ctx).Properties.ContentEncoding + " " + text
			return nil
		}, harebus.WithType("Note"))
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("all work and no play ", 500)
		if err := s.Bus().Send(t.Context(), cfg.Queue, text, harebus.WithType("Note")); err != nil {
			t.Fatal(err)
		}
		if n := <-got; n != c.Coding()+" "+text {
			t.Errorf("got %.40q", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func Benchmark4KiB(b *testing.B) {
	body := order(1, 55)
	for name, c := range map[string]harebus.Compression{"zstd": coding(b, zstd.Config{}), "dictionary": coding(b, zstd.Config{Dictionary: dictionary(b, 7)}), "s2": s2.Coding{}, "gzip": harebus.Gzip{}} {
		small := compress(b, c, body)
		b.Run(name+"/compress", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				compress(b, c, body)
			}
			b.ReportMetric(float64(len(small)), "bytes")
		})
		b.Run(name+"/decompress", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Decompress(small, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
