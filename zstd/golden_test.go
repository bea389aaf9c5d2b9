package zstd_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/internal/golden"
	"github.com/harebus/harebus/zstd"
	"github.com/harebus/harebus/zstd/s2"
)

// TestForms: messages that an earlier version has sent are handled, and are still sent in the same form.
// The dictionary is a file too, because another version of the library may make another one.
func TestForms(t *testing.T) {
	t.Parallel()
	words, err := os.ReadFile("testdata/dictionary")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]harebus.Compression{
		"zstd": coding(t, zstd.Config{}), "zstd-dictionary": coding(t, zstd.Config{Dictionary: words}), "s2": s2.Coding{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden.Test(t, golden.Form{Name: name, Configure: func(cfg *harebus.Config) {
				cfg.Payload.Compress = harebus.CompressConfig{With: c, From: 100}
			}})
		})
	}
}
